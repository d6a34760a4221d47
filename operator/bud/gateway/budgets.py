"""What keys and projects may spend: reserved before a request, of what this replica has on lease, and settled after.

What may cost nothing is never refused; what has a price is, once a budget is spent, or when it may cost more than is
left. What requests cost beyond what they were thought to is a debt of the budget.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from bud.gateway.catalog import Key
from bud.gateway.desk import Desk, Lease, Unreachable, Want
from bud.gateway.ledgers import Ledger
from bud.gateway.refusal import Limited, Unavailable
from bud.ledger import PROJECT, Used, dollars, ends, key_account, since

log = logging.getLogger("bud.gateway")

_LOOK_SECONDS = 1.0
_WORDS = {"Day": "a day", "Month": "a month", "Total": "in all"}
_NOTHING = Decimal(0)


@dataclass(frozen=True, slots=True)
class Hold:
    """What is reserved for one request, of each budget that it is for."""

    leases: tuple[Lease, ...]
    cost: Decimal
    day: str


class Budgets:
    """The budgets of all projects, as one replica keeps them. `clock` gives epoch seconds."""

    def __init__(self, ledger: Ledger, clock: Callable[[], float]) -> None:
        self._ledger = ledger
        self._clock = clock
        self._id = secrets.token_hex(8)
        self._desks: dict[str, Desk] = {}
        self._work: set[asyncio.Task[None]] = set()
        self._day = 0, ""

    def open(self) -> None:
        """Begins to write now and then."""
        self._spawn(self._keep())

    async def close(self) -> None:
        """Writes what was used, and gives back what is on lease."""
        for work in list(self._work):
            work.cancel()
        await asyncio.gather(*self._work, return_exceptions=True)
        closed = await asyncio.gather(*(desk.close() for desk in self._desks.values()), return_exceptions=True)
        for name, end in zip(self._desks, closed, strict=True):
            if end is not None:
                log.error("project %s: what was used last is not in its ledger, and what was on lease stays so", name)

    async def reserve(self, key: Key, cost: Decimal | None, *, now: float) -> Hold | None:
        """Reserves what a request may cost; None where nobody knows a price, or nothing bounds it.

        Raises `Limited` when not enough is left, and `Unavailable` when that cannot be found out.
        """
        if cost is None or (key.budget is None and key.project.budget is None):
            return None
        desk, wants = self._desk(key), _wants(key, cost)
        if not all(desk.has(want, now=now) for want in wants):
            try:
                await desk.draw(wants)
            except Unreachable:
                raise Unavailable(
                    "what is left of the budget cannot be found out now; try again", code="budget_unknown"
                ) from None
            for want in wants:
                if not desk.has(want, now=now):
                    raise _exceeded(want, desk.lease(want, now=now), now)
        leases = tuple(desk.lease(want, now=now) for want in wants)
        for lease in leases:
            lease.left -= cost
            lease.reserved += cost
            lease.used_at = now
        self._top_up(desk, wants, leases)
        return Hold(leases, cost, self._today(now))

    def release(self, hold: Hold | None) -> None:
        """Gives back what was reserved for a request that was not served."""
        self._settle(hold, _NOTHING)

    def settle(self, key: Key, hold: Hold | None, used: Used, *, now: float) -> None:
        """Puts what was spent in the place of what was reserved, and counts it."""
        self._settle(hold, used.cost)
        self._desk(key).count(key_account(key.uid), hold.day if hold is not None else self._today(now), used)

    def spend(self, key: Key, used: Used, *, now: float) -> None:
        """Counts what was spent without being reserved."""
        self.settle(key, None, used, now=now)
        if used.cost and (key.budget is not None or key.project.budget is not None):
            desk, wants = self._desk(key), _wants(key, _NOTHING)
            leases = tuple(desk.lease(want, now=now) for want in wants)
            for lease in leases:
                lease.left -= used.cost
                lease.used_at = now
            self._top_up(desk, wants, leases)

    def spent(self, key: Key, *, now: float) -> Limited | None:
        """The refusal of a key that can spend no more, as far as is known without asking."""
        if key.budget is None and key.project.budget is None:
            return None
        desk = self._desk(key)
        for want in _wants(key, _NOTHING):
            lease = desk.lease(want, now=now)
            if lease.unleased is not None and lease.left <= 0 and lease.left + lease.unleased <= 0:
                return _exceeded(want, lease, now)
        return None

    def _settle(self, hold: Hold | None, cost: Decimal) -> None:
        if hold is not None:
            for lease in hold.leases:
                lease.reserved -= hold.cost
                lease.left += hold.cost - cost

    def _top_up(self, desk: Desk, wants: Sequence[Want], leases: Sequence[Lease]) -> None:
        low = any(lease.left * 4 < lease.size and lease.unleased != 0 for lease in leases)
        if low and not desk.is_busy:
            desk.is_asked = True
            self._spawn(desk.top_up(wants))

    def _desk(self, key: Key) -> Desk:
        name = key.project.name
        desk = self._desks.get(name)
        if desk is None:
            desk = self._desks[name] = Desk(self._ledger, name, replica=self._id, clock=self._clock)
        return desk

    def _today(self, now: float) -> str:
        number = int(now) // 86400
        if self._day[0] != number:
            self._day = number, since(now)["Day"]
        return self._day[1]

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._work.add(task)
        task.add_done_callback(self._work.discard)

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            await asyncio.gather(*(desk.keep() for desk in self._desks.values()))


def _wants(key: Key, need: Decimal) -> list[Want]:
    """What a request needs of the budgets of its key and its project."""
    wants = []
    if key.budget is not None:
        wants.append(Want(key_account(key.uid), key.budget.period, key.budget.amount, need, "this key"))
    if key.project.budget is not None:
        budget, whose = key.project.budget, f"project {key.project.name}"
        wants.append(Want(PROJECT, budget.period, budget.amount, need, whose))
    return wants


def _exceeded(want: Want, lease: Lease, now: float) -> Limited:
    end, amount = ends(want.period, now), f"${dollars(want.amount)}"
    text = f"{want.whose} may spend {amount} {_WORDS[want.period]}, which is spent"
    left = max(_NOTHING, lease.left + (lease.unleased or _NOTHING))
    if left:
        text = (
            f"the request may cost ${dollars(want.need)}, and of the {amount} that {want.whose} may spend "
            f"{_WORDS[want.period]} ${dollars(left)} are left: lower max_tokens or shorten the messages"
        )
    elif end is not None:
        text += f": it begins anew at {end:%Y-%m-%d %H:%M} UTC"
    refusal = Limited(text, code="budget_exceeded", headers={"x-should-retry": "false"})
    refusal.limit = "budget"
    return refusal
