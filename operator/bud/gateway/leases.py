"""What one replica may spend of budgets without asking: a part of each, taken before anything of it is spent. Pure.

A replica that dies loses what it had on lease, so a lease is as much as lasts some seconds: it grows while it is used
up quickly, shrinks while it is not, and goes back when nobody uses it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_UP, Decimal
from typing import NamedTuple

from bud.ledger import Book, Leases, Period

IDLE_SECONDS = 30.0
"""What is on lease goes back when nobody used it for so long; of one that lasts longer, half does."""
_SOON_SECONDS = 10.0
"""A lease that is used up sooner is followed by one twice its size."""
_SHARE = 10
"""No lease is more than one of so many parts of what is left, but for what requests need."""
_FIRST_SHARE, _FIRST_TIMES = 1000, 4
"""A first lease is one of so many parts of what is left, or so many times what a request needs."""
_NOTHING = Decimal(0)
_GRAIN = Decimal("1e-9")

At = tuple[str, Period]
"""The budget of an account for a period."""


class Want(NamedTuple):
    """What is needed of a budget of `amount`; `whose` says for a person who has it."""

    account: str
    period: Period
    amount: Decimal
    need: Decimal
    whose: str

    @property
    def at(self) -> At:
        return self.account, self.period


@dataclass(slots=True)
class Lease:
    """A part of a budget that only this replica spends: `left` of it, beside what is `reserved` for requests.

    `left` is below zero when requests took more than they were thought to. `size` is what was granted at `granted_at`,
    `unleased` what the budget had besides, at `looked_at`. `since` is when the period began.
    """

    since: str
    left: Decimal = _NOTHING
    reserved: Decimal = _NOTHING
    size: Decimal = _NOTHING
    granted_at: float = 0.0
    used_at: float = 0.0
    unleased: Decimal | None = None
    looked_at: float = 0.0

    @property
    def held(self) -> Decimal:
        return self.left + self.reserved

    @property
    def is_low(self) -> bool:
        """Whether more should be taken before it is used up."""
        return self.left * 4 < self.size and self.unleased != 0

    def reserve(self, cost: Decimal, *, now: float) -> None:
        """Sets aside what a request may cost."""
        self.left -= cost
        self.reserved += cost
        self.used_at = now

    def settle(self, reserved: Decimal, cost: Decimal) -> None:
        """Puts the cost of a request in the place of what was set aside for it."""
        self.reserved -= reserved
        self.left += reserved - cost

    def has(self, need: Decimal) -> bool:
        """Whether as much is on lease as is needed, and anything at all."""
        return self.left > 0 and self.left >= need

    def is_idle(self, now: float) -> bool:
        return self.reserved == 0 and now - self.used_at > IDLE_SECONDS

    def shrink(self, now: float) -> None:
        """Gives up half of what has lasted for long. What was spent beyond it is told now, and owed no more."""
        if self.left > 0 and now - self.granted_at > IDLE_SECONDS:
            self.left -= (self.left / 2).quantize(_GRAIN)
            self.size /= 2
            self.granted_at = now
        self.left = max(self.left, -self.reserved)

    def take(self, unleased: Decimal, needs: Sequence[Decimal], *, now: float) -> Decimal:
        """What to take of what is left of the budget, for requests that need so much: 0 if it would serve none."""
        found, asked = self.left + unleased, _NOTHING
        if unleased <= 0 or (needs and min(needs) > found):
            return _NOTHING
        for need in needs:
            if asked + need <= found:
                asked += need
        if not self.size:
            size = max(_FIRST_TIMES * max(needs, default=_NOTHING), unleased / _FIRST_SHARE)
        else:
            size = self.size * 2 if now - self.granted_at < _SOON_SECONDS else self.size
        most = unleased / _SHARE
        return min(unleased, max(asked - self.left, min(size, most).quantize(_GRAIN, ROUND_UP)))

    def grant(self, amount: Decimal, unleased: Decimal, *, now: float) -> None:
        """Adds what was taken; so much is left of the budget besides."""
        if amount > 0:
            self.left += amount
            self.size, self.granted_at = amount, now
        self.unleased = unleased
        self.looked_at = self.used_at = now


def current(leases: Mapping[At, Lease], book: Book) -> Leases:
    """What is on lease in the periods of the book."""
    found: Leases = {}
    for (account, period), lease in leases.items():
        if lease.held > 0 and book.since[period] == lease.since:
            found.setdefault(account, {})[period] = lease.held
    return found
