"""From a Deployment and its Runtime to the engine's pod: pure, and canonical as the API server gives it back."""

from __future__ import annotations

import math
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bud.api.deployment import DeploymentSpec, EnvVar, Resources
from bud.api.runtime import RuntimeSpec
from bud.engines import node_cache
from bud.engines.gpu import Gpus
from bud.engines.node_cache import NodeCache
from bud.kube.quantity import binary, canonical, parse

Document = dict[str, Any]

ENGINE = "engine"
PROBE = "answer-check"
PROBE_PORT = 9901
RELAY = "relay"
RELAY_PORT = 9902
WEIGHTS_PATH = "/weights"

USER = 65532
POD_SECURITY: Document = {
    "fsGroup": USER,
    "fsGroupChangePolicy": "OnRootMismatch",
    "runAsGroup": USER,
    "runAsNonRoot": True,
    "runAsUser": USER,
    "seccompProfile": {"type": "RuntimeDefault"},
}
CONTAINER_SECURITY: Document = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
}
"""Together: Pod Security level restricted, and a read-only root file system."""

_GIB = 1024**3
_SLOW_VOLUME = 100_000_000
"""Bytes per second that even a slow volume gives, such as a network disk of the cheapest kind."""
_END_SECONDS = 30
"""For an engine to end once nobody is served any more."""
_HUNG_SECONDS = 10
"""For an engine to end that does not answer: its callers wait for nothing."""


@dataclass(frozen=True)
class Weights:
    """Where the weights are: a claim or a path of the node; within it, the folder ("" for all of it) and the main file
    ("" for engines that load a folder). With `node_cache` they are in the cache of each node instead."""

    claim_name: str
    host_path: str
    directory: str
    file: str
    bytes: int
    format: str
    task: str
    node_cache: NodeCache | None = None


@dataclass(frozen=True)
class Adapter:
    """LoRA weights that are loaded beside the model's: the name by which they are called, and their Model's."""

    name: str
    model: str
    weights: Weights


@dataclass(frozen=True)
class Beside:
    """What adapters add to a pod; nothing as a rule. `relay` is the container that then takes the requests."""

    args: tuple[str, ...] = ()
    volumes: tuple[Document, ...] = ()
    mounts: tuple[Document, ...] = ()
    names: tuple[str, ...] = ()
    relay: Document | None = None
    bytes: int = 0


@dataclass(frozen=True)
class Served:
    """What a pod serves and who it belongs to."""

    model_name: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    beside: Beside = Beside()


@dataclass(frozen=True)
class Engine:
    """The Runtime revision, operator image and kind of GPUs that a Deployment was started with."""

    runtime_name: str
    runtime: RuntimeSpec
    operator_image: str
    gpus: Gpus | None


@dataclass(frozen=True)
class Sizes:
    """Resources of one replica, defaults filled in, as canonical quantities."""

    cpu: str
    memory: str
    gpu: int


def sizes(resources: Resources, weights_bytes: int) -> Sizes:
    """Resources with defaults: one core, and memory for the weights plus a quarter plus 1 GiB, in whole GiB."""
    need = math.ceil((weights_bytes * 1.25) / _GIB + 1) * _GIB
    return Sizes(
        cpu=canonical(resources.cpu if resources.cpu is not None else 1),
        memory=canonical(resources.memory) if resources.memory is not None else binary(need),
        gpu=resources.gpu,
    )


def is_below(path: str, prefixes: tuple[str, ...]) -> bool:
    """Whether a path of the node is one of the prefixes or lies below one."""
    path = posixpath.normpath(path)
    return any(path == prefix or path.startswith(prefix.rstrip("/") + "/") for prefix in prefixes)


def pod_template(spec: DeploymentSpec, *, served: Served, engine: Engine, weights: Weights) -> Document:
    """The pod template of the engine: the engine, its answer check beside it, the weights mounted read-only."""
    runtime = engine.runtime
    pod: Document = {
        "automountServiceAccountToken": False,
        "containers": [_engine_container(spec, served, engine, weights)],
        "enableServiceLinks": False,
        "securityContext": POD_SECURITY,
        "terminationGracePeriodSeconds": runtime.drain_seconds + _END_SECONDS,
        "volumes": [*_volumes(runtime, weights), *served.beside.volumes],
    }
    if sidecars := _sidecars(served, engine, weights):
        pod["initContainers"] = sidecars
    if spec.node_selector:
        pod["nodeSelector"] = dict(spec.node_selector)
    if tolerations := _tolerations(spec, engine.gpus):
        pod["tolerations"] = tolerations
    if spec.priority_class_name:
        pod["priorityClassName"] = spec.priority_class_name
    if engine.gpus is not None and engine.gpus.products:
        pod["affinity"] = _gpu_affinity(engine.gpus)
    return {"metadata": _metadata(spec, served, runtime), "spec": pod}


def _sidecars(served: Served, engine: Engine, weights: Weights) -> list[Document]:
    """In the order of their starts: the engine comes after the weights."""
    found = []
    if weights.node_cache is not None:
        found.append(node_cache.container(weights.node_cache, engine.operator_image))
    if engine.runtime.answer_check.enabled:
        found.append(_probe_container(served, engine, weights.task))
    if served.beside.relay is not None:
        found.append(served.beside.relay)
    return found


def _metadata(spec: DeploymentSpec, served: Served, runtime: RuntimeSpec) -> Document:
    annotations: Document = dict(spec.template.metadata.annotations)
    if runtime.metrics_path:
        annotations |= {
            "prometheus.io/path": runtime.metrics_path,
            "prometheus.io/port": str(runtime.port),
            "prometheus.io/scrape": "true",
        }
    return {
        "annotations": annotations | dict(served.annotations),
        "labels": dict(spec.template.metadata.labels) | dict(served.labels),
    }


def _engine_container(spec: DeploymentSpec, served: Served, engine: Engine, weights: Weights) -> Document:
    runtime, beside = engine.runtime, served.beside
    size = sizes(spec.resources, weights.bytes + beside.bytes)
    # A Service finds a port by its name in the containers of each pod, by old Kubernetes not in sidecars: so the
    # relay's port is told here, and pods with and without a relay serve side by side while one roll-out goes on.
    relayed = beside.relay is not None
    health = {"httpGet": {"path": runtime.health_path, "port": runtime.port if relayed else "http", "scheme": "HTTP"}}
    container: Document = {
        "env": _env(spec, served, runtime, weights),
        "image": spec.image or runtime.image or engine.operator_image,
        "lifecycle": {"preStop": _pre_stop(runtime)},
        "livenessProbe": health
        | {
            "failureThreshold": 6,
            "periodSeconds": 10,
            "terminationGracePeriodSeconds": _HUNG_SECONDS,
            "timeoutSeconds": 5,
        },
        "name": ENGINE,
        "ports": [{"containerPort": RELAY_PORT if relayed else runtime.port, "name": "http", "protocol": "TCP"}],
        "readinessProbe": health | {"failureThreshold": 3, "periodSeconds": 5, "timeoutSeconds": 5},
        "resources": _resources(size, engine.gpus),
        "securityContext": CONTAINER_SECURITY,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "startupProbe": health
        | {
            "failureThreshold": math.ceil(start_seconds(runtime, weights) / 2),
            "periodSeconds": 2,
            "terminationGracePeriodSeconds": _HUNG_SECONDS,
            "timeoutSeconds": 5,
        },
        "volumeMounts": [*_mounts(runtime), *beside.mounts],
    }
    if runtime.command:
        container["command"] = list(runtime.command)
    if args := [*runtime.args, *beside.args, *spec.args]:
        container["args"] = args
    return container


def start_seconds(runtime: RuntimeSpec, weights: Weights) -> int:
    """How long a start may take: what the Runtime says, and the time to read the weights from a slow volume."""
    return runtime.startup_seconds + weights.bytes // _SLOW_VOLUME


def _pre_stop(runtime: RuntimeSpec) -> Document:
    """What the kubelet does before it tells the engine to end: it waits until nobody is served any more.

    The sleep action would do half of that, and needs Kubernetes 1.30. Where the image has no `sleep`, that is an Event
    and the engine ends at once.
    """
    if runtime.answer_check.enabled:
        return {"httpGet": {"path": "/drain", "port": PROBE_PORT, "scheme": "HTTP"}}
    return {"exec": {"command": ["sleep", "5"]}}


def _resources(size: Sizes, gpus: Gpus | None) -> Document:
    requests: Document = {"cpu": size.cpu, "memory": size.memory}
    limits: Document = {"memory": size.memory}
    if gpus is not None:
        requests[gpus.resource] = limits[gpus.resource] = str(size.gpu)
    return {"limits": limits, "requests": requests}


def _env(spec: DeploymentSpec, served: Served, runtime: RuntimeSpec, weights: Weights) -> list[Document]:
    path = "/".join(part for part in (WEIGHTS_PATH, weights.directory) if part)
    values = {
        "BUD_MODEL_PATH": path,
        "BUD_MODEL_FILE": f"{WEIGHTS_PATH}/{weights.file}" if weights.file else path,
        "BUD_MODEL_NAME": served.model_name,
        "BUD_PORT": str(runtime.port),
        "BUD_GPU_COUNT": str(max(1, spec.resources.gpu)),
        "BUD_CPU_COUNT": str(max(1, math.ceil(parse(sizes(spec.resources, weights.bytes).cpu)))),
        **{variable.name: variable.value for variable in runtime.env},
    }
    variables = {name: _variable(name, value) for name, value in values.items()}
    return list((variables | {variable.name: _user_variable(variable) for variable in spec.env}).values())


def _user_variable(variable: EnvVar) -> Document:
    if variable.value_from is None:
        return _variable(variable.name, variable.value or "")
    return {
        "name": variable.name,
        "valueFrom": variable.value_from.model_dump(by_alias=True, exclude_none=True),
    }


def _variable(name: str, value: str) -> Document:
    # The API server drops an empty value, so a document that sends one never equals what comes back.
    return {"name": name, "value": value} if value else {"name": name}


def _probe_container(served: Served, engine: Engine, task: str) -> Document:
    runtime = engine.runtime
    values = {
        "BUD_PROBE_ENGINE": f"http://127.0.0.1:{runtime.port}",
        "BUD_PROBE_HEALTH_PATH": runtime.health_path,
        "BUD_PROBE_TASK": task,
        "BUD_PROBE_MODEL": served.model_name,
        "BUD_PROBE_PORT": str(PROBE_PORT),
        "BUD_PROBE_DRAIN": str(runtime.drain_seconds),
    }
    if runtime.answer_check.path:
        values["BUD_PROBE_PATH"] = runtime.answer_check.path
    if served.beside.names:
        values["BUD_PROBE_ADAPTERS"] = ",".join(served.beside.names)
    if served.beside.relay is not None:
        values["BUD_PROBE_ASK"] = f"http://127.0.0.1:{RELAY_PORT}"
    return {
        "command": ["bud-probe"],
        "env": [_variable(name, value) for name, value in values.items()],
        "image": engine.operator_image,
        "livenessProbe": {
            "failureThreshold": 6,
            "httpGet": {"path": "/healthz", "port": PROBE_PORT, "scheme": "HTTP"},
            "periodSeconds": 10,
            "timeoutSeconds": 5,
        },
        "name": PROBE,
        "readinessProbe": {
            "failureThreshold": 2,
            "httpGet": {"path": "/readyz", "port": PROBE_PORT, "scheme": "HTTP"},
            "periodSeconds": 1,
            "timeoutSeconds": 2,
        },
        "resources": {"limits": {"memory": "64Mi"}, "requests": {"cpu": "5m", "memory": "32Mi"}},
        "restartPolicy": "Always",
        "securityContext": CONTAINER_SECURITY,
    }


def volume_source(weights: Weights) -> Document:
    """The claim or path of the node that holds the weights."""
    if weights.host_path:
        return {"hostPath": {"path": weights.host_path, "type": "Directory"}}
    return {"persistentVolumeClaim": {"claimName": weights.claim_name, "readOnly": True}}


def _volumes(runtime: RuntimeSpec, weights: Weights) -> list[Document]:
    if weights.node_cache is not None:
        volumes = node_cache.volumes(weights.node_cache)
    else:
        volumes = [{"name": "weights", **volume_source(weights)}]
    volumes += [{"name": f"writable-{i}", "emptyDir": {}} for i in range(len(runtime.writable_paths))]
    if runtime.shared_memory:
        volumes.append({"name": "shared-memory", "emptyDir": {"medium": "Memory"}})
    return volumes


def _mounts(runtime: RuntimeSpec) -> list[Document]:
    mounts: list[Document] = [{"mountPath": WEIGHTS_PATH, "name": "weights", "readOnly": True}]
    mounts += [{"mountPath": path, "name": f"writable-{i}"} for i, path in enumerate(runtime.writable_paths)]
    if runtime.shared_memory:
        mounts.append({"mountPath": "/dev/shm", "name": "shared-memory"})
    return mounts


def _tolerations(spec: DeploymentSpec, gpus: Gpus | None) -> list[Document]:
    """The spec's, and those of the taints that by custom keep other pods off nodes with GPUs."""
    wanted: list[Document] = [
        toleration.model_dump(by_alias=True, exclude_none=True) for toleration in spec.tolerations
    ]
    for key in gpus.taints if gpus is not None else ():
        own = {"effect": "NoSchedule", "key": key, "operator": "Exists"}
        if own not in wanted:
            wanted.append(own)
    return wanted


def _gpu_affinity(gpus: Gpus) -> Document:
    terms = [
        {"matchExpressions": [{"key": label, "operator": "In", "values": list(values)}]}
        for label, values in gpus.products
    ]
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}
