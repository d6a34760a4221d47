"""Waiting for a condition to come true."""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Sized
from typing import Any, TypeVar

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


def is_equal(found: object, wanted: object) -> None:
    """What to wait for, as those that follow: each fails, and says of what, until it is so."""
    assert found == wanted, f"{found!r} is not {wanted!r}"


def differs(found: object, other: object) -> None:
    assert found != other, f"still {found!r}"


def contains(found: Container[Any], item: object) -> None:
    assert item in found, f"{item!r} is not in {found!r}"


def exceeds(found: float, other: float) -> None:
    assert found > other, f"{found} is not more than {other}"


def is_so(found: object) -> None:
    assert found, f"{found!r}"


def is_empty(found: Sized) -> None:
    assert not found, f"still there: {found!r}"
