"""The one place that writes to the cluster."""

from __future__ import annotations

import contextlib
import datetime
import logging
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Literal

from bud.errors import ApiConflict, ApiForbidden, ApiRefused, ApiUnavailable, NameConflict
from bud.kube.client import Client, Object
from bud.kube.kinds import (
    EVENTS,
    MANAGER,
    OF_NOTHING,
    OWNER_KIND,
    OWNER_NAME,
    STATUS_MANAGER,
    Resource,
)
from bud.kube.owned import wanted_fingerprint
from bud.kube.seen import Own, Seen, see, wanted_by
from bud.kube.store import Store

log = logging.getLogger("bud.write")

SeeOwn = Callable[[Resource, Object], Seen]
Count = Callable[[str, str], None]
"""Called with the verb and the kind of every write."""
Fence = Callable[[], AbstractAsyncContextManager[None]]
"""Around every write: raises `WaitingError` when this process must not write any more."""

_NOTE_LIMIT = 1000
_REMEMBERED = 1000


class Writer:
    """Applies, deletes and reports; what the API server answers enters the store at once.

    Server-side apply with field manager `bud-operator`. An apply is skipped when the fields we own are as wanted, so a
    settled cluster costs no write.
    """

    def __init__(
        self, client: Client, store: Store, *, see_own: SeeOwn, instance: str, count: Count, fence: Fence
    ) -> None:
        self._client = client
        self._store = store
        self._see_own = see_own
        self._instance = instance
        self._count = count
        self._fence = fence
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
        async with self._writing("apply", resource):
            _, answer = await self._client.apply(pinned, resource, manager=MANAGER, force=True)
        return self._take(answer, resource, wanted)

    async def put(self, document: Object, resource: Resource) -> Object:
        """Makes an object that no watch tells of, or changes the very version that the document names.

        Raises `ApiConflict` when there is another by now, and what `Client` raises.
        """
        async with self._writing("apply", resource):
            return (await self._client.apply(document, resource, manager=MANAGER, force=True))[1]

    async def confirm(self, owner: Seen) -> bool:
        """Whether the owner of a child that vanished is still there: news of the two come by different watches.

        An owner that is gone is forgotten.
        """
        try:
            live = await self._client.get(owner.resource, namespace=owner.namespace, name=owner.name)
        except ApiRefused as error:
            self._forget(owner, error)
            return False
        if live["metadata"]["uid"] == owner.uid and "deletionTimestamp" not in live["metadata"]:
            return True
        self._store.put(self._see_own(owner.resource, live))
        return False

    async def delete(self, seen: Seen) -> None:
        """Deletes a child, its dependents in the background."""
        if seen.deleting:
            return
        async with self._writing("delete", seen.resource):
            await self._client.delete(seen.resource, namespace=seen.namespace, name=seen.name, uid=seen.uid)

    async def remove(self, resource: Resource, *, namespace: str, name: str) -> None:
        """Deletes an object that no watch tells of; one that is not there is fine."""
        async with self._writing("delete", resource):
            await self._client.delete(resource, namespace=namespace, name=name)

    async def status(self, owner: Seen, status: Mapping[str, Any]) -> None:
        """Replaces the status of one of our objects."""
        document = _about(owner) | {"status": status}
        try:
            async with self._writing("status", owner.resource):
                _, answer = await self._client.apply(
                    document, owner.resource, manager=STATUS_MANAGER, force=True, subresource="status"
                )
        except ApiRefused as error:
            self._forget(owner, error)
        else:
            self._take_own(answer, owner.resource)

    async def finalizers(self, owner: Seen, finalizers: tuple[str, ...]) -> None:
        """Sets all finalizers of one of our objects, whoever put them there: a restored object brings ours along.

        Raises `ApiConflict` when the object changed since it was seen.
        """
        metadata = {"finalizers": list(finalizers), "uid": owner.uid, "resourceVersion": str(owner.version)}
        try:
            async with self._writing("finalizers", owner.resource):
                answer = await self._client.merge(
                    {"metadata": metadata}, owner.resource, namespace=owner.namespace, name=owner.name, manager=MANAGER
                )
        except ApiRefused as error:
            self._forget(owner, error)
        else:
            self._take_own(answer, owner.resource)

    async def event(self, owner: Seen, *, kind: Literal["Normal", "Warning"], reason: str, note: str) -> None:
        """Records an Event about one of our objects; one that cannot be written is only logged."""
        now = datetime.datetime.now(datetime.UTC)
        second = now.strftime("%Y-%m-%dT%H:%M:%SZ")
        namespace = owner.namespace or "default"
        document = {
            "apiVersion": EVENTS.api_version,
            "kind": EVENTS.kind,
            "metadata": {"name": f"{owner.name[:230]}.{secrets.token_hex(8)}", "namespace": namespace},
            "eventTime": now.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "firstTimestamp": second,
            "lastTimestamp": second,
            "count": 1,
            "type": kind,
            "reason": reason,
            "message": note[:_NOTE_LIMIT],
            "action": "Reconcile",
            "reportingComponent": MANAGER,
            "reportingInstance": self._instance,
            "source": {"component": MANAGER},
            "involvedObject": {
                "apiVersion": owner.resource.api_version,
                "kind": owner.resource.kind,
                "name": owner.name,
                "namespace": owner.namespace,
                "uid": owner.uid,
            },
        }
        try:
            async with self._writing("event", owner.resource):
                await self._client.create(document, EVENTS, namespace=namespace)
        except (ApiForbidden, ApiRefused, ApiUnavailable) as error:
            ending = "being terminated" in str(error)
            log.log(
                logging.DEBUG if ending else logging.WARNING,
                "event %s about %s/%s is lost: %s",
                reason,
                owner.namespace,
                owner.name,
                error,
            )

    async def _create(self, document: Object, resource: Resource, wanted: bytes) -> bool:
        """Makes what the store lacks, and changes nothing that is there: it may not be ours."""
        new = document | {"metadata": {**document["metadata"], "resourceVersion": OF_NOTHING}}
        try:
            async with self._writing("create", resource):
                _, answer = await self._client.apply(new, resource, manager=MANAGER, force=True)
        except ApiConflict:
            answer = await self._take_back(document, resource)
        return self._take(answer, resource, wanted)

    async def _take_back(self, document: Object, resource: Resource) -> Object:
        """An object that is there without our labels is somebody else's, or ours with its labels lost."""
        metadata = document["metadata"]
        try:
            live = await self._client.get(resource, namespace=metadata.get("namespace"), name=metadata["name"])
        except ApiRefused as error:
            if error.status != 404:  # else it has gone since, or the conflict was over something else
                raise
        else:
            _same_owner(see(resource, live), metadata)
            document = document | {"metadata": {**metadata, "uid": live["metadata"]["uid"]}}
        async with self._writing("apply", resource):
            return (await self._client.apply(document, resource, manager=MANAGER, force=True))[1]

    @contextlib.asynccontextmanager
    async def _writing(self, verb: str, resource: Resource) -> AsyncIterator[None]:
        async with self._fence():
            self._count(verb, resource.kind)
            yield

    def _take(self, answer: Object, resource: Resource, wanted: bytes) -> bool:
        seen = see(resource, answer)
        self._store.put(seen)
        uid, got = seen.uid, seen.fingerprint
        if got == wanted:
            self._mutated.pop(uid, None)
            return True
        log.warning("%s %s comes back changed", resource.kind, answer["metadata"]["name"])
        if len(self._mutated) >= _REMEMBERED:
            self._mutated.pop(next(iter(self._mutated)))
        self._mutated[uid] = (wanted, got)
        return False

    def _forget(self, owner: Seen, error: ApiRefused) -> None:
        """An object that is gone although nobody said so must not get its children back again and again."""
        if error.status != 404:
            raise error
        self._store.remove(owner.resource, owner.key, owner.version)

    def _take_own(self, answer: Object, resource: Resource) -> None:
        # The answer to the patch that removed the last finalizer of a deleted object is its last breath.
        if "deletionTimestamp" not in answer["metadata"] or answer["metadata"].get("finalizers"):
            self._store.put(self._see_own(resource, answer))


def _about(owner: Seen) -> Object:
    metadata: Object = {"name": owner.name, "uid": owner.uid}
    if owner.namespace:
        metadata["namespace"] = owner.namespace
    assert isinstance(owner.data, Own)
    return {"apiVersion": owner.resource.api_version, "kind": owner.resource.kind, "metadata": metadata}


def _same_owner(seen: Seen, wanted: Mapping[str, Any]) -> None:
    """By labels, which outlive a restore under new uids, or by uid or Model, which outlive an edit of the labels."""
    labels, references = wanted["labels"], wanted.get("ownerReferences", ())
    by_label = (seen.owner_kind, seen.owner_name) == (labels[OWNER_KIND], labels[OWNER_NAME])
    by_uid = not seen.owner_uids.isdisjoint(reference["uid"] for reference in references)
    if not by_label and not by_uid and seen.links.isdisjoint(wanted_by(wanted)):
        owner = f"{seen.owner_kind} {seen.owner_name}".strip() or "somebody else"
        raise NameConflict(
            f"{seen.resource.kind} {seen.name} exists and belongs to {owner}; delete it or rename one of the two"
        )
