"""Requests and tokens that keys and projects may use, counted by the clock's minutes and days (UTC).

Tokens are reserved before a request and settled after it; what was used beyond the limit is a debt that the next
minutes and days pay off. One process counts in memory; several share what Redis counts (`bud.gateway.shared_limits`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bud.gateway.catalog import Meter
from bud.gateway.refusal import Limited

_HEADERS = tuple(
    (unit, tuple(b"x-ratelimit-%b-%b" % (what, unit.encode()) for what in (b"limit", b"remaining", b"reset")))
    for unit in ("requests", "tokens")
)


@dataclass(slots=True)
class _Count:
    """`told_at` is when another counter told it, in epoch seconds."""

    window: int
    used: int
    told_at: float = 0.0


@dataclass(frozen=True, slots=True)
class State:
    """A meter after a request was counted: `remaining` until `reset`, in epoch seconds."""

    meter: Meter
    remaining: int
    reset: int


@dataclass(frozen=True, slots=True)
class Grant:
    """What was taken, and when, in epoch seconds: `tokens` are to be settled."""

    meters: tuple[Meter, ...]
    tokens: int
    states: tuple[State, ...]
    at: float

    def unsettled(self, tokens: int, *, now: float) -> list[tuple[Meter, int]]:
        """What is still to be counted when so many tokens were used.

        What was reserved in a window that is over was paid off by it, so it is not given back in the next one.
        """
        missed = tokens - self.tokens
        if missed == 0:
            return []
        return [
            (meter, missed)
            for meter in self.meters
            if meter.unit == "tokens" and (missed > 0 or int(self.at) // meter.span == int(now) // meter.span)
        ]


class Counters:
    """Counts of one process."""

    def __init__(self) -> None:
        self._counts: dict[str, _Count] = {}

    def take(self, meters: tuple[Meter, ...], *, tokens: int, now: float, times: int = 1) -> Grant:
        """Counts one request and reserves its tokens, with all meters or with none.

        It counts for so many `times`: as many as there are replicas that may do the same. A meter of which nothing is
        used gives one request all that it asks for, so that a share is never nothing. Raises `Limited`, which tells
        when to come again.
        """
        counts = [self._count(meter, now) for meter in meters]
        needs = needed(meters, tokens)
        for meter, count, need in zip(meters, counts, needs, strict=True):
            if count.used + need * times > meter.limit and (count.used > 0 or need > meter.limit):
                raise refused(meter, need, used=count.used, now=now)
        states = []
        for meter, count, need in zip(meters, counts, needs, strict=True):
            count.used += need * times
            states.append(_state(meter, count.used, now))
        return Grant(meters, tokens, tuple(states), now)

    def look(self, meters: tuple[Meter, ...], *, now: float) -> tuple[State, ...]:
        """How far the meters are, with nothing taken."""
        return tuple(_state(meter, self._count(meter, now).used, now) for meter in meters)

    def settle(self, grant: Grant, *, tokens: int, now: float, times: int = 1) -> None:
        """Puts what was really used in the place of what was reserved."""
        for meter, missed in grant.unsettled(tokens, now=now):
            count = self._count(meter, now)
            count.used = max(0, count.used + missed * times)

    def learn(self, meters: Sequence[Meter], used: Sequence[int], *, at: float, now: float) -> None:
        """Takes another counter's word, told `now`, for how far the meters are by its own clock."""
        for meter, amount in zip(meters, used, strict=True):
            count = self._count(meter, at)
            count.used, count.told_at = amount, now

    def told_at(self, meters: tuple[Meter, ...], *, now: float) -> float:
        """Since when the oldest of what `learn` was told is known, in epoch seconds."""
        return min((self._count(meter, now).told_at for meter in meters), default=now)

    def _count(self, meter: Meter, now: float) -> _Count:
        window = int(now) // meter.span
        count = self._counts.get(meter.id)
        if count is None:
            count = self._counts[meter.id] = _Count(window, 0)
        elif count.window < window:
            # Only tokens can be overdrawn: what they cost is known when they are spent.
            count.used = max(0, count.used - meter.limit * (window - count.window)) if meter.unit == "tokens" else 0
            count.window = window
        return count


def needed(meters: Sequence[Meter], tokens: int) -> list[int]:
    """How much of each meter one request with these tokens takes."""
    return [1 if meter.unit == "requests" else tokens for meter in meters]


def headers(states: Sequence[State]) -> list[tuple[bytes, bytes]]:
    """`X-RateLimit-*` of the meter of each unit that is nearest to its end."""
    found = list[tuple[bytes, bytes]]()
    for unit, names in _HEADERS:
        nearest: State | None = None
        for state in states:
            if state.meter.unit == unit and (
                nearest is None or (state.remaining, state.meter.span) < (nearest.remaining, nearest.meter.span)
            ):
                nearest = state
        if nearest is not None:
            values = (nearest.meter.limit, nearest.remaining, nearest.reset)
            found += [(name, b"%d" % value) for name, value in zip(names, values, strict=True)]
    return found


def _state(meter: Meter, used: int, now: float) -> State:
    return State(meter, max(0, meter.limit - used), (int(now) // meter.span + 1) * meter.span)


def refused(meter: Meter, need: int, *, used: int, now: float) -> Limited:
    """The refusal of a request that needs more than a meter has left."""
    state = _state(meter, used, now)
    seconds = max(1, int(state.reset - now))
    span = "minute" if meter.span == 60 else "day"
    text = f"{meter.whose} may use {meter.limit:,} {meter.unit} a {span}: try again in {seconds} s"
    if need > meter.limit:
        text = (
            f"the request may need {need:,} tokens, and {meter.whose} may use {meter.limit:,} a {span}: lower "
            "max_tokens or shorten the messages"
        )
    told = {"retry-after": str(seconds)}
    refusal = Limited(text, headers=told | ({"x-should-retry": "false"} if need > meter.limit else {}))
    refusal.limit = f"{meter.unit}_per_{span}"
    return refusal
