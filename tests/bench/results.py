"""What a bench run found."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median

from tests.bench.burst import Burst
from tests.bench.settled import Settled, Start


@dataclass
class Pair:
    """One run of the operator and one of the bare client, each on a fresh cluster, one after the other."""

    operator: Burst
    bare: Burst | None = None
    memory_before: int = 0
    memory: int = 0


@dataclass
class Results:
    """All that was measured; lists hold one item for each repetition."""

    pairs: list[Pair] = field(default_factory=list)
    settled: list[Settled] = field(default_factory=list)
    starts: list[Start] = field(default_factory=list)

    def ratio(self, what: str) -> float:
        """The middle one of the pairs' ratios, operator to bare client."""
        found = [getattr(pair.operator, what) / getattr(pair.bare, what) for pair in self.pairs if pair.bare]
        return float(median(found))
