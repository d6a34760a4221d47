"""The ledger of a project: what its keys used and spent, and which parts of budgets are out on lease. Pure.

It has several parts, each a JSON text of its own: the first holds the project's account, the others those of its keys,
by a hash of the key, so that ten thousand fit::

    {"version": 1, "since": {"Day": "2026-11-22", "Month": "2026-11-01"},
     "accounts": {"key/UID": {"requests": 9, "inputTokens": 90, "outputTokens": 45,
                              "spent": {"Day": "0.5", "Month": "7.25", "Total": "31"}, "lost": {"Total": "0.5"}}},
     "replicas": {"ID": {"serial": 4, "renewed": "2026-11-22T19:37:59Z", "leases": {"key/UID": {"Month": "0.75"}}}}}

Requests and tokens are those of the month; what is 0 is left out. Money is in US dollars, in decimal strings. Days and
months begin at 00:00 UTC. What a replica has on lease may be spent by it alone. One that has written nothing for a day
is taken for dead: nobody can tell how much of its leases it had spent, so all of them is `lost`, which counts against
the budget until the period ends, or somebody takes it out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Set
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from types import MappingProxyType
from typing import Any, Literal, NamedTuple
from zlib import crc32

import orjson

Period = Literal["Day", "Month", "Total"]

PERIODS: tuple[Period, ...] = ("Day", "Month", "Total")
PROJECT = "project"
"""The account of all keys together."""
LABEL = "bud.studio/ledger"
"""On the ConfigMaps that hold ledgers: `true` for the part with the project's account, `keys` for the others."""
KEY_PARTS = 8
"""Over how many parts the keys of a project are spread. Another number would be another ledger."""
GONE_SECONDS = 86400.0
"""A replica that has written nothing for so long is taken for dead; longer than clocks are apart."""
DATA = "ledger.json"
"""The key of a ledger's text in its ConfigMap."""
_VERSION = 1
_KEY = "key/"
_COUNTS = ("requests", "inputTokens", "outputTokens")
_NOTHING = Decimal(0)

Leases = dict[str, dict[Period, Decimal]]
"""US dollars by account and period."""


class Part(NamedTuple):
    """One text of a project's ledger: number 0 has the project's account, the others those of keys."""

    project: str
    number: int


def key_account(uid: str) -> str:
    """The name of a key's account."""
    return f"{_KEY}{uid}"


def part_of(project: str, account: str) -> Part:
    """Where an account stands: the same for all replicas and releases."""
    return Part(project, 0 if account == PROJECT else 1 + crc32(account.encode()) % KEY_PARTS)


def parts(project: str) -> list[Part]:
    """All that the ledger of a project may have."""
    return [Part(project, number) for number in range(1 + KEY_PARTS)]


def since(now: float) -> Mapping[Period, str]:
    """When the periods began that a moment, in epoch seconds, is in; Total never did."""
    day = datetime.fromtimestamp(now, UTC).date()
    return MappingProxyType({"Day": day.isoformat(), "Month": day.replace(day=1).isoformat(), "Total": ""})


def ends(period: Period, now: float) -> datetime | None:
    """When the period that a moment is in ends; None: never."""
    day = datetime.fromtimestamp(now, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if period == "Total":
        return None
    if period == "Day":
        return datetime.fromtimestamp(day.timestamp() + 86400, UTC)
    return day.replace(year=day.year + day.month // 12, month=day.month % 12 + 1, day=1)


@dataclass(slots=True)
class Used:
    """What was used: requests, tokens, US dollars."""

    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: Decimal = _NOTHING

    def add(self, other: Used) -> None:
        self.requests += other.requests
        self.input_tokens += other.input_tokens
        self.output_tokens += other.output_tokens
        self.cost += other.cost


@dataclass(slots=True)
class Account:
    """Requests and tokens of the month; what was spent in each period, and what the dead had on lease."""

    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    spent: dict[Period, Decimal] = field(default_factory=dict)
    lost: dict[Period, Decimal] = field(default_factory=dict)

    @property
    def is_of_this_month(self) -> bool:
        return bool(self.requests or self.input_tokens or self.output_tokens or "Month" in self.spent)


@dataclass(slots=True)
class Replica:
    """What one replica has on lease.

    `serial` is the number of its last writing that changed the ledger, `renewed` its time in epoch seconds.
    """

    serial: int = 0
    renewed: int = 0
    leases: Leases = field(default_factory=dict)


@dataclass(slots=True)
class Book:
    """A ledger, open."""

    since: dict[Period, str]
    accounts: dict[str, Account] = field(default_factory=dict)
    replicas: dict[str, Replica] = field(default_factory=dict)

    @classmethod
    def new(cls, now: float) -> Book:
        return cls(dict(since(now)))

    def turn(self, now: float) -> None:
        """Ends the periods that are over, and buries the dead. A clock that is behind changes nothing."""
        over = [period for period, began in since(now).items() if began > self.since[period]]
        if over:
            self._end(over, now)
        for id in [id for id, one in self.replicas.items() if now - one.renewed > GONE_SECONDS]:
            for owner, amounts in self.replicas.pop(id).leases.items():
                lost = self.accounts.setdefault(owner, Account()).lost
                for period, amount in amounts.items():
                    lost[period] = lost.get(period, _NOTHING) + amount

    def _end(self, over: Collection[Period], now: float) -> None:
        self.since |= {period: since(now)[period] for period in over}
        for account in self.accounts.values():
            for period in over:
                account.spent.pop(period, None)
                account.lost.pop(period, None)
            if "Month" in over:
                account.requests = account.input_tokens = account.output_tokens = 0
        self.accounts = {owner: account for owner, account in self.accounts.items() if account != Account()}
        # A replica stays without leases, too: its serial says which of its writings were done.
        for replica in self.replicas.values():
            replica.leases = _without(replica.leases, over)

    def forget(self, uids: Set[str]) -> bool:
        """Drops keys of which nothing was used this month, and which are not among these, the project's own.

        On the first day of a month nothing is dropped: a key must have been gone, or not heard of, for a day. Tells
        whether there were any.
        """
        if self.since["Day"] == self.since["Month"]:
            return False
        count = len(self.accounts)
        kept = {PROJECT, *(owner for one in self.replicas.values() for owner in one.leases)}
        self.accounts = {
            owner: account
            for owner, account in self.accounts.items()
            if account.is_of_this_month or owner in kept or owner.removeprefix(_KEY) in uids
        }
        return len(self.accounts) < count

    def add(self, owner: str, day: str, used: Used) -> None:
        """Counts what was used on a day, in the periods that it is in."""
        account = self.accounts.setdefault(owner, Account())
        in_month = day[:7] == self.since["Month"][:7]
        if in_month:
            account.requests += used.requests
            account.input_tokens += used.input_tokens
            account.output_tokens += used.output_tokens
        counts: Mapping[Period, bool] = {"Day": day == self.since["Day"], "Month": in_month, "Total": True}
        for period in PERIODS:
            if counts[period] and used.cost:
                account.spent[period] = account.spent.get(period, _NOTHING) + used.cost

    def left(self, owner: str, period: Period, amount: Decimal) -> Decimal:
        """What of a budget is neither spent nor lost nor on lease, at least 0."""
        account = self.accounts.get(owner) or Account()
        spent = account.spent.get(period, _NOTHING) + account.lost.get(period, _NOTHING)
        leased = sum((r.leases.get(owner, {}).get(period, _NOTHING) for r in self.replicas.values()), _NOTHING)
        return max(_NOTHING, amount - spent - leased)


def parse(text: str) -> Book:
    """Reads a ledger. Raises `ValueError` for what is none, or a later version's."""
    try:
        told = orjson.loads(text)
        if told["version"] != _VERSION:
            raise ValueError(f"the ledger has version {told['version']}, and this program reads {_VERSION}")
        book = Book({"Day": str(told["since"]["Day"]), "Month": str(told["since"]["Month"]), "Total": ""})
        for owner, one in told["accounts"].items():
            requests, read, written = (int(one.get(name, 0)) for name in _COUNTS)
            book.accounts[owner] = Account(
                requests, read, written, _money(one.get("spent", {})), _money(one.get("lost", {}))
            )
        for id, one in told["replicas"].items():
            leases = {owner: _money(amounts) for owner, amounts in one["leases"].items()}
            renewed = int(datetime.fromisoformat(one["renewed"]).timestamp())
            book.replicas[id] = Replica(int(one["serial"]), renewed, leases)
    except (KeyError, TypeError, AttributeError, InvalidOperation) as error:
        raise ValueError(f"the ledger cannot be read: {error!r}") from None
    return book


def render(book: Book) -> str:
    """The text of a ledger, the same for the same ledger."""
    told = {
        "version": _VERSION,
        "since": {"Day": book.since["Day"], "Month": book.since["Month"]},
        "accounts": {owner: _told(one) for owner, one in book.accounts.items()},
        "replicas": {
            id: {
                "serial": one.serial,
                "renewed": f"{datetime.fromtimestamp(one.renewed, UTC):%Y-%m-%dT%H:%M:%SZ}",
                "leases": {owner: _words(amounts) for owner, amounts in one.leases.items()},
            }
            for id, one in book.replicas.items()
        },
    }
    return orjson.dumps(told, option=orjson.OPT_SORT_KEYS).decode()


def _told(account: Account) -> dict[str, Any]:
    counts = zip(_COUNTS, (account.requests, account.input_tokens, account.output_tokens), strict=True)
    told: dict[str, Any] = {name: count for name, count in counts if count}
    amounts = {"spent": account.spent, "lost": account.lost}
    return told | {name: _words(money) for name, money in amounts.items() if money}


def _without(leases: Leases, over: Iterable[Period]) -> Leases:
    left = {
        owner: {period: amount for period, amount in amounts.items() if period not in over}
        for owner, amounts in leases.items()
    }
    return {owner: amounts for owner, amounts in left.items() if amounts}


def _money(told: Mapping[str, Any]) -> dict[Period, Decimal]:
    return {period: Decimal(told[period]) for period in PERIODS if period in told}


def _words(amounts: Mapping[Period, Decimal]) -> dict[str, str]:
    return {period: dollars(amount) for period, amount in amounts.items()}


def dollars(amount: Decimal) -> str:
    """An amount as it is written: without an exponent, and without zeros at its end."""
    return format(amount.normalize(), "f")
