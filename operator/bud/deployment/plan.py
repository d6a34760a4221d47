"""What a Deployment wants to exist: pure, from what is seen to the objects."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import orjson

from bud.api import API_VERSION, DEPLOYMENT
from bud.api.conditions import READY, find
from bud.api.deployment import AutoScaling, DeploymentSpec
from bud.api.model import ModelStatus
from bud.api.runtime import RuntimeSpec
from bud.engines.gpu import matching_products
from bud.engines.pod import ENGINE, Document, Engine, Served, Weights, is_below, pod_template
from bud.engines.select import Wants, check, choose, references
from bud.errors import InvalidError, NameConflict, WaitingError
from bud.kube.kinds import (
    APPS,
    AUTOSCALERS,
    FULL_NAME,
    MANAGED_BY,
    MANAGER,
    OWNER_KIND,
    OWNER_NAME,
    SERVICES,
    Resource,
    child_name,
)
from bud.kube.seen import App, Seen

ENGINE_ANNOTATION = "bud.studio/engine"
"""On the apps/v1 Deployment: the Runtime revision and images it was started with, as JSON."""

_SCALING_FIELDS = {"replicas", "auto_scaling", "stopped", "update_policy", "selector"}


@dataclass(frozen=True)
class ModelSeen:
    """The Model that a Deployment refers to; `current` says whether its status answers its present source."""

    status: ModelStatus
    current: bool
    host_path: str = ""


@dataclass(frozen=True)
class View:
    """All that decides what a Deployment wants.

    `older` names an older Deployment whose children have the very same name; "" as a rule.
    """

    namespace: str
    name: str
    uid: str
    generation: int
    spec: DeploymentSpec
    model: ModelSeen | None
    older: str
    runtimes: Mapping[str, RuntimeSpec]
    gpu_products: tuple[str, ...]
    app: Seen | None
    operator_image: str
    host_path_prefixes: tuple[str, ...]

    @property
    def id(self) -> str:
        """Name of every child, and value of the label that tells the owner."""
        return child_name(DEPLOYMENT.kind, self.namespace, self.name)

    @property
    def app_data(self) -> App | None:
        return self.app.data if self.app is not None else None


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
    engine = started.engine if started is not None and started.unchanged else _engine(view, weights)
    objects = [(APPS, _app(view, engine, weights)), (SERVICES, _service(view, engine))]
    if (scaling := active_scaling(view.spec)) is not None:
        objects.append((AUTOSCALERS, _autoscaler(view, scaling)))
    return Plan(tuple(objects), engine, weights, str(waiting) if waiting is not None else "")


def active_scaling(spec: DeploymentSpec) -> AutoScaling | None:
    """The autoscaling in force: none when it is off, or when the Deployment is stopped."""
    scaling = spec.auto_scaling
    return scaling if scaling is not None and scaling.enabled and not spec.stopped else None


@dataclass(frozen=True)
class Started:
    """What the pods run: the note of it on the apps/v1 Deployment, and whether the spec still asks for those pods."""

    engine: Engine
    weights: Weights
    unchanged: bool


def started_with(view: View) -> Started | None:
    """The Runtime revision, images and weights that the pods were started with."""
    app = view.app_data
    text = app.annotations.get(ENGINE_ANNOTATION) if app is not None else None
    if not text:
        return None
    try:
        known = orjson.loads(text)
        engine = Engine(
            runtime_name=known["runtimeName"],
            runtime=RuntimeSpec.model_validate(known["runtime"]),
            operator_image=known["operatorImage"],
            gpu_products=tuple(known["gpuProducts"]),
        )
        weights = Weights(**known["weights"])
        unchanged = known["spec"] == _pod_digest(view.spec) and view.spec.update_policy != "Auto"
    except (ValueError, KeyError, TypeError):
        return None
    return Started(engine, weights, unchanged)


def _pod_digest(spec: DeploymentSpec) -> str:
    fields = spec.model_dump(mode="json", by_alias=True, exclude=_SCALING_FIELDS, exclude_defaults=True)
    return hashlib.sha256(orjson.dumps(fields, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]


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
    return Weights(
        claim_name=copy.claim_name,
        host_path=model.host_path,
        directory=copy.path,
        file=status.file,
        bytes=status.bytes or 0,
        format=status.format,
        task=status.task,
    )


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
    wants = Wants(weights.format, weights.task, spec.resources.gpu)
    if spec.runtime_ref is None:
        name = choose(view.runtimes, wants)
    else:
        name = spec.runtime_ref.name
        if name not in view.runtimes:
            have = ", ".join(sorted(view.runtimes)) or "none"
            raise WaitingError(
                f"no Runtime {name} (Runtimes: {have}); create it or correct spec.runtimeRef.name",
                reason="RuntimeNotFound",
            )
    runtime = view.runtimes[name]
    check(name, runtime, wants)
    if "BUD_MODEL_FILE" in references(runtime) and not weights.file:
        raise WaitingError(
            f"Runtime {name} loads one file, and Model {spec.model_ref.name} has several of which none is the main "
            "one; narrow the Model's source, as with allowPatterns",
            reason="ModelFileUnknown",
        )
    return Engine(name, runtime, view.operator_image, _products(view))


def _products(view: View) -> tuple[str, ...]:
    wanted = view.spec.resources.gpu_type
    if wanted is None:
        return ()
    found = matching_products(wanted, view.gpu_products)
    if not found:
        have = ", ".join(view.gpu_products) or "no GPU at all"
        raise WaitingError(
            f"no node has GPU type {wanted} (nodes have: {have}); correct spec.resources.gpuType or add such a node",
            reason="GPUTypeNotFound",
        )
    return found


def _metadata(view: View, annotations: Mapping[str, str] | None = None) -> Document:
    return {
        "annotations": {FULL_NAME: view.name, **(annotations or {})},
        "labels": _labels(view),
        "name": view.id,
        "namespace": view.namespace,
        "ownerReferences": [
            {
                "apiVersion": API_VERSION,
                "controller": True,
                "kind": DEPLOYMENT.kind,
                "name": view.name,
                "uid": view.uid,
            }
        ],
    }


def _labels(view: View) -> dict[str, str]:
    return {MANAGED_BY: MANAGER, OWNER_KIND: DEPLOYMENT.kind, OWNER_NAME: view.id}


def selector(view: View) -> dict[str, str]:
    """Labels that select the engine's pods."""
    return {OWNER_KIND: DEPLOYMENT.kind, OWNER_NAME: view.id}


def _app(view: View, engine: Engine, weights: Weights) -> Document:
    served = Served(model_name=view.name, labels=_labels(view), annotations={FULL_NAME: view.name})
    known = {
        "gpuProducts": engine.gpu_products,
        "operatorImage": engine.operator_image,
        "runtime": engine.runtime.model_dump(mode="json", by_alias=True, exclude_defaults=True),
        "runtimeName": engine.runtime_name,
        "spec": _pod_digest(view.spec),
        "weights": asdict(weights),
    }
    annotation = orjson.dumps(known, option=orjson.OPT_SORT_KEYS).decode()
    document: Document = {
        "apiVersion": APPS.api_version,
        "kind": APPS.kind,
        "metadata": _metadata(view, {ENGINE_ANNOTATION: annotation}),
        "spec": {
            "progressDeadlineSeconds": engine.runtime.startup_seconds + 300,
            "revisionHistoryLimit": 3,
            "selector": {"matchLabels": selector(view)},
            "template": pod_template(view.spec, served=served, engine=engine, weights=weights),
        },
    }
    _set_replicas(document, view)
    return document


def _set_replicas(document: Document, view: View) -> None:
    """Under autoscaling we let go of `replicas` only once the autoscaler has written it.

    Server-side apply resets a field that its only owner leaves out, so until then the value seen is repeated, pinned to
    the version at which it was seen.
    """
    scaling, app = active_scaling(view.spec), view.app_data
    if scaling is None:
        document["spec"]["replicas"] = 0 if view.spec.stopped else view.spec.replicas
    elif app is None or view.app is None or app.wanted == 0:
        document["spec"]["replicas"] = max(1, scaling.min_replicas)
    elif app.owns_replicas:
        document["spec"]["replicas"] = app.wanted
        document["metadata"]["resourceVersion"] = str(view.app.version)


def _service(view: View, engine: Engine) -> Document:
    return {
        "apiVersion": SERVICES.api_version,
        "kind": SERVICES.kind,
        "metadata": _metadata(view),
        "spec": {
            "ports": [{"appProtocol": "http", "name": "http", "port": 80, "protocol": "TCP", "targetPort": "http"}],
            "selector": selector(view),
        },
    }


def _autoscaler(view: View, scaling: AutoScaling) -> Document:
    targets = {"cpu": scaling.target_cpu, "memory": scaling.target_memory}
    if not any(targets.values()):
        targets["cpu"] = 80
    return {
        "apiVersion": AUTOSCALERS.api_version,
        "kind": AUTOSCALERS.kind,
        "metadata": _metadata(view),
        "spec": {
            "maxReplicas": scaling.max_replicas,
            "metrics": [_metric(name, value) for name, value in targets.items() if value],
            "minReplicas": max(1, scaling.min_replicas),
            "scaleTargetRef": {"apiVersion": APPS.api_version, "kind": APPS.kind, "name": view.id},
        },
    }


def _metric(name: str, percent: int) -> dict[str, Any]:
    target = {"averageUtilization": percent, "type": "Utilization"}
    return {
        "containerResource": {"container": ENGINE, "name": name, "target": target},
        "type": "ContainerResource",
    }
