"""What is seen of a Deployment and of all that it depends on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bud.api import DEPLOYMENT
from bud.api.deployment import AutoScaling, DeploymentSpec
from bud.api.model import ModelSpec, ModelStatus
from bud.api.runtime import RuntimeSpec
from bud.engines.node_cache import NodeStorage
from bud.kube.gpus import NodeGpu
from bud.kube.kinds import child_name
from bud.kube.seen import App, Claim, Pod, Seen


@dataclass(frozen=True)
class ModelSeen:
    """A Model that a Deployment refers to; `current` says whether its status answers its present source. `spec` is
    None for one that cannot be read."""

    status: ModelStatus
    current: bool
    host_path: str = ""
    spec: ModelSpec | None = None

    @property
    def repo(self) -> str:
        """The repository of a hub that it is from, "" for other sources."""
        hub = self.spec.source.hugging_face if self.spec is not None else None
        return hub.repo if hub is not None else ""


@dataclass(frozen=True)
class View:
    """All that decides what a Deployment wants.

    `older` names an older Deployment whose children have the very same name; "" as a rule. `gpus` are those of the
    cluster's nodes, and None where nodes are not read. `adapter_models` are the Models of the adapters, by name.
    `claim` is the one that holds the weights. `may_sleep` says whether there are gateways to wake it; `last_used` is
    when one of them last noted a request, and `ready_since` when it became ready, empty while it is not, in RFC 3339.
    """

    namespace: str
    name: str
    uid: str
    generation: int
    spec: DeploymentSpec
    model: ModelSeen | None
    adapter_models: Mapping[str, ModelSeen]
    older: str
    runtimes: Mapping[str, RuntimeSpec]
    gpus: tuple[NodeGpu, ...] | None
    app: Seen | None
    pods: tuple[Pod, ...]
    claim: Claim | None
    operator_image: str
    host_path_prefixes: tuple[str, ...]
    node_storage: NodeStorage | None = None
    may_sleep: bool = False
    last_used: str = ""
    ready_since: str = ""
    now: str = ""

    @property
    def id(self) -> str:
        """Name of every child, and value of the label that tells the owner."""
        return child_name(DEPLOYMENT.kind, self.namespace, self.name)

    @property
    def app_data(self) -> App | None:
        return self.app.data if self.app is not None else None


def active_scaling(spec: DeploymentSpec) -> AutoScaling | None:
    """The autoscaling in force: none when it is off, or when the Deployment is stopped."""
    scaling = spec.auto_scaling
    return scaling if scaling is not None and scaling.enabled and not spec.stopped else None
