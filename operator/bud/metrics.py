"""Prometheus metrics of the operator, in a registry of their own."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 30)
_MINUTES = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 3600, 7200)


class Metrics:
    """Every metric of the operator; `kind` is the Kubernetes kind of the object."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.reconciles = Counter(
            "bud_reconciles",
            "Reconciles that ended, by kind and result.",
            ["kind", "result"],
            registry=self.registry,
        )
        self.duration = Histogram(
            "bud_reconcile_duration_seconds",
            "Length of a reconcile.",
            ["kind"],
            registry=self.registry,
            buckets=_SECONDS,
        )
        self.writes = Counter(
            "bud_writes",
            "Writes to the API server, by verb and kind.",
            ["verb", "kind"],
            registry=self.registry,
        )
        self.leading = Gauge(
            "bud_leading", "1 while this process writes, 0 while it stands by.", registry=self.registry
        )
        self.queue_depth = Gauge("bud_queue_depth", "Objects that wait to be reconciled.", registry=self.registry)
        self.objects = Gauge("bud_objects", "Objects by kind and phase.", ["kind", "phase"], registry=self.registry)
        self.downloaded = Counter(
            "bud_downloaded_bytes", "Bytes of weights that became available.", registry=self.registry
        )
        self.time_to_active = Histogram(
            "bud_time_to_active_seconds",
            "Time from the creation of a Deployment to its first Active.",
            registry=self.registry,
            buckets=_MINUTES,
        )

    def render(self) -> bytes:
        """The exposition in Prometheus' text format."""
        return generate_latest(self.registry)
