"""What gateways write, as the store keeps it: notes of use, and what ledgers say of whole projects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bud.ledger import DATA, PROJECT, Account, dollars, parse


@dataclass(frozen=True, slots=True)
class Use:
    """A gateway's note, as a Lease, of when a Deployment was last used."""

    renewed: str


@dataclass(frozen=True, slots=True)
class Usage:
    """What a project used since the first of the month; `cost` is in US dollars.

    `written` is when its ledger was last changed, which alone is no news.
    """

    since: str
    requests: int
    input_tokens: int
    output_tokens: int
    cost: str
    written: str = field(default="", compare=False)


def use(lease: Mapping[str, Any]) -> Use:
    return Use(str(lease["spec"].get("renewTime") or ""))


def usage(config_map: Mapping[str, Any]) -> Usage | None:
    """What a ledger says of its whole project; None for one that cannot be read."""
    try:
        book = parse((config_map.get("data") or {}).get(DATA, ""))
    except ValueError:
        return None
    account = book.accounts.get(PROJECT, Account())
    cost = account.spent.get("Month")
    return Usage(
        book.since["Month"],
        account.requests,
        account.input_tokens,
        account.output_tokens,
        dollars(cost) if cost is not None else "0",
        written=max((one.get("time", "") for one in config_map["metadata"].get("managedFields", ())), default=""),
    )
