"""Prometheus' text format. Pure.

https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format. The client library of Prometheus takes
ten times as long to count a request, and six times to write its samples, while which requests wait.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Literal

MEDIA_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


class Histogram:
    """Counts of values up to each of some bounds, which ascend."""

    __slots__ = ("_bounds", "_counts", "_total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._total = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._total += value

    def lines(self, name: str, labels: str) -> Iterator[str]:
        """Its samples; none while nothing was observed. Each bucket holds those before it, too."""
        sums = list(accumulate(self._counts))
        if not sums[-1]:
            return
        for bound, count in zip((*map(float, self._bounds), "+Inf"), sums, strict=True):
            yield f'{name}_bucket{{{labels},le="{bound}"}} {count}\n'
        yield f"{name}_sum{{{labels}}} {self._total}\n"
        yield f"{name}_count{{{labels}}} {sums[-1]}\n"


def labels(names: Iterable[str], values: Iterable[str]) -> str:
    """What stands between the braces of a sample; a label without a value is left out, which means the same."""
    pairs = zip(names, values, strict=True)
    return ",".join(f'{name}="{value.translate(_ESCAPES)}"' for name, value in pairs if value)


def head(name: str, kind: Literal["counter", "gauge", "histogram"], text: str) -> str:
    """What stands before the samples of a metric."""
    return f"# HELP {name} {text}\n# TYPE {name} {kind}\n"


def sample(name: str, given: str, value: float) -> str:
    """One line, with the labels that are given."""
    return f"{name}{{{given}}} {value}\n" if given else f"{name} {value}\n"
