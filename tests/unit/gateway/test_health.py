"""Which addresses are asked how they are, when, and what becomes of them; in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

import pytest

from bud.gateway.catalog import Catalog, Served, Target
from bud.gateway.health import Health, samples
from bud.gateway.route import Board, Key, model_at, order
from tests import virtual_time

A, B = "http://a/v1", "http://b/v1"
DEPLOYMENT = Target("chat", "bud", "chat", (A, B))
COMPATIBLE = Target("p/m", "openai-compatible", "m", (A,))
OPENAI = Target("o/m", "openai", "m", (A,))


def catalog(target: Target) -> Catalog:
    return Catalog(names={"team": {"m": Served("m", (target,)), "again": Served("again", (), (target,))}})


class Bench:
    """An upstream that is away until `well_at` seconds, and what it was asked, when."""

    def __init__(
        self, target: Target, *, well_at: float = float("inf"), takes: float = 0.0, odd_until: float = 0.0
    ) -> None:
        self.board, self.target = Board(), target
        self.asked: list[tuple[float, str]] = []
        self.catalog = catalog(target)
        self._well_at = well_at
        self._takes = takes
        self._odd_until = odd_until

    async def probe(self, _: Target, url: str) -> bool:
        await asyncio.sleep(self._takes)
        now = asyncio.get_running_loop().time()
        self.asked.append((now, url))
        if now < self._odd_until:
            raise ValueError("of a kind that nobody has foreseen")
        return now >= self._well_at

    def fail(self, url: Key = A, times: int = 5) -> None:
        for _ in range(times):
            self.board.failed(url, now=asyncio.get_running_loop().time())

    def run(self, seconds: float, *events: tuple[float, Callable[[], None]]) -> list[tuple[float, str]]:
        async def main() -> None:
            loop = asyncio.get_running_loop()
            for moment, event in events:
                loop.call_at(moment, event)
            task = asyncio.create_task(Health(self.board, lambda: self.catalog, self.probe).run())
            await asyncio.sleep(seconds)
            task.cancel()

        virtual_time.run(main())
        return self.asked


def first(bench: Bench, now: float) -> str:
    return next(url for _, url in order(bench.catalog.names["team"]["m"], bench.board, prefix=b"", now=now))


@pytest.mark.parametrize(
    ("target", "well_at", "asked_at"),
    [
        (DEPLOYMENT, 0.0, [3.0]),
        (DEPLOYMENT, 10.0, [3.0, 7.0, 15.0]),
        (COMPATIBLE, 100.0, [3.0, 7.0, 15.0, 31.0, 63.0, 123.0]),
        (OPENAI, 0.0, []),
    ],
    ids=["well at the first look", "well at the third", "the pauses have an end", "of a kind that is not asked"],
)
def test_an_address_that_rests_is_asked_after_each_pause(target: Target, well_at: float, asked_at: list[float]) -> None:
    bench = Bench(target, well_at=well_at)
    assert bench.run(1000, (1.0, bench.fail)) == [(moment, A) for moment in asked_at]


def test_a_model_that_rests_is_asked_at_its_address_alone() -> None:
    bench = Bench(DEPLOYMENT, well_at=5.0)
    assert bench.run(1000, (1.0, lambda: bench.fail(model_at(DEPLOYMENT, B)))) == [(3.0, B), (7.0, B)]
    assert Bench(DEPLOYMENT).run(1000) == []


def test_an_odd_failure_of_the_asking_does_not_end_it() -> None:
    bench = Bench(DEPLOYMENT, well_at=0.0, odd_until=5.0)
    assert bench.run(1000, (1.0, bench.fail)) == [(3.0, A), (7.0, A)]


def test_nobody_is_asked_while_all_is_well() -> None:
    bench = Bench(DEPLOYMENT)
    assert bench.run(1000, (1.0, lambda: bench.fail(times=4))) == []


def test_an_address_that_is_asked_gets_no_request_until_it_is_well() -> None:
    bench, seen = Bench(DEPLOYMENT, well_at=10.0, takes=1.0), list[bool]()

    def look() -> None:
        seen.append(bench.board.is_open(bench.target, A, now=asyncio.get_running_loop().time()))

    bench.run(100, (1.0, bench.fail), (3.5, look), (8.5, look), (17.5, look), (18.5, look))
    assert bench.asked == [(4.0, A), (9.0, A), (18.0, A)]
    assert seen == [False, False, False, True]


def test_one_that_is_not_asked_gets_a_request_after_its_pause() -> None:
    bench, seen = Bench(OPENAI), list[bool]()
    bench.run(
        100,
        (1.0, bench.fail),
        *(
            (moment, lambda: seen.append(bench.board.is_open(bench.target, A, now=asyncio.get_running_loop().time())))
            for moment in (2.9, 3.1)
        ),
    )
    assert seen == [False, True]


def test_one_fault_after_it_was_found_well_makes_it_rest_for_longer() -> None:
    bench = Bench(DEPLOYMENT, well_at=0.0)
    assert bench.run(100, (1.0, bench.fail), (20.0, lambda: bench.fail(times=1))) == [(3.0, A), (24.0, A)]


def test_many_faults_at_once_make_one_pause() -> None:
    bench = Bench(DEPLOYMENT, well_at=0.0)
    assert bench.run(100, (1.0, lambda: bench.fail(times=100))) == [(3.0, A)]


def test_a_request_that_works_ends_the_asking() -> None:
    bench = Bench(COMPATIBLE)
    assert bench.run(100, (1.0, bench.fail), (2.0, lambda: bench.board.worked(COMPATIBLE, A))) == []
    assert bench.board.is_open(bench.target, A, now=2.0)


def test_an_address_that_is_gone_is_forgotten_and_those_with_work_are_not() -> None:
    bench = Bench(DEPLOYMENT)

    def leave() -> None:
        bench.catalog = catalog(COMPATIBLE)
        bench.board.begin("http://old/v1")
        bench.fail()

    bench.run(10, (1.0, lambda: bench.fail(B)), (2.0, leave))
    assert (set(bench.board.resting()), bench.board.under_way("http://old/v1")) == ({A}, 1)


def test_an_address_that_rests_while_others_are_asked_is_not_missed() -> None:
    bench = Bench(DEPLOYMENT, well_at=0.0, takes=1.0)
    assert bench.run(100, (1.0, bench.fail), (3.5, lambda: bench.fail(B))) == [(4.0, A), (6.5, B)]


def test_a_target_is_told_of_once_by_whatever_names_it_has() -> None:
    board = Board()
    for _ in range(5):
        board.failed(A, now=1.0)
    board.begin(B)
    lines: Iterable[str] = "".join(samples(catalog(DEPLOYMENT), board, now=2.0)).splitlines()
    who = '{bud_namespace="team",bud_target="chat"}'
    assert [line for line in lines if not line.startswith("#")] == [
        f"bud_gateway_upstream_circuit_open{who} 1",
        f"bud_gateway_upstream_requests_in_flight{who} 1",
    ]
