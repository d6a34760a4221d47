"""What an answer used, and what that costs. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from bud.gateway.catalog import Price
from bud.gateway.glance import glance, plain
from bud.gateway.prices import Published

MOST_TOKENS = 100_000_000
"""No request of which an upstream tells more is believed."""

_GRAIN = Decimal("1e-9")


@dataclass(slots=True)
class Usage:
    """Tokens in and out; None while the upstream has not told. `cached` are those of the input out of a cache.

    `seconds` are the request's share of the time of the address that answered; None while it goes on.
    """

    input: int | None = None
    output: int | None = None
    cached: int = 0
    seconds: float | None = None

    def add(self, more: Usage) -> None:
        """What was used besides."""
        if more.input is not None or more.output is not None:
            self.input, self.output = (self.input or 0) + (more.input or 0), (self.output or 0) + (more.output or 0)
        self.cached += more.cached
        if more.seconds is not None:
            self.seconds = (self.seconds or 0.0) + more.seconds

    def read(self, told: object) -> None:
        """From the `usage` object of chat, completions, embeddings or responses; what cannot be meant says nothing."""
        if not isinstance(told, dict) or not told:
            return
        self.input = _count(told, "prompt_tokens", "input_tokens", other=self.input)
        self.output = _count(told, "completion_tokens", "output_tokens", other=self.output or 0)
        details = told.get("prompt_tokens_details") or told.get("input_tokens_details")
        cached = _count(details, "cached_tokens", other=0) if isinstance(details, dict) else 0
        self.cached = min(cached or 0, self.input or 0)

    def read_event(self, text: bytes | str) -> bool:
        """The same from an event that has a type, where it or its `response` may tell; whether it is an object."""
        seen = glance(text)
        if seen is None:
            return False
        for one in (seen, glance(seen.response)):
            if one is not None:
                self.read(plain(one.usage))
        return True


def _count(told: Mapping[str, Any], *names: str, other: int | None) -> int | None:
    """An upstream is not trusted: what it says is taken off limits and budgets."""
    found = next((told[name] for name in names if name in told), None)
    is_meant = isinstance(found, int) and not isinstance(found, bool) and 0 <= found <= MOST_TOKENS
    return found if is_meant else other


def is_known(price: Price | Published | None, usage: Usage) -> bool:
    """Whether all has been told that a cost depends on."""
    by_tokens = price is not None and (price.input is not None or price.output is not None)
    by_time = isinstance(price, Price) and bool(price.hour)
    return not (by_tokens and usage.input is None) and not (by_time and usage.seconds is None)


def priced(price: Price | Published | None, usage: Usage) -> Decimal | None:
    """US dollars; None where no price is known."""
    if price is None:
        return None
    read, written = usage.input or 0, usage.output or 0
    if isinstance(price, Published):
        return price.cost(input_tokens=read, cached_tokens=usage.cached, output_tokens=written)
    found = ((price.input or Decimal(0)) * read + (price.output or Decimal(0)) * written) / 1000 + price.request
    if price.hour and usage.seconds:
        found += (price.hour * Decimal(usage.seconds) / 3600).quantize(_GRAIN)
    return found


def cost(price: Price | Published | None, usage: Usage) -> float | None:
    """The same, as it is shown."""
    found = priced(price, usage)
    return None if found is None else float(found)
