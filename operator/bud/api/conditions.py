"""Conditions: their types, and how a new set follows from an old one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from bud.api.base import Condition

READY = "Ready"
"""True when the object does what its spec asks."""
RECONCILING = "Reconciling"
"""True while a generation of the spec is unfinished; scaling by an autoscaler is not that."""
STALLED = "Stalled"
"""True when only a person can help: the spec, or something else that a person made, must change."""
DEPLOYING = "Deploying"
"""Reason of Ready while a roll-out goes on."""
REPLICAS_IGNORED = "ReplicasIgnored"
"""On a Deployment, only while it holds: `spec.replicas`, as set by `kubectl scale`, is ignored under autoscaling."""


@dataclass(frozen=True, slots=True)
class Notice:
    """A condition beside the three, which is there only while it holds: what a person should know."""

    type: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one look at the cluster says of an object, before it becomes conditions.

    `reason` and `message` are those of Ready; `stalled` and `reconciling` are the other two conditions.
    """

    ready: bool
    reason: str
    message: str
    reconciling: bool = False
    stalled: bool = False


def conditions(
    verdict: Verdict, *notices: Notice, previous: Iterable[Condition], generation: int, now: str
) -> tuple[Condition, ...]:
    """The three conditions of a verdict, then the notices; `lastTransitionTime` moves only when a status does.

    `now` is RFC 3339.
    """
    known = {condition.type: condition for condition in previous}
    wanted: list[tuple[str, bool, str, str]] = [
        (READY, verdict.ready, verdict.reason, verdict.message),
        _negative(RECONCILING, verdict.reconciling, verdict),
        _negative(STALLED, verdict.stalled, verdict),
        *((notice.type, True, notice.reason, notice.message) for notice in notices),
    ]
    out = []
    for kind, holds, reason, message in wanted:
        status: Literal["True", "False"] = "True" if holds else "False"
        before = known.get(kind)
        same = before is not None and before.status == status
        out.append(
            Condition(
                type=kind,
                status=status,
                observed_generation=generation,
                last_transition_time=before.last_transition_time if before is not None and same else now,
                reason=reason,
                message=message,
            )
        )
    return tuple(out)


def _negative(kind: str, holds: bool, verdict: Verdict) -> tuple[str, bool, str, str]:
    return kind, holds, verdict.reason if holds else f"Not{kind}", verdict.message if holds else ""


def find(items: Iterable[Condition], kind: str) -> Condition | None:
    """The condition of a type, if there is one."""
    return next((condition for condition in items if condition.type == kind), None)
