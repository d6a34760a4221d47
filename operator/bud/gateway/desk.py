"""One project's ledger as one replica of the gateway works with it: what it has on lease, and what it has not told yet.

A lease is taken before anything of it is spent, so a replica that dies has spent no more than what it had on lease. The
ledger is written when a lease must be taken, and else now and then; requests that have enough on lease do not wait.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_UP, Decimal

from bud.errors import ApiConflict, BudError
from bud.gateway.ledgers import Changed, Ledger
from bud.ledger import PROJECT, Book, Leases, Period, Replica, Used, since

log = logging.getLogger("bud.gateway")

WRITE_SECONDS = 10.0
"""Usage is written so often at most, unless a lease must be taken."""
IDLE_SECONDS = 30.0
"""What is on lease goes back when nobody used it for so long."""
_SHARE = 10
"""A lease is one of so many parts of what is left."""
_REACH_SECONDS = 3.0
_AGAIN_SECONDS = 1.0
"""How long what the ledger said, or that it could not be reached, is believed."""
_TRIES = 30
_LONGEST_PAUSE = 0.2
_NOTHING = Decimal(0)
_GRAIN = Decimal("1e-9")

Held = Mapping[tuple[str, Period], tuple[str, Decimal]]
"""By account and period: when the period began, and what is on lease."""
Entries = dict[tuple[str, str], Used]
"""What was used, by account and day."""


class Unreachable(Exception):
    """The ledger cannot be read or written now."""


@dataclass(slots=True)
class Lease:
    """A part of a budget that only this replica spends: `left` of it, beside what is `reserved` for requests.

    `left` is below zero when requests took more than they were thought to. `size` is what was last granted, `unleased`
    what the budget had besides, at `looked_at`.
    """

    since: str
    left: Decimal = _NOTHING
    reserved: Decimal = _NOTHING
    size: Decimal = _NOTHING
    used_at: float = 0.0
    unleased: Decimal | None = None
    looked_at: float = 0.0

    @property
    def held(self) -> Decimal:
        return self.left + self.reserved


@dataclass(frozen=True, slots=True)
class Want:
    """What is needed of a budget of `amount`; `whose` says for a person who has it."""

    account: str
    period: Period
    amount: Decimal
    need: Decimal
    whose: str


class Desk:
    """The ledger of one project. `clock` gives epoch seconds."""

    def __init__(self, ledger: Ledger, project: str, *, replica: str, clock: Callable[[], float]) -> None:
        self._ledger = ledger
        self._project = project
        self._replica = replica
        self._clock = clock
        self._leases: dict[tuple[str, Period], Lease] = {}
        self._untold: Entries = {}
        self._unsure: list[tuple[int, Entries]] = []
        """What was written by its serial, without an answer."""
        self._serial = 0
        self._day = 0
        self._began: Mapping[Period, str] = since(clock())
        """The periods of the ledger: another replica's clock may have ended one first."""
        self._lock = asyncio.Lock()
        self.is_asked = False
        self._wrote_at = clock()
        self._down_until = 0.0
        self._is_down = False

    def lease(self, want: Want, *, now: float) -> Lease:
        """What there is of a budget in the period of now, maybe nothing."""
        at = want.account, want.period
        if (day := int(now) // 86400) > self._day:
            self._day, self._began = day, {p: max(began, self._began[p]) for p, began in since(now).items()}
        began = self._began[want.period]
        lease = self._leases.get(at)
        if lease is None or lease.since != began:
            lease = self._leases[at] = Lease(began)
        return lease

    def has(self, want: Want, *, now: float) -> bool:
        """Whether as much is on lease as is needed, and anything at all."""
        left = self.lease(want, now=now).left
        return left > 0 and left >= want.need

    def count(self, account: str, day: str, used: Used) -> None:
        """Notes what a key used on a day."""
        self._untold.setdefault((account, day), Used()).add(used)

    @property
    def is_busy(self) -> bool:
        """Whether the ledger is being written, or is about to be."""
        return self._lock.locked() or self.is_asked

    async def draw(self, wants: Sequence[Want]) -> None:
        """Takes leases, as far as there is enough. Raises `Unreachable`."""
        async with self._lock:
            now = self._clock()
            short = [want for want in wants if not self.has(want, now=now)]
            if not short or any(self._known_short(want, now) for want in short):
                return
            if now < self._down_until:
                raise Unreachable
            await self._write(short)

    async def top_up(self, wants: Sequence[Want]) -> None:
        """Takes another lease before the last one is used up; best effort."""
        async with self._lock:
            self.is_asked, now = False, self._clock()
            if now < self._down_until:
                return
            try:
                await self._write([Want(w.account, w.period, w.amount, _NOTHING, w.whose) for w in wants])
            except Unreachable:
                log.debug("no lease for project %s", self._project)

    async def keep(self) -> None:
        """Writes what is to be written by now."""
        now = self._clock()
        if now - self._wrote_at < WRITE_SECONDS or now < self._down_until:
            return
        if self._untold or self._unsure or any(self._is_idle(lease, now) for lease in self._leases.values()):
            async with self._lock:
                try:
                    await self._write(())
                except Unreachable:
                    return

    async def close(self) -> None:
        """Writes all, and gives back what is on lease. Raises `Unreachable`."""
        async with self._lock:
            await self._write((), ends=True)

    def _known_short(self, want: Want, now: float) -> bool:
        lease = self.lease(want, now=now)
        if lease.unleased is None or now - lease.looked_at > _AGAIN_SECONDS:
            return False
        return lease.left + lease.unleased < want.need or lease.left + lease.unleased <= 0

    def _is_idle(self, lease: Lease, now: float) -> bool:
        return lease.left > 0 and lease.reserved == 0 and now - lease.used_at > IDLE_SECONDS

    async def _write(self, wants: Sequence[Want], *, ends: bool = False) -> None:
        now = self._clock()
        self._leases = {
            at: lease for at, lease in self._leases.items() if not ends and not self._is_idle(lease, now)
        } | {(want.account, want.period): self.lease(want, now=now) for want in wants}
        for lease in self._leases.values():
            # What was spent beyond a lease is written as spent, and owed no more.
            lease.left = max(lease.left, -lease.reserved)
        held = {at: (lease.since, lease.held) for at, lease in self._leases.items()}
        self._serial += 1
        self._unsure.append((self._serial, self._untold))
        self._untold = {}
        try:
            async with asyncio.timeout(_REACH_SECONDS):
                book = await self._change(held, wants, ends=ends)
        except (BudError, ValueError, TimeoutError) as error:
            self._down_until = self._clock() + _AGAIN_SECONDS
            if not self._is_down:
                self._is_down = True
                words = str(error) or "no answer in time"
                log.warning("the ledger of project %s is away; usage is told later: %s", self._project, words)
            raise Unreachable from error
        if self._is_down:
            self._is_down = False
            log.info("the ledger of project %s is back", self._project)
        self._unsure = []
        self._wrote_at = now
        self._began = {p: max(began, self._began[p]) for p, began in book.since.items()}
        self._grant(book, wants, held, now=now)

    def _grant(self, book: Book, wants: Sequence[Want], held: Held, *, now: float) -> None:
        mine = book.replicas.get(self._replica, Replica()).leases
        for want in wants:
            lease = self.lease(want, now=now)
            began, amount = held[want.account, want.period]
            had = amount if began == lease.since else _NOTHING
            granted = mine.get(want.account, {}).get(want.period, _NOTHING) - had
            if granted > 0:
                lease.left += granted
                lease.size = granted
            lease.unleased = book.left(want.account, want.period, want.amount)
            lease.looked_at = lease.used_at = now

    async def _change(self, held: Held, wants: Sequence[Want], *, ends: bool) -> Book:
        """The book after it was written."""
        for attempt in range(_TRIES):
            now = self._clock()
            book, version = await self._ledger.read(self._project, now=now)
            book.turn(now)
            mine = book.replicas.get(self._replica, Replica())
            told = [entries for serial, entries in self._unsure if serial > mine.serial]
            for entries in told:
                for (account, day), used in entries.items():
                    book.add(account, day, used)
                    book.add(PROJECT, day, used)
            before, mine.leases = mine.leases, _current(held, book)
            mine.serial = self._serial
            book.replicas[self._replica] = mine
            for want in wants:
                self._take(book, want, mine.leases)
            if ends:
                del book.replicas[self._replica]
            if not any(told) and before == mine.leases and not ends:
                return book
            try:
                await self._ledger.write(self._project, book, version)
            except Changed:
                await asyncio.sleep(random.uniform(0, min(_LONGEST_PAUSE, 0.01 * 2**attempt)))
            else:
                return book
        raise ApiConflict("others are changing it all the time")

    def _take(self, book: Book, want: Want, leases: Leases) -> None:
        """Adds a tenth of what is left to what is held, or more if more is needed; nothing if not enough is left."""
        left = book.left(want.account, want.period, want.amount)
        short = want.need - self._leases[want.account, want.period].left
        if left == 0 or short > left:
            return
        grant = min(left, max(short, (left / _SHARE).quantize(_GRAIN, ROUND_UP)))
        mine = leases.setdefault(want.account, {})
        mine[want.period] = mine.get(want.period, _NOTHING) + grant


def _current(held: Held, book: Book) -> Leases:
    """What is on lease in the periods of the book."""
    leases: Leases = {}
    for (account, period), (began, amount) in held.items():
        if amount > 0 and book.since[period] == began:
            leases.setdefault(account, {})[period] = amount
    return leases
