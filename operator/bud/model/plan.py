"""What a Model wants to exist: pure, from what is seen to the objects."""

from __future__ import annotations

from dataclasses import dataclass

from bud.engines.pod import Document, is_below
from bud.errors import InvalidError, WaitingError
from bud.kube.kinds import CLAIMS, JOBS, Resource
from bud.kube.seen import Seen
from bud.model.job import job, kept_result, metadata, must_be_made_again, result_annotation
from bud.model.storage import REQUESTED, access_modes, lost, must_be_replaced, requested_size, size
from bud.model.view import View, given_claim

FINALIZER = "bud.studio/model-in-use"


@dataclass(frozen=True)
class Plan:
    """The objects wanted, and those that are not wanted any more."""

    objects: tuple[tuple[Resource, Document], ...]
    unwanted: tuple[Seen, ...]


def plan(view: View) -> Plan:
    """The objects wanted.

    Raises `WaitingError` while something outside the spec is missing, and `InvalidError` for a spec that cannot work.
    """
    _check_given(view)
    if view.node_folder and view.node_storage is None:
        raise InvalidError(
            "spec.storage.mode PerNode needs an operator that was started with --node-cache-path and "
            "--node-cache-size: ask the administrator for it, or set spec.storage.mode to Shared",
            reason="NodeCacheNotEnabled",
        )
    if view.older_claim:
        raise WaitingError(
            f"claim {view.id} of before is still being deleted; it goes when the last pod that mounts it does",
            reason="ClaimDeleting",
        )
    if view.claim is not None and must_be_replaced(view):
        return Plan((), (view.claim,))
    whole = view.result is not None
    objects: list[tuple[Resource, Document]] = []
    if view.makes_claim:
        objects.append((CLAIMS, claim(view)))
    told = whole and view.makes_claim and kept_result(view.claim) is not None
    # A pod that waits for a lost volume would keep its claim from being deleted.
    if not told and lost(view) is None and not must_be_made_again(view):
        objects.append((JOBS, job(view)))
    unwanted = [child for child in view.stale if whole or not _is_whole(child)]
    if view.job is not None and all(resource is not JOBS for resource, _ in objects):
        unwanted.append(view.job)
    return Plan(tuple(objects), tuple(unwanted))


def _is_whole(child: Seen) -> bool:
    return child.resource is CLAIMS and kept_result(child) is not None


def _check_given(view: View) -> None:
    local, given = view.spec.source.local, given_claim(view.spec)
    if given is not None and view.given_claim is None:
        field = "spec.source.local.pvc" if local is not None else "spec.storage.claimName"
        raise WaitingError(
            f"no PersistentVolumeClaim {given} in namespace {view.namespace}; create it or correct {field}",
            reason="ClaimNotFound",
        )
    host_path = local.host_path if local is not None else None
    if host_path is not None and not is_below(host_path, view.host_path_prefixes):
        allowed = ", ".join(view.host_path_prefixes) or "none"
        raise InvalidError(
            f"spec.source.local.hostPath {host_path} is not under a prefix that the operator allows ({allowed}); "
            "use a claim, or ask the administrator for --allow-host-path",
            reason="HostPathNotAllowed",
        )


def claim(view: View) -> Document:
    """The claim that keeps the weights."""
    spec: Document = {
        "accessModes": access_modes(view),
        "resources": {"requests": {"storage": size(view)}},
    }
    if view.spec.storage.storage_class_name is not None:
        spec["storageClassName"] = view.spec.storage.storage_class_name
    annotations = {REQUESTED: requested_size(view)} | result_annotation(view)
    return {
        "apiVersion": CLAIMS.api_version,
        "kind": CLAIMS.kind,
        "metadata": metadata(view, annotations, kept=view.retain),
        "spec": spec,
    }
