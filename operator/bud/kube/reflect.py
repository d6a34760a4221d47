"""The reflector: one list and one watch for each resource, into the store, for as long as the operator lives."""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Callable

from bud.errors import ApiRefused, ApiUnavailable, BudError
from bud.kube.client import WATCH_SECONDS, Client, Object
from bud.kube.kinds import APPS, AUTOSCALERS, PODS, Resource
from bud.kube.seen import Seen
from bud.kube.store import Store

log = logging.getLogger("bud.reflect")

Trim = Callable[[Resource, Object], Seen]

_FIRST_BACKOFF = 0.2
_MAX_BACKOFF = 10.0
_READ_EVERY = {AUTOSCALERS: 0.5, PODS: 0.1, APPS: 0.05}
"""Seconds by which news may be late: of one start, pods and apps/v1 tell ten times, and each autoscaler writes new
figures every 15 s, none of which decides."""


class Reflector:
    """Keeps the store true for one resource; `listed` is set once the first list is in.

    A list replaces what is known, so that what a broken watch missed is repaired. `selector` filters at the server;
    `namespace` narrows it to one, empty for all; `after_list` is called after every list. Watches end after so many
    `watch_seconds`: a dead one is found within a quarter more.
    """

    def __init__(  # noqa: PLR0913  two to reach the cluster, one to fill, five that say what and how
        self,
        client: Client,
        store: Store,
        resource: Resource,
        *,
        trim: Trim,
        selector: str = "",
        namespace: str = "",
        after_list: Callable[[], object] = lambda: None,
        watch_seconds: float = WATCH_SECONDS,
    ) -> None:
        self._client = client
        self._store = store
        self.resource = resource
        self._trim = trim
        self._selector = selector
        self.namespace = namespace
        self._after_list = after_list
        self._seconds = watch_seconds
        self.listed = asyncio.Event()
        self._heard = -math.inf
        self._told = False

    @property
    def silent(self) -> float:
        """Seconds since the API server last said anything of the resource."""
        return asyncio.get_running_loop().time() - self._heard

    async def run(self) -> None:
        """Lists and watches until cancelled; any fault leads to a new list after a growing pause.

        The pause is short again once a watch has told something: a list alone proves nothing of the watch.
        """
        backoff = _FIRST_BACKOFF
        while True:
            self._told = False
            try:
                await self._watch(await self.list())
            except (BudError, LookupError, TypeError, ValueError) as error:
                unexpected = not isinstance(error, BudError)
                log.warning(
                    "watch of %s interrupted, listing again: %s",
                    self.resource.plural,
                    str(error) or repr(error),
                    exc_info=unexpected,
                )
                backoff = _FIRST_BACKOFF if self._told else backoff
                await asyncio.sleep(backoff * random.uniform(0.8, 1.2))
                backoff = min(backoff * 2, _MAX_BACKOFF)

    async def list(self) -> str:
        """Replaces what the store knows of the resource; gives the version of the list."""
        items: list[Seen] = []
        token = ""
        while True:
            page = await self._client.list_page(
                self.resource, namespace=self.namespace, selector=self._selector, token=token
            )
            items += [seen for item in page["items"] if (seen := self._read(item)) is not None]
            token = page["metadata"].get("continue", "")
            if not token:
                break
        version: str = page["metadata"]["resourceVersion"]
        self._store.replace(self.resource, items, int(version), namespace=self.namespace)
        self._heard = asyncio.get_running_loop().time()
        self.listed.set()
        self._after_list()
        return version

    async def _watch(self, version: str) -> None:
        clock, pause = asyncio.get_running_loop().time, _FIRST_BACKOFF
        while True:
            before, start = version, clock()
            async for event in self._client.watch(
                self.resource,
                namespace=self.namespace,
                selector=self._selector,
                version=version,
                every=_READ_EVERY.get(self.resource, 0.0),
                seconds=self._seconds,
            ):
                self._heard = clock()
                version = self._take(event)
                self._told = True
            if clock() - start > min(_MAX_BACKOFF, self._seconds / 2):
                # It ended when it was to end, by the server.
                self._heard = clock()
                pause = _FIRST_BACKOFF
                continue
            if version != before:
                pause = _FIRST_BACKOFF
                continue
            await asyncio.sleep(pause)
            pause = min(pause * 2, _MAX_BACKOFF)

    def _take(self, event: Object) -> str:
        raw = event["object"]
        if event["type"] == "ERROR":
            message = str(raw.get("message"))
            if raw.get("code") == 410:
                raise ApiUnavailable(message, reason="Expired")
            raise ApiRefused(message, status=int(raw.get("code") or 500))
        version: str = raw["metadata"]["resourceVersion"]
        if event["type"] == "DELETED":
            key = raw["metadata"].get("namespace", ""), raw["metadata"]["name"]
            self._store.remove(self.resource, key, int(version))
        elif event["type"] != "BOOKMARK" and (seen := self._read(raw)) is not None:
            self._store.put(seen)
        return version

    def _read(self, raw: Object) -> Seen | None:
        """One object that cannot be read must not blind the operator to all others."""
        try:
            # Every write of ours comes back: what its answer told already is not worked out again.
            return self._store.known(self.resource, raw["metadata"]) or self._trim(self.resource, raw)
        except (BudError, LookupError, TypeError, ValueError, AttributeError):
            log.exception("cannot read %s %s", self.resource.plural, raw.get("metadata", {}).get("name"))
            return None
