"""Budgets of several replicas on one ledger: none is overspent, whoever dies."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from bud.errors import ApiUnavailable
from bud.gateway.budgets import Budgets, Hold
from bud.gateway.catalog import Key
from bud.gateway.ledgers import Changed, MemoryLedger
from bud.gateway.refusal import Limited, Unavailable
from bud.ledger import KEY_PARTS, PROJECT, Used, key_account, part_of
from tests.unit.gateway.spending import ALICE, DAY, Clock, Ledger, account, key, spend

SAME_PART = next(
    f"u-{n}" for n in range(100) if part_of("team", key_account(f"u-{n}")) == part_of("team", key_account("bob"))
)
"""A key in the part of bob's."""


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
def replica(ledger: Ledger, clock: Clock) -> Callable[[], Budgets]:
    return lambda: Budgets(ledger, clock)


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
    lost = Decimal("0.04")  # for four requests
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
    for desk in budgets._desks.values():
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
    await budgets._work.settled()
    refusal = budgets.spent(who, now=clock.now)
    assert refusal is not None and refusal.code == "budget_exceeded"


async def test_one_writing_serves_all_who_wait(ledger: Ledger, clock: Clock) -> None:
    budgets = Budgets(ledger, clock)
    asking = [spend(budgets, key("1", uid=f"u-{n}"), "0.01", now=clock.now) for n in range(1000)]
    assert all(await asyncio.gather(*asking))
    # Two of each part: one for who came first, and one for those who came meanwhile.
    assert ledger.writes <= 2 * KEY_PARTS
    again = [spend(budgets, key("9"), "1", now=clock.now) for _ in range(10)]
    assert sum(await asyncio.gather(*again)) == 9


@pytest.mark.parametrize("was_written", [False, True], ids=["while it is written", "once it was"])
async def test_who_hangs_up_while_waiting_leaves_nothing_reserved(
    replica: Callable[[], Budgets], ledger: Ledger, clock: Clock, was_written: bool
) -> None:
    budgets = replica()

    async def first() -> Hold | None:
        hold = await budgets.reserve(key(), Decimal("0.5"), now=clock.now)
        if was_written:
            second.cancel()
        return hold

    leads = asyncio.create_task(first())
    second = asyncio.create_task(budgets.reserve(key(), Decimal("0.5"), now=clock.now))
    if not was_written:
        ledger.meanwhile = second.cancel
    hold = await leads
    await asyncio.gather(second, return_exceptions=True)
    assert second.cancelled()
    budgets.release(hold)
    ledger.meanwhile = lambda: None
    assert [await spend(budgets, key(), "0.5", now=clock.now) for _ in range(3)] == [True, True, False]


async def test_what_a_dead_replica_had_on_lease_is_lost_and_shown_after_a_day(
    replica: Callable[[], Budgets], ledger: Ledger, clock: Clock
) -> None:
    assert await spend(replica(), key(), "0.01", now=clock.now)
    clock.now += DAY + 60
    budgets = replica()
    assert [await spend(budgets, key(), "0.96", now=clock.now) for _ in range(2)] == [True, False]
    found = await account(ledger, ALICE, clock)
    assert found.lost == {"Total": Decimal("0.04")}
    await budgets.close()
    # Who knows better may take it out: then it may be spent.
    book, version = await ledger.read(part_of("team", ALICE), now=clock.now)
    book.accounts[ALICE].lost.clear()
    await ledger.write(part_of("team", ALICE), book, version)
    assert await spend(replica(), key(), "0.04", now=clock.now)


async def test_one_that_was_taken_for_dead_and_lives_spends_no_more_than_there_is(
    replica: Callable[[], Budgets], ledger: Ledger, clock: Clock
) -> None:
    silent, other = replica(), replica()
    assert await spend(silent, key(), "0.01", now=clock.now)
    clock.now += DAY + 60
    assert await spend(other, key(), "0.5", now=clock.now)
    served = [await spend(silent, key(), "0.01", now=clock.now) for _ in range(100)]
    for budgets in (silent, other):
        await budgets.close()
    found = await account(ledger, ALICE, clock)
    assert found.spent["Total"] == Decimal("0.51") + sum(served) * Decimal("0.01")
    assert found.spent["Total"] + found.lost["Total"] <= 1


async def test_a_lease_lasts_for_some_seconds(replica: Callable[[], Budgets], ledger: Ledger, clock: Clock) -> None:
    budgets, at = replica(), part_of("team", ALICE)

    async def leased() -> Decimal:
        book, _ = await ledger.read(at, now=clock.now)
        return sum((one.leases.get(ALICE, {}).get("Total", Decimal(0)) for one in book.replicas.values()), Decimal(0))

    who = key("1000")
    for _ in range(200):
        assert await spend(budgets, who, "0.1", now=clock.now)
    fast = await leased()
    assert Decimal(10) < fast <= 100
    for _ in range(8):
        clock.now += 20
        assert await spend(budgets, who, "0.001", now=clock.now)
        for desk in budgets._desks.values():
            await desk.keep()
    assert await leased() < fast / 4


async def test_a_writing_without_an_answer_counts_once_over_midnight(
    replica: Callable[[], Budgets], ledger: Ledger, clock: Clock
) -> None:
    clock.now += 23 * 3600
    budgets, other = replica(), replica()
    budgets.settle(key("9"), None, Used(1, 2, 3, Decimal("0.5")), now=clock.now)
    ledger.after = ApiUnavailable("no answer")
    clock.now += 60
    for desk in budgets._desks.values():
        await desk.keep()
    ledger.after = None
    clock.now += 3600
    other.settle(key("9"), None, Used(1), now=clock.now)
    await other.close()
    await budgets.close()
    assert (await account(ledger, ALICE, clock)).spent["Total"] == Decimal("0.5")


@pytest.mark.parametrize("was_done", [False, True], ids=["lost on the way", "done all the same"])
async def test_what_cannot_be_told_is_kept_once_however_long(
    replica: Callable[[], Budgets], ledger: Ledger, clock: Clock, was_done: bool
) -> None:
    budgets = replica()
    failure = ApiUnavailable("no answer")
    ledger.before, ledger.after = (None, failure) if was_done else (failure, None)
    for _ in range(50):
        budgets.settle(key("9"), None, Used(1, 0, 0, Decimal("0.01")), now=clock.now)
        clock.now += 60
        for desk in budgets._desks.values():
            await desk.keep()
            entries = [desk._untold, *(desk._unsure or ())[1:]]
            assert sum(map(len, entries)) <= 2
    assert 'bud_gateway_ledger_failing_seconds{bud_project="team"} 29' in "".join(budgets.samples())
    ledger.before = ledger.after = None
    await budgets.close()
    found = await account(ledger, ALICE, clock)
    assert (found.requests, found.spent["Total"]) == (50, Decimal("0.5"))


async def test_a_key_that_is_gone_leaves_the_ledger_after_its_month(ledger: Ledger, clock: Clock) -> None:
    clock.now = datetime(2026, 11, 30, 12, tzinfo=UTC).timestamp()
    alice, bob = key("9"), key("9", uid="bob")
    there = {"alice", "bob"}
    budgets = Budgets(ledger, clock, known=lambda project: there if project == "team" else None)

    async def turn(to: float) -> set[str]:
        clock.now = to
        budgets.settle(alice, None, Used(1), now=clock.now)
        budgets.settle(key(uid=SAME_PART), None, Used(1), now=clock.now)
        for desk in budgets._desks.values():
            await desk.keep()
        book, _ = await ledger.read(part_of("team", key_account("bob")), now=clock.now)
        return set(book.accounts)

    budgets.settle(bob, None, Used(1, 0, 0, Decimal(1)), now=clock.now)
    later = [await turn(datetime(2026, 11, 30, 13, tzinfo=UTC).timestamp())]
    there.discard("bob")
    later += [await turn(datetime(2026, 12, day, 12, tzinfo=UTC).timestamp()) for day in (1, 2)]
    assert [key_account("bob") in found for found in later] == [True, True, False]
    assert (await account(ledger, PROJECT, clock)).spent["Total"] == 1


async def test_what_nobody_used_for_a_day_and_has_nothing_to_tell_is_forgotten(ledger: Ledger, clock: Clock) -> None:
    budgets, gone, stays = Budgets(ledger, clock), key("9", uid="bob"), key(uid="carol")
    assert await spend(budgets, gone, "0.1", now=clock.now)
    clock.now += DAY + 1
    budgets._forget(clock.now)
    assert len(budgets._desks) == 2  # with leases, and something to tell
    for desk in budgets._desks.values():
        await desk.keep()
    budgets.settle(stays, None, Used(1), now=clock.now)
    writes = budgets._writes + sum(desk.writes for desk in budgets._desks.values())
    budgets._forget(clock.now)
    assert set(budgets._desks) == {part_of("team", PROJECT), part_of("team", key_account("carol"))}
    clock.now += 60
    for desk in budgets._desks.values():
        await desk.keep()
    clock.now += DAY
    budgets._forget(clock.now)
    told = "".join(budgets.samples())
    assert "bud_project" not in told and f"bud_gateway_ledger_writes_total {writes + 2}" in told
    assert await spend(budgets, gone, "0.1", now=clock.now)
    await budgets.close()
    assert (await account(ledger, key_account("bob"), clock)).spent["Total"] == Decimal("0.2")
