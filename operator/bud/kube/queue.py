"""A keyed work queue with backoff: the boundary where exceptions become "again later" or "not until it changes"."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from bud.errors import InvalidError, WaitingError

log = logging.getLogger("bud.queue")

K = TypeVar("K", bound=Hashable)

_FIRST = 0.2
_LONGEST = 300.0
_LATER_TURN = 8


class Queue(Generic[K]):
    """Runs `work(key)` for every key that was added, a few at a time and never one key twice at once.

    A key that is added while it runs, runs once more afterwards. A `WaitingError` or an unexpected exception brings the
    key back with a doubling delay of 0.2 s to 300 s; an `InvalidError` does not. Success resets the delay; by returning
    a number of seconds it asks to come back.

    A key that was added with `later` gives way to others, for all but one turn in eight: in a burst, what somebody
    asked for is done before what came of it is told.
    """

    def __init__(
        self,
        work: Callable[[K], Awaitable[float | None]],
        *,
        workers: int,
    ) -> None:
        self._work = work
        self._workers = workers
        self._waiting: dict[K, None] = {}
        self._later: dict[K, None] = {}
        self._turn = 0
        self._running: set[K] = set()
        self._again: dict[K, bool] = {}
        self._timers: dict[K, asyncio.TimerHandle] = {}
        self._failures: dict[K, int] = {}
        self._ready = asyncio.Event()

    def __len__(self) -> int:
        return len(self._waiting) + len(self._later)

    def add(self, key: K, *, later: bool = False) -> None:
        """Has the key worked on as soon as a worker is free; an earlier delay is over."""
        if timer := self._timers.pop(key, None):
            timer.cancel()
        if key in self._running:
            self._again[key] = self._again.get(key, True) and later
        elif key not in self._waiting:
            if later:
                self._later[key] = None
            else:
                self._later.pop(key, None)
                self._waiting[key] = None
            self._ready.set()

    def add_after(self, key: K, delay: float) -> None:
        """Has the key worked on after `delay` seconds, unless it is added before."""
        if key in self._waiting or key in self._later or key in self._again:
            return
        loop = asyncio.get_running_loop()
        known = self._timers.get(key)
        if known is not None:
            if known.when() <= loop.time() + delay:
                return
            known.cancel()
        self._timers[key] = loop.call_later(delay, self.add, key)

    def hurry(self) -> None:
        """Has every key that waits after a failure worked on now: what was in its way may be gone."""
        for key in [key for key in self._timers if key in self._failures]:
            self.add(key)

    async def run(self) -> None:
        """Works until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._workers):
                    group.create_task(self._worker())
        finally:
            for timer in self._timers.values():
                timer.cancel()
            self._timers.clear()

    async def _worker(self) -> None:
        while True:
            while not len(self):
                self._ready.clear()
                await self._ready.wait()
            key = self._next()
            self._running.add(key)
            try:
                await self._once(key)
            finally:
                self._running.discard(key)
                if key in self._again:
                    self.add(key, later=self._again.pop(key))
            # Work that finds nothing to do never waits: without this, thousands of keys would hold up all else.
            await asyncio.sleep(0)

    def _next(self) -> K:
        self._turn = (self._turn + 1) % _LATER_TURN
        first, second = (self._waiting, self._later) if self._turn else (self._later, self._waiting)
        source = first or second
        key = next(iter(source))
        del source[key]
        return key

    async def _once(self, key: K) -> None:
        try:
            delay = await self._work(key)
        except InvalidError as error:
            self._failures.pop(key, None)
            log.warning("%s: %s; waiting for a change", key, error)
        except Exception as error:
            failures = self._failures.get(key, 0)
            self._failures[key] = failures + 1
            pause = min(_FIRST * 2 ** min(failures, 16), _LONGEST)
            unexpected = not isinstance(error, WaitingError)
            log.warning("%s: %s; again in %.1f s", key, str(error) or repr(error), pause, exc_info=unexpected)
            self.add_after(key, pause)
        else:
            self._failures.pop(key, None)
            if delay is not None:
                self.add_after(key, delay)
