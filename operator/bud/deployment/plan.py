"""What a Deployment wants to exist: pure, from what is seen to the objects."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from bud.api.conditions import READY, find
from bud.deployment.children import app, autoscaler, disruption_budget, service
from bud.deployment.replicas import may_be_several
from bud.deployment.started import started_with
from bud.deployment.view import ModelSeen, View, active_scaling
from bud.engines.gpu import Gpus, any_gpus, exact_gpus, named_gpus
from bud.engines.node_cache import NodeCache, node_cache
from bud.engines.pod import Document, Engine, Weights, is_below
from bud.engines.select import Wants, check, choose, references
from bud.errors import InvalidError, NameConflict, WaitingError
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
        weights = _weights(view)
    except WaitingError as error:
        if started is None:
            raise
        # The weights that are served are as good as before: stopping, scaling and healing need no others.
        weights, waiting = started.weights, error
    _check_path(view, weights)
    if started is not None and started.unchanged:
        weights = _as_started(weights, started.weights)
    engine = started.engine if started is not None and started.unchanged else _engine(view, weights)
    objects = [(APPS, app(view, engine, weights)), (SERVICES, service(view, engine))]
    if (scaling := active_scaling(view.spec)) is not None:
        objects.append((AUTOSCALERS, autoscaler(view, scaling)))
    if may_be_several(view):
        objects.append((DISRUPTION_BUDGETS, disruption_budget(view)))
    return Plan(tuple(objects), engine, weights, str(waiting) if waiting is not None else "")


def _weights(view: View) -> Weights:
    name, model = view.spec.model_ref.name, view.model
    if model is None:
        raise WaitingError(
            f"no Model {name} in namespace {view.namespace}; create it or correct spec.modelRef.name",
            reason="ModelNotFound",
        )
    status = model.status
    # A Model that waits for its users to go still has its weights.
    whole = status.phase in ("Available", "Deleting") and model.current
    if not whole or not status.copies:
        if status.phase == "Error":
            raise WaitingError(f"Model {name} failed; see kubectl describe bmodel {name}", reason="ModelFailed")
        raise WaitingError(f"Model {name} is {_progress(model)}", reason="ModelNotReady")
    copy = status.copies[0]
    cache = _node_cache(view, model, copy.path)
    return Weights(
        claim_name=copy.claim_name,
        host_path=model.host_path,
        directory="" if cache is not None else copy.path,
        file=status.file,
        bytes=status.bytes or 0,
        format=status.format,
        task=status.task,
        node_cache=cache,
    )


def _node_cache(view: View, model: ModelSeen, folder: str) -> NodeCache | None:
    if model.spec is None or model.spec.storage.mode != "PerNode":
        return None
    if view.node_storage is None:
        raise WaitingError(
            f"Model {view.spec.model_ref.name} has spec.storage.mode PerNode, which this operator was not started for; "
            "ask the administrator for --node-cache-path and --node-cache-size, or set the mode to Shared",
            reason="NodeCacheNotEnabled",
        )
    return node_cache(model.spec, model.status, view.node_storage, folder=folder)


def _as_started(weights: Weights, started: Weights) -> Weights:
    """The same copy in a cache that the administrator has since moved or sized otherwise restarts nobody."""
    now, then = weights.node_cache, started.node_cache
    same = now is not None and then is not None and (now.folder, now.digest) == (then.folder, then.digest)
    return replace(weights, node_cache=then) if same else weights


def _check_path(view: View, weights: Weights) -> None:
    if weights.host_path and not is_below(weights.host_path, view.host_path_prefixes):
        name = view.spec.model_ref.name
        raise InvalidError(f"hostPath {weights.host_path} of Model {name} is not allowed", reason="HostPathNotAllowed")


def _progress(model: ModelSeen) -> str:
    if not model.current or model.status.phase is None:
        return "not looked at yet"
    ready = find(model.status.conditions, READY)
    why = f" ({ready.reason})" if ready is not None and ready.reason != model.status.phase else ""
    return model.status.phase + why


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
    wants = Wants(weights.format, weights.task, view.spec.resources.gpu)
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
