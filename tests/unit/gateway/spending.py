"""Ledgers that several replicas write, and what spends on them."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable
from decimal import Decimal

from bud.api.limits import Limits
from bud.gateway.budgets import Budgets
from bud.gateway.catalog import Key, Project, Spending
from bud.gateway.ledgers import Changed
from bud.gateway.refusal import Limited
from bud.ledger import Account, Book, Part, Period, Used, key_account, parse, part_of, render

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
        self.texts: dict[Part, list[str]] = defaultdict(list)
        self.before: Exception | None = None
        self.after: Exception | None = None
        self.meanwhile: Callable[[], object] = lambda: None

    @property
    def writes(self) -> int:
        return sum(map(len, self.texts.values()))

    async def read(self, part: Part, *, now: float) -> tuple[Book, str]:
        await asyncio.sleep(0)
        texts = self.texts[part]
        return (parse(texts[-1]) if texts else Book.new(now)), str(len(texts))

    async def write(self, part: Part, book: Book, version: str) -> int:
        self.meanwhile()
        await asyncio.sleep(0)
        if self.before is not None:
            raise self.before
        if version != str(len(self.texts[part])):
            raise Changed
        self.texts[part].append(render(book))
        if self.after is not None:
            raise self.after
        return len(self.texts[part][-1])


def key(amount: str | None = "1", period: Period = "Total", *, project: str | None = None, uid: str = "alice") -> Key:
    def spending(text: str | None) -> Spending | None:
        return Spending(Decimal(text), period) if text is not None else None

    team = Project("team", "team", Limits(), spending(project))
    return Key(uid, uid, team, "hash", budget=spending(amount))


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
    book, _ = await ledger.read(part_of("team", owner), now=clock.now)
    book.turn(clock.now)
    return book.accounts.get(owner, Account())
