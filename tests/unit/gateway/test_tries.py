"""Who is asked, after which pauses, how long each is waited for, and what counts as whose fault; in virtual time."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest

from bud.gateway.catalog import Served, Target
from bud.gateway.refusal import Limited, Refusal, Unavailable
from bud.gateway.route import Board, model_at
from bud.gateway.tries import Hung, Tries, Unreached, pause
from tests.virtual_time import run

A, B, C = (Target(name, "openai", name, (f"http://{name}/v1",)) for name in "abc")
NOON = 1_767_268_800.0
"""2026-01-01T12:00:00Z."""


def wants(seconds: int) -> Refusal:
    return Limited("later", headers={"retry-after": str(seconds)})


def asked(
    served: Served, answers: Iterable[Refusal], *, until: float = math.inf, board: Board | None = None
) -> list[tuple[str, int]]:
    """Who was asked, and in which second, while these are the answers; the pauses between are of tenths of a second."""
    found = list[tuple[str, int]]()

    async def main() -> None:
        now = asyncio.get_running_loop().time
        tries, left = Tries(served, board or Board(), prefix=b"", until=now() + until), list(answers)
        while (at := await tries.next()) is not None:
            found.append((at[0].id, int(now())))
            tries.failed(*at, left.pop(0) if left else Unavailable("no"))

    run(main())
    return found


@pytest.mark.parametrize(
    ("served", "answers", "until", "wanted"),
    [
        (Served("m", (A,)), [wants(7)], math.inf, [("a", 0), ("a", 7), ("a", 7)]),
        (Served("m", (A,)), [wants(7), wants(7)], math.inf, [("a", 0), ("a", 7), ("a", 14)]),
        (Served("m", (A,)), [wants(7)], 5, [("a", 0)]),
        (Served("m", (A,)), [wants(61)], math.inf, [("a", 0)]),
        (Served("m", (A,), (B,)), [wants(7)], math.inf, [("a", 0), ("b", 0), ("a", 7), ("a", 7)]),
        (Served("m", (A,), (B,)), [wants(70), wants(7)], math.inf, [("a", 0), ("b", 0)]),
        (Served("m", (A,), (B,)), [Hung("no")], math.inf, [("a", 0), ("b", 0)]),
        (Served("m", (A,), (B,)), [Unavailable("no", code="provider_credentials")], math.inf, [("a", 0), ("b", 0)]),
        (Served("m", (A,), (B,)), [], math.inf, [("a", 0), ("a", 0), ("a", 0), ("b", 0)]),
    ],
    ids=["it is waited for", "again", "not beyond the deadline", "not for long", "another is asked first",
         "nobody waits for a fallback that is asked last", "who hung is not asked again", "nor who refuses credentials", "all else is"],
)  # fmt: skip
def test_who_is_asked_and_when(
    served: Served, answers: list[Refusal], until: float, wanted: list[tuple[str, int]]
) -> None:
    assert asked(served, answers, until=until) == wanted


@pytest.mark.parametrize(
    ("served", "asks", "wanted"),
    [
        (Served("m", (A,), (B,), first_byte=3), 1, 3),
        (Served("m", (A,), (B,), first_byte=3), 2, None),
        (Served("m", (replace(A, first_byte=5),), (B,)), 1, 5),
        (Served("m", (replace(A, first_byte=5),), (B,), first_byte=3), 1, 3),
        (Served("m", (A,), (replace(B, first_byte=5),)), 1, None),
        (Served("m", (replace(A, first_byte=5),)), 1, None),
        (Served("m", (A,), (B,)), 1, None),
        (Served("m", (replace(A, urls=("http://x/v1", "http://y/v1")),), first_byte=3), 1, 3),
    ],
    ids=["a Route's", "the last has all the time", "a Provider's", "the Route's goes before it", "another's",
         "nobody else", "none", "another pod"],
)  # fmt: skip
def test_somebody_is_waited_for_as_long_as_is_set_if_another_can_be_asked(
    served: Served, asks: int, wanted: float | None
) -> None:
    async def main() -> float | None:
        tries = Tries(served, Board(), prefix=b"", until=math.inf)
        for _ in range(asks - 1):
            at = await tries.next()
            assert at is not None
            tries.failed(*at, Hung("no"))
        at = await tries.next()
        assert at is not None
        return tries.seconds(*at)

    assert run(main()) == wanted


def _fails(refusal: Refusal) -> Callable[[Tries, float], None]:
    return lambda tries, _: tries.failed(A, A.urls[0], refusal)


def _is_cut(tries: Tries, since: float) -> None:
    tries.cut(A, A.urls[0], since=since)


@pytest.mark.parametrize(
    ("happens", "seconds", "rests"),
    [
        (_fails(Unreached("no")), 0, [A.urls[0]]),
        (_fails(Unavailable("no")), 0, [model_at(A, A.urls[0])]),
        (_fails(Refusal("no")), 0, [model_at(A, A.urls[0])]),
        (_fails(Hung("no")), 0, [model_at(A, A.urls[0])]),
        (_fails(wants(1)), 0, []),
        (_fails(Unavailable("no", code="provider_credentials")), 0, []),
        (_is_cut, 29, []),
        (_is_cut, 31, [model_at(A, A.urls[0])]),
    ],
    ids=["no connection", "503", "500", "no first byte", "429", "credentials", "a caller in a hurry", "a caller who waited"],
)  # fmt: skip
def test_whose_fault_it_is(happens: Callable[[Tries, float], None], seconds: float, rests: list[Any]) -> None:
    board = Board()

    async def main() -> None:
        since = asyncio.get_running_loop().time()
        tries = Tries(Served("m", (A,)), board, prefix=b"", until=math.inf)
        await asyncio.sleep(seconds)
        for _ in range(5):
            happens(tries, since)

    run(main())
    assert list(board.resting()) == rests


def test_who_hangs_for_half_of_what_its_route_allows_has_a_fault() -> None:
    board = Board()

    async def main() -> None:
        tries = Tries(Served("m", (A,), timeout=4.0), board, prefix=b"", until=math.inf)
        since = asyncio.get_running_loop().time()
        await asyncio.sleep(2)
        for _ in range(5):
            tries.cut(A, A.urls[0], since=since)

    run(main())
    assert list(board.resting()) == [model_at(A, A.urls[0])]


@pytest.mark.parametrize(
    ("told", "wanted"),
    [
        ("7", "7"),
        ("0", "1"),
        (" 12 ", "12"),
        ("99999999999999999999", "86400"),
        ("Thu, 01 Jan 2026 12:00:30 GMT", "30"),
        ("Thu, 01 Jan 2026 11:00:00 GMT", "1"),
        ("Fri, 01 Jan 2027 12:00:00 GMT", "86400"),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("\u0665", None),
        ("", None),
    ],
)
def test_a_pause_is_told_in_whole_seconds(told: str, wanted: str | None) -> None:
    assert pause({"retry-after": told}, now=NOON) == ({} if wanted is None else {"retry-after": wanted})
    assert pause({}, now=NOON) == {}
