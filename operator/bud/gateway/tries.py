"""Which targets one request asks, one after another; the pauses before each, and for how long each is waited for."""

from __future__ import annotations

import asyncio
import math
import random
from collections import deque
from collections.abc import Iterator, Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime

from bud.gateway.catalog import Served, Target
from bud.gateway.refusal import Refusal, Unavailable
from bud.gateway.route import Board, Key, model_at, order

RETRY_AFTER = "retry-after"
_FIRST_BACKOFF, _LONGEST_BACKOFF = 0.1, 2.0
_LONGEST_WAIT = 60.0
"""How long a caller is held because an upstream wants a pause: beyond it, callers are told of the pause."""
_LONGEST_TOLD = 86_400
_HUNG_SECONDS = 30.0
"""Who was waited for so long, or for half of what the name allows, has hung: no caller's own haste makes a fault."""
NOT_ALLOWED = "upstream_not_allowed"
_NEVER_THERE = frozenset({"provider_credentials", NOT_ALLOWED})
"""Codes of what only an administrator can heal: the same target is not asked again, the next one is."""

At = tuple[Target, str]
"""A target, and one of its addresses."""


class Unreached(Unavailable):
    """No connection leads there, or it broke: the address has the fault, not the model."""


class Hung(Unavailable):
    """None of an answer came in time, and another may be asked."""

    code = "upstream_slow"


class _Past:
    """What this request has learned of those that it asked; each by its id and address."""

    def __init__(self) -> None:
        self.hopeless = set[str]()
        self.hung = set[tuple[str, str]]()
        self.due: dict[tuple[str, str], float] = {}
        self.late: deque[At] = deque()
        self.backoff = _FIRST_BACKOFF

    def may_ask(self, target: Target, url: str) -> bool:
        return target.id not in self.hopeless and (target.id, url) not in self.hung


class Tries:
    """The tries of one request, which is to be answered by `until`, as the event loop counts time."""

    __slots__ = ("_board", "_known", "_past", "_served", "_steps", "_until", "now", "number")

    def __init__(self, served: Served, board: Board, *, prefix: bytes, until: float) -> None:
        self._served = served
        self._board = board
        self._until = until
        self.now = asyncio.get_running_loop().time
        self.number = 0
        """How many were given."""
        self._steps = order(served, board, prefix=prefix, now=self.now())
        self._known: deque[At] | None = None
        # Only who may give up on one must know who comes next.
        if _hurries(served):
            self._known = deque(self._steps)
            self._steps = _emptied(self._known)
        # Most requests are answered by the first that is asked, and need none.
        self._past: _Past | None = None

    @property
    def nobody(self) -> Unavailable:
        """What is told where there is nobody to ask."""
        return Unavailable(f"nothing that answers to model '{self._served.name}' is ready; try again later")

    async def next(self) -> At | None:
        """Who is asked now, after the pause that it takes; None when nobody is left."""
        past = self._past
        if past is None:
            self.number += 1
            return next(self._steps, None)
        for target, url in self._steps:
            if not past.may_ask(target, url):
                continue
            if past.due.get((target.id, url), 0.0) > self.now():
                # While another can be asked, nobody waits.
                past.late.append((target, url))
                continue
            await asyncio.sleep(past.backoff * random.uniform(0.5, 1.0))
            past.backoff = min(past.backoff * 2, _LONGEST_BACKOFF)
            self.number += 1
            return target, url
        while past.late:
            target, url = past.late.popleft()
            due = past.due[target.id, url]
            if past.may_ask(target, url) and due < self._until and due - self.now() <= _LONGEST_WAIT:
                await asyncio.sleep(due - self.now())
                self.number += 1
                return target, url
        return None

    def seconds(self, target: Target, url: str) -> float | None:
        """For how long it is waited for before another is asked; None where that is nobody."""
        if self._known is None:
            return None
        seconds = self._served.first_byte or target.first_byte
        others = (at for at in self._known if (at[0].id, at[1]) != (target.id, url))
        return seconds if any(self._past is None or self._past.may_ask(*at) for at in others) else None

    def failed(self, target: Target, url: str, refusal: Refusal) -> None:
        """It could not answer."""
        past = self._past = self._past or _Past()
        if refusal.code in _NEVER_THERE:
            past.hopeless.add(target.id)
            return
        if RETRY_AFTER in refusal.headers:
            past.due[target.id, url] = self.now() + int(refusal.headers[RETRY_AFTER])
        if isinstance(refusal, Hung):
            past.hung.add((target.id, url))
        # Limits are one account's, and an address may be several projects'.
        if refusal.status != 429:
            self._board.failed(_who(target, url, refusal), now=self.now())

    def cut(self, target: Target, url: str, *, since: float) -> None:
        """Nobody waits for it any more, as it was asked at `since` and has not answered."""
        if self.now() - since >= min(_HUNG_SECONDS, self._served.timeout / 2):
            self._board.failed(model_at(target, url), now=self.now())


def pause(headers: Mapping[str, str], *, now: float) -> dict[str, str]:
    """An upstream's `Retry-After` as a whole number of seconds, from 1 to a day; `now` is in epoch seconds.

    Format: https://www.rfc-editor.org/rfc/rfc9110#section-10.2.3.
    """
    told = headers.get(RETRY_AFTER, "").strip()
    if told.isascii() and told.isdigit():
        seconds = float(told[:9])
    else:
        try:
            moment = parsedate_to_datetime(told)
        except ValueError:
            return {}
        seconds = math.ceil((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() - now)
    return {RETRY_AFTER: str(int(min(max(seconds, 1), _LONGEST_TOLD)))}


def _who(target: Target, url: str, refusal: Refusal) -> Key:
    return url if isinstance(refusal, Unreached) else model_at(target, url)


def _hurries(served: Served) -> bool:
    if served.first_byte is not None:
        return True
    for targets in (served.targets, served.fallbacks):
        for target in targets:
            if target.first_byte is not None:
                return True
    return False


def _emptied(steps: deque[At]) -> Iterator[At]:
    while steps:
        yield steps.popleft()
