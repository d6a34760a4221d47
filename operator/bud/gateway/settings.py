"""What whoever runs a gateway may set. One field for each option of the command, under its name."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from bud.gateway.mistyped import fault_of_name
from bud.gateway.reach import Reach
from bud.gateway.shared import ANSWER_SECONDS


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """`folder` holds the objects, else those of a cluster are watched, in some `namespaces` or in all.

    `metrics_port` is 0 where metrics are shown to callers. `reach` is what `--allow-upstream` says. `home_namespace` is
    the gateways' own. `max_stale_keys`, `drain_delay`, `drain_limit` and `redis_timeout` are in seconds.
    """

    folder: Path | None = None
    kubeconfig: Path | None = None
    context: str | None = None
    namespaces: tuple[str, ...] = ()
    home_namespace: str = ""
    max_stale_keys: float = 0
    host: str = "127.0.0.1"
    port: int = 5000
    metrics_port: int = 0
    reach: Reach = field(default_factory=Reach)
    cors_origins: frozenset[str] = frozenset()
    max_connections: int = 10_000
    drain_delay: float = 0
    drain_limit: float = 120
    redis_url: str = field(default="", repr=False)
    replicas: int = 1
    redis_timeout: float = ANSWER_SECONDS

    def check(self) -> None:
        """Raises `ValueError` for options that do not go together: what would be ignored was meant."""
        if self.metrics_port and self.metrics_port == self.port:
            raise ValueError(f"--metrics-port {self.metrics_port} is --port, too: name another one, or leave it out")
        of_clusters = {
            "--kubeconfig": self.kubeconfig,
            "--context": self.context,
            "--namespace": self.namespaces,
            "--home-namespace": self.home_namespace,
            "--max-stale-keys": self.max_stale_keys,
        }
        given = [option for option, value in of_clusters.items() if value]
        if self.folder is not None and given:
            raise ValueError(f"{', '.join(given)}: of a cluster, which --from is not: leave out one or the other")
        named = [("--namespace", name) for name in self.namespaces] + [("--home-namespace", self.home_namespace)]
        for option, name in named:
            if name and (fault := fault_of_name(name, is_namespace=True)) is not None:
                raise ValueError(f"{option}: {fault}")
