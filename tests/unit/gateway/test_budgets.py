"""Budgets of several replicas on one ledger: none is overspent, whoever dies."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from decimal import Decimal

import pytest

from bud.api.limits import Limits
from bud.errors import ApiUnavailable
from bud.gateway.budgets import Budgets
from bud.gateway.catalog import Key, Project, Spending
from bud.gateway.ledgers import Changed, MemoryLedger
from bud.gateway.refusal import Limited, Unavailable
from bud.ledger import PROJECT, Account, Book, Period, Used, key_account, parse, render

DAY = 86400.0
ALICE = key_account("alice")


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000 * DAY / 50

    def __call__(self) -> float:
        return self.now


class Ledger:
    """One that several write. `before` or `after` a writing is done, it may fail; others run in between."""

    def __init__(self) -> None:
        self.writes = 0
        self.text = ""
        self.before: Exception | None = None
        self.after: Exception | None = None

    async def read(self, project: str, *, now: float) -> tuple[Book, str]:
        await asyncio.sleep(0)
        return (parse(self.text) if self.text else Book.new(now)), str(self.writes)

    async def write(self, project: str, book: Book, version: str) -> None:
        await asyncio.sleep(0)
        if self.before is not None:
            raise self.before
        if version != str(self.writes):
            raise Changed
        self.text = render(book)
        self.writes += 1
        if self.after is not None:
            raise self.after


def key(amount: str | None = "1", period: Period = "Total", *, project: str | None = None) -> Key:
    def spending(text: str | None) -> Spending | None:
        return Spending(Decimal(text), period) if text is not None else None

    team = Project("team", "team", Limits(), spending(project))
    return Key("alice", "alice", team, "hash", budget=spending(amount))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
def replica(ledger: Ledger, clock: Clock) -> Callable[[], Budgets]:
    return lambda: Budgets(ledger, clock)


async def spend(budgets: Budgets, who: Key, thought: str, cost: str | None = None, *, now: float) -> bool:
    """Serves one request; whether it was let in."""
    try:
        hold = await budgets.reserve(who, Decimal(thought), now=now)
    except Limited:
        return False
    await asyncio.sleep(0)
    budgets.settle(who, hold, Used(1, 2, 3, Decimal(cost or thought)), now=now)
    return True


async def account(ledger: Ledger, owner: str, clock: Clock) -> Account:
    book, _ = await ledger.read("team", now=clock.now)
    book.turn(clock.now)
    return book.accounts.get(owner, Account())


async def test_spending_stops_at_the_limit(replica: Callable[[], Budgets], ledger: Ledger, clock: Clock) -> None:
    budgets = replica()
    assert [await spend(budgets, key(), "0.25", now=clock.now) for _ in range(6)] == [True] * 4 + [False] * 2
    await budgets.close()
    assert (await account(ledger, ALICE, clock)).spent == dict.fromkeys(("Day", "Month", "Total"), Decimal(1))
    assert (await account(ledger, PROJECT, clock)).requests == 4


async def test_the_budget_of_a_project_holds_for_all_its_keys(replica: Callable[[], Budgets], clock: Clock) -> None:
    budgets, other = replica(), Key("bob", "bob", key(project="1").project, "hash")
    assert await spend(budgets, key("9", project="1"), "0.75", now=clock.now)
    with pytest.raises(
        Limited, match=r"may cost \$0.5, and of the \$1 that project team may spend in all \$0.25 are left"
    ):
        await budgets.reserve(other, Decimal("0.5"), now=clock.now)


async def test_one_writing_serves_many_requests(replica: Callable[[], Budgets], ledger: Ledger, clock: Clock) -> None:
    budgets = replica()
    for _ in range(700):
        assert await spend(budgets, key(), "0.001", now=clock.now)
    assert ledger.writes < 30


async def test_replicas_that_race_spend_all_and_no_more(
    replica: Callable[[], Budgets], ledger: Ledger, clock: Clock
) -> None:
    replicas = [replica() for _ in range(3)]
    served = await asyncio.gather(*(spend(replicas[n % 3], key(), "0.01", now=clock.now) for n in range(150)))
    for budgets in replicas:
        await budgets.close()
    spent = (await account(ledger, ALICE, clock)).spent["Total"]
    assert spent == sum(served) * Decimal("0.01") <= 1
    last = replica()
    rest = [await spend(last, key(), "0.01", now=clock.now) for _ in range(150)]
    assert sum(served) + sum(rest) == 100


async def test_what_a_dead_replica_had_on_lease_is_spent_until_the_period_ends(
    replica: Callable[[], Budgets], clock: Clock
) -> None:
    dead = replica()
    assert await spend(dead, key(period="Day"), "0.01", now=clock.now)
    alive = replica()
    lost = Decimal("0.1")  # a tenth
    assert not await spend(alive, key(period="Day"), str(1 - lost + Decimal("0.01")), now=clock.now)
    clock.now += 2  # what is known is believed for a second
    assert await spend(alive, key(period="Day"), str(1 - lost), now=clock.now)
    clock.now += DAY
    assert await spend(alive, key(period="Day"), "1", now=clock.now)


async def test_what_was_estimated_too_low_is_a_debt(
    replica: Callable[[], Budgets], ledger: Ledger, clock: Clock
) -> None:
    budgets = replica()
    assert await spend(budgets, key(), "0.1", "0.9", now=clock.now)
    assert not await spend(budgets, key(), "0.2", now=clock.now)
    assert await spend(budgets, key(), "0.1", now=clock.now)
    await budgets.close()
    assert (await account(ledger, ALICE, clock)).spent["Total"] == 1


async def test_a_debt_is_paid_once(replica: Callable[[], Budgets], clock: Clock) -> None:
    budgets = replica()
    assert await spend(budgets, key("4"), "0.1", "3", now=clock.now)
    served = 0
    while await spend(budgets, key("4"), "0.1", now=clock.now):
        served += 1
    assert served == 10


async def test_what_was_estimated_too_high_is_given_back(replica: Callable[[], Budgets], clock: Clock) -> None:
    budgets = replica()
    for _ in range(5):
        assert await spend(budgets, key(), "0.5", "0.1", now=clock.now)
    assert await spend(budgets, key(), "0.5", now=clock.now)
    assert not await spend(budgets, key(), "0.01", now=clock.now)


async def test_what_nobody_uses_goes_back(replica: Callable[[], Budgets], ledger: Ledger, clock: Clock) -> None:
    idle, busy = replica(), replica()
    idle.open()
    assert await spend(idle, key(), "0.5", "0", now=clock.now)
    assert not await spend(busy, key(), "0.6", now=clock.now)
    clock.now += 60
    for desk in idle._desks.values():
        await desk.keep()
    assert await spend(busy, key(), "1", now=clock.now)
    await idle.close()


async def test_a_process_of_its_own_keeps_its_ledger_in_memory(clock: Clock) -> None:
    budgets = Budgets(MemoryLedger(), clock)
    assert [await spend(budgets, key(), "0.25", now=clock.now) for _ in range(6)] == [True] * 4 + [False] * 2


async def test_a_price_that_is_not_known_costs_nothing(replica: Callable[[], Budgets], clock: Clock) -> None:
    assert await replica().reserve(key("0"), None, now=clock.now) is None
    assert not await spend(replica(), key("0"), "0", now=clock.now)


async def test_usage_is_counted_without_a_budget(replica: Callable[[], Budgets], ledger: Ledger, clock: Clock) -> None:
    budgets = replica()
    budgets.settle(key(None), None, Used(1, 2, 3, Decimal("0.5")), now=clock.now)
    await budgets.close()
    found = await account(ledger, ALICE, clock)
    assert (found.requests, found.input_tokens, found.output_tokens) == (1, 2, 3)


@pytest.mark.parametrize("was_done", [False, True], ids=["lost on the way", "done all the same"])
async def test_a_writing_without_an_answer_counts_once(
    replica: Callable[[], Budgets], ledger: Ledger, clock: Clock, was_done: bool
) -> None:
    budgets = replica()
    assert await spend(budgets, key("9"), "0.1", now=clock.now)
    failure = ApiUnavailable("no answer")
    ledger.before, ledger.after = (None, failure) if was_done else (failure, None)
    clock.now += 60
    (desk,) = budgets._desks.values()
    await desk.keep()
    with pytest.raises(Unavailable):
        await budgets.reserve(key("9"), Decimal(5), now=clock.now)
    ledger.before = ledger.after = None
    clock.now += 60
    assert await spend(budgets, key("9"), "0.1", now=clock.now)
    await budgets.close()
    assert (await account(ledger, ALICE, clock)).spent["Total"] == Decimal("0.2")


async def test_a_ledger_that_is_away_stops_only_what_needs_it(
    replica: Callable[[], Budgets], ledger: Ledger, clock: Clock
) -> None:
    budgets = replica()
    assert await spend(budgets, key(), "0.01", now=clock.now)
    ledger.before = ApiUnavailable("away")
    assert await spend(budgets, key(), "0.01", now=clock.now)
    with pytest.raises(Unavailable, match="cannot be found out now"):
        await budgets.reserve(key(), Decimal("0.5"), now=clock.now)
    assert await budgets.reserve(key(None), Decimal("0.5"), now=clock.now) is None


async def test_a_ledger_that_others_change_all_the_time_is_read_again(
    replica: Callable[[], Budgets], ledger: Ledger, clock: Clock
) -> None:
    budgets = replica()
    ledger.before = Changed()
    asking = asyncio.create_task(spend(budgets, key(), "0.5", now=clock.now))
    await asyncio.sleep(0.01)
    ledger.before = None
    assert await asking


async def test_a_session_spends_as_it_goes(replica: Callable[[], Budgets], clock: Clock) -> None:
    budgets, who = replica(), key()
    assert await spend(budgets, who, "0", now=clock.now)
    assert budgets.spent(who, now=clock.now) is None
    budgets.spend(who, Used(0, 1, 1, Decimal(2)), now=clock.now)
    await asyncio.gather(*budgets._work)
    refusal = budgets.spent(who, now=clock.now)
    assert refusal is not None and refusal.code == "budget_exceeded"
