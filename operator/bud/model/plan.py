"""What a Model wants to exist: pure, from what is seen to the objects."""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from bud.api import API_VERSION, MODEL
from bud.api.model import ModelSpec
from bud.engines.pod import CONTAINER_SECURITY, POD_SECURITY, WEIGHTS_PATH, Document, is_below
from bud.errors import InvalidError, WaitingError
from bud.kube.kinds import CLAIMS, JOBS, MANAGED_BY, MANAGER, OWNER_KIND, OWNER_NAME, Resource, slug
from bud.kube.quantity import canonical
from bud.kube.seen import Seen

RESULT = "bud.studio/weights"
"""Annotation: what the download found (digest, bytes, revision, ...), as JSON; it outlives the Job."""
IMAGE = "bud.studio/image"
"""Annotation on the Job: the image it was made with, which an upgrade must not change under it."""
SOURCE = "bud.studio/source"
"""Annotation: where the weights come from, for people."""

FINALIZER = "bud.studio/model-in-use"

WORKER = "weights"
PERMANENT_EXIT = 10
"""Exit code of the download program for what retrying cannot heal."""


@dataclass(frozen=True)
class View:
    """All that decides what a Model wants.

    `claim` and `job` are those of the copy, unless they are being deleted: `older_claim` says that such a claim is
    still in the way. `owners` are name and uid of every Model of the namespace that wants the same copy, this one
    included; `users` are the Deployments that refer to this Model; `stale` are claims and Jobs of copies that it
    wanted before.
    """

    namespace: str
    name: str
    uid: str
    generation: int
    deleting: bool
    spec: ModelSpec
    owners: tuple[tuple[str, str], ...]
    users: tuple[str, ...]
    claim: Seen | None
    job: Seen | None
    older_claim: bool
    source_claim: Seen | None
    result: Mapping[str, Any] | None
    stale: tuple[Seen, ...]
    operator_image: str
    default_size: str
    host_path_prefixes: tuple[str, ...]

    @property
    def id(self) -> str:
        return copy_id(self.namespace, self.spec)

    @property
    def downloads(self) -> bool:
        """Whether the weights are copied into a volume of ours."""
        return self.spec.source.local is None


@dataclass(frozen=True)
class Plan:
    """The objects wanted, and those that are not wanted any more."""

    objects: tuple[tuple[Resource, Document], ...]
    unwanted: tuple[Seen, ...]


def copy_id(namespace: str, spec: ModelSpec) -> str:
    """Name of a copy: Models of a namespace share one when source, credentials, hashes and storage are the same."""
    fields = spec.model_dump(
        mode="json",
        by_alias=True,
        include={"source", "credentials_secret_ref", "sha256", "storage"},
        exclude_defaults=True,
    )
    text = namespace.encode() + b"/" + orjson.dumps(fields, option=orjson.OPT_SORT_KEYS)
    return f"{slug(_title(spec))}-{hashlib.sha256(text).hexdigest()[:8]}"


def describe(spec: ModelSpec) -> str:
    """The source in one line, without credentials."""
    source = spec.source
    if source.hugging_face is not None:
        return f"hf://{source.hugging_face.repo}@{source.hugging_face.revision}"
    if source.url is not None:
        return _without_credentials(source.url.url or source.url.urls[0])
    if source.cloud is not None:
        return source.cloud.uri
    local = source.local
    if local is None:
        return ""
    return f"pvc://{local.pvc}/{local.path}" if local.pvc else f"file://{local.host_path}"


def directory(spec: ModelSpec) -> str:
    """Folder or file of the weights within their volume; "" for all of it."""
    local = spec.source.local
    if local is None or local.host_path:
        return ""
    path = posixpath.normpath(local.path)
    return "" if path == "." else path


def plan(view: View) -> Plan:
    """The objects wanted.

    Raises `WaitingError` while something outside the spec is missing, and `InvalidError` for a spec that cannot work.
    """
    _check_local(view)
    if view.older_claim:
        raise WaitingError(
            f"claim {view.id} of before is still being deleted; it goes when the last pod that mounts it does",
            reason="ClaimDeleting",
        )
    whole = view.result is not None
    objects: list[tuple[Resource, Document]] = []
    if view.downloads:
        objects.append((CLAIMS, _claim(view)))
    if not (whole and view.downloads and view.claim is not None and RESULT in view.claim.data.annotations):
        objects.append((JOBS, _job(view)))
    unwanted = [child for child in view.stale if whole or not _is_whole(child)]
    if view.job is not None and all(resource is not JOBS for resource, _ in objects):
        unwanted.append(view.job)
    return Plan(tuple(objects), tuple(unwanted))


def _is_whole(child: Seen) -> bool:
    return child.resource is CLAIMS and RESULT in child.data.annotations


def _check_local(view: View) -> None:
    local = view.spec.source.local
    if local is None:
        return
    if local.pvc is not None and view.source_claim is None:
        raise WaitingError(
            f"no PersistentVolumeClaim {local.pvc} in namespace {view.namespace}; create it or correct "
            "spec.source.local.pvc",
            reason="ClaimNotFound",
        )
    if local.host_path is not None and not is_below(local.host_path, view.host_path_prefixes):
        allowed = ", ".join(view.host_path_prefixes) or "none"
        raise InvalidError(
            f"spec.source.local.hostPath {local.host_path} is not under a prefix that the operator allows ({allowed}); "
            "use a claim, or ask the administrator for --allow-host-path",
            reason="HostPathNotAllowed",
        )


def _title(spec: ModelSpec) -> str:
    return describe(spec).split("://", 1)[-1].partition("@")[0].rstrip("/").rsplit("/", 1)[-1].partition("?")[0]


def _without_credentials(url: str) -> str:
    scheme, _, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path.partition('?')[0]}"


def _labels(view: View) -> dict[str, str]:
    return {MANAGED_BY: MANAGER, OWNER_KIND: MODEL.kind, OWNER_NAME: view.id}


def _metadata(view: View, name: str, annotations: dict[str, str]) -> Document:
    return {
        "annotations": annotations,
        "labels": _labels(view),
        "name": name,
        "namespace": view.namespace,
        "ownerReferences": [
            {"apiVersion": API_VERSION, "kind": MODEL.kind, "name": name, "uid": uid} for name, uid in view.owners
        ],
    }


def _result_annotation(view: View) -> dict[str, str]:
    if view.result is None:
        return {}
    return {RESULT: orjson.dumps(view.result, option=orjson.OPT_SORT_KEYS).decode()}


def _claim(view: View) -> Document:
    storage = view.spec.storage
    size = canonical(storage.size if storage.size is not None else view.default_size)
    if view.claim is not None:
        size = view.claim.data.size  # never shrunk: by another default, or after somebody expanded it
    spec: Document = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}}
    if storage.storage_class_name is not None:
        spec["storageClassName"] = storage.storage_class_name
    return {
        "apiVersion": CLAIMS.api_version,
        "kind": CLAIMS.kind,
        "metadata": _metadata(view, view.id, {SOURCE: describe(view.spec)[:1024]} | _result_annotation(view)),
        "spec": spec,
    }


def _job(view: View) -> Document:
    image = view.job.data.annotations.get(IMAGE, view.operator_image) if view.job is not None else view.operator_image
    annotations = {IMAGE: image, SOURCE: describe(view.spec)[:1024]}
    if not view.downloads:
        annotations |= _result_annotation(view)
    return {
        "apiVersion": JOBS.api_version,
        "kind": JOBS.kind,
        "metadata": _metadata(view, view.id, annotations),
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
            "template": {
                "metadata": {"annotations": {SOURCE: describe(view.spec)[:1024]}, "labels": _labels(view)},
                "spec": _pod(view, image),
            },
        },
    }


def _pod(view: View, image: str) -> Document:
    local = view.spec.source.local
    if local is not None and local.host_path is not None:
        volume: Document = {"hostPath": {"path": local.host_path, "type": "Directory"}}
    else:
        volume = {"persistentVolumeClaim": {"claimName": local.pvc if local is not None else view.id}}
    return {
        "automountServiceAccountToken": False,
        "containers": [_container(view, image)],
        "enableServiceLinks": False,
        "restartPolicy": "Never",
        "securityContext": POD_SECURITY,
        "volumes": [{"name": "weights"} | volume, {"name": "tmp", "emptyDir": {}}],
    }


def _container(view: View, image: str) -> Document:
    mount: Document = {"mountPath": WEIGHTS_PATH, "name": "weights"}
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
        "securityContext": CONTAINER_SECURITY,
        "volumeMounts": [mount, {"mountPath": "/tmp", "name": "tmp"}],
    }
    if view.spec.credentials_secret_ref is not None:
        # The prefix keeps a Secret from setting variables that mean something else to the program.
        secret = {"name": view.spec.credentials_secret_ref.name}
        container["envFrom"] = [{"prefix": "BUD_CREDENTIAL_", "secretRef": secret}]
    return container


def _config(view: View) -> Document:
    source = view.spec.source.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_defaults=True)
    if view.spec.source.local is not None:
        source = {"local": {"path": directory(view.spec) or "."}}
    return {"source": source, "sha256": dict(view.spec.sha256), "target": WEIGHTS_PATH}
