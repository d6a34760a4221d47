"""The operator as a whole: reflectors and Kopf feed the store, it feeds the queue, the queue runs controllers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from aiohttp import web

import bud.access.handlers
import bud.deployment.handlers
import bud.deployment.network
import bud.leftovers
import bud.model.handlers
from bud.api import API_KEY, API_VERSION, DEPLOYMENT, MODEL, PROJECT, PROVIDER, ROUTE
from bud.context import Context, Settings
from bud.errors import ApiRefused, ApiUnavailable, BudError, InvalidError
from bud.kube.client import Client
from bud.kube.connect import Connection
from bud.kube.kinds import (
    APPS,
    AUTOSCALERS,
    CHILD_SELECTOR,
    CLAIMS,
    CONFIG_MAPS,
    DEPLOYMENTS,
    DISRUPTION_BUDGETS,
    JOBS,
    LEASES,
    LEDGER_SELECTOR,
    MODELS,
    NETWORK_POLICIES,
    NODES,
    PODS,
    ROLE_BINDINGS,
    SERVICES,
    STORAGE_CLASSES,
    USE_SELECTOR,
    Resource,
)
from bud.kube.lease import Leadership
from bud.kube.queue import Queue
from bud.kube.reflect import Reflector, Trim
from bud.kube.seen import see
from bud.kube.store import Store
from bud.kube.write import Writer
from bud.metrics import Metrics
from bud.ours import OURS, Hearing, on_signals, watch_ours
from bud.triggers import Key, affected, everything, see_linked

log = logging.getLogger("bud.operator")

_CHILDREN = (APPS, SERVICES, AUTOSCALERS, DISRUPTION_BUDGETS, NETWORK_POLICIES, JOBS, PODS, ROLE_BINDINGS)
_WHOLE = (CLAIMS, NODES, STORAGE_CLASSES)
"""Seen without a selector: a claim or a node that matters need not be ours."""

_LIST_SECONDS = 1.0
"""How long Kopf's list of our kinds may arrive before ours is made."""
SILENT_SECONDS = 180.0
"""A watch that says nothing for longer is broken: the API server ends each after 120 s, and sends bookmarks."""

Reconcile = Callable[[Context, str, str], Awaitable[float | None]]


class Operator:
    """One operator process over one cluster."""

    def __init__(self, connection: Connection, settings: Settings, *, version: str) -> None:
        self._connection = connection
        self._settings = settings
        self._metrics = Metrics()
        self._store = Store()
        self._client = Client.over(connection, user_agent=f"bud-operator/{version}")
        identity = f"{socket.gethostname()}_{uuid.uuid4()}"
        self._leadership: Leadership | None = None
        if settings.lease_namespace:
            self._leadership = Leadership(
                self._client, namespace=settings.lease_namespace, name="bud-operator", identity=identity
            )
        writer = Writer(
            self._client,
            self._store,
            see_own=see_linked,
            instance=socket.gethostname(),
            count=lambda verb, kind: self._metrics.writes.labels(verb, kind).inc(),
            fence=self._leadership.fence if self._leadership is not None else contextlib.nullcontext,
        )
        self._context = Context(self._client, self._store, writer, settings, self._metrics)
        self._controllers: dict[str, Reconcile] = {
            MODEL.kind: bud.model.handlers.reconcile,
            DEPLOYMENT.kind: bud.deployment.handlers.reconcile,
            NETWORK_POLICIES.kind: bud.deployment.network.reconcile,
            PROJECT.kind: bud.access.handlers.reconcile_project,
            API_KEY.kind: bud.access.handlers.reconcile_key,
            PROVIDER.kind: bud.access.handlers.reconcile_provider,
            ROUTE.kind: bud.access.handlers.reconcile_route,
            LEASES.kind: bud.leftovers.reconcile_note,
            CONFIG_MAPS.kind: bud.leftovers.reconcile_ledger,
        }
        self._queue: Queue[Key] = Queue(self._work, workers=settings.workers)
        whole = [resource for resource in _WHOLE if resource.namespaced or settings.inventory]
        self._reflectors = [
            *self._reflect(_CHILDREN, trim=see, after_list=self._children_listed, selector=CHILD_SELECTOR),
            *self._reflect(whole, trim=see, after_list=self._queue.hurry),
        ]
        if home := settings.gateway_namespace:
            for resource, selector in ((LEASES, USE_SELECTOR), (CONFIG_MAPS, LEDGER_SELECTOR)):
                self._reflectors += self._reflect(
                    [resource], trim=see, after_list=self._queue.hurry, selector=selector, home=home
                )
        self._own = self._reflect(OURS, trim=see_linked, after_list=self._queue.hurry)
        self._warm = asyncio.Event()
        self._listed_anew = asyncio.Event()
        self._hearing = Hearing()
        self._sure = asyncio.Event()
        self._leading = False

    def _reflect(
        self,
        resources: Iterable[Resource],
        *,
        trim: Trim,
        after_list: Callable[[], None],
        selector: str = "",
        home: str = "",
    ) -> list[Reflector]:
        """One for each resource and namespace: `home`, or those that are served."""
        return [
            Reflector(
                self._client,
                self._store,
                resource,
                trim=trim,
                selector=selector,
                namespace=namespace,
                after_list=after_list,
            )
            for resource in resources
            for namespace in (home and (home,)) or (self._settings.namespaces if resource.namespaced else ()) or ("",)
        ]

    async def run(self) -> None:
        """Runs until SIGTERM or SIGINT, or until cancelled.

        Raises `InvalidError` when the cluster cannot be served, and `WaitingError` when a new start may help.
        """
        self._store.listen(self._changed)
        if (task := asyncio.current_task()) is not None:
            on_signals(task.cancel)
        server = web.AppRunner(self._http(), access_log=None)
        try:
            await self._listen(server)
            await self._check_kinds()
            await self._work_until_stopped()
        except ExceptionGroup as group:
            raise _first(group) from group
        finally:
            await server.cleanup()
            await self._client.close()

    async def _work_until_stopped(self) -> None:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(reflector.run()) for reflector in self._reflectors]
            tasks.append(group.create_task(self._serve()))
            await watch_ours(self._connection, namespaces=self._settings.namespaces, see=self._see)
            for task in tasks:
                task.cancel()

    async def _check_kinds(self) -> None:
        backoff = 0.5
        while True:
            try:
                for reflector in self._own:
                    await self._client.list_page(
                        reflector.resource, namespace=reflector.namespace, selector="", limit=1
                    )
                return
            except ApiRefused as error:
                if error.status == 404:
                    raise InvalidError(
                        f"the cluster does not know the kinds of {API_VERSION}; install the CRDs: "
                        "bud-operator crds | kubectl apply --server-side -f -",
                        reason="KindsMissing",
                    ) from error
                raise
            except ApiUnavailable as error:
                log.warning("the API server does not answer, again in %.1f s: %s", backoff, error)
                await asyncio.sleep(backoff)
                backoff = min(backoff * 2, 10.0)

    async def _serve(self) -> None:
        """Fills the store, then leads or stands by; looks at everything again from time to time."""
        for reflector in self._reflectors:
            await reflector.listed.wait()
        await self._list_ours()
        self._warm.set()
        self._sure.set()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._lead())
            group.create_task(self._resync())

    async def _lead(self) -> None:
        """Works on the queue for as long as no other operator may; frees the Lease only when all work has ended."""
        lease = self._leadership
        try:
            if lease is not None:
                await lease.acquire()
            self._leading = True
            self._metrics.leading.set(1)
            log.info("started: %d Models, %d Deployments", self._store.count(MODELS), self._store.count(DEPLOYMENTS))
            self._add_all()
            async with asyncio.TaskGroup() as group:
                group.create_task(self._queue.run())
                if lease is not None:
                    group.create_task(lease.hold())
        finally:
            self._leading = False
            if lease is not None:
                await lease.release()

    async def _resync(self) -> None:
        """Lists our kinds anew when Kopf did, which tells nothing of what is gone; and all of it from time to time."""
        loop = asyncio.get_running_loop()
        due = loop.time() + self._settings.resync_seconds
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(due):
                    await self._listed_anew.wait()
            if not (whole := loop.time() >= due):
                await asyncio.sleep(_LIST_SECONDS)
            self._listed_anew.clear()
            await self._list_ours()
            if not self._listed_anew.is_set():
                self._sure.set()
            if whole:
                due = loop.time() + self._settings.resync_seconds
                if self._leading:
                    self._add_all()

    def _add_all(self) -> None:
        for key in everything(self._store):
            self._queue.add(key)

    async def _list_ours(self) -> None:
        """Repairs what Kopf's watch missed: it keeps objects that were deleted while a watch was broken."""
        for reflector in self._own:
            while True:
                try:
                    await reflector.list()
                    break
                except BudError as error:
                    log.warning("listing our objects failed, again in 2 s: %s", error)
                    await asyncio.sleep(2.0)

    def _children_listed(self) -> None:
        """A child that is gone may have gone with its owner, which must not get it back: ours are listed first."""
        if self._warm.is_set():
            self._sure.clear()
            self._listed_anew.set()
        self._queue.hurry()

    def _see(self, resource: Resource, event: str, raw: Mapping[str, Any]) -> None:
        metadata = raw["metadata"]
        version = int(metadata["resourceVersion"])
        self._hearing.hears(resource, version, now=asyncio.get_running_loop().time())
        if not event and self._warm.is_set():
            self._listed_anew.set()
        if event == "DELETED":
            key = metadata.get("namespace", ""), metadata["name"]
            self._store.remove(resource, key, version)
        elif self._store.known(resource, metadata) is None:
            self._store.put(see_linked(resource, raw))

    def _changed(self, resource: Resource, old: Any, new: Any) -> None:
        if new is not None and resource in OURS:
            self._hearing.knows(resource, new.version, now=asyncio.get_running_loop().time())
        if self._leading:
            for key in affected(self._store, resource, old, new):
                self._queue.add(key, later=resource not in OURS)

    async def _work(self, key: Key) -> float | None:
        kind, namespace, name = key
        await self._sure.wait()
        start = time.monotonic()
        result = "error"
        try:
            delay = await self._controllers[kind](self._context, namespace, name)
            result = "ok"
            return delay
        finally:
            self._metrics.duration.labels(kind).observe(time.monotonic() - start)
            self._metrics.reconciles.labels(kind, result).inc()

    async def _listen(self, server: web.AppRunner) -> None:
        port = self._settings.http_port
        await server.setup()
        try:
            await web.TCPSite(server, port=port).start()
        except OSError as error:
            raise InvalidError(
                f"cannot listen on port {port}: {error.strerror}; choose another with --http-port"
            ) from error

    def _http(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._metrics_page)
        return app

    async def _healthz(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, _: web.Request) -> web.Response:
        missing = [r.resource.plural for r in self._reflectors if not r.listed.is_set()]
        if not self._warm.is_set():
            text = f"waiting for the first list of {', '.join(missing) or 'our kinds'}"
            return web.Response(status=503, text=f"{text}\n")
        now = asyncio.get_running_loop().time()
        listed_every = 2 * self._settings.resync_seconds + SILENT_SECONDS
        heard = [(r.resource.plural, r.silent, SILENT_SECONDS) for r in self._reflectors]
        heard += [(r.resource.plural, r.silent, listed_every) for r in self._own]
        heard += [(r.plural, self._hearing.overdue(r, now=now), SILENT_SECONDS) for r in OURS]
        if trouble := unheard(heard):
            return web.Response(status=503, text=f"{trouble}\n")
        return web.Response(text="ok, leading\n" if self._leading else "ok, standing by\n")

    async def _metrics_page(self, _: web.Request) -> web.Response:
        self._metrics.queue_depth.set(len(self._queue))
        phases = Counter(
            (resource.kind, seen.data.phase or "Unknown")
            for resource in (MODELS, DEPLOYMENTS)
            for seen in self._store.all(resource)
        )
        self._metrics.objects.clear()
        for (kind, phase), count in phases.items():
            self._metrics.objects.labels(kind, phase).set(count)
        return web.Response(body=self._metrics.render(), headers={"Content-Type": "text/plain; version=0.0.4"})


def unheard(kinds: Iterable[tuple[str, float, float]]) -> str:
    """Which kinds nothing was heard of for too long, in a sentence, empty when none: plural, seconds, longest."""
    silent = sorted({plural for plural, seconds, longest in kinds if seconds > longest})
    return f"nothing heard of {', '.join(silent)} for too long" if silent else ""


def _first(group: ExceptionGroup[Exception]) -> Exception:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, ExceptionGroup) else error
