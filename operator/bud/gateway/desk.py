"""One part of a project's ledger as one replica works with it: what it has on lease, and what it has not told yet.

A lease is taken before anything of it is spent, so a replica that dies has spent no more than what it had on lease. The
ledger is written when a lease must be taken, once for all who wait for one, and else now and then; requests that have
enough on lease do not wait.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from collections import defaultdict
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from decimal import Decimal

from bud.errors import ApiConflict, BudError
from bud.gateway.leases import At, Lease, Want, current
from bud.gateway.ledgers import Changed, Ledger
from bud.ledger import GONE_SECONDS, Book, Part, Period, Replica, Used, since

log = logging.getLogger("bud.gateway")

WRITE_SECONDS = 30.0
"""Usage is written so often at most, unless a lease must be taken."""
_RENEW_SECONDS = GONE_SECONDS / 4
_REACH_SECONDS = 3.0
_AGAIN_SECONDS = 1.0
"""How long what the ledger said, or that it could not be reached, is believed."""
_GATHER_SECONDS = 0.1
"""Leases that run low are gathered for so long."""
_BETWEEN_SECONDS = 0.05
"""Whoever waits for a lease waits for so long after the last writing: others may come."""
_TRIES = 30
_LONGEST_PAUSE = 0.2
_NOTHING = Decimal(0)

Entries = dict[tuple[str, str], Used]
"""What was used, by account and day."""
Known = Callable[[str], Set[str] | None]
"""The uids of all keys of a project; None while that is not known."""


class Unreachable(Exception):
    """The ledger cannot be read or written now."""


@dataclass(slots=True, eq=False)
class _Ask:
    """Somebody who waits: for a lease of which the need was reserved, or for none."""

    want: Want
    lease: Lease | None = None
    is_answered: bool = False

    def answer(self, lease: Lease, *, now: float) -> None:
        self.is_answered = True
        if lease.has(self.want.need):
            lease.reserve(self.want.need, now=now)
            self.lease = lease


@dataclass(frozen=True, slots=True)
class _Entry:
    """What is to be written: whom it serves, what it takes for which leases, and whether it is anything new."""

    asks: list[_Ask]
    takes: dict[At, tuple[Want, Lease, Decimal]]
    is_new: bool


class Desk:
    """One part of a ledger. `clock` gives epoch seconds; keys that are not `known` any more are dropped in time."""

    def __init__(self, ledger: Ledger, part: Part, *, clock: Callable[[], float], known: Known) -> None:
        self.part = part
        self.size = 0
        """Bytes of what was last written."""
        self.writes = 0
        self.failing_since: float | None = None
        self._ledger = ledger
        self._replica = secrets.token_hex(8)
        self._clock = clock
        self._known = known
        self._leases: dict[At, Lease] = {}
        self._asks: dict[_Ask, None] = {}
        self._low: dict[At, Want] = {}
        self._untold: Entries = {}
        self._unsure: tuple[int, Entries] | None = None
        """What was written last, with its serial, until it is known whether it was: the next reading tells."""
        self._serial = 0
        self._day = 0
        self._began: Mapping[Period, str] = since(clock())
        """The periods of the ledger: another replica's clock may have ended one first."""
        self._lock = asyncio.Lock()
        self._wrote_at = self._used_at = clock()
        self._written = -_BETWEEN_SECONDS
        """When the last writing ended, by the event loop."""
        self._down_until = 0.0
        self._forgot = ""
        """The day on which keys that are gone were last dropped."""

    def lease(self, want: Want, *, now: float) -> Lease:
        """What there is of a budget in the period of now, maybe nothing."""
        self._used_at = now
        if (day := int(now) // 86400) > self._day:
            self._day, self._began = day, self._later(since(now))
        began = self._began[want.period]
        lease = self._leases.get(want.at)
        if lease is None or lease.since != began:
            lease = self._leases[want.at] = Lease(began)
        return lease

    def count(self, account: str, day: str, used: Used) -> None:
        """Notes what an account used on a day."""
        self._used_at = self._clock()
        known = self._untold.get((account, day))
        if known is None:
            known = self._untold[account, day] = Used()
        known.add(used)

    async def reserve(self, want: Want) -> Lease | None:
        """Reserves what is needed, of a new lease if need be; None if not enough is left. Raises `Unreachable`."""
        ask = _Ask(want)
        self._asks[ask] = None
        try:
            async with self._lock:
                while not ask.is_answered:
                    await self._serve(ask)
        except BaseException:
            if ask.lease is not None:
                ask.lease.settle(want.need, _NOTHING)
            raise
        finally:
            self._asks.pop(ask, None)
        return ask.lease

    def low(self, want: Want) -> bool:
        """Notes that a lease runs low; whether somebody must `top_up`."""
        is_first = not self._low
        self._low[want.at] = want
        return is_first and not self._lock.locked()

    async def top_up(self) -> None:
        """Takes other leases before the last ones are used up; best effort."""
        await asyncio.sleep(_GATHER_SECONDS)
        async with self._lock:
            if self._low and self._clock() >= self._down_until:
                await self._try()
            self._low = {}

    @property
    def is_open(self) -> bool:
        """Whether it has something to tell, or to give back."""
        return bool(self._untold or self._unsure) or any(lease.held > 0 for lease in self._leases.values())

    def is_unused(self, now: float) -> bool:
        """Whether it has nothing to tell, and nobody used it for so long that the ledger has forgotten it, too."""
        return now - self._used_at > GONE_SECONDS and not self.is_open

    def is_due(self, now: float) -> bool:
        """Whether there is something that is to be written by now."""
        age = now - self._wrote_at
        if age < WRITE_SECONDS or now < self._down_until:
            return False
        if self._untold or self._unsure:
            return True
        leases = [lease for lease in self._leases.values() if lease.held > 0]
        return any(lease.is_idle(now) for lease in leases) or (bool(leases) and age > _RENEW_SECONDS)

    async def keep(self) -> None:
        """Writes what is due; best effort."""
        if self.is_due(self._clock()):
            async with self._lock:
                await self._try()

    async def close(self) -> None:
        """Writes all, and gives back what is on lease. Raises `Unreachable`."""
        async with self._lock:
            await self._write(ends=True)

    async def _serve(self, ask: _Ask) -> None:
        now = self._clock()
        lease = self.lease(ask.want, now=now)
        if lease.has(ask.want.need) or _known_short(lease, ask.want, now):
            ask.answer(lease, now=now)
            return
        if now < self._down_until:
            raise Unreachable
        loop = asyncio.get_running_loop()
        await asyncio.sleep(max(0.0, self._written + _BETWEEN_SECONDS - loop.time()))
        await self._write()

    async def _try(self) -> None:
        try:
            await self._write()
        except Unreachable:
            log.debug("%s cannot be written", self.part)

    async def _write(self, *, ends: bool = False) -> None:
        try:
            async with asyncio.timeout(_REACH_SECONDS):
                await self._change(ends=ends)
        except (BudError, ValueError, TimeoutError) as error:
            now = self._clock()
            self._down_until = now + _AGAIN_SECONDS
            if self.failing_since is None:
                self.failing_since = now
                words = str(error) or "no answer in time"
                log.warning("the ledger of project %s is away; usage is told later: %s", self.part.project, words)
            raise Unreachable from error
        finally:
            self._low = {}
            self._written = asyncio.get_running_loop().time()
        if self.failing_since is not None:
            self.failing_since = None
            log.info("the ledger of project %s is back", self.part.project)
        self._wrote_at = self._clock()

    async def _change(self, *, ends: bool) -> None:
        for attempt in range(_TRIES):
            book, version = await self._ledger.read(self.part, now=self._clock())
            now = self._clock()
            book.turn(now)
            self._began = self._later(book.since)
            mine = book.replicas.get(self._replica, Replica())
            self._learn(mine)
            entry = self._enter(book, mine, now=now, ends=ends)
            if entry.is_new:
                try:
                    self.size = await self._ledger.write(self.part, book, version)
                except Changed:
                    await asyncio.sleep(random.uniform(0, min(_LONGEST_PAUSE, 0.01 * 2**attempt)))
                    continue
                self.writes += 1
                self._unsure = None
            self._forgot = book.since["Day"]
            self._give(entry, book, now=now)
            return
        raise ApiConflict("others are changing it all the time")

    def _learn(self, mine: Replica) -> None:
        """Finds out by its serial whether what was last written was: if not, it is to be told again.

        Should it arrive after all, it is refused once this version is changed: it was to change an older one.
        """
        if self._unsure is None:
            return
        serial, entries = self._unsure
        self._unsure = None
        if serial > mine.serial:
            for (account, day), used in entries.items():
                self.count(account, day, used)

    def _enter(self, book: Book, mine: Replica, *, now: float, ends: bool) -> _Entry:
        """Puts everything into a book, at one moment: what is told as spent here is no longer on lease here."""
        self._leases = {at: one for at, one in self._leases.items() if not ends and not one.is_idle(now)}
        for lease in self._leases.values():
            lease.shrink(now)
        for (account, day), used in self._untold.items():
            book.add(account, day, used)
        before, mine.leases = mine.leases, current(self._leases, book)
        book.replicas[self._replica] = mine
        asks = list(self._asks)
        takes = self._take(book, mine, asks, now=now)
        known = self._known(self.part.project) if self._forgot != book.since["Day"] else None
        is_new = known is not None and book.forget(known)
        is_new = is_new or bool(self._untold) or before != mine.leases
        is_new = is_new or bool(mine.leases and now - mine.renewed > _RENEW_SECONDS)
        if is_new:
            self._serial += 1
            self._unsure, self._untold = (self._serial, self._untold), {}
            mine.serial, mine.renewed = self._serial, int(now)
        return _Entry(asks, takes, is_new)

    def _take(
        self, book: Book, mine: Replica, asks: list[_Ask], *, now: float
    ) -> dict[At, tuple[Want, Lease, Decimal]]:
        needs: dict[At, list[Decimal]] = defaultdict(list)
        wants = {at: want for at, want in self._low.items() if at in self._leases and self._leases[at].is_low}
        for ask in asks:
            wants[ask.want.at] = ask.want
            needs[ask.want.at].append(ask.want.need)
        takes = {}
        for at, want in wants.items():
            lease = self.lease(want, now=now)
            amount = lease.take(book.left(*at, want.amount), needs[at], now=now)
            if amount:
                leases = mine.leases.setdefault(want.account, {})
                leases[want.period] = leases.get(want.period, _NOTHING) + amount
            takes[at] = want, lease, amount
        return takes

    def _give(self, entry: _Entry, book: Book, *, now: float) -> None:
        for at, (want, lease, amount) in entry.takes.items():
            lease.grant(amount, book.left(*at, want.amount), now=now)
        for ask in entry.asks:
            lease = entry.takes[ask.want.at][1]
            # Who hung up is served no more; where a period has ended meanwhile, what was taken was of that one.
            if ask in self._asks and lease is self.lease(ask.want, now=now):
                del self._asks[ask]
                ask.answer(lease, now=now)

    def _later(self, began: Mapping[Period, str]) -> Mapping[Period, str]:
        return {period: max(day, self._began[period]) for period, day in began.items()}


def _known_short(lease: Lease, want: Want, now: float) -> bool:
    if lease.unleased is None or now - lease.looked_at > _AGAIN_SECONDS:
        return False
    return lease.left + lease.unleased < want.need or lease.left + lease.unleased <= 0
