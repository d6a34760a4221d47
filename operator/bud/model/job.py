"""The Job that downloads or hashes the weights, as a document for server-side apply: pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import orjson

from bud.api import MODEL
from bud.engines import node_cache
from bud.engines.node_cache import NodeStorage
from bud.engines.pod import CONTAINER_SECURITY, POD_SECURITY, WEIGHTS_PATH, Document
from bud.kube.kinds import CLAIMS, JOBS, MANAGED_BY, MANAGER, OWNER_KIND, OWNER_NAME, WANTED_BY
from bud.kube.quantity import parse
from bud.kube.seen import Claim, Seen
from bud.model.placement import placement
from bud.model.storage import has_grown, size
from bud.model.view import View, describe

RESULT = "bud.studio/weights"
"""Annotation: what the download found (digest, bytes, revision, ...), as JSON; it outlives the Job."""
MADE_WITH = "bud.studio/made-with"
"""Annotation on the Job: what it was made with, as JSON; its pods' template cannot change afterwards."""
SOURCE = "bud.studio/source"
"""Annotation: where the weights come from, for people."""

WORKER = "weights"
PERMANENT_EXIT = 10
"""Exit code of the download program for what retrying cannot heal."""

_FOR_AZURE = {"azure.workload.identity/use": "true"}
"""Azure's webhook gives a pod the identity of its service account only when it carries this label."""


@dataclass(frozen=True)
class MadeWith:
    """What a Job was made with.

    The operator's image, the volume's size, the uid of a claim of the user's, where its pods may run, and the nodes'
    cache.
    """

    image: str
    size: str = ""
    claim: str = ""
    placement: Mapping[str, Any] = field(default_factory=dict)
    node_storage: NodeStorage | None = None


def made_with(seen: Seen | None) -> MadeWith | None:
    """What a Job that exists was made with."""
    try:
        if seen is None:
            return None
        known = orjson.loads(seen.data.annotations[MADE_WITH])
        cache = known.pop("node_storage", None)
        return MadeWith(**known, node_storage=NodeStorage(**cache) if cache is not None else None)
    except (LookupError, ValueError, TypeError):
        return None


def fills(seen: Seen, given: Seen | None) -> bool:
    """Whether what a Job did stands in the claim that the user has now, and not in one of that name before."""
    made = made_with(seen)
    return made is None or given is None or made.claim == given.uid


def must_be_made_again(view: View) -> bool:
    """Whether the Job is of no use any more.

    Its volume is another, or has grown since it failed, or its pods wait for a node while others would do.
    """
    made = made_with(view.job)
    if view.job is None or made is None or view.result is not None:
        return False
    if not fills(view.job, view.given_claim):
        return True
    kept: Claim | None = view.volume.data if view.volume is not None else None
    larger = kept is not None and bool(made.size) and parse(kept.size) > parse(made.size) and has_grown(kept)
    if view.job.data.failed:
        return larger
    return view.waits_for_node and not view.job.data.complete and made.placement != placement(view)


def metadata(view: View, annotations: Mapping[str, str], *, kept: bool = False) -> Document:
    """Metadata of a child; one that is `kept` outlives the Models that want it."""
    wanted = {} if kept else {WANTED_BY: ",".join(sorted(owner.name for owner in view.owners))}
    return {
        "annotations": {SOURCE: describe(view.spec)[:1024], **wanted, **annotations},
        "labels": _labels(view),
        "name": view.id,
        "namespace": view.namespace,
    }


def result_annotation(view: View) -> dict[str, str]:
    """What was found, and the uid of the claim that it was found in: none before the claim is there."""
    if view.result is None or (view.makes_claim and view.claim is None):
        return {}
    found = dict(view.result) | ({"claim": view.claim.uid} if view.makes_claim and view.claim is not None else {})
    return {RESULT: orjson.dumps(found, option=orjson.OPT_SORT_KEYS).decode()}


def kept_result(keeper: Seen | None) -> Mapping[str, Any] | None:
    """What a claim or a Job tells of the weights.

    A claim tells it of itself alone: one that was restored under that name, or whose note was edited, may hold
    anything.
    """
    if keeper is None:
        return None
    try:
        found = orjson.loads(keeper.data.annotations.get(RESULT, ""))
    except orjson.JSONDecodeError:
        return None
    if not isinstance(found, dict) or not found:
        return None
    if keeper.resource is CLAIMS and not _is_of(keeper, found):
        return None
    return found


def _is_of(claim: Seen, found: Mapping[str, Any]) -> bool:
    kept: Claim = claim.data
    return found.get("claim") == claim.uid and kept.phase != "Lost" and RESULT not in kept.edited


def job(view: View) -> Document:
    made = made_with(view.job) or _as_of_now(view)
    note = orjson.dumps(asdict(made), option=orjson.OPT_SORT_KEYS).decode()
    annotations = {MADE_WITH: note} | ({} if view.makes_claim else result_annotation(view))
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
            "template": {"metadata": _pod_metadata(view), "spec": _pod(view, made)},
        },
    }


def _as_of_now(view: View) -> MadeWith:
    given, where = view.given_claim, placement(view)
    if given is not None:
        return MadeWith(view.operator_image, given.data.size, given.uid, where)
    cache = view.node_storage if view.node_folder else None
    return MadeWith(view.operator_image, size(view) if view.makes_claim else "", placement=where, node_storage=cache)


def _labels(view: View) -> dict[str, str]:
    return {MANAGED_BY: MANAGER, OWNER_KIND: MODEL.kind, OWNER_NAME: view.id}


def _pod_metadata(view: View) -> Document:
    labels = _labels(view) | (_FOR_AZURE if view.spec.service_account_name is not None else {})
    return {"annotations": {SOURCE: describe(view.spec)[:1024]}, "labels": labels}


def _pod(view: View, made: MadeWith) -> Document:
    local, storage = view.spec.source.local, made.node_storage
    if storage is not None:
        volume: Document = node_cache.volume(storage.path)
    elif local is not None and local.host_path is not None:
        volume = {"hostPath": {"path": local.host_path, "type": "Directory"}}
    else:
        volume = {"persistentVolumeClaim": {"claimName": view.claim_name}}
    pod: Document = {
        # A service account is here for what a cloud gives it, by a token of its own: never for the API server.
        "automountServiceAccountToken": False,
        "containers": [_container(view, made)],
        "enableServiceLinks": False,
        "restartPolicy": "Never",
        "securityContext": POD_SECURITY,
        "volumes": [{"name": "weights"} | volume, {"name": "tmp", "emptyDir": {}}],
    }
    if view.spec.service_account_name is not None:
        pod["serviceAccountName"] = view.spec.service_account_name
    return pod | dict(made.placement)


def _container(view: View, made: MadeWith) -> Document:
    on_node = bool(view.node_folder)
    mount: Document = {"mountPath": node_cache.MOUNT if on_node else WEIGHTS_PATH, "name": "weights"}
    if not view.downloads:
        mount["readOnly"] = True
    container: Document = {
        "command": ["bud-weights"],
        "env": [
            {"name": "BUD_WEIGHTS_CONFIG", "value": orjson.dumps(_config(view, made.node_storage)).decode()},
            {"name": "HOME", "value": "/tmp"},
        ],
        "image": made.image,
        "name": WORKER,
        "resources": {"limits": {"memory": "1Gi"}, "requests": {"cpu": "100m", "memory": "256Mi"}},
        "securityContext": node_cache.SECURITY if on_node else CONTAINER_SECURITY,
        "volumeMounts": [mount, {"mountPath": "/tmp", "name": "tmp"}],
    }
    if view.spec.credentials_secret_ref is not None:
        container["envFrom"] = node_cache.credentials(view.spec.credentials_secret_ref.name)
    return container


def _config(view: View, storage: NodeStorage | None) -> dict[str, Any]:
    wanted: dict[str, Any] = {"sha256": dict(view.spec.sha256)}
    if storage is not None:
        return wanted | {"source": node_cache.source_of(view.spec)} | node_cache.where(storage, view.node_folder)
    if view.spec.source.local is not None:
        source: dict[str, Any] = {"local": {"path": view.directory or "."}}
        target = WEIGHTS_PATH
    else:
        source = node_cache.source_of(view.spec)
        target = "/".join(part for part in (WEIGHTS_PATH, view.directory) if part)
    return {"source": source, **wanted, "target": target}
