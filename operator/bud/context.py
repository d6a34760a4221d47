"""What every controller is given: the store to read, the one writer, the settings, the metrics and the clock."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from dataclasses import dataclass, field

from bud.engines.node_cache import NodeStorage
from bud.kube.client import Client
from bud.kube.store import Store
from bud.kube.write import Writer
from bud.metrics import Metrics


@dataclass(frozen=True, slots=True)
class Binding:
    """A ClusterRole that a service account is to have in the namespace of every Project."""

    role: str
    namespace: str
    account: str


@dataclass(frozen=True)
class Settings:
    """How the operator was started.

    `image` is the operator's own image, for download Jobs and answer checks; `node_storage` is where the nodes keep
    copies of weights, if they may; `workers` is how many objects are
    worked on at once; `resync_seconds` is how often everything is looked at again; `namespaces` are those that are
    served, none for all of them; `lease_namespace` is that of the Lease by which one of several operators leads, empty
    for an operator that is alone; `engine_access` is the label (`key=value`) of further namespaces whose pods may reach
    engines, empty where no NetworkPolicy is made;
    `project_bindings` are what gives the operator and the gateway their rights on Secrets, in Projects' namespaces;
    `gateway_namespace` is where gateways note which Deployments are used, empty where there are none.
    """

    image: str
    host_path_prefixes: tuple[str, ...] = ()
    node_storage: NodeStorage | None = None
    default_volume_size: str = "20Gi"
    workers: int = 16
    resync_seconds: float = 600.0
    http_port: int = 8080
    namespaces: tuple[str, ...] = ()
    engine_access: str = ""
    lease_namespace: str = ""
    project_bindings: tuple[Binding, ...] = ()
    gateway_namespace: str = ""

    @property
    def inventory(self) -> bool:
        """Whether nodes and other kinds of the whole cluster are read: not when only some namespaces are served."""
        return not self.namespaces


def utc_now() -> str:
    """The present in RFC 3339, to the second, as Kubernetes writes it."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True)
class Context:
    """Everything a controller needs, made once at start.

    `missed` is what this process remembers of owners that are gone: when they were first missed, by the kind and name
    of what they left.
    """

    client: Client
    store: Store
    writer: Writer
    settings: Settings
    metrics: Metrics
    now: Callable[[], str] = utc_now
    missed: dict[tuple[str, str], str] = field(default_factory=dict)
