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


def conditions(verdict: Verdict, *, previous: Iterable[Condition], generation: int, now: str) -> tuple[Condition, ...]:
    """The three conditions of a verdict; `lastTransitionTime` moves only when a status does. `now` is RFC 3339."""
    known = {condition.type: condition for condition in previous}
    wanted: tuple[tuple[str, bool, str], ...] = (
        (READY, verdict.ready, verdict.message),
        (RECONCILING, verdict.reconciling, verdict.message if verdict.reconciling else ""),
        (STALLED, verdict.stalled, verdict.message if verdict.stalled else ""),
    )
    out = []
    for kind, holds, message in wanted:
        status: Literal["True", "False"] = "True" if holds else "False"
        before = known.get(kind)
        same = before is not None and before.status == status
        reason = verdict.reason if kind == READY or holds else f"Not{kind}"
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


def find(items: Iterable[Condition], kind: str) -> Condition | None:
    """The condition of a type, if there is one."""
    return next((condition for condition in items if condition.type == kind), None)
