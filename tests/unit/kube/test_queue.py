"""The queue: one key at a time, backoff, and what is not tried again. All in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from itertools import pairwise

import pytest

from bud.errors import ApiUnavailable, InvalidError
from bud.kube.queue import Queue
from tests.virtual_time import run

Work = Callable[[str], Awaitable[float | None]]


def times_of(
    work: Work, *, seconds: float, added: dict[float, str], hurried: float | None = None
) -> list[tuple[float, str]]:
    """Runs `work` behind a queue for some virtual seconds; gives when each key was worked on."""
    seen: list[tuple[float, str]] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()

        async def recorded(key: str) -> float | None:
            seen.append((round(loop.time(), 3), key))
            return await work(key)

        queue: Queue[str] = Queue(recorded, workers=2)
        for when, key in added.items():
            loop.call_at(when, queue.add, key)
        if hurried is not None:
            loop.call_at(hurried, queue.hurry)
        task = asyncio.create_task(queue.run())
        await asyncio.sleep(seconds)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    run(main())
    return seen


async def nothing(_: str) -> float | None:
    return None


async def unavailable(_: str) -> float | None:
    raise ApiUnavailable("away")


async def unexpected(_: str) -> float | None:
    raise ZeroDivisionError


async def invalid(_: str) -> float | None:
    raise InvalidError("no")


async def again_in_five(_: str) -> float | None:
    return 5.0


@pytest.mark.parametrize(
    ("work", "expected"),
    [
        pytest.param(nothing, [0.0], id="success is done once"),
        pytest.param(unavailable, [0.0, 0.2, 0.6, 1.4, 3.0, 6.2], id="waiting comes back with doubling delays"),
        pytest.param(unexpected, [0.0, 0.2, 0.6, 1.4, 3.0, 6.2], id="an unexpected error comes back too"),
        pytest.param(invalid, [0.0], id="an invalid spec is not tried again"),
        pytest.param(again_in_five, [0.0, 5.0, 10.0], id="success may ask to come back"),
    ],
)
def test_when_a_key_is_worked_on(work: Work, expected: list[float]) -> None:
    assert [when for when, _ in times_of(work, seconds=12, added={0.0: "a"})] == expected


def test_the_delay_never_exceeds_five_minutes() -> None:
    times = [when for when, _ in times_of(unavailable, seconds=3600, added={0.0: "a"})]
    assert max(later - earlier for earlier, later in pairwise(times)) == pytest.approx(300)


def test_a_change_cuts_a_delay_short() -> None:
    assert [when for when, _ in times_of(unavailable, seconds=5, added={0.0: "a", 2.0: "a"})][:5] == [
        0,
        0.2,
        0.6,
        1.4,
        2.0,
    ]


def test_what_waits_after_a_failure_is_hurried_and_what_asked_to_come_back_is_not() -> None:
    assert 2.0 in [when for when, _ in times_of(unavailable, seconds=5, added={0.0: "a"}, hurried=2.0)]
    assert [when for when, _ in times_of(again_in_five, seconds=6, added={0.0: "a"}, hurried=2.0)] == [0.0, 5.0]


def test_a_key_added_while_it_runs_runs_once_more_and_never_twice_at_once() -> None:
    running = 0
    most = 0

    async def slow(_: str) -> float | None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(1)
        running -= 1
        return None

    times = times_of(slow, seconds=10, added={0.0: "a", 0.3: "a", 0.4: "a", 0.5: "a"})
    assert times == [(0.0, "a"), (1.0, "a")]
    assert most == 1


def test_different_keys_run_side_by_side() -> None:
    async def slow(_: str) -> float | None:
        await asyncio.sleep(1)
        return None

    assert times_of(slow, seconds=10, added={0.0: "a", 0.01: "b"}) == [(0.0, "a"), (0.01, "b")]


def test_what_may_be_done_later_gives_way_but_is_never_starved() -> None:
    done: list[int] = []

    async def work(key: int) -> float | None:
        done.append(key)
        return None

    async def main() -> None:
        queue: Queue[int] = Queue(work, workers=1)
        for key in range(100):
            queue.add(key, later=key < 50)
        task = asyncio.create_task(queue.run())
        await asyncio.sleep(1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    run(main())
    assert sorted(done) == list(range(100))
    assert sum(key < 50 for key in done[:56]) == 7


def test_a_key_that_waits_for_later_is_done_now_when_somebody_asks() -> None:
    done: list[str] = []

    async def work(key: str) -> float | None:
        done.append(key)
        return None

    async def main() -> None:
        queue: Queue[str] = Queue(work, workers=1)
        for key in ("a", "b", "c"):
            queue.add(key, later=True)
        queue.add("c")
        task = asyncio.create_task(queue.run())
        await asyncio.sleep(1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    run(main())
    assert done == ["c", "a", "b"]


def test_keys_with_nothing_to_do_hold_up_nobody_else() -> None:
    done: list[int] = []
    between: list[int] = []

    async def work(key: int) -> float | None:
        done.append(key)
        return None

    async def main() -> None:
        queue: Queue[int] = Queue(work, workers=4)
        for key in range(1000):
            queue.add(key)
        task = asyncio.create_task(queue.run())
        while len(done) < 1000:
            before = len(done)
            await asyncio.sleep(0)
            between.append(len(done) - before)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    run(main())
    assert max(between) <= 4
