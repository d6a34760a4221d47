"""What the store keeps of each object: the fields that decide, trimmed at ingest."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from sys import intern
from typing import Any

import orjson

from bud.api import DEPLOYMENT
from bud.kube import notes
from bud.kube.gpus import NodeGpu, gpus_of
from bud.kube.kinds import (
    APPS,
    AUTOSCALERS,
    CLAIMS,
    CONFIG_MAPS,
    DISRUPTION_BUDGETS,
    JOBS,
    LEASES,
    NETWORK_POLICIES,
    NODES,
    OWNER_KIND,
    OWNER_NAME,
    PODS,
    ROLE_BINDINGS,
    SERVICES,
    STORAGE_CLASSES,
    WANTED_BY,
    Resource,
)
from bud.kube.owned import fingerprint, owns

Raw = Mapping[str, Any]
Key = tuple[str, str]
"""Namespace and name; the namespace of cluster-scoped objects is empty."""


@dataclass(frozen=True, slots=True)
class Seen:
    """An object as the store keeps it; `data` holds the trimmed fields of its kind."""

    resource: Resource
    namespace: str
    name: str
    uid: str
    version: int
    owner_kind: str
    owner_name: str
    owner_uids: frozenset[str]
    deleting: bool
    fingerprint: bytes
    data: Any
    links: frozenset[str] = frozenset()
    """What it refers to, for the store's index: `id:`, `model:`, `runtime:`, `claim:` and a name."""

    @property
    def key(self) -> Key:
        return self.namespace, self.name


@dataclass(frozen=True, slots=True)
class Own:
    """One of our custom resources: the spec and status as they came, kept as JSON, in a third of the memory."""

    generation: int
    created: str
    finalizers: tuple[str, ...]
    phase: str
    spec_json: bytes
    status_json: bytes

    @property
    def spec(self) -> Raw:
        parsed: Raw = orjson.loads(self.spec_json)
        return parsed

    @property
    def status(self) -> Raw:
        parsed: Raw = orjson.loads(self.status_json)
        return parsed


@dataclass(frozen=True, slots=True)
class App:
    """An apps/v1 Deployment; `surges` says whether a roll-out starts a new pod before it ends an old one."""

    generation: int
    observed_generation: int
    wanted: int
    replicas: int
    updated: int
    ready: int
    available: int
    owns_replicas: bool
    surges: bool
    annotations: Raw
    edited: frozenset[str]
    """Annotations of ours whose value somebody else has set since; empty on an object that was restored."""
    failure: str


@dataclass(frozen=True, slots=True)
class Container:
    """State of one container of a pod."""

    name: str
    ready: bool
    restarts: int
    waiting_reason: str
    waiting_message: str
    exit_code: int | None
    exit_reason: str
    exit_message: str


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod: why it waits and how it ended; `needs` is the same for pods that fit the very same nodes."""

    phase: str
    ready: bool
    unschedulable: str
    created: str
    containers: tuple[Container, ...]
    needs: int = 0
    node: str = ""
    mounted: bool = True
    """False while its volumes, or its sandbox, are still awaited."""

    @property
    def placed(self) -> bool:
        """Whether it was given a node."""
        return bool(self.node)

    @property
    def over(self) -> bool:
        """Whether none of its containers runs or ever will."""
        return self.phase in ("Failed", "Succeeded")


@dataclass(frozen=True, slots=True)
class Job:
    """A Job: whether it is over, and the image it was made with."""

    complete: bool
    failed: str
    failed_message: str
    annotations: Raw
    created: str = ""


@dataclass(frozen=True, slots=True)
class Claim:
    """A PersistentVolumeClaim."""

    phase: str
    storage_class: str | None
    size: str
    annotations: Raw
    access_modes: tuple[str, ...] = ()
    capacity: str = ""
    awaits_mount: bool = False
    """Its volume was expanded, and its file system will be when a pod mounts it."""
    edited: frozenset[str] = frozenset()
    """Annotations of ours whose value somebody else has set since."""


@dataclass(frozen=True, slots=True)
class StorageClass:
    """A StorageClass: who provisions its volumes, and what they can do."""

    provisioner: str
    default: bool
    expands: bool
    created: str


@dataclass(frozen=True, slots=True)
class Node:
    """A node: what GPUs it has."""

    gpus: tuple[NodeGpu, ...]


@dataclass(frozen=True, slots=True)
class Nothing:
    """A kind of which only existence and ownership matter."""


def all_gpus(nodes: Iterable[Seen]) -> tuple[NodeGpu, ...]:
    """Every kind of GPU that some node has, sorted."""
    return tuple(sorted({gpu for node in nodes for gpu in node.data.gpus}))


def see(resource: Resource, raw: Raw) -> Seen:
    """Trims a raw object of a kind that is not ours."""
    links = frozenset(_mounted(raw)) if resource in (APPS, PODS) else wanted_by(raw["metadata"])
    return _seen(resource, raw, _TRIMS[resource](raw), links)


def wanted_by(metadata: Raw) -> frozenset[str]:
    """Links to the Models that want a copy, from the metadata of its claim or Job."""
    names = (metadata.get("annotations") or {}).get(WANTED_BY, "")
    return frozenset(f"model:{name}" for name in names.split(",") if name)


def _mounted(raw: Raw) -> Iterator[str]:
    """Links to the claims that an engine's pod mounts, or its template names; a pod that ended mounts nothing."""
    labels = raw["metadata"].get("labels") or {}
    if labels.get(OWNER_KIND) != DEPLOYMENT.kind or (raw.get("status") or {}).get("phase") in ("Succeeded", "Failed"):
        return
    for volume in (raw["spec"].get("template") or raw)["spec"].get("volumes") or ():
        if claim := volume.get("persistentVolumeClaim"):
            yield f"claim:{claim['claimName']}"


def see_own(resource: Resource, raw: Raw, *, links: frozenset[str]) -> Seen:
    """Trims one of our custom resources; `links` are what it refers to, for the store's index."""
    metadata = raw["metadata"]
    status = raw.get("status") or {}
    own = Own(
        generation=metadata.get("generation", 0),
        created=metadata.get("creationTimestamp", ""),
        finalizers=tuple(metadata.get("finalizers") or ()),
        phase=intern(str(status.get("phase") or "")),
        spec_json=_packed(raw.get("spec") or {}),
        status_json=_packed(status),
    )
    return _seen(resource, raw, own, links)


def _seen(resource: Resource, raw: Raw, data: object, links: frozenset[str]) -> Seen:
    metadata = raw["metadata"]
    labels = metadata.get("labels") or {}
    return Seen(
        resource=resource,
        namespace=intern(metadata.get("namespace", "")),
        name=intern(metadata["name"]),
        uid=metadata["uid"],
        version=int(metadata["resourceVersion"]),
        owner_kind=intern(labels.get(OWNER_KIND, "")),
        owner_name=intern(labels.get(OWNER_NAME, "")),
        owner_uids=frozenset(owner["uid"] for owner in metadata.get("ownerReferences") or ()),
        deleting="deletionTimestamp" in metadata,
        fingerprint=fingerprint(raw),
        data=data,
        links=links,
    )


def _conditions(raw: Raw) -> dict[str, Raw]:
    return {c["type"]: c for c in (raw.get("status") or {}).get("conditions") or ()}


def _bud_annotations(raw: Raw) -> Raw:
    annotations = raw["metadata"].get("annotations") or {}
    # Hundreds of Deployments have the very same note of what they were started with.
    return {key: intern(value) for key, value in annotations.items() if key.startswith("bud.studio/")}


def _edited(raw: Raw) -> frozenset[str]:
    """A write of another value takes a field away from its owner; a restore takes all fields away."""
    if not owns(raw, "metadata"):
        return frozenset()
    return frozenset(key for key in _bud_annotations(raw) if not owns(raw, "metadata", "annotations", key))


def _app(raw: Raw) -> App:
    status, conditions = raw.get("status") or {}, _conditions(raw)
    failure = conditions.get("ReplicaFailure", {})
    return App(
        generation=raw["metadata"].get("generation", 0),
        observed_generation=status.get("observedGeneration", 0),
        wanted=raw["spec"].get("replicas", 1),
        replicas=status.get("replicas", 0),
        updated=status.get("updatedReplicas", 0),
        ready=status.get("readyReplicas", 0),
        available=status.get("availableReplicas", 0),
        owns_replicas=owns(raw, "spec", "replicas"),
        surges=_surges(raw["spec"]),
        annotations=_bud_annotations(raw),
        edited=_edited(raw),
        failure=failure.get("message", "") if failure.get("status") == "True" else "",
    )


def _surges(spec: Raw) -> bool:
    """Whether a roll-out starts a new pod before it ends an old one."""
    strategy = (spec.get("strategy") or {}).get("rollingUpdate") or {}
    return strategy.get("maxSurge", 1) not in (0, "0%")


def _container(raw: Raw) -> Container:
    state = raw.get("state") or {}
    waiting = state.get("waiting") or {}
    # A container that crashed and waits for its next start tells why only in its last state.
    ended = state.get("terminated") or (raw.get("lastState") or {}).get("terminated") or {}
    return Container(
        name=raw["name"],
        ready=raw.get("ready", False),
        restarts=raw.get("restartCount", 0),
        waiting_reason=waiting.get("reason", ""),
        waiting_message=waiting.get("message", ""),
        exit_code=ended.get("exitCode"),
        exit_reason=ended.get("reason", ""),
        exit_message=ended.get("message", ""),
    )


def _pod(raw: Raw) -> Pod:
    status, conditions = raw.get("status") or {}, _conditions(raw)
    scheduled = conditions.get("PodScheduled", {})
    states = [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]
    return Pod(
        phase=status.get("phase", ""),
        ready=conditions.get("Ready", {}).get("status") == "True",
        unschedulable=scheduled.get("message", "") if scheduled.get("status") == "False" else "",
        created=raw["metadata"].get("creationTimestamp", ""),
        containers=tuple(_container(state) for state in states),
        needs=_needs(raw["spec"]),
        node=intern(raw["spec"].get("nodeName", "")),
        mounted=conditions.get("PodReadyToStartContainers", {}).get("status") != "False",
    )


def _needs(spec: Raw) -> int:
    """Hash of what decides where a pod fits."""
    containers = [*(spec.get("initContainers") or ()), *spec["containers"]]
    where = {name: spec.get(name) for name in ("nodeSelector", "affinity", "tolerations")}
    claims = [volume.get("persistentVolumeClaim") for volume in spec.get("volumes") or ()]
    whole = {"where": where, "claims": claims, "resources": [c.get("resources") for c in containers]}
    digest = hashlib.blake2b(orjson.dumps(whole, option=orjson.OPT_SORT_KEYS), digest_size=7).digest()
    return int.from_bytes(digest)


def _job(raw: Raw) -> Job:
    conditions = {kind: c for kind, c in _conditions(raw).items() if c.get("status") == "True"}
    failed = conditions.get("Failed") or conditions.get("FailureTarget") or {}
    return Job(
        complete="Complete" in conditions,
        failed=failed.get("reason", ""),
        failed_message=failed.get("message", ""),
        annotations=_bud_annotations(raw),
        created=raw["metadata"].get("creationTimestamp", ""),
    )


def _claim(raw: Raw) -> Claim:
    spec, status = raw["spec"], raw.get("status") or {}
    resizing = _conditions(raw).get("FileSystemResizePending", {})
    return Claim(
        phase=status.get("phase", ""),
        storage_class=spec.get("storageClassName"),
        size=((spec.get("resources") or {}).get("requests") or {}).get("storage", ""),
        annotations=_bud_annotations(raw),
        access_modes=tuple(spec.get("accessModes") or ()),
        capacity=(status.get("capacity") or {}).get("storage", ""),
        awaits_mount=resizing.get("status") == "True",
        edited=_edited(raw),
    )


def _storage_class(raw: Raw) -> StorageClass:
    metadata = raw["metadata"]
    annotations = metadata.get("annotations") or {}
    return StorageClass(
        provisioner=raw.get("provisioner", ""),
        default=annotations.get("storageclass.kubernetes.io/is-default-class") == "true",
        expands=raw.get("allowVolumeExpansion", False),
        created=metadata.get("creationTimestamp", ""),
    )


def _node(raw: Raw) -> Node:
    return Node(gpus_of(raw["metadata"].get("labels") or {}, (raw.get("status") or {}).get("allocatable") or {}))


_TRIMS: Mapping[Resource, Callable[[Raw], object]] = {
    APPS: _app,
    PODS: _pod,
    JOBS: _job,
    CLAIMS: _claim,
    NODES: _node,
    STORAGE_CLASSES: _storage_class,
    LEASES: notes.use,
    CONFIG_MAPS: notes.usage,
} | dict.fromkeys((AUTOSCALERS, DISRUPTION_BUDGETS, NETWORK_POLICIES, ROLE_BINDINGS, SERVICES), lambda raw: Nothing())


def _packed(value: Raw) -> bytes:
    # A copy of the very length: what orjson makes keeps the room that it was made in.
    return bytes(memoryview(orjson.dumps(value, option=orjson.OPT_SORT_KEYS)))
