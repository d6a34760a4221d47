"""Prometheus metrics of the gateway, by the OpenTelemetry names for generative AI.

https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-metrics/, written as Prometheus has them
(https://opentelemetry.io/docs/specs/otel/compatibility/prometheus_and_openmetrics/). No label holds a key: usage by key
is the ledger's. What a caller wrote becomes a label only where it named something that is served.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from operator import attrgetter

from prometheus_client import CollectorRegistry, generate_latest

from bud.gateway.catalog import Catalog
from bud.gateway.exposition import Histogram, head, labels, sample
from bud.gateway.genai import error_type, operation, provider
from bud.gateway.usage import Usage

_SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_FIRST = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
_EACH = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
_TOKENS = tuple(4**power for power in range(14))
_WHO = ("bud_project", "gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model")
_MOST_COUNTS, _MOST_WORKS = 10_000, 2_000
"""How many combinations of labels are told apart, of requests and of those that reached a model. More are `other`."""
_LINES_AT_ONCE = 500

NOT_ANSWERED = 499
"""The status that is counted for a caller who hung up, as nginx has it."""
OTHER = "other"
"""The project and the model of what is no longer told apart."""

Who = tuple[str, str, str, str]


@dataclass(slots=True)
class Facts:
    """What is known of a request in the end: moments in epoch seconds, cost in US dollars.

    `status` is what came of it: a stream that broke off after its 200 has the status of the fault. `limit` is the kind
    of limit that refused it. `usage` is None where no model was reached.
    """

    endpoint: str = ""
    project: str = ""
    model: str = ""
    provider: str = ""
    status: int = NOT_ANSWERED
    first_at: float | None = None
    usage: Usage | None = None
    cost: float | None = None
    limit: str = ""


@dataclass(slots=True)
class _Work:
    """What the requests with the same labels took."""

    labels: str
    duration: Histogram = field(default_factory=lambda: Histogram(_SECONDS))
    first: Histogram = field(default_factory=lambda: Histogram(_FIRST))
    each: Histogram = field(default_factory=lambda: Histogram(_EACH))
    read: Histogram = field(default_factory=lambda: Histogram(_TOKENS))
    written: Histogram = field(default_factory=lambda: Histogram(_TOKENS))
    cost: float = 0.0


_HISTOGRAMS = (
    ("gen_ai_server_request_duration_seconds", "Length of a request.", {"duration": ""}),
    ("gen_ai_server_time_to_first_token_seconds", "Time to the first chunk of a stream.", {"first": ""}),
    ("gen_ai_server_time_per_output_token_seconds", "Time for each token of a stream after the first.", {"each": ""}),
    (
        "gen_ai_client_token_usage",
        "Tokens of a request by type (input, output).",
        {"read": ',gen_ai_token_type="input"', "written": ',gen_ai_token_type="output"'},
    ),
)


class Metrics:
    """Every metric of one gateway process.

    `in_flight` counts the requests that have begun and not ended. `seen_at` is when the catalog was last known to be
    right, in epoch seconds, where a watch keeps it. `more` are lines from elsewhere, and `registry` is for metrics that
    are few and seldom change.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.in_flight = 0
        self.seen_at: float | None = None
        self.more: list[Callable[[], Iterator[str]]] = []
        self._counts: dict[tuple[Who, int], int] = {}
        self._works: dict[tuple[Who, str], _Work] = {}
        self._limited: dict[tuple[str, str], int] = defaultdict(int)
        self._objects = {"keys": 0, "names": 0}
        self._troubles = 0

    def took(self, catalog: Catalog, *, troubles: int) -> None:
        """The catalog that is served from now on, and how much is wrong with the objects that it is made of."""
        self._objects = {"keys": len(catalog.keys), "names": sum(map(len, catalog.names.values()))}
        self._troubles = troubles

    def ended(self, facts: Facts, *, began: float, now: float) -> None:
        """Counts a request."""
        who = (facts.project, operation(facts.endpoint), provider(facts.provider), facts.model)
        count = who, facts.status
        if count not in self._counts and len(self._counts) >= _MOST_COUNTS:
            count = _other(who), facts.status
        self._counts[count] = self._counts.get(count, 0) + 1
        if facts.limit:
            self._limited[facts.project, facts.limit] += 1
        if facts.provider:
            _count(self._work(who, error_type(facts.status)), facts, began, now)

    def _work(self, who: Who, error: str) -> _Work:
        work = self._works.get((who, error))
        if work is None:
            if len(self._works) >= _MOST_WORKS:
                who = _other(who)
            made = _Work(labels((*_WHO, "error_type"), (*who, error)))
            work = self._works.setdefault((who, error), made)
        return work

    async def render(self) -> bytes:
        """The exposition in Prometheus' text format; requests go on meanwhile."""
        lines = list[str]()
        for line in self._lines():
            lines.append(line)
            if len(lines) % _LINES_AT_ONCE == 0:
                await asyncio.sleep(0)
        return "".join(lines).encode()

    def _lines(self) -> Iterator[str]:
        name = "bud_gateway_requests_total"
        yield head(name, "counter", "Requests by what came of them.")
        for (who, status), count in list(self._counts.items()):
            yield sample(name, labels((*_WHO, "http_response_status_code"), (*who, str(status))), count)
        works = list(self._works.values())
        name = "bud_gateway_cost_dollars_total"
        yield head(name, "counter", "US dollars, where a price is known.")
        for work in works:
            if work.cost:
                yield sample(name, work.labels, work.cost)
        for name, text, parts in _HISTOGRAMS:
            yield head(name, "histogram", text)
            for part, label in parts.items():
                histogram_of = attrgetter(part)
                for work in works:
                    yield from histogram_of(work).lines(name, work.labels + label)
        yield from self._limits()
        yield from self._gauges()
        for more in self.more:
            yield from more()
        yield generate_latest(self.registry).decode()

    def _limits(self) -> Iterator[str]:
        name = "bud_gateway_limited_requests_total"
        yield head(name, "counter", "Requests that a limit refused.")
        for given, count in list(self._limited.items()):
            yield sample(name, labels(("bud_project", "limit"), given), count)

    def _gauges(self) -> Iterator[str]:
        name = "bud_gateway_requests_in_flight"
        yield head(name, "gauge", "Requests that have begun and not ended.") + sample(name, "", self.in_flight)
        name = "bud_gateway_catalog_objects"
        yield head(name, "gauge", "Keys that are accepted and names that are served.")
        for kind, size in self._objects.items():
            yield sample(name, labels(("kind",), (kind,)), size)
        name = "bud_gateway_catalog_troubles"
        yield head(name, "gauge", "What is wrong with the objects of the catalog.") + sample(name, "", self._troubles)
        if self.seen_at is not None:
            name = "bud_gateway_catalog_seen_timestamp_seconds"
            yield head(name, "gauge", "When the catalog was last known to be right.") + sample(name, "", self.seen_at)


def _count(work: _Work, facts: Facts, began: float, now: float) -> None:
    work.duration.observe(now - began)
    work.cost += facts.cost or 0.0
    usage = facts.usage
    if usage is None:
        return
    if usage.input is not None:
        work.read.observe(usage.input)
    if usage.output is not None:
        work.written.observe(usage.output)
    # By the conventions these two are told of what went well only.
    if facts.first_at is not None and facts.status < 400:
        work.first.observe(facts.first_at - began)
        if usage.output is not None and usage.output > 1:
            work.each.observe((now - facts.first_at) / (usage.output - 1))


def _other(who: Who) -> Who:
    return (OTHER, who[1], who[2], OTHER)
