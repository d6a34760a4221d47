"""How many replicas are wanted, and who says so: pure."""

from __future__ import annotations

from typing import NamedTuple

from bud.deployment.sleep import sleeps
from bud.deployment.view import View, active_scaling


class Replicas(NamedTuple):
    """`number` is None where it is left to the autoscaler; `repeated` says that it is the one seen, not the spec's."""

    number: int | None
    repeated: bool = False


def replicas(view: View) -> Replicas:
    """What stands in `replicas` of the apps/v1 Deployment.

    Nothing interrupts what runs but a number in the spec: without one, and at every hand-over to an autoscaler, what is
    seen is repeated, pinned to the version at which it was seen. Server-side apply resets a field that its only owner
    leaves out, so under autoscaling we let go of it only once the autoscaler has written it.
    """
    seen, scaling = view.app_data, active_scaling(view.spec)
    if view.spec.stopped or sleeps(view):
        return Replicas(0)
    if scaling is None and view.spec.replicas is not None:
        return Replicas(view.spec.replicas)
    if seen is None or seen.wanted == 0:
        return Replicas(max(1, scaling.min_replicas) if scaling is not None else 1)
    if scaling is None or seen.owns_replicas:
        return Replicas(seen.wanted, repeated=True)
    return Replicas(None)


def may_be_several(view: View) -> bool:
    """Whether more than one replica is wanted, now or when the autoscaler says so."""
    scaling = active_scaling(view.spec)
    if scaling is not None:
        return scaling.max_replicas > 1
    return (replicas(view).number or 0) > 1
