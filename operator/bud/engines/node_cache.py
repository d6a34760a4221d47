"""Weights on the node's own disk: the container that brings a copy there and holds it while the pod lives: pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from bud.api.model import ModelSpec, ModelStatus

Document = dict[str, Any]

CONTAINER = "weights"
VOLUME = "node-cache"
MOUNT = "/node-cache"

SECURITY: Document = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
    "runAsGroup": 0,
    "runAsNonRoot": False,
    "runAsUser": 0,
}
"""The kubelet makes a node's folder for user 0, who therefore needs no capability to write there."""

_START_PERIOD_SECONDS = 2
_START_HOURS = 24


@dataclass(frozen=True)
class NodeStorage:
    """The folder of every node that keeps copies, and what they may take together, in bytes."""

    path: str
    size_bytes: int


@dataclass(frozen=True)
class NodeCache:
    """One copy on nodes: the cache, and the folder in it (`namespace/copy`); digest and size of the Model; what to
    fetch, as JSON, pinned to the Model's revision; and the Secret for that, "" for none."""

    path: str
    size_bytes: int
    folder: str
    digest: str
    bytes: int
    wanted: str
    secret: str


def source_of(spec: ModelSpec) -> Document:
    """The source as the download program reads it."""
    return spec.source.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_defaults=True)


def node_cache(spec: ModelSpec, status: ModelStatus, storage: NodeStorage, *, folder: str) -> NodeCache:
    """The copy of a Model that is Available."""
    source = source_of(spec)
    if "huggingFace" in source and status.revision:
        source["huggingFace"] |= {"revision": status.revision}
    wanted = {"sha256": dict(spec.sha256), "source": source}
    return NodeCache(
        path=storage.path,
        size_bytes=storage.size_bytes,
        folder=folder,
        digest=status.digest,
        bytes=status.bytes or 0,
        wanted=orjson.dumps(wanted, option=orjson.OPT_SORT_KEYS).decode(),
        secret=spec.credentials_secret_ref.name if spec.credentials_secret_ref is not None else "",
    )


def where(storage: NodeStorage, folder: str) -> Document:
    """Where the download program finds the cache, and the copy in it."""
    return {"cache": {"root": MOUNT, "sizeBytes": storage.size_bytes}, "target": f"{MOUNT}/{folder}"}


def volume(path: str) -> Document:
    """A folder of the node, made by the kubelet where there is none."""
    return {"hostPath": {"path": path, "type": "DirectoryOrCreate"}}


def credentials(secret: str) -> list[Document]:
    """The Secret's keys as variables. The prefix keeps them from being variables that mean something else."""
    return [{"prefix": "BUD_CREDENTIAL_", "secretRef": {"name": secret}}]


def container(cache: NodeCache, image: str) -> Document:
    """A native sidecar: the engine is started once this one has the copy whole and holds it."""
    place = where(NodeStorage(cache.path, cache.size_bytes), cache.folder)
    place["cache"] |= {"bytes": cache.bytes, "digest": cache.digest, "hold": True}
    config = orjson.dumps(orjson.loads(cache.wanted) | place, option=orjson.OPT_SORT_KEYS).decode()
    found: Document = {
        "command": ["bud-weights"],
        "env": [{"name": "BUD_WEIGHTS_CONFIG", "value": config}, {"name": "HOME", "value": "/tmp"}],
        "image": image,
        "name": CONTAINER,
        "resources": {"limits": {"memory": "1Gi"}, "requests": {"cpu": "10m", "memory": "64Mi"}},
        "restartPolicy": "Always",
        "securityContext": SECURITY,
        "startupProbe": {
            # Process 1 becomes bud/weights/hold.py when the copy is whole and held.
            "exec": {"command": ["grep", "-q", "hold.py", "/proc/1/cmdline"]},
            "failureThreshold": _START_HOURS * 3600 // _START_PERIOD_SECONDS,
            "periodSeconds": _START_PERIOD_SECONDS,
            "timeoutSeconds": 10,
        },
        "volumeMounts": [{"mountPath": MOUNT, "name": VOLUME}, {"mountPath": "/tmp", "name": f"{VOLUME}-tmp"}],
    }
    if cache.secret:
        found["envFrom"] = credentials(cache.secret)
    return found


def volumes(cache: NodeCache) -> list[Document]:
    """The copy alone, for the engine; and the whole cache, for the container that fills it and makes room."""
    return [
        {"name": "weights"} | volume(f"{cache.path}/{cache.folder}"),
        {"name": VOLUME} | volume(cache.path),
        {"name": f"{VOLUME}-tmp", "emptyDir": {}},
    ]
