"""Which target, and which of its pods, is asked first and which next."""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass

from bud.gateway.catalog import Served, Target

_OPENS_AFTER = 5
"""Faults in a row after which nothing more is sent to an address for a while."""
_FIRST_PAUSE, _LONGEST_PAUSE = 2.0, 60.0
_BOUND = 1.25
"""How many times the mean of requests under way an address may have and still keep its conversations (Mirrokni,
Thorup and Zadimoghaddam, "Consistent Hashing with Bounded Loads")."""


Key = str | tuple[str, str, str]
"""What may rest: an address to which no connection leads, or a model at an address that answers a project with faults.

The latter may be its own account's or its own haste's, and is no other project's.
"""


@dataclass(slots=True)
class _Circuit:
    faults: int = 0
    pause: float = 0.0
    closed_until: float = 0.0
    held: bool = False


@dataclass(slots=True)
class _Busy:
    """An address with requests under way."""

    under_way: int = 0
    _shared: float = 0.0
    _shared_at: float = 0.0

    def shared(self, now: float) -> float:
        """Seconds that each request under way had of it: of n, an nth of the time. What ended counts no more."""
        if self.under_way:
            self._shared += (now - self._shared_at) / self.under_way
        self._shared_at = now
        return self._shared


class Turn:
    """A request that is under way at an address, from now on."""

    __slots__ = ("_at", "_before", "_clock")

    def __init__(self, at: _Busy, clock: Callable[[], float]) -> None:
        self._at = at
        self._clock = clock
        self._before = at.shared(clock())

    def seconds(self) -> float:
        """Its share of the address's time so far: while n requests are under way there, an nth."""
        return self._at.shared(self._clock()) - self._before


class Board:
    """What one process knows of addresses: requests under way, and faults in a row of each, and of each model there.

    `fault` is set when one of them begins to rest. `clock` tells how long requests are under way, in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.fault = asyncio.Event()
        self._clock = clock
        self._busy: dict[str, _Busy] = {}
        self._circuits: dict[Key, _Circuit] = {}
        """Of those alone that failed and have not worked since."""

    def begin(self, url: str) -> None:
        at = self._busy.get(url)
        if at is None:
            at = self._busy[url] = _Busy()
        at.shared(self._clock())
        at.under_way += 1

    def end(self, url: str) -> None:
        at = self._busy[url]
        at.shared(self._clock())
        at.under_way -= 1
        if not at.under_way:
            del self._busy[url]

    def turn(self, url: str) -> Turn:
        """That of a request which has just begun."""
        return Turn(self._busy[url], self._clock)

    def worked(self, target: Target, url: str) -> None:
        if self._circuits:
            self._circuits.pop(url, None)
            self._circuits.pop(model_at(target, url), None)

    def failed(self, key: Key, *, now: float) -> None:
        at = self._circuits.setdefault(key, _Circuit())
        at.faults += 1
        # Of many requests that fail together, one makes the pause longer.
        if at.faults >= _OPENS_AFTER and at.closed_until <= now:
            at.pause = min(_LONGEST_PAUSE, at.pause * 2 or _FIRST_PAUSE)
            at.closed_until = now + at.pause
            self.fault.set()

    def is_open(self, target: Target, url: str, *, now: float) -> bool:
        """Whether something may be sent: what rested is tried again when its pause is over."""
        return not self._circuits or (self._is_open(url, now) and self._is_open(model_at(target, url), now))

    def resting(self) -> dict[Key, float]:
        """What rests after faults, and until when."""
        return {key: at.closed_until for key, at in self._circuits.items() if at.closed_until}

    def hold(self, key: Key) -> None:
        """It rests on when its pause is over, until it is found well."""
        self._circuits[key].held = True

    def heal(self, key: Key) -> None:
        """It is used again; with its next fault it rests once more, and for longer."""
        at = self._circuits.get(key)
        if at is not None:
            at.faults, at.closed_until, at.held = _OPENS_AFTER - 1, 0.0, False

    def keep(self, keys: Set[Key]) -> None:
        """Forgets the faults of all others."""
        for key in self._circuits.keys() - keys:
            del self._circuits[key]

    def under_way(self, url: str) -> int:
        at = self._busy.get(url)
        return at.under_way if at is not None else 0

    def _is_open(self, key: Key, now: float) -> bool:
        at = self._circuits.get(key)
        return at is None or (at.closed_until <= now and not at.held)


def model_at(target: Target, url: str) -> Key:
    """What rests of a target when one of its addresses answers with faults."""
    return url, target.model, target.namespace


def keys(target: Target) -> Iterator[tuple[Key, str]]:
    """What may rest of a target, each with the address that it is about."""
    for url in target.urls:
        yield url, url
        yield model_at(target, url), url


def order(served: Served, board: Board, *, prefix: bytes, now: float) -> Iterator[tuple[Target, str]]:
    """Targets with an address of each, in the order in which they are tried; it ends when nothing is left to try.

    While all targets rest after faults and a fallback does not, the fallbacks come first.
    """
    targets = [target for target in served.targets if target.urls and target.weight > 0]
    fallbacks = [target for target in served.fallbacks if target.urls]
    tried = set[str]()
    away = False
    if fallbacks and not any(_is_usable(target, board, now) for target in targets):
        fallbacks.sort(key=lambda target: not _is_usable(target, board, now))
        away = _is_usable(fallbacks[0], board, now)
    for target in fallbacks if away else ():
        yield target, _address(target, board, tried, prefix=prefix, now=now)
    for _ in range(1 if away else served.retries + 1):
        if not targets:
            break
        target = _choose(served, targets, board, prefix=prefix, now=now)
        yield target, (url := _address(target, board, tried, prefix=prefix, now=now))
        tried.add(url)
        if len(targets) > 1:
            targets = [other for other in targets if other is not target]
    for target in () if away else fallbacks:
        yield target, _address(target, board, tried, prefix=prefix, now=now)


def _is_usable(target: Target, board: Board, now: float) -> bool:
    return any(board.is_open(target, url, now=now) for url in target.urls)


def _choose(served: Served, targets: Sequence[Target], board: Board, *, prefix: bytes, now: float) -> Target:
    usable = [t for t in targets if _is_usable(t, board, now)] or targets
    if len(usable) == 1:
        return usable[0]
    if served.strategy == "LeastRequests":
        return min(usable, key=lambda t: sum(map(board.under_way, t.urls)) / t.weight)
    if served.strategy == "PrefixAffinity":
        ids = [target.id for target in usable]
        return usable[ids.index(_nearest(ids, [0] * len(ids), prefix))]
    return random.choices(usable, weights=[target.weight for target in usable])[0]


def _address(target: Target, board: Board, tried: set[str], *, prefix: bytes, now: float) -> str:
    if len(target.urls) == 1:
        return target.urls[0]
    usable = [url for url in target.urls if url not in tried and board.is_open(target, url, now=now)]
    usable = usable or [url for url in target.urls if url not in tried] or list(target.urls)
    return _nearest(usable, [board.under_way(url) for url in usable], prefix)


def _nearest(names: Sequence[str], under_way: Sequence[int], prefix: bytes) -> str:
    """By rendezvous hashing, the first for this beginning of a conversation that has not too much to do."""
    most = _BOUND * (sum(under_way) + 1) / len(names)
    free = [name for name, busy in zip(names, under_way, strict=True) if busy < max(1.0, most)]
    seed = hashlib.blake2b(key=hashlib.blake2b(prefix, digest_size=16).digest(), digest_size=8)

    def rank(name: str) -> bytes:
        ranked = seed.copy()
        ranked.update(name.encode())
        return ranked.digest()

    return min(free or names, key=rank)
