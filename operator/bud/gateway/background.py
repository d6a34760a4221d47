"""What runs beside requests, so that none of it ends unseen."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

log = logging.getLogger("bud.gateway")

_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0
_WELL_SECONDS = 300.0
"""What ran for so long without a fault begins again at once."""


async def lasting(what: str, run: Callable[[], Awaitable[object]]) -> None:
    """Runs a loop for ever. After a fault that nobody foresaw, which is logged, it begins again, with growing pauses.

    The process does not end: with what is known it can serve for long, and a new one may meet the same fault.
    """
    clock, pause = asyncio.get_running_loop().time, _FIRST_PAUSE
    while True:
        began = clock()
        try:
            await run()
            log.error("%s ended, which it never should; it begins again in %.0f s", what, pause)
        except Exception:
            log.exception("%s failed; it begins again in %.0f s", what, pause)
        if clock() - began > _WELL_SECONDS:
            pause = _FIRST_PAUSE
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)


class Background:
    """Tasks that end with their owner. A fault of one that runs once is logged."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def loop(self, what: str, run: Callable[[], Awaitable[object]]) -> None:
        """Runs `lasting` until `close`."""
        self.once(lasting(what, run))

    def once(self, work: Coroutine[Any, Any, None]) -> None:
        """Runs it to its end."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def __len__(self) -> int:
        return len(self._tasks)

    async def settled(self, *, seconds: float | None = None) -> None:
        """Waits until all that has begun by now has ended, for so many seconds at most."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)

    async def close(self) -> None:
        """Ends all."""
        for task in self._tasks:
            task.cancel()
        await self.settled()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("work in the background failed", exc_info=error)
