"""What gateways wrote of Deployments and Projects that are gone: notes of use and ledgers.

They stand in the gateways' own namespace, so that no owner reference to a Deployment can be made; and one to a Project
would take its ledger at a restore, which makes new uids.
"""

from __future__ import annotations

from bud.context import Context
from bud.kube.kinds import CONFIG_MAPS, DEPLOYMENTS, LEASES, LEDGER_PREFIX, PROJECTS
from bud.kube.seen import Seen
from bud.ledger import KEY_PARTS
from bud.times import seconds_between

KEPT_SECONDS = 3600.0
"""Nothing is deleted that was written so lately: its owner may be new, or about to come back."""


async def reconcile_note(context: Context, namespace: str, name: str) -> float | None:
    """Deletes the note of use of a Deployment that is gone."""
    note = context.store.get(LEASES, namespace, name)
    if note is None or context.store.linked(DEPLOYMENTS, namespace="", link=f"id:{name}"):
        return None
    return await _delete(context, note, note.data.renewed)


async def reconcile_ledger(context: Context, namespace: str, name: str) -> float | None:
    """Deletes the ledger of a Project that is gone, in all its parts."""
    first = context.store.get(CONFIG_MAPS, namespace, name)
    id = name.removeprefix(LEDGER_PREFIX)
    if first is None or context.store.linked(PROJECTS, namespace="", link=f"id:{id}"):
        return None
    written = first.data.written if first.data is not None else ""
    parts = [f"{name}-{number}" for number in range(1, 1 + KEY_PARTS)]
    return await _delete(context, first, written, *parts)


async def _delete(context: Context, seen: Seen, written: str, *others: str) -> float | None:
    left = KEPT_SECONDS - seconds_between(written, context.now()) if written else 0.0
    if left > 0:
        return left
    # That which is seen goes last: while it is there, the others are looked for again.
    for name in others:
        await context.writer.remove(seen.resource, namespace=seen.namespace, name=name)
    await context.writer.delete(seen)
    return None
