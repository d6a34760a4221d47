"""Whether the nodes that pods need can share the volume of the weights. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from bud.deployment.view import View, active_scaling
from bud.errors import InvalidError
from bud.kube.seen import Claim, Pod
from bud.times import seconds_between

REASON = "StorageNotShareable"
UNSCHEDULABLE = "Unschedulable"

SCHEDULER = (
    "didn't match PersistentVolume's node affinity",
    "had volume node affinity conflict",
    "had no available volume zone",
    "had no available disk",
    "ReadWriteOncePod access mode",
)
"""What the scheduler says of nodes that fit but for the volume: it looks at taints, affinity and resources before
(pkg/scheduler/framework/plugins/volumebinding, volumezone, volumerestrictions; the second is of older releases)."""

MOUNT_SECONDS = 30
"""For so long a pod may wait for a volume that another node still uses: a pod that ends takes a while to let it go."""


def check(view: View) -> None:
    """Raises `InvalidError` when the volume is for one pod, and more are asked for."""
    claim, scaling = view.claim, active_scaling(view.spec)
    most = scaling.max_replicas if scaling is not None else view.spec.replicas or 1
    if is_for_one_pod(claim) and most > 1 and not view.spec.stopped:
        raise InvalidError(
            f"the volume of the weights is ReadWriteOncePod, for one pod alone, and {most} replicas are asked for; "
            f"{_remedy(view)}",
            reason=REASON,
        )


def trouble(view: View, pods: Collection[Pod], *, now: str) -> tuple[str, str] | None:
    """Reason and sentence when a pod cannot start because the volume is bound to another node; `now` is RFC 3339.

    Only replicas beside one that has the volume are in need of another: alone, a pod waits for the volume's node, which
    may be cordoned, full or starting anew.
    """
    for pod in pods:
        if any(words in pod.unschedulable for words in SCHEDULER):
            if _several(view) and any(_has_volumes(other) for other in pods):
                return REASON, f"a node fits but for the volume of the weights: {pod.unschedulable}; {_remedy(view)}"
            return UNSCHEDULABLE, (
                f"no node that reaches the volume of the weights takes the pod: {pod.unschedulable}; see to that node "
                f"(kubectl describe pv), or {_remedy(view)}"
            )
        if _is_one_nodes(view.claim) and waits_for_volume(pod) and seconds_between(pod.created, now) >= MOUNT_SECONDS:
            others = sorted({other.node for other in pods if _has_volumes(other)} - {pod.node})
            if others:
                return REASON, (
                    f"a pod on node {pod.node} waits for the volume of the weights, which is ReadWriteOnce and used on "
                    f"{', '.join(others)}; {_remedy(view)}"
                )
    return None


def is_for_one_pod(claim: Claim | None) -> bool:
    """Whether a second pod cannot mount the volume, on whatever node."""
    return claim is not None and claim.access_modes == ("ReadWriteOncePod",)


def any_waits(pods: Iterable[Pod]) -> bool:
    """Whether a pod waits for its volumes: no watch tells when that takes too long."""
    return any(waits_for_volume(pod) for pod in pods)


def waits_for_volume(pod: Pod) -> bool:
    """Whether a pod has a node and not yet its volumes."""
    return bool(pod.node) and not pod.mounted and not pod.ready


def _has_volumes(pod: Pod) -> bool:
    return pod.placed and pod.mounted


def _several(view: View) -> bool:
    return view.app_data is not None and view.app_data.wanted > 1


def _is_one_nodes(claim: Claim | None) -> bool:
    modes = claim.access_modes if claim is not None else ()
    return "ReadWriteOnce" in modes and not {"ReadWriteMany", "ReadOnlyMany"} & set(modes)


def _remedy(view: View) -> str:
    return (
        f"let Model {view.spec.model_ref.name} keep them on a volume that nodes share: set its "
        "spec.storage.storageClassName to a class that offers ReadWriteMany, or its spec.storage.mode to PerNode"
    )
