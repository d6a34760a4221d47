"""What a gateway that stops tells the ledgers, and gives back. In virtual time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal

import pytest

from bud.errors import ApiUnavailable
from bud.gateway.budgets import Budgets
from bud.gateway.catalog import Key
from bud.ledger import PROJECT, Book, Part, Used, part_of
from tests.unit.gateway.spending import ALICE, Clock, Ledger, account, key, spend
from tests.virtual_time import run

USED = Used(1, 2, 3, Decimal("0.5"))


class Slow(Ledger):
    """Few at a time are served by it; `reads` counts them."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0
        self._gate = asyncio.Semaphore(10)

    async def read(self, part: Part, *, now: float) -> tuple[Book, str]:
        self.reads += 1
        await self._call()
        return await super().read(part, now=now)

    async def write(self, part: Part, book: Book, version: str) -> int:
        await self._call()
        return await super().write(part, book, version)

    async def _call(self) -> None:
        async with self._gate:
            await asyncio.sleep(0.05)


def of(project: str) -> Key:
    found = key(None)
    return replace(found, project=replace(found.project, name=project))


def test_many_projects_are_told_by_a_ledger_that_is_slow() -> None:
    async def main() -> None:
        ledger, clock = Slow(), Clock()
        budgets = Budgets(ledger, clock)
        for number in range(400):
            budgets.settle(of(f"p-{number}"), None, USED, now=clock.now)
        await budgets.close()
        told = [part.project for part, texts in ledger.texts.items() if part.number == 0 and PROJECT in texts[-1]]
        assert len(told) == 400

    run(main())


@pytest.mark.parametrize("was_done", [False, True], ids=["lost on the way", "done all the same"])
def test_what_gets_no_answer_is_told_again_and_counts_once(was_done: bool) -> None:
    async def main() -> None:
        ledger, clock = Ledger(), Clock()
        budgets = Budgets(ledger, clock)
        assert await spend(budgets, key("9"), "0.5", now=clock.now)
        failure = ApiUnavailable("no answer")
        ledger.before, ledger.after = (None, failure) if was_done else (failure, None)
        closing = asyncio.create_task(budgets.close())
        await asyncio.sleep(5)
        assert closing.done() == was_done  # the second reading tells it
        ledger.before = ledger.after = None
        await closing
        for owner in (ALICE, PROJECT):
            found = await account(ledger, owner, clock)
            assert (found.requests, found.spent["Total"]) == (1, Decimal("0.5"))
            book, _ = await ledger.read(part_of("team", owner), now=clock.now)
            assert not any(one.leases for one in book.replicas.values())

    run(main())


@pytest.mark.parametrize(
    "fault", [lambda: ApiUnavailable("away"), lambda: RuntimeError("a fault")], ids=["away", "broken"]
)
def test_a_ledger_that_stays_away_ends_no_later_and_is_told(
    fault: Callable[[], Exception], caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        ledger, clock = Ledger(), Clock()
        budgets = Budgets(ledger, clock)
        budgets.settle(of("one"), None, USED, now=clock.now)
        budgets.settle(of("two"), None, USED, now=clock.now)
        ledger.before = fault()
        await budgets.close()
        assert asyncio.get_running_loop().time() <= 20

    caplog.set_level(logging.ERROR, "bud.gateway")
    run(main())
    assert "2 projects: what was used last is not in their ledgers" in caplog.text
    assert caplog.text.rstrip().endswith("one, two")


def test_what_has_nothing_to_tell_is_not_asked_for() -> None:
    async def main() -> None:
        ledger, clock = Slow(), Clock()
        budgets = Budgets(ledger, clock)
        budgets.settle(of("one"), None, USED, now=clock.now)
        clock.now += 60
        for desk in budgets._desks.values():
            await desk.keep()
        reads = ledger.reads
        assert budgets.spent(key("1"), now=clock.now) is None
        await budgets.close()
        assert (reads, ledger.reads) == (2, 2)

    run(main())
