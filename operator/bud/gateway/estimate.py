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
    """Tokens of a request and of its answer, and seconds of its address's time."""

    input: int = 0
    output: int = 0
    seconds: float = 0.0


NOTHING = Estimate()
_GUESSED = Estimate(output=256)
"""An answer whose length nobody bounds, until its own mean is known."""

Of = tuple[str, str, str]
"""A project, a model and an endpoint: what embeddings write says nothing of chats."""
_Means = dict[Of, float]


class Usual:
    """What requests take of late at each endpoint, for each model of a project, where nothing of a request tells."""

    def __init__(self) -> None:
        self._read: _Means = {}
        self._written: _Means = {}
        self._seconds: _Means = {}

    def of(self, what: Of) -> Estimate:
        """The mean; before any, a guess for answers that may be of any length, and nothing for all else."""
        first = _GUESSED if what[-1] in _MEAN else NOTHING
        read, written = self._read.get(what, first.input), self._written.get(what, first.output)
        return Estimate(round(read), round(written), self._seconds.get(what, first.seconds))

    def add(self, what: Of, usage: Usage) -> None:
        """Learns of one more: how long it took, and its tokens if its upstream told.

        Where it did not, what was counted of a stream is no whole answer's.
        """
        if usage.input is not None:
            _learn(self._read, what, usage.input)
            _learn(self._written, what, usage.output or 0)
        if usage.seconds is not None:
            _learn(self._seconds, what, usage.seconds)


def _learn(means: _Means, what: Of, found: float) -> None:
    before = means.get(what, found)
    means[what] = before + _WEIGHT * (found - before)


def estimate(endpoint: str, body: Mapping[str, Any], text: bytes, *, usual: Estimate) -> Estimate:
    """What a request in JSON may take; `usual` is what its model takes, where nobody bounds it."""
    if "document" in body:
        return Estimate(len(body.get("prompt") or "") // _BYTES_PER_TOKEN, seconds=usual.seconds)
    most = body.get("max_completion_tokens") or body.get("max_tokens") or body.get("max_output_tokens")
    if most is None:
        most = usual.output if endpoint in _MEAN else 0
    length = len(text)
    if b'"data:' in text:
        length -= sum(len(found.group()) for found in _INLINE.finditer(text))
    return Estimate(length // _BYTES_PER_TOKEN, int(most) * _answers(body), usual.seconds)


def _answers(body: Mapping[str, Any]) -> int:
    """How many answers are written, also those of which the best are chosen."""
    return prompts(body) * max(int(body.get("n") or 1), int(body.get("best_of") or 1))


def may_cost(served: Served, thought: Estimate) -> Decimal | None:
    """US dollars at the dearest that may answer; None where nothing that may answer is known to have a price."""
    prices = [served.price] if served.price else [target.price for target in (*served.targets, *served.fallbacks)]
    usage = Usage(thought.input, thought.output, seconds=thought.seconds)
    return max((priced(price, usage) or Decimal(0) for price in prices if is_priced(price)), default=None)


def is_priced(price: Price | Published | None) -> bool:
    """Whether anything costs anything by it."""
    if price is None or isinstance(price, Published):
        return price is not None
    return any((price.input, price.output, price.request, price.hour))
