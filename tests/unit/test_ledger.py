"""What a project's ledger says, and what its periods are."""

from __future__ import annotations

import uuid
from collections import defaultdict
from datetime import UTC, datetime
from decimal import Decimal
from random import Random

import pytest

from bud.ledger import (
    KEY_PARTS,
    PROJECT,
    Account,
    Book,
    Part,
    Period,
    Replica,
    Used,
    ends,
    key_account,
    parse,
    part_of,
    render,
    since,
)

ALICE = key_account("alice")
LEASE: dict[Period, Decimal] = {"Day": Decimal(1), "Month": Decimal(2), "Total": Decimal("3.5")}


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


NOON = at("2026-11-30T12:00")


def written() -> Book:
    book = Book.new(NOON)
    book.add(ALICE, "2026-11-30", Used(2, 30, 40, Decimal("0.25")))
    book.replicas["one"] = Replica(7, int(NOON), {ALICE: dict(LEASE)})
    return book


def test_a_ledger_reads_as_it_was_written() -> None:
    book = written()
    assert parse(render(book)) == book
    assert '"Total":"0.25"' in render(book)


def test_amounts_have_no_exponent() -> None:
    book = Book.new(NOON)
    book.add(ALICE, "2026-11-30", Used(cost=Decimal("1E-9")))
    assert '"Day":"0.000000001"' in render(book)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"version": 2}', render(written()).replace('"0.25"', '"much"'), render(written())[:-1]],
)
def test_what_is_no_ledger_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse(text)


@pytest.mark.parametrize(
    ("now", "spent", "requests", "leased"),
    [
        ("2026-11-30T23:59:59", {"Day", "Month", "Total"}, 2, {"Day", "Month", "Total"}),
        ("2026-11-29T00:00", {"Day", "Month", "Total"}, 2, {"Day", "Month", "Total"}),
        ("2026-12-01T00:00", {"Total"}, 0, {"Total"}),
    ],
    ids=["same day", "a clock that is behind", "next month"],
)
def test_periods_end_by_the_clock(now: str, spent: set[str], requests: int, leased: set[str]) -> None:
    book = written()
    book.turn(at(now))
    assert (set(book.accounts[ALICE].spent), book.accounts[ALICE].requests) == (spent, requests)
    assert set(book.replicas["one"].leases[ALICE]) == leased


def test_a_day_ends_before_its_month() -> None:
    book = Book.new(at("2026-11-05T12:00"))
    book.add(ALICE, "2026-11-05", Used(1, 0, 0, Decimal(2)))
    book.replicas["one"] = Replica(1, int(at("2026-11-05T12:00")), {ALICE: {"Day": Decimal(1)}})
    book.turn(at("2026-11-06T00:00"))
    assert book.accounts[ALICE] == Account(1, 0, 0, {"Month": Decimal(2), "Total": Decimal(2)})
    assert book.replicas["one"].leases == {}


def test_what_is_told_late_counts_in_the_periods_of_its_day() -> None:
    book = Book.new(at("2026-12-01T00:00:05"))
    book.add(PROJECT, "2026-11-30", Used(1, 5, 5, Decimal(4)))
    assert book.accounts[PROJECT] == Account(0, 0, 0, {"Total": Decimal(4)})


def test_leases_of_one_that_has_written_nothing_for_a_day_are_lost() -> None:
    book = written()
    book.turn(NOON + 86400)
    assert book.accounts[ALICE].lost == {}
    book.turn(NOON + 86401)
    assert (book.accounts[ALICE].lost, book.replicas) == ({"Total": Decimal("3.5")}, {})
    assert book.left(ALICE, "Total", Decimal(10)) == Decimal("6.25")
    assert parse(render(book)) == book


def test_the_account_of_a_key_stays_where_it_is() -> None:
    assert part_of("team", PROJECT) == Part("team", 0)
    assert [part_of("team", key_account(uid)).number for uid in ("alice", "bob", "carol")] == [2, 5, 6]


def test_ten_thousand_keys_fit() -> None:
    books = defaultdict[int, Book](lambda: Book.new(NOON))
    random = Random(1)
    for _ in range(10_000):
        account = key_account(str(uuid.UUID(int=random.getrandbits(128))))
        book = books[part_of("team", account).number]
        book.add(account, "2026-11-30", Used(123_456, 123_456_789, 123_456_789, Decimal("1234.567890123")))
        for replica in ("one", "two", "three"):
            leases = book.replicas.setdefault(replica, Replica(1, int(NOON))).leases
            leases[account] = {"Total": Decimal("12.345678901")}
    assert len(books) == KEY_PARTS
    assert max(len(render(book)) for book in books.values()) < 0.7 * 2**20


@pytest.mark.parametrize(("amount", "left"), [("10", "7.75"), ("2.25", "0"), ("1", "0")])
def test_what_is_spent_or_on_lease_is_not_left(amount: str, left: str) -> None:
    assert written().left(ALICE, "Month", Decimal(amount)) == Decimal(left)
    assert written().left(PROJECT, "Month", Decimal(amount)) == Decimal(amount)


@pytest.mark.parametrize(
    ("period", "end"),
    [("Day", "2026-12-01T00:00"), ("Month", "2026-12-01T00:00"), ("Total", None)],
)
def test_the_end_of_a_period(period: Period, end: str | None) -> None:
    found = ends(period, NOON)
    assert (found.timestamp() if found else None) == (at(end) if end else None)


def test_the_last_month_of_a_year_ends_with_it() -> None:
    found = ends("Month", at("2026-12-31T23:59"))
    assert found is not None and found.isoformat() == "2027-01-01T00:00:00+00:00"
    assert since(at("2027-01-01"))["Month"] == "2027-01-01"
