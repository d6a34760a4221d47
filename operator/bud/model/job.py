"""The Job that downloads or hashes the weights, as a document for server-side apply: pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import orjson

from bud.api import API_VERSION, MODEL
from bud.engines import node_cache
from bud.engines.node_cache import NodeStorage
from bud.engines.pod import CONTAINER_SECURITY, POD_SECURITY, WEIGHTS_PATH, Document
from bud.kube.kinds import JOBS, MANAGED_BY, MANAGER, OWNER_KIND, OWNER_NAME
from bud.model.view import View, describe

RESULT = "bud.studio/weights"
"""Annotation: what the download found (digest, bytes, revision, ...), as JSON; it outlives the Job."""
IMAGE = "bud.studio/image"
"""Annotation on the Job: the image it was made with, which an upgrade must not change under it."""
NODE_STORAGE = "bud.studio/node-storage"
"""Annotation on the Job: the nodes' cache as it was when the Job was made, for the same reason."""
SOURCE = "bud.studio/source"
"""Annotation: where the weights come from, for people."""

WORKER = "weights"
PERMANENT_EXIT = 10
"""Exit code of the download program for what retrying cannot heal."""

_FOR_AZURE = {"azure.workload.identity/use": "true"}
"""Azure's webhook gives a pod the identity of its service account only when it carries this label."""


def metadata(view: View, annotations: Mapping[str, str], *, owned: bool = True) -> Document:
    """Metadata of a child; one that is not `owned` outlives the Models that want it."""
    document: Document = {
        "annotations": {SOURCE: describe(view.spec)[:1024], **annotations},
        "labels": _labels(view),
        "name": view.id,
        "namespace": view.namespace,
    }
    if owned:
        document["ownerReferences"] = [
            {"apiVersion": API_VERSION, "kind": MODEL.kind, "name": owner.name, "uid": owner.uid}
            for owner in view.owners
        ]
    return document


def result_annotation(view: View) -> dict[str, str]:
    if view.result is None:
        return {}
    return {RESULT: orjson.dumps(view.result, option=orjson.OPT_SORT_KEYS).decode()}


def job(view: View) -> Document:
    image = view.job.data.annotations.get(IMAGE, view.operator_image) if view.job is not None else view.operator_image
    annotations = {IMAGE: image} | ({} if view.makes_claim else result_annotation(view))
    storage = _node_storage(view)
    if storage is not None:
        annotations[NODE_STORAGE] = orjson.dumps(asdict(storage)).decode()
    return {
        "apiVersion": JOBS.api_version,
        "kind": JOBS.kind,
        "metadata": metadata(view, annotations),
        "spec": {
            # With Kubernetes' pauses of up to ten minutes, some eight hours: longer than a source is away as a rule.
            "backoffLimit": 50,
            "podFailurePolicy": {
                "rules": [
                    {
                        "action": "FailJob",
                        "onExitCodes": {
                            "containerName": WORKER,
                            "operator": "In",
                            "values": [PERMANENT_EXIT],
                        },
                    },
                    {"action": "Ignore", "onPodConditions": [{"status": "True", "type": "DisruptionTarget"}]},
                ]
            },
            "template": {"metadata": _pod_metadata(view), "spec": _pod(view, image)},
        },
    }


def _node_storage(view: View) -> NodeStorage | None:
    """A Job's pods cannot be changed: the cache is the one that it was made for."""
    if not view.node_folder:
        return None
    made = view.job.data.annotations.get(NODE_STORAGE) if view.job is not None else None
    return NodeStorage(**orjson.loads(made)) if made else view.node_storage


def _labels(view: View) -> dict[str, str]:
    return {MANAGED_BY: MANAGER, OWNER_KIND: MODEL.kind, OWNER_NAME: view.id}


def _pod_metadata(view: View) -> Document:
    labels = _labels(view) | (_FOR_AZURE if view.spec.service_account_name is not None else {})
    return {"annotations": {SOURCE: describe(view.spec)[:1024]}, "labels": labels}


def _pod(view: View, image: str) -> Document:
    local, storage = view.spec.source.local, _node_storage(view)
    if storage is not None:
        volume: Document = node_cache.volume(storage.path)
    elif local is not None and local.host_path is not None:
        volume = {"hostPath": {"path": local.host_path, "type": "Directory"}}
    else:
        volume = {"persistentVolumeClaim": {"claimName": view.claim_name}}
    pod: Document = {
        # A service account is here for what a cloud gives it, by a token of its own: never for the API server.
        "automountServiceAccountToken": False,
        "containers": [_container(view, image)],
        "enableServiceLinks": False,
        "restartPolicy": "Never",
        "securityContext": POD_SECURITY,
        "volumes": [{"name": "weights"} | volume, {"name": "tmp", "emptyDir": {}}],
    }
    if view.spec.service_account_name is not None:
        pod["serviceAccountName"] = view.spec.service_account_name
    return pod


def _container(view: View, image: str) -> Document:
    on_node = bool(view.node_folder)
    mount: Document = {"mountPath": node_cache.MOUNT if on_node else WEIGHTS_PATH, "name": "weights"}
    if not view.downloads:
        mount["readOnly"] = True
    container: Document = {
        "command": ["bud-weights"],
        "env": [
            {"name": "BUD_WEIGHTS_CONFIG", "value": orjson.dumps(_config(view)).decode()},
            {"name": "HOME", "value": "/tmp"},
        ],
        "image": image,
        "name": WORKER,
        "resources": {"limits": {"memory": "1Gi"}, "requests": {"cpu": "100m", "memory": "256Mi"}},
        "securityContext": node_cache.SECURITY if on_node else CONTAINER_SECURITY,
        "volumeMounts": [mount, {"mountPath": "/tmp", "name": "tmp"}],
    }
    if view.spec.credentials_secret_ref is not None:
        container["envFrom"] = node_cache.credentials(view.spec.credentials_secret_ref.name)
    return container


def _config(view: View) -> dict[str, Any]:
    wanted: dict[str, Any] = {"sha256": dict(view.spec.sha256)}
    storage = _node_storage(view)
    if storage is not None:
        return wanted | {"source": node_cache.source_of(view.spec)} | node_cache.where(storage, view.node_folder)
    if view.spec.source.local is not None:
        source: dict[str, Any] = {"local": {"path": view.directory or "."}}
        target = WEIGHTS_PATH
    else:
        source = node_cache.source_of(view.spec)
        target = "/".join(part for part in (WEIGHTS_PATH, view.directory) if part)
    return {"source": source, **wanted, "target": target}
