"""Waiting for a condition to come true."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class NeverHappened(AssertionError):
    """A condition that a test waited for did not come true in time."""


def eventually(check: Callable[[], T], *, within: float = 60.0) -> T:
    """Calls `check` until it no longer fails an assertion; gives what it gives. `within` in seconds is only a last resort."""
    deadline = time.monotonic() + within
    while True:
        try:
            return check()
        except AssertionError as error:
            if time.monotonic() > deadline:
                raise NeverHappened(f"not within {within:.0f} s: {error}") from error
            time.sleep(0.1)
