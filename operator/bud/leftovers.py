"""What gateways wrote of Deployments and Projects that are gone: notes of use and ledgers.

They stand in the gateways' own namespace, so that no owner reference to a Deployment can be made; and one to a Project
would take its ledger at a restore, which makes new uids.
"""

from __future__ import annotations

from bud.context import Context
from bud.kube.kinds import CONFIG_MAPS, DEPLOYMENTS, LEASES, LEDGER_PREFIX, PROJECTS, Resource
from bud.kube.seen import Seen
from bud.ledger import KEY_PARTS
from bud.times import seconds_between

KEPT_SECONDS = 3600.0
"""Nothing is deleted that was written so lately, or whose owner was there: one may be new, or about to come back."""


async def reconcile_note(context: Context, namespace: str, name: str) -> float | None:
    """Deletes the note of use of a Deployment that is gone."""
    note = context.store.get(LEASES, namespace, name)
    if note is None or context.store.linked(DEPLOYMENTS, namespace="", link=f"id:{name}"):
        return _keep(context, LEASES, name)
    return await _delete(context, note, note.data.renewed)


async def reconcile_ledger(context: Context, namespace: str, name: str) -> float | None:
    """Deletes the ledger of a Project that is gone, in all its parts."""
    first = context.store.get(CONFIG_MAPS, namespace, name)
    id = name.removeprefix(LEDGER_PREFIX)
    if first is None or context.store.linked(PROJECTS, namespace="", link=f"id:{id}"):
        return _keep(context, CONFIG_MAPS, name)
    written = first.data.written if first.data is not None else ""
    parts = [f"{name}-{number}" for number in range(1, 1 + KEY_PARTS)]
    return await _delete(context, first, written, *parts)


def _keep(context: Context, resource: Resource, name: str) -> float | None:
    context.missed.pop((resource.kind, name), None)
    return None


async def _delete(context: Context, seen: Seen, written: str, *others: str) -> float | None:
    """Deletes what was written, and whose owner was first missed, long ago: never what does not say when."""
    if not written:
        return None
    now, what = context.now(), (seen.resource.kind, seen.name)
    missed = context.missed.setdefault(what, now)
    left = KEPT_SECONDS - min(seconds_between(since, now) for since in (written, missed))
    if left > 0:
        return left
    # That which is seen goes last: while it is there, the others are looked for again.
    for name in others:
        await context.writer.remove(seen.resource, namespace=seen.namespace, name=name)
    await context.writer.delete(seen)
    del context.missed[what]
    return None
