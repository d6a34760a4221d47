"""Watch one engine: is it there, is it well, and did it answer a real request since it started?"""

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

from bud.probe.sockets import listening
from bud.probe.tasks import Ask, WrongShapeError, asks_for, is_missing
from bud.probe.wire import Address, Answer, BadAnswerError, request

POLL_SECONDS = 0.5
HEALTH_SECONDS = 10.0
ANSWER_SECONDS = 300.0
FIRST_RETRY_SECONDS = 1.0
LAST_RETRY_SECONDS = 60.0


class Target(NamedTuple):
    """What to watch: all that the environment says, read once.

    Each of `adapters` must answer too, by its name. Requests are made at `ask` where that is not the engine itself.
    """

    address: Address
    health_path: str
    task: str
    model: str
    path: str = ""
    adapters: tuple[str, ...] = ()
    ask: Address | None = None


class Failed(NamedTuple):
    """Proofs that came to nothing in one start of the engine, and when (monotonic seconds) to try again."""

    start: frozenset[int]
    tries: int
    again_at: float
    reason: str


class Watch:
    """The state behind `/readyz`. `run` moves it; reading it is free."""

    def __init__(
        self,
        target: Target,
        *,
        log: Callable[[str], None],
        sockets: Callable[[int], frozenset[int]] = listening,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._target = target
        self._log = log
        self._sockets = sockets
        self._clock = clock
        names = (target.model, *target.adapters)
        self._asks = {name: asks_for(target.task, model=name, path=target.path) for name in names}
        self._proven: frozenset[int] | None = None
        self._failed: Failed | None = None
        self._well = False
        self._reason = "the engine was not reached yet"

    async def run(self) -> None:
        """Poll for ever, one step at a time."""
        while True:
            await self.step()
            await asyncio.sleep(POLL_SECONDS)

    def readiness(self) -> tuple[bool, str]:
        """Whether this very start of the engine is proven and well, and why (not).

        The socket is looked at again, so that an engine that has just died is not ready before the next poll.
        """
        if self._well and not self._is_proven(self._start()):
            return False, "the engine went away; its next start will be proven anew"
        return self._well, self._reason

    async def step(self) -> None:
        """Look at the engine once; ask it where this start is not proven and no retry is being waited for."""
        start = self._start()
        try:
            health = await request(self._target.address, self._target.health_path, seconds=HEALTH_SECONDS)
        except (OSError, BadAnswerError) as error:
            if not start:
                self._proven = None
            self._set(False, f"GET {self._target.health_path}: {_say(error)}")
            return
        if not health.well:
            self._set(False, f"GET {self._target.health_path}: {_say_answer(health)}")
        elif self._is_proven(start):
            self._set(True, self._reason if self._well else "healthy again, proven earlier")
        elif (failed := self._failed_in(start)) and self._clock() < failed.again_at:
            self._set(False, failed.reason)
        else:
            await self._prove(start)

    async def _prove(self, start: frozenset[int]) -> None:
        self._set(False, "waiting for the first answer")
        began = self._clock()
        path, fault = await self._ask()
        if not _is_same(start, self._start()):
            return  # it died or came back meanwhile: what it said belongs to no start that could be named
        if not fault:
            self._proven, self._failed = start, None
            spent = self._clock() - began
            self._set(True, f"POST {path} answered in {spent:.2f} s" if path else "healthy; this task is not asked")
            return
        failed = self._failed_in(start)
        tries = failed.tries + 1 if failed else 1
        wait = min(FIRST_RETRY_SECONDS * 2 ** min(tries - 1, 16), LAST_RETRY_SECONDS)
        reason = f"{fault} (try {tries}, the next in {wait:.0f} s)"
        self._failed = Failed(start, tries, self._clock() + wait, reason)
        self._set(False, reason)

    async def _ask(self) -> tuple[str, str]:
        """The path that answered and no fault, or the faults of all that were tried for one name."""
        path = ""
        for name, asks in self._asks.items():
            path, fault = await self._ask_one(asks)
            if fault:
                return "", fault if name == self._target.model else f"adapter {name}: {fault}"
        return path, ""

    async def _ask_one(self, asks: Iterable[Ask]) -> tuple[str, str]:
        faults: list[str] = []
        for ask in asks:
            answer, fault = await self._try(ask)
            if not fault:
                return ask.path, ""
            faults.append(f"POST {ask.path}: {fault}")
            if answer is None or not is_missing(answer):
                break
        return "", "; ".join(faults)

    async def _try(self, ask: Ask) -> tuple[Answer | None, str]:
        try:
            answer = await request(
                self._target.ask or self._target.address,
                ask.path,
                body=ask.body,
                content_type=ask.content_type,
                seconds=ANSWER_SECONDS,
            )
        except (OSError, BadAnswerError) as error:
            return None, _say(error)
        if not answer.well:
            return answer, _say_answer(answer)
        try:
            ask.check(answer)
        except WrongShapeError as error:
            return answer, f"a good status, but {error}: {_excerpt(answer)}"
        return answer, ""

    def _start(self) -> frozenset[int]:
        return self._sockets(self._target.address.port)

    def _is_proven(self, start: frozenset[int]) -> bool:
        return self._proven is not None and _is_same(self._proven, start)

    def _failed_in(self, start: frozenset[int]) -> Failed | None:
        return self._failed if self._failed and _is_same(self._failed.start, start) else None

    def _set(self, well: bool, reason: str) -> None:
        if (well, reason) != (self._well, self._reason):
            self._well, self._reason = well, reason
            self._log(f"{'ready' if well else 'not ready'}: {reason}")


def _is_same(start: frozenset[int], other: frozenset[int]) -> bool:
    """Whether two looks saw the same start of an engine.

    An engine of several processes may open more sockets later: one that is still the same is enough. Where
    none can be seen (an engine elsewhere, some sandboxes) both are empty: then only a failed request tells
    that the engine went away.
    """
    return start == other or not start.isdisjoint(other)


def _say(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, ConnectionRefusedError):
        return "nothing listens there yet"
    return str(error) or type(error).__name__


def _say_answer(answer: Answer) -> str:
    return f"status {answer.status}: {_excerpt(answer)}"


def _excerpt(answer: Answer) -> str:
    text = " ".join(answer.body[:400].decode(errors="replace").split())
    return text or "no text"
