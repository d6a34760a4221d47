"""The gateway's objects out of a cluster: watched, taken in as they change, and kept while the API server is away."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from sys import intern

from bud.api.provider import ProviderSpec
from bud.gateway.api_server import ApiServer
from bud.gateway.background import lasting
from bud.gateway.build import Assembly, Built
from bud.gateway.credentials import Credentials
from bud.gateway.parsed import Item, parsed
from bud.gateway.settings import Settings
from bud.kube.client import Client, Object
from bud.kube.kinds import (
    API_KEYS,
    CHILD_SELECTOR,
    DEPLOYMENTS,
    ENDPOINT_SLICES,
    PROJECTS,
    PROVIDERS,
    ROUTES,
    Resource,
)
from bud.kube.reflect import Reflector
from bud.kube.seen import Seen
from bud.kube.store import Store

STARTING = "the gateway has not read its keys yet; try again"
_TOO_OLD = "the gateway has not heard of its keys for too long, so it accepts none; try again later"
_WATCH_SECONDS = 8
"""The API server ends each watch after so long, with a bookmark before; one that is silent 2 s longer is dead."""
_GATHER_SECONDS = 0.005
"""News are gathered for so long, so that a burst is worked out once."""
_LOOK_SECONDS = 1.0
_DECIDE = (PROJECTS, API_KEYS)
"""What keys depend on."""


class Watch:
    """Gives the catalog whenever it changes, once all of it is known.

    The settings may narrow it to some namespaces. Keys of which nothing was heard for `max_stale_keys` seconds are no
    longer accepted; 0 accepts them for ever.
    """

    def __init__(self, client: Client, take: Callable[[Built], None], settings: Settings) -> None:
        self.heard: Callable[[float], None] = lambda age: None
        """Called every second, once all is known, with the age of what is known."""
        self._take = take
        self._most_stale = settings.max_stale_keys
        self._assembly = Assembly(settings.reach, in_cluster=True)
        self._news = asyncio.Event()
        self._is_known = self._shows_stale = False
        self._begun: float | None = None
        """When the news were first looked at that are not yet in the catalog."""
        self._store = Store()
        self._store.listen(self._noted)
        self._credentials = Credentials(client, self._assembly.put_secret, self._news.set)
        self._api_server = ApiServer(client, settings.reach)
        self._reflectors = [
            Reflector(
                client,
                self._store,
                resource,
                trim=_trim,
                selector=CHILD_SELECTOR if resource is ENDPOINT_SLICES else "",
                namespace=namespace,
                after_list=self._news.set,
                watch_seconds=_WATCH_SECONDS,
            )
            for resource in (PROJECTS, API_KEYS, PROVIDERS, ROUTES, DEPLOYMENTS, ENDPOINT_SLICES)
            for namespace in (settings.namespaces if resource.namespaced else ()) or ("",)
        ]

    async def run(self) -> None:
        """For as long as the gateway lives."""
        async with asyncio.TaskGroup() as group:
            for reflector in self._reflectors:
                group.create_task(lasting(f"the watch of {reflector.resource.plural}", reflector.run))
            group.create_task(lasting("the reading of credentials", self._credentials.run))
            group.create_task(lasting("the look at the API server's addresses", self._api_server.run))
            group.create_task(lasting("the making of the catalog", self._assemble))
            group.create_task(lasting("the look at the age of keys", self._look))

    def waits_for(self) -> str:
        """What must be read before anything can be served; empty once it was."""
        if self._is_known:
            return ""
        kinds = {reflector.resource.plural for reflector in self._reflectors if not reflector.listed.is_set()}
        if not self._api_server.tried.is_set():
            kinds.add(ENDPOINT_SLICES.plural)
        return ", ".join(sorted(kinds)) or "secrets"

    def age(self) -> float:
        """Seconds since something was last heard of that of which nothing was heard for the longest time.

        What was heard and cannot be taken in counts as not heard.
        """
        return max(self._behind, *(reflector.silent for reflector in self._reflectors))

    @property
    def _behind(self) -> float:
        return asyncio.get_running_loop().time() - self._begun if self._begun is not None else 0.0

    @property
    def _is_stale(self) -> bool:
        ages = (reflector.silent for reflector in self._reflectors if reflector.resource in _DECIDE)
        return bool(self._most_stale) and max(self._behind, *ages) > self._most_stale

    def _noted(self, resource: Resource, old: Seen | None, new: Seen | None) -> None:
        before, after = _item(old), _item(new)
        if before == after:
            return
        self._assembly.put(before, after)
        if after is not None and isinstance(after.what, ProviderSpec) and after.what.credentials_secret_ref:
            self._credentials.read_now((after.namespace, after.what.credentials_secret_ref.name))
        self._news.set()

    async def _assemble(self) -> None:
        self._news.set()
        await self._api_server.tried.wait()
        while True:
            await self._news.wait()
            await asyncio.sleep(_GATHER_SECONDS)
            self._news.clear()
            if self._begun is None:
                self._begun = asyncio.get_running_loop().time()
            await self._take_in()
            self._begun = None

    async def _take_in(self) -> None:
        if not all(reflector.listed.is_set() for reflector in self._reflectors):
            return
        more = True
        while more:
            more = self._assembly.work()
            await asyncio.sleep(0)
        self._credentials.want(self._assembly.credentials())
        if not self._is_known and self._credentials.tried:
            self._is_known = True
        if self._is_known:
            self._give()

    async def _look(self) -> None:
        """Time passes without news, too."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            self._look_again()

    def _look_again(self) -> None:
        if not self._is_known:
            return
        self.heard(self.age())
        if self._shows_stale != self._is_stale:
            self._give()

    def _give(self) -> None:
        built = self._assembly.built()
        self._shows_stale = self._is_stale
        catalog = replace(built.catalog, fault=_TOO_OLD) if self._shows_stale else built.catalog
        self._take(Built(catalog, built.troubles + self._credentials.troubles() + self._api_server.troubles()))


def _trim(resource: Resource, raw: Object) -> Seen:
    metadata = raw["metadata"]
    return Seen(
        resource=resource,
        namespace=intern(metadata.get("namespace", "")),
        name=metadata["name"],
        uid="",
        version=int(metadata["resourceVersion"]),
        owner_kind="",
        owner_name="",
        owner_uids=frozenset(),
        deleting="deletionTimestamp" in metadata,
        fingerprint=b"",
        data=parsed(resource.kind, raw),
    )


def _item(seen: Seen | None) -> Item | None:
    """None also for what is being deleted: a key is refused from the moment on at which somebody said so."""
    if seen is None or seen.deleting:
        return None
    item: Item = seen.data
    return item
