"""What keys and projects may spend: reserved before a request, of what this replica has on lease, and settled after.

What may cost nothing is never refused; what has a price is, once a budget is spent, or when it may cost more than is
left. What requests cost beyond what they were thought to is a debt of the budget.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from typing import NamedTuple

from bud.gateway.background import Background
from bud.gateway.catalog import Key
from bud.gateway.desk import Desk, Known, Unreachable
from bud.gateway.exposition import head, labels, sample
from bud.gateway.leases import Lease, Want
from bud.gateway.ledgers import Ledger
from bud.gateway.refusal import Limited, Unavailable
from bud.ledger import PROJECT, Part, Used, dollars, ends, key_account, part_of, since

log = logging.getLogger("bud.gateway")

_LOOK_SECONDS = 1.0
_HOMES = 100_000
"""For how many keys it is remembered where they are counted."""
_AT_ONCE = 8
"""Ledgers that are written at a time, where nobody waits for them."""
_CLOSE_SECONDS = 20.0
"""For how long ledgers are written at a stop; a pod has 30 s after all that was under way has ended."""
_WORDS = {"Day": "a day", "Month": "a month", "Total": "in all"}
_NOTHING = Decimal(0)


@dataclass(frozen=True, slots=True)
class Hold:
    """What is reserved for one request, of each budget that it is for."""

    leases: tuple[Lease, ...]
    cost: Decimal
    day: str


class _Home(NamedTuple):
    """Where a key is counted: the part of the ledger with its own account, and that with its project's."""

    account: str
    own: Desk
    whole: Desk


class Budgets:
    """The budgets of all projects, as one replica keeps them.

    `clock` gives epoch seconds; keys that are not `known` any more leave the ledgers in time.
    """

    def __init__(self, ledger: Ledger, clock: Callable[[], float], *, known: Known = lambda _: None) -> None:
        self._ledger = ledger
        self._clock = clock
        self._known = known
        self._desks: dict[Part, Desk] = {}
        self._writes = 0
        """Writings of desks that were forgotten."""
        self._homes: dict[tuple[str, str], _Home] = {}
        self._work = Background()
        self._day = 0, ""
        self._gate = asyncio.Semaphore(_AT_ONCE)

    def open(self) -> None:
        """Begins to write now and then."""
        self._work.loop("the writing of ledgers", self._keep)

    async def close(self) -> None:
        """Writes what was used, and gives back what is on lease; tries until the time for it is over."""
        await self._work.close()
        desks = [desk for desk in self._desks.values() if desk.is_open]
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await asyncio.gather(*map(self._end, desks))
        if late := sorted({desk.part.project for desk in desks if desk.is_open}):
            text = "%d projects: what was used last is not in their ledgers, and what was on lease stays so: %s"
            log.error(text, len(late), ", ".join(late))

    async def reserve(self, key: Key, cost: Decimal | None, *, now: float) -> Hold | None:
        """Reserves what a request may cost; None where nobody knows a price, or nothing bounds it.

        Raises `Limited` when not enough is left, and `Unavailable` when that cannot be found out.
        """
        if cost is None or (key.budget is None and key.project.budget is None):
            return None
        wants = self._wants(key, cost)
        leases = [desk.lease(want, now=now) for desk, want in wants]
        if all(lease.has(cost) for lease in leases):
            for lease in leases:
                lease.reserve(cost, now=now)
        else:
            leases = await self._of_new_leases(wants, cost, now=now)
        self._top_up(wants, leases)
        return Hold(tuple(leases), cost, self._today(self._clock()))

    async def _of_new_leases(self, wants: Sequence[tuple[Desk, Want]], cost: Decimal, *, now: float) -> list[Lease]:
        leases = list[Lease]()
        try:
            for desk, want in wants:
                lease = await desk.reserve(want)
                if lease is None:
                    raise _exceeded(want, desk.lease(want, now=now), now)
                leases.append(lease)
        except BaseException as error:
            for lease in leases:
                lease.settle(cost, _NOTHING)
            if isinstance(error, Unreachable):
                text = "what is left of the budget cannot be found out now; try again"
                raise Unavailable(text, code="budget_unknown") from None
            raise
        return leases

    def release(self, hold: Hold | None) -> None:
        """Gives back what was reserved for a request that was not served."""
        self._settle(hold, _NOTHING)

    def settle(self, key: Key, hold: Hold | None, used: Used, *, now: float) -> None:
        """Puts what was spent in the place of what was reserved, and counts it."""
        self._settle(hold, used.cost)
        day = hold.day if hold is not None else self._today(now)
        home = self._home(key)
        home.own.count(home.account, day, used)
        home.whole.count(PROJECT, day, used)

    def spend(self, key: Key, used: Used, *, now: float) -> None:
        """Counts what was spent without being reserved."""
        self.settle(key, None, used, now=now)
        if used.cost:
            wants = self._wants(key, _NOTHING)
            leases = [desk.lease(want, now=now) for desk, want in wants]
            for lease in leases:
                lease.left -= used.cost
                lease.used_at = now
            self._top_up(wants, leases)

    def spent(self, key: Key, *, now: float) -> Limited | None:
        """The refusal of a key that can spend no more, as far as is known without asking."""
        for desk, want in self._wants(key, _NOTHING):
            lease = desk.lease(want, now=now)
            if lease.unleased is not None and lease.left <= 0 and lease.left + lease.unleased <= 0:
                return _exceeded(want, lease, now)
        return None

    def samples(self) -> Iterator[str]:
        """What metrics tell of ledgers."""
        now, name = self._clock(), "bud_gateway_ledger_writes_total"
        yield head(name, "counter", "Writings of ledgers.")
        yield sample(name, "", self._writes + sum(desk.writes for desk in self._desks.values()))
        sizes, failing = dict[str, float](), dict[str, float]()
        for (project, _), desk in self._desks.items():
            sizes[project] = max(desk.size, sizes.get(project, 0))
            seconds = now - desk.failing_since if desk.failing_since is not None else 0.0
            failing[project] = max(seconds, failing.get(project, 0.0))
        for name, text, found in (
            ("bud_gateway_ledger_bytes", "Size of the largest part of a project's ledger.", sizes),
            ("bud_gateway_ledger_failing_seconds", "For how long a ledger could not be written.", failing),
        ):
            yield head(name, "gauge", text)
            for project, value in found.items():
                yield sample(name, labels(("bud_project",), (project,)), value)

    def _settle(self, hold: Hold | None, cost: Decimal) -> None:
        if hold is not None:
            for lease in hold.leases:
                lease.settle(hold.cost, cost)

    def _top_up(self, wants: Sequence[tuple[Desk, Want]], leases: Sequence[Lease]) -> None:
        for (desk, want), lease in zip(wants, leases, strict=True):
            if lease.is_low and desk.low(want):
                self._work.once(desk.top_up())

    def _home(self, key: Key) -> _Home:
        at = key.project.name, key.uid
        home = self._homes.get(at)
        if home is None:
            if len(self._homes) >= _HOMES:
                self._homes.clear()
            project, account = key.project.name, key_account(key.uid)
            own, whole = (self._desk(part_of(project, one)) for one in (account, PROJECT))
            home = self._homes[at] = _Home(account, own, whole)
        return home

    def _desk(self, part: Part) -> Desk:
        desk = self._desks.get(part)
        if desk is None:
            desk = self._desks[part] = Desk(self._ledger, part, clock=self._clock, known=self._known)
        return desk

    def _wants(self, key: Key, need: Decimal) -> list[tuple[Desk, Want]]:
        """What a request needs of the budgets of its key and its project."""
        wants, home = [], self._home(key)
        if key.budget is not None:
            want = Want(home.account, key.budget.period, key.budget.amount, need, "this key")
            wants.append((home.own, want))
        if key.project.budget is not None:
            budget, whose = key.project.budget, f"project {key.project.name}"
            wants.append((home.whole, Want(PROJECT, budget.period, budget.amount, need, whose)))
        return wants

    def _today(self, now: float) -> str:
        number = int(now) // 86400
        if self._day[0] != number:
            self._day = number, since(now)["Day"]
        return self._day[1]

    def _forget(self, now: float) -> None:
        """Whose project is used again, or made again, gets another desk."""
        gone = [part for part, desk in self._desks.items() if desk.is_unused(now)]
        for part in gone:
            self._writes += self._desks.pop(part).writes
        if gone:
            self._homes.clear()

    async def _end(self, desk: Desk) -> None:
        while True:
            async with self._gate:
                try:
                    await desk.close()
                    return
                except Unreachable:
                    log.debug("%s cannot be written; again", desk.part)
                except Exception:
                    log.exception("%s is not written", desk.part)
                    return
            await asyncio.sleep(_LOOK_SECONDS)

    async def _keep(self) -> None:
        async def keep(desk: Desk) -> None:
            async with self._gate:
                await desk.keep()

        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            now = self._clock()
            self._forget(now)
            await asyncio.gather(*(keep(desk) for desk in self._desks.values() if desk.is_due(now)))


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
