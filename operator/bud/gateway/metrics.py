"""Prometheus metrics of the gateway, by the OpenTelemetry names for generative AI.

https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-metrics/. No label holds a key: usage by key is the ledger's.
"""

from __future__ import annotations

from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from bud.gateway.usage import Usage

_SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_FIRST = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
_EACH = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
_WHO = ["gen_ai_operation_name", "gen_ai_request_model", "gen_ai_provider_name", "bud_project"]
_OPERATIONS = {"chat/completions": "chat", "completions": "text_completion", "embeddings": "embeddings"}

NOT_ANSWERED = 499
"""The status that is counted for a caller who hung up, as nginx has it."""


@dataclass(slots=True)
class Facts:
    """What is known of a request in the end: moments in epoch seconds, cost in US dollars."""

    endpoint: str = ""
    project: str = ""
    model: str = ""
    provider: str = ""
    status: int = NOT_ANSWERED
    first_at: float | None = None
    usage: Usage | None = None
    cost: float | None = None


class Metrics:
    """Every metric of one gateway process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "bud_gateway_requests",
            "Requests by path below /v1, status, model and project.",
            ["endpoint", "status", "model", "project"],
            registry=self.registry,
        )
        self.tokens = Counter(
            "bud_gateway_tokens",
            "Tokens by type (input, output), model and project.",
            ["gen_ai_token_type", *_WHO],
            registry=self.registry,
        )
        self.cost = Counter(
            "bud_gateway_cost_dollars", "US dollars, where a price is known.", _WHO, registry=self.registry
        )
        self.duration = self._seconds("gen_ai_server_request_duration_seconds", "Length of a request.", _SECONDS)
        self.first = self._seconds(
            "gen_ai_server_time_to_first_token_seconds", "Time to the first chunk of a stream.", _FIRST
        )
        self.each = self._seconds(
            "gen_ai_server_time_per_output_token_seconds", "Time for each token of a stream after the first.", _EACH
        )

    def _seconds(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, text, _WHO, buckets=buckets, registry=self.registry)

    def ended(self, facts: Facts, *, began: float, now: float) -> None:
        """Counts a request. What a caller wrote becomes a label only where it named something that is served."""
        self.requests.labels(facts.endpoint, str(facts.status), facts.model, facts.project).inc()
        if not facts.provider:
            return
        who = (_OPERATIONS.get(facts.endpoint, facts.endpoint), facts.model, facts.provider, facts.project)
        self.duration.labels(*who).observe(now - began)
        if facts.cost:
            self.cost.labels(*who).inc(facts.cost)
        if facts.usage is None:
            return
        output = facts.usage.output or 0
        self.tokens.labels("input", *who).inc(facts.usage.input or 0)
        self.tokens.labels("output", *who).inc(output)
        if facts.first_at is not None:
            self.first.labels(*who).observe(facts.first_at - began)
            if output > 1:
                self.each.labels(*who).observe((now - facts.first_at) / (output - 1))

    def render(self) -> bytes:
        """The exposition in Prometheus' text format."""
        return generate_latest(self.registry)
