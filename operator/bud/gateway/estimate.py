"""What a request may take, before its upstream has counted: tokens by its length, and dollars by its price. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from bud.gateway.asks import prompts
from bud.gateway.catalog import Price, Served
from bud.gateway.prices import Published
from bud.gateway.usage import Usage, priced

_WEIGHT = 0.1
_MEAN = frozenset({"chat/completions", "completions", "responses"})
"""Endpoints that write as much as their model sees fit, unless somebody bounds it."""
_BYTES_PER_TOKEN = 4
"""Roughly."""
_INLINE = re.compile(
    rb'"data:[^",]*;base64,(?:[A-Za-z0-9+/=_-]++|\\(?:[/nr]|u00(?:2[BbFf]|3[Dd])))*+"',
)
"""A file within the body, which is no text; what its model makes of it is told in the end.

Of base64's letters alone, also as some write them in JSON: text is charged, whatever it begins with.
"""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Tokens of a request and of its answer."""

    input: int = 0
    output: int = 0


NOTHING = Estimate()


class Usual:
    """What requests for each model of a project take of late, where nothing of a request tells; `first` before any."""

    def __init__(self, first: Estimate = NOTHING) -> None:
        self._first = float(first.input), float(first.output)
        self._means: dict[tuple[str, str], tuple[float, float]] = {}

    def of(self, project: str, model: str) -> Estimate:
        """The mean."""
        return Estimate(*map(round, self._means.get((project, model), self._first)))

    def add(self, project: str, model: str, usage: Usage) -> None:
        """Learns of one more, if its upstream told."""
        if usage.input is None and usage.output is None:
            return
        found = float(usage.input or 0), float(usage.output or 0)
        read, written = self._means.get((project, model), found)
        read, written = read + _WEIGHT * (found[0] - read), written + _WEIGHT * (found[1] - written)
        self._means[project, model] = read, written


def estimate(endpoint: str, body: Mapping[str, Any], text: bytes, *, mean: int) -> Estimate:
    """What a request in JSON may take; `mean` is how long its model's answers are, for those that nobody bounds."""
    if "document" in body:
        return Estimate(len(body.get("prompt") or "") // _BYTES_PER_TOKEN)
    most = body.get("max_completion_tokens") or body.get("max_tokens") or body.get("max_output_tokens")
    if most is None:
        most = mean if endpoint in _MEAN else 0
    length = len(text)
    if b'"data:' in text:
        length -= sum(len(found.group()) for found in _INLINE.finditer(text))
    return Estimate(length // _BYTES_PER_TOKEN, int(most) * _answers(body))


def _answers(body: Mapping[str, Any]) -> int:
    """How many answers are written, also those of which the best are chosen."""
    return prompts(body) * max(int(body.get("n") or 1), int(body.get("best_of") or 1))


def may_cost(served: Served, thought: Estimate) -> Decimal | None:
    """US dollars at the dearest that may answer; None where nothing that may answer is known to have a price.

    How long an answer takes, nobody knows before: what its time costs is left out.
    """
    prices = [served.price] if served.price else [target.price for target in (*served.targets, *served.fallbacks)]
    usage = Usage(thought.input, thought.output)
    return max((priced(price, usage) or Decimal(0) for price in prices if is_priced(price)), default=None)


def is_priced(price: Price | Published | None) -> bool:
    """Whether anything costs anything by it."""
    if price is None or isinstance(price, Published):
        return price is not None
    return any((price.input, price.output, price.request, price.hour))
