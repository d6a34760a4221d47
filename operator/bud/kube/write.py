"""The one place that writes to the cluster."""

from __future__ import annotations

import datetime
import logging
import secrets
from collections.abc import Callable, Mapping
from typing import Any, Literal

from bud.errors import ApiConflict, ApiForbidden, ApiRefused, NameConflict
from bud.kube.client import Client, Object
from bud.kube.kinds import (
    EVENTS,
    FINALIZER_MANAGER,
    MANAGER,
    OWNER_KIND,
    OWNER_NAME,
    STATUS_MANAGER,
    Resource,
)
from bud.kube.owned import fingerprint, other_spec_managers, wanted_fingerprint
from bud.kube.seen import Own, Seen, see
from bud.kube.store import Store

log = logging.getLogger("bud.write")

SeeOwn = Callable[[Resource, Object], Seen]
Count = Callable[[str, str], None]
"""Called with the verb and the kind of every write."""

_NOTE_LIMIT = 1000


class Writer:
    """Applies, deletes and reports; what the API server answers enters the store at once.

    Server-side apply with field manager `bud-operator`. An apply is skipped when the fields we own are as wanted, so a
    settled cluster costs no write.
    """

    def __init__(self, client: Client, store: Store, *, see_own: SeeOwn, instance: str, count: Count) -> None:
        self._client = client
        self._store = store
        self._see_own = see_own
        self._instance = instance
        self._count = count
        self._mutated: dict[str, tuple[bytes, bytes]] = {}

    async def apply(self, document: Object, resource: Resource) -> bool:
        """Makes a child as the document wants it; True unless something else in the cluster changes it back.

        Raises `NameConflict` when an object of that name belongs to somebody else, and what `Client` raises.
        """
        metadata = document["metadata"]
        seen = self._store.get(resource, metadata.get("namespace", ""), metadata["name"])
        wanted = wanted_fingerprint(document)
        if seen is None:
            return await self._create(document, resource, wanted)
        _same_owner(seen, metadata)
        if seen.fingerprint == wanted or seen.deleting:
            return True
        if self._mutated.get(seen.uid) == (wanted, seen.fingerprint):
            return False
        pinned = document | {"metadata": {**metadata, "uid": seen.uid}}
        self._count("apply", resource.kind)
        _, answer = await self._client.apply(pinned, resource, manager=MANAGER, force=True)
        return self._take(answer, resource, wanted)

    async def delete(self, seen: Seen) -> None:
        """Deletes a child, its dependents in the background."""
        if seen.deleting:
            return
        self._count("delete", seen.resource.kind)
        await self._client.delete(seen.resource, namespace=seen.namespace, name=seen.name, uid=seen.uid)

    async def status(self, owner: Seen, status: Mapping[str, Any]) -> None:
        """Replaces the status of one of our objects."""
        document = _about(owner) | {"status": status}
        self._count("status", owner.resource.kind)
        await self._own(document, owner.resource, manager=STATUS_MANAGER, subresource="status")

    async def finalizers(self, owner: Seen, finalizers: tuple[str, ...]) -> None:
        """Sets the finalizers that we hold on one of our objects."""
        document = _about(owner)
        if finalizers:
            document["metadata"]["finalizers"] = list(finalizers)
        self._count("finalizers", owner.resource.kind)
        await self._own(document, owner.resource, manager=FINALIZER_MANAGER)

    async def event(self, owner: Seen, *, kind: Literal["Normal", "Warning"], reason: str, note: str) -> None:
        """Records an Event about one of our objects; one that cannot be written is only logged."""
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        namespace = owner.namespace or "default"
        document = {
            "apiVersion": EVENTS.api_version,
            "kind": EVENTS.kind,
            "metadata": {"name": f"{owner.name[:230]}.{secrets.token_hex(8)}", "namespace": namespace},
            "eventTime": now,
            "type": kind,
            "reason": reason,
            "note": note[:_NOTE_LIMIT],
            "action": "Reconcile",
            "reportingController": MANAGER,
            "reportingInstance": self._instance,
            "regarding": {
                "apiVersion": owner.resource.api_version,
                "kind": owner.resource.kind,
                "name": owner.name,
                "namespace": owner.namespace,
                "uid": owner.uid,
            },
        }
        self._count("event", owner.resource.kind)
        try:
            await self._client.create(document, EVENTS, namespace=namespace)
        except (ApiForbidden, ApiRefused) as error:
            log.warning("event %s about %s/%s refused: %s", reason, owner.namespace, owner.name, error)

    async def _create(self, document: Object, resource: Resource, wanted: bytes) -> bool:
        metadata = document["metadata"]
        name = f"{resource.kind} {metadata['name']}"
        self._count("create", resource.kind)
        try:
            # Not forced: fields that somebody else owns are a conflict here, not ours to take.
            status, answer = await self._client.apply(document, resource, manager=MANAGER, force=False)
        except ApiConflict as error:
            if "is being deleted" in str(error):
                raise
            raise NameConflict(
                f"{name} exists and is not managed by this object; delete or rename it ({error})"
            ) from error
        if status != 201 and (others := other_spec_managers(answer)):
            bare = {key: document[key] for key in ("apiVersion", "kind")}
            bare["metadata"] = {key: metadata[key] for key in ("name", "namespace") if key in metadata}
            await self._client.apply(bare, resource, manager=MANAGER, force=True)
            raise NameConflict(f"{name} exists and was made by {', '.join(others)}; delete or rename it")
        return self._take(answer, resource, wanted)

    def _take(self, answer: Object, resource: Resource, wanted: bytes) -> bool:
        self._store.put(see(resource, answer))
        uid, got = answer["metadata"]["uid"], fingerprint(answer)
        if got == wanted:
            self._mutated.pop(uid, None)
            return True
        log.warning("%s %s comes back changed", resource.kind, answer["metadata"]["name"])
        self._mutated[uid] = (wanted, got)
        return False

    async def _own(self, document: Object, resource: Resource, *, manager: str, subresource: str = "") -> None:
        try:
            _, answer = await self._client.apply(
                document, resource, manager=manager, force=True, subresource=subresource
            )
        except ApiRefused as error:
            if error.status == 404:
                return
            raise
        if "deletionTimestamp" not in answer["metadata"] or answer["metadata"].get("finalizers"):
            self._store.put(self._see_own(resource, answer))


def _about(owner: Seen) -> Object:
    metadata: Object = {"name": owner.name, "uid": owner.uid}
    if owner.namespace:
        metadata["namespace"] = owner.namespace
    assert isinstance(owner.data, Own)
    return {"apiVersion": owner.resource.api_version, "kind": owner.resource.kind, "metadata": metadata}


def _same_owner(seen: Seen, wanted: Mapping[str, Any]) -> None:
    """By labels, which outlive a restore under new uids, or by uid, which outlives an edit of the labels."""
    labels, references = wanted["labels"], wanted.get("ownerReferences", ())
    by_label = (seen.owner_kind, seen.owner_name) == (labels[OWNER_KIND], labels[OWNER_NAME])
    if not by_label and seen.owner_uids.isdisjoint(reference["uid"] for reference in references):
        owner = f"{seen.owner_kind} {seen.owner_name}".strip() or "somebody else"
        raise NameConflict(
            f"{seen.resource.kind} {seen.name} exists and belongs to {owner}; delete it or rename one of the two"
        )
