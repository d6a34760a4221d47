"""What an answer used, and what that costs. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from bud.gateway.catalog import Price
from bud.gateway.prices import Published


@dataclass(slots=True)
class Usage:
    """Tokens in and out; None while the upstream has not told. `cached` are those of the input out of a cache."""

    input: int | None = None
    output: int | None = None
    cached: int = 0

    def read(self, told: Mapping[str, Any] | None) -> None:
        """From the `usage` object of chat, completions, embeddings or responses."""
        if told:
            self.input = told.get("prompt_tokens", told.get("input_tokens", self.input))
            self.output = told.get("completion_tokens", told.get("output_tokens", self.output or 0))
            details = told.get("prompt_tokens_details") or told.get("input_tokens_details") or {}
            self.cached = details.get("cached_tokens") or 0


def priced(price: Price | Published | None, usage: Usage) -> Decimal | None:
    """US dollars; None where no price is known."""
    if price is None:
        return None
    read, written = usage.input or 0, usage.output or 0
    if isinstance(price, Published):
        return price.cost(input_tokens=read, cached_tokens=usage.cached, output_tokens=written)
    return ((price.input or Decimal(0)) * read + (price.output or Decimal(0)) * written) / 1000 + price.request


def cost(price: Price | Published | None, usage: Usage) -> float | None:
    """The same, as it is shown."""
    found = priced(price, usage)
    return None if found is None else float(found)
