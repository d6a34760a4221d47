"""What a gateway tells Redis and its ledger of each key, against what the callers with that key got."""

from __future__ import annotations

import time
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from bud.ledger import PROJECT, Account, key_account, parse
from tests.gateway_load import KEYS, MOST_WRITTEN, Callers, Tokens
from tests.redis_server import RedisServer

PRICE = Decimal("0.001")
"""US dollars of a token that is written; those that are read cost nothing."""
FEW, POOR = 40, Decimal("0.8")
"""How many requests the key `few` may make, and what the key `poor` may spend."""
SPECS: dict[str, dict[str, Any]] = {
    name: {"limits": {"requestsPerDay": most, "tokensPerDay": 10**12}, "budget": {"amount": amount, "period": "Total"}}
    for name, most, amount in (
        ("alice", 10**9, "1000000"),
        ("bob", 10**9, "1000000"),
        ("few", FEW, "1000000"),
        ("poor", 10**9, str(POOR)),
    )
}
_EXACT = ("alice", "few", "poor")
"""Whose answers always end well: no caller hangs up, and no model dies."""
_REQUEST_TOKENS = 50
"""More than the gateway takes a request for, whose upstream does not tell what it read."""


@dataclass
class Books:
    """Of one gateway; `ledger` is the folder where it writes its parts."""

    redis: RedisServer
    ledger: Path

    def __post_init__(self) -> None:
        self._day = int(time.time()) // 86400

    def check(self, callers: Callers, given: Tokens) -> None:
        """Of a gateway that has stopped: fails for what is wrong."""
        if int(time.time()) // 86400 != self._day:
            return  # counts of a day began anew at midnight
        parts = [parse(file.read_text()) for file in self.ledger.glob("*.json")]
        assert not any(one.leases for part in parts for one in part.replicas.values()), "what was on lease went back"
        told = {owner: account for part in parts for owner, account in part.accounts.items()}
        accounts = {name: told[key_account(name)] for name in KEYS}
        for name, account in accounts.items():
            requests, read, written = (_of(name, count) for count in _counts(callers.heard))
            assert self._meter(name, "rd") == requests, name
            assert self._meter(name, "td") == account.input_tokens + account.output_tokens, name
            assert account.spent["Total"] == account.output_tokens * PRICE, name
            if name in _EXACT:
                found = account.requests, account.input_tokens, account.output_tokens
                assert found == (requests, read, written), name
            else:
                _, most_read, most_written = (_of(name, count) for count in _counts(given))
                assert account.requests <= requests, name
                assert read <= account.input_tokens <= most_read + requests * _REQUEST_TOKENS, name
                assert written <= account.output_tokens <= most_written, name
        assert _sum(accounts) == _figures(told[PROJECT])
        assert callers.heard.requests["few"] == FEW and callers.refused["few", "rate_limit_exceeded"] > 0
        least = POOR - MOST_WRITTEN * PRICE
        assert least < accounts["poor"].spent["Total"] <= POOR and callers.refused["poor", "budget_exceeded"] > 0

    def connections(self) -> int:
        """How many there are to Redis."""
        with self.redis.client() as client:
            return len(client.client_list()) - 1

    def _meter(self, name: str, kind: str) -> int:
        with self.redis.client() as client:
            kept = client.get(f"bud:meter:key/{name}/{kind}")
        assert isinstance(kept, bytes), f"Redis does not know {kind} of {name}"
        return int(kept.split()[1])


def _counts(tokens: Tokens) -> tuple[Any, Any, Any]:
    return tokens.requests, tokens.read, tokens.written


def _of(name: str, count: Any) -> int:
    return sum(count[model] for model in KEYS[name])


def _figures(account: Account) -> tuple[int, int, int, Decimal]:
    return account.requests, account.input_tokens, account.output_tokens, account.spent["Total"]


def _sum(accounts: dict[str, Account]) -> tuple[Any, ...]:
    return tuple(sum(column) for column in zip(*map(_figures, accounts.values()), strict=True))
