"""What a Deployment wants to exist: pure, from what is seen to the objects."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from bud.deployment import sharing
from bud.deployment.children import app, autoscaler, disruption_budget, service
from bud.deployment.replicas import may_be_several
from bud.deployment.started import started_with
from bud.deployment.view import View, active_scaling
from bud.deployment.weights import adapters as adapters_of
from bud.deployment.weights import as_started, check_path, model_weights
from bud.engines.gpu import Gpus, any_gpus, exact_gpus, named_gpus
from bud.engines.pod import Adapter, Document, Engine, Weights
from bud.engines.select import Wants, check, choose, references
from bud.errors import NameConflict, WaitingError
from bud.kube.gpus import NodeGpu
from bud.kube.kinds import APPS, AUTOSCALERS, DISRUPTION_BUDGETS, SERVICES, Resource


@dataclass(frozen=True)
class Plan:
    """The objects wanted, and what they were made from."""

    objects: tuple[tuple[Resource, Document], ...]
    engine: Engine
    weights: Weights
    waiting: str = ""
    """Why the weights of before are served, in place of those that the Model now asks for."""
    adapters: tuple[Adapter, ...] = ()
    lacking: tuple[str, ...] = ()
    """Why adapters of the spec are not loaded, or as they were before."""

    @property
    def bytes(self) -> int:
        """Size of all weights."""
        return self.weights.bytes + sum(adapter.weights.bytes for adapter in self.adapters)


def plan(view: View) -> Plan:
    """The objects wanted.

    Raises `WaitingError` while something outside the spec is missing, and `InvalidError` for a spec that cannot work.
    """
    if view.older:
        raise NameConflict(
            f"{view.id}, the name of its children, is that of the older Deployment {view.older}'s: choose another name"
        )
    started, waiting = started_with(view), None
    try:
        weights = model_weights(view)
    except WaitingError as error:
        if started is None:
            raise
        # The weights that are served are as good as before: stopping, scaling and healing need no others.
        weights, waiting = started.weights, error
    check_path(view, view.spec.model_ref.name, weights)
    sharing.check(view)
    if started is not None and started.unchanged:
        weights = as_started(weights, started.weights)
    adapters, lacking = adapters_of(view, started)
    engine = started.engine if started is not None and started.unchanged else _engine(view, weights)
    objects = [(APPS, app(view, engine, weights, adapters)), (SERVICES, service(view, engine))]
    if (scaling := active_scaling(view.spec)) is not None:
        objects.append((AUTOSCALERS, autoscaler(view, scaling)))
    if may_be_several(view):
        objects.append((DISRUPTION_BUDGETS, disruption_budget(view)))
    return Plan(
        tuple(objects), engine, weights, str(waiting) if waiting is not None else "", adapters=adapters, lacking=lacking
    )


def _engine(view: View, weights: Weights) -> Engine:
    spec = view.spec
    if spec.runtime_ref is None:
        gpus = _gpus(view, ())
        wants = _wants(view, weights, gpus)
        name = choose(view.runtimes, wants)
    else:
        name = _named(view, spec.runtime_ref.name)
        gpus = _gpus(view, view.runtimes[name].gpu_vendors)
        wants = _wants(view, weights, gpus)
    runtime = view.runtimes[name]
    check(name, runtime, wants)
    if "BUD_MODEL_FILE" in references(runtime) and not weights.file:
        raise WaitingError(
            f"Runtime {name} loads one file, and Model {spec.model_ref.name} has several of which none is the main "
            "one; narrow the Model's source, as with allowPatterns",
            reason="ModelFileUnknown",
        )
    return Engine(name, runtime, view.operator_image, gpus)


def _wants(view: View, weights: Weights, gpus: Gpus | None) -> Wants:
    spec = view.spec
    wants = Wants(weights.format, weights.task, spec.resources.gpu, adapters=bool(spec.adapters))
    return replace(wants, vendor=gpus.vendor) if gpus is not None else wants


def _named(view: View, name: str) -> str:
    if name not in view.runtimes:
        have = ", ".join(sorted(view.runtimes)) or "none"
        raise WaitingError(
            f"no Runtime {name} (Runtimes: {have}); create it or correct spec.runtimeRef.name",
            reason="RuntimeNotFound",
        )
    return name


def _gpus(view: View, preferred: Collection[str]) -> Gpus | None:
    wanted = view.spec.resources.gpu_type
    if not view.spec.resources.gpu:
        return None
    if wanted is None:
        return any_gpus(view.gpus or (), preferred=preferred)
    if view.gpus is None:
        return exact_gpus(wanted)
    found = named_gpus(wanted, view.gpus, preferred=preferred)
    if found is None:
        raise WaitingError(
            f"no node has GPU type {wanted} (nodes have: {_products(view.gpus)}); "
            "correct spec.resources.gpuType or add such a node",
            reason="GPUTypeNotFound",
        )
    return found


def _products(gpus: Collection[NodeGpu]) -> str:
    names = sorted({gpu.product or f"{gpu.resource} without a label of its product" for gpu in gpus})
    return ", ".join(names) or "no GPU at all"
