"""The ledger of a project: what its keys used and spent, and which parts of budgets are out on lease. Pure.

One JSON text for each project::

    {"version": 1, "since": {"Day": "2026-11-22", "Month": "2026-11-01"},
     "accounts": {"project": {"requests": 9, "inputTokens": 90, "outputTokens": 45,
                              "spent": {"Day": "0.5", "Month": "7.25", "Total": "31"}},
                  "key/UID": {…}},
     "replicas": {"ID": {"serial": 4, "leases": {"key/UID": {"Month": "0.75"}}}}}

Requests and tokens are those of the month; what is 0 is left out. Money is in US dollars, in decimal strings. Days and
months begin at 00:00 UTC. What a replica has on lease may be spent by it alone; if it dies, that counts as spent until
the period ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from types import MappingProxyType
from typing import Any, Literal

import orjson

Period = Literal["Day", "Month", "Total"]

PERIODS: tuple[Period, ...] = ("Day", "Month", "Total")
PROJECT = "project"
"""The account of all keys together."""
LABEL = "bud.studio/ledger"
"""On the ConfigMaps that hold ledgers, with the value `true`."""
DATA = "ledger.json"
"""The key of a ledger's text in its ConfigMap."""
_VERSION = 1
_COUNTS = ("requests", "inputTokens", "outputTokens")
_NOTHING = Decimal(0)

Leases = dict[str, dict[Period, Decimal]]
"""US dollars by account and period."""


def key_account(uid: str) -> str:
    """The name of a key's account."""
    return f"key/{uid}"


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
    """Requests and tokens of the month, and what was spent in each period."""

    requests: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    spent: dict[Period, Decimal] = field(default_factory=dict)


@dataclass(slots=True)
class Replica:
    """What one replica has on lease; `serial` is the number of its last writing that changed the ledger."""

    serial: int = 0
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
        """Ends the periods that are over. A clock that is behind changes nothing."""
        over = [period for period, began in since(now).items() if began > self.since[period]]
        if not over:
            return
        self.since |= {period: since(now)[period] for period in over}
        for account in self.accounts.values():
            for period in over:
                account.spent.pop(period, None)
            if "Month" in over:
                account.requests = account.input_tokens = account.output_tokens = 0
        self.accounts = {owner: account for owner, account in self.accounts.items() if account != Account()}
        for replica in self.replicas.values():
            replica.leases = _without(replica.leases, over)
        self.replicas = {id: replica for id, replica in self.replicas.items() if replica.leases}

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
        """What of a budget is neither spent nor on lease, at least 0."""
        account = self.accounts.get(owner)
        spent = account.spent.get(period, _NOTHING) if account is not None else _NOTHING
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
            book.accounts[owner] = Account(requests, read, written, _money(one.get("spent", {})))
        for id, one in told["replicas"].items():
            leases = {owner: _money(amounts) for owner, amounts in one["leases"].items()}
            book.replicas[id] = Replica(int(one["serial"]), leases)
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
            id: {"serial": one.serial, "leases": {owner: _words(amounts) for owner, amounts in one.leases.items()}}
            for id, one in book.replicas.items()
        },
    }
    return orjson.dumps(told, option=orjson.OPT_SORT_KEYS).decode()


def _told(account: Account) -> dict[str, Any]:
    counts = zip(_COUNTS, (account.requests, account.input_tokens, account.output_tokens), strict=True)
    told: dict[str, Any] = {name: count for name, count in counts if count}
    return told | ({"spent": _words(account.spent)} if account.spent else {})


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
