"""What ends a request before its answer is out: a caller who hangs up, a form that cannot be read, a deadline.

Every request passes here, so that no task and no context of its own watches for it: whoever knows says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


class Cut:
    """May end what one task is doing; `why` is what ended it."""

    __slots__ = ("_task", "why")

    def __init__(self) -> None:
        self.why: Exception | None = None
        self._task: asyncio.Task[Any] | None = None

    def off(self, why: Exception) -> None:
        """Ends it, unless something else did before or it is over."""
        if self.why is None:
            self.why = why
            if self._task is not None:
                self._task.cancel()

    async def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Does the work. Raises `why` if it was ended."""
        self._task = task = asyncio.current_task()
        assert task is not None
        try:
            if self.why is not None:
                work.close()
                raise self.why
            await work
        except asyncio.CancelledError:
            if self.why is None or task.uncancel():
                raise
            raise self.why from None
        finally:
            self._task = None
