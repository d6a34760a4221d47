"""Status and Events: written once per reconcile, and only when something changed."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, TypeVar

from bud.api.base import Condition, Resource, Status
from bud.api.conditions import DEPLOYING, READY, STALLED, Verdict, conditions, find
from bud.context import Context
from bud.errors import ApiForbidden, ApiRefused, BudError, InvalidError, NameConflict
from bud.kube.seen import Seen

log = logging.getLogger("bud.report")

R = TypeVar("R", bound=Resource)
S = TypeVar("S", bound=Status)

_UNWATCHED_SECONDS = 15.0


async def report(context: Context, owner: Seen, *, before: S, after: S, trouble: bool) -> None:
    """Writes the status when it differs, then an Event when the reason of Ready does; a warning for `trouble`.

    That a roll-out goes on is no Event: the apps/v1 Deployment has its own, and each costs as much as a child.
    """
    if after == before:
        return
    document = after.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_defaults=True)
    await context.writer.status(owner, document)
    old, new = _ready(before), _ready(after)
    if new is None or (old is not None and old.reason == new.reason):
        return
    log.info("%s %s/%s: %s: %s", owner.resource.kind, owner.namespace, owner.name, new.reason, new.message)
    if new.reason == DEPLOYING:
        return
    stalled = find(_conditions(after), STALLED)
    warning = trouble or (stalled is not None and stalled.status == "True")
    await context.writer.event(
        owner, kind="Warning" if warning else "Normal", reason=new.reason, note=new.message or new.reason
    )


def retry_after(error: BudError | None) -> float | None:
    """Seconds until the next look at what no watch tells of: a quota, an object that has a child's name, a webhook."""
    return _UNWATCHED_SECONDS if isinstance(error, ApiForbidden | ApiRefused | NameConflict) else None


def read_spec(kind: type[R], raw: Mapping[str, Any]) -> R:
    """The spec of one of our objects. Raises `InvalidError` for one that this release cannot read."""
    try:
        return kind.model_validate(raw)
    except ValueError as error:
        raise InvalidError(f"the spec cannot be read: {error}", reason="InvalidSpec") from error


def read_status(kind: type[S], raw: Mapping[str, Any]) -> S:
    """The status as it was written; one that another release wrote in words we do not know counts as none."""
    try:
        return kind.model_validate(raw)
    except ValueError:
        return kind()


async def report_unreadable(context: Context, owner: Seen, before: S, *, error: InvalidError, phase: str = "") -> None:
    """Says of a spec that the operator cannot read, as one stored by another release, that it is so."""
    generation = owner.data.generation
    verdict = Verdict(False, error.reason, str(error), stalled=True)
    shown = conditions(verdict, previous=_conditions(before), generation=generation, now=context.now())
    told = {"observed_generation": generation, "conditions": shown} | ({"phase": phase} if phase else {})
    after = before.model_copy(update=told)
    await report(context, owner, before=before, after=after, trouble=True)


def _conditions(status: Status) -> tuple[Condition, ...]:
    found: tuple[Condition, ...] = getattr(status, "conditions", ())
    return found


def _ready(status: Status) -> Condition | None:
    return find(_conditions(status), READY)
