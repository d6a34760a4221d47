"""Requests and tokens that keys and projects may use, counted by the clock's minutes and days (UTC).

Tokens are reserved before a request and settled after it; what was used beyond the limit is a debt that the next
minutes and days pay off. One process counts in memory; several share what Redis counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bud.gateway.catalog import Meter
from bud.gateway.refusal import Limited

_UNITS = (("requests", "Requests"), ("tokens", "Tokens"))


@dataclass(slots=True)
class _Count:
    window: int
    used: int


@dataclass(frozen=True, slots=True)
class State:
    """A meter after a request was counted: `remaining` until `reset`, in epoch seconds."""

    meter: Meter
    remaining: int
    reset: int


@dataclass(frozen=True, slots=True)
class Grant:
    """What was taken: `tokens` are to be settled."""

    meters: tuple[Meter, ...]
    tokens: int
    states: tuple[State, ...]


class Counters:
    """Counts of one process."""

    def __init__(self) -> None:
        self._counts: dict[str, _Count] = {}

    def take(self, meters: tuple[Meter, ...], *, tokens: int, now: float) -> Grant:
        """Counts one request and reserves its tokens, with all meters or with none.

        Raises `Limited`, which tells when to come again.
        """
        counts = [self._count(meter, now) for meter in meters]
        needs = [1 if meter.unit == "requests" else tokens for meter in meters]
        states = []
        for meter, count, need in zip(meters, counts, needs, strict=True):
            if count.used + need > meter.limit:
                raise _refused(_state(meter, count.used, now), need, now)
            states.append(_state(meter, count.used + need, now))
        for count, need in zip(counts, needs, strict=True):
            count.used += need
        return Grant(meters, tokens, tuple(states))

    def look(self, meters: tuple[Meter, ...], *, now: float) -> tuple[State, ...]:
        """How far the meters are, with nothing taken."""
        return tuple(_state(meter, self._count(meter, now).used, now) for meter in meters)

    def settle(self, grant: Grant, *, tokens: int, now: float) -> None:
        """Puts what was really used in the place of what was reserved."""
        if tokens == grant.tokens:
            return
        for meter in grant.meters:
            if meter.unit == "tokens":
                count = self._count(meter, now)
                count.used = max(0, count.used + tokens - grant.tokens)

    def _count(self, meter: Meter, now: float) -> _Count:
        window = int(now) // meter.span
        count = self._counts.get(meter.id)
        if count is None:
            count = self._counts[meter.id] = _Count(window, 0)
        elif count.window != window:
            # Only tokens can be overdrawn: what they cost is known when they are spent.
            count.used = max(0, count.used - meter.limit * (window - count.window)) if meter.unit == "tokens" else 0
            count.window = window
        return count


def headers(states: Sequence[State]) -> list[tuple[bytes, bytes]]:
    """`X-RateLimit-*` of the meter of each unit that is nearest to its end."""
    found = []
    for unit, title in _UNITS:
        of_unit = [state for state in states if state.meter.unit == unit]
        if of_unit:
            state = min(of_unit, key=lambda state: (state.remaining, state.meter.span))
            for what, value in (("limit", state.meter.limit), ("remaining", state.remaining), ("reset", state.reset)):
                found.append((f"x-ratelimit-{what}-{title.lower()}".encode(), b"%d" % value))
    return found


def _state(meter: Meter, used: int, now: float) -> State:
    return State(meter, max(0, meter.limit - used), (int(now) // meter.span + 1) * meter.span)


def _refused(state: State, need: int, now: float) -> Limited:
    meter, seconds = state.meter, max(1, int(state.reset - now))
    span = "minute" if meter.span == 60 else "day"
    text = f"{meter.whose} may use {meter.limit:,} {meter.unit} a {span}: try again in {seconds} s"
    if need > meter.limit:
        text = (
            f"the request may need {need:,} tokens, and {meter.whose} may use {meter.limit:,} a {span}: lower "
            "max_tokens or shorten the messages"
        )
    refusal = Limited(text, headers={"retry-after": str(seconds)})
    refusal.limit = f"{meter.unit}_per_{span}"
    return refusal
