"""Whatever fails in between: several replicas that race, hang, die and lose answers. In virtual time, by chance."""

from __future__ import annotations

import asyncio
import logging
from decimal import Decimal
from random import Random

import pytest

from bud.errors import ApiUnavailable
from bud.gateway.budgets import Budgets
from bud.gateway.catalog import Key
from bud.gateway.refusal import Limited, Unavailable
from bud.ledger import PROJECT, Book, Part, Used, part_of
from tests.unit.gateway.spending import ALICE, DAY, Clock, Ledger, key
from tests.virtual_time import run

STEPS = 150
NOTHING = Decimal(0)


class Flaky(Ledger):
    """Fails so often: when it is read, and before and after it is written."""

    def __init__(self, random: Random, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self._random = random

    async def read(self, part: Part, *, now: float) -> tuple[Book, str]:
        if self._random.random() < self.rate / 2:
            raise ApiUnavailable("not read")
        return await super().read(part, now=now)

    async def write(self, part: Part, book: Book, version: str) -> int:
        failure = ApiUnavailable("no answer")
        chance = self._random.random()
        self.before = failure if chance < self.rate / 2 else None
        self.after = failure if chance > 1 - self.rate / 2 else None
        return await super().write(part, book, version)


class World:
    """Three replicas, of which one may die, and what was truly spent."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.clock = Clock()
        self.ledger = Flaky(self.random, self.random.choice([0, 0.1, 0.4]))
        self.alive = [Budgets(self.ledger, self.clock) for _ in range(3)]
        self.dead: list[Budgets] = []
        self.total = NOTHING

    async def ask(self, budgets: Budgets, who: Key) -> None:
        thought = Decimal(self.random.randint(0, 60)) / 1000
        try:
            hold = await budgets.reserve(who, thought, now=self.clock.now)
        except (Limited, Unavailable):
            return
        for _ in range(self.random.randint(0, 5)):
            await asyncio.sleep(0)
        if budgets in self.dead:
            return
        if self.random.random() < 0.1:
            budgets.release(hold)
            return
        cost = thought * self.random.randint(0, 100) / 100
        budgets.settle(who, hold, Used(1, 0, 0, cost), now=self.clock.now)
        self.total += cost

    async def live(self, who: Key, *, pauses: list[float], may_die: bool) -> None:
        tasks = []
        for _ in range(STEPS):
            self.clock.now += self.random.choice(pauses)
            if may_die and len(self.alive) > 1 and self.random.random() < 0.01:
                self.dead.append(self.alive.pop())
            tasks.append(asyncio.create_task(self.ask(self.random.choice(self.alive), who)))
            if self.random.random() < 0.2:
                self.random.choice(tasks).cancel()
            if self.random.random() < 0.3:
                for desk in list(self.random.choice(self.alive)._desks.values()):
                    await desk.keep()
            for _ in range(self.random.randint(0, 4)):
                await asyncio.sleep(0)
        await asyncio.gather(*tasks, return_exceptions=True)
        for budgets in self.dead:
            await budgets._work.close()
        self.ledger.rate = 0
        self.clock.now += 60
        for budgets in self.alive:
            await budgets._work.settled()
            await budgets.close()


@pytest.mark.parametrize("may_die", [False, True], ids=["all live", "some die"])
@pytest.mark.parametrize("seed", range(20))
def test_no_budget_is_exceeded_and_all_that_was_spent_is_accounted_for(
    seed: int, may_die: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "bud.gateway")

    async def main() -> None:
        world = World(seed)
        who, pauses = key("1", project=world.random.choice([None, "0.8"])), [0, 0.5, 2, 12, 40, 400]
        await world.live(who, pauses=pauses + [DAY] * may_die, may_die=may_die)
        assert 0 < world.total <= (Decimal("0.8") if who.project.budget else 1)
        for account in (ALICE, PROJECT):
            book, _ = await world.ledger.read(part_of("team", account), now=world.clock.now)
            found = book.accounts[account]
            leased = sum((one.leases.get(account, {}).get("Total", NOTHING) for one in book.replicas.values()), NOTHING)
            if may_die:
                has_budget = account == ALICE or who.project.budget
                accounted = found.spent.get("Total", NOTHING) + found.lost.get("Total", NOTHING) + leased
                assert not has_budget or world.total <= accounted
            else:
                assert (found.spent["Total"], leased) == (world.total, NOTHING)

    run(main())
