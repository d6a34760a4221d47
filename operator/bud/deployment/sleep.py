"""Whether a Deployment sleeps: at 0 replicas while nobody asks, until a gateway notes that somebody does. Pure."""

from __future__ import annotations

import math

from bud.deployment.view import View, active_scaling
from bud.times import seconds_between

ASLEEP = "Asleep"
"""Nobody asked for `autoScaling.idleSeconds`; the next request through a gateway wakes it."""


def sleeps(view: View) -> bool:
    """Whether it is to be at 0 replicas now."""
    return seconds_left(view) <= 0


def seconds_left(view: View) -> float:
    """Until it falls asleep if nobody asks; 0 or less when it sleeps, infinite when it does not do so by itself.

    What starts, or fails to, stays: only what is ready is idle.
    """
    scaling = active_scaling(view.spec)
    if scaling is None or scaling.min_replicas > 0 or not view.may_sleep or view.app_data is None:
        return math.inf
    is_awake = view.app_data.wanted > 0
    if is_awake and not view.ready_since:
        return math.inf
    moments = [moment for moment in (view.last_used, view.ready_since if is_awake else "") if moment]
    idle = min((seconds_between(moment, view.now) for moment in moments), default=math.inf)
    return scaling.idle_seconds - idle
