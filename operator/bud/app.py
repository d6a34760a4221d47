"""The operator as a whole: reflectors and Kopf feed the store, it feeds the queue, the queue runs controllers."""

from __future__ import annotations

import asyncio
import itertools
import logging
import signal
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterator
from typing import Any

import kopf
from aiohttp import web

import bud.deployment.handlers
import bud.model.handlers
from bud.api import API_VERSION, DEPLOYMENT, GROUP, MODEL, VERSION
from bud.context import Context, Settings
from bud.errors import ApiRefused, ApiUnavailable, BudError, InvalidError, WaitingError
from bud.kube.client import Client
from bud.kube.connect import Connection
from bud.kube.kinds import (
    APPS,
    AUTOSCALERS,
    CHILD_SELECTOR,
    CLAIMS,
    DEPLOYMENTS,
    JOBS,
    MODELS,
    NODES,
    PODS,
    RUNTIMES,
    SERVICES,
    Resource,
)
from bud.kube.queue import Queue
from bud.kube.reflect import Reflector
from bud.kube.seen import see
from bud.kube.store import Store
from bud.kube.write import Writer
from bud.metrics import Metrics
from bud.triggers import Key, affected, see_linked

log = logging.getLogger("bud.operator")

OURS = (MODELS, DEPLOYMENTS, RUNTIMES)
_CHILDREN = (APPS, SERVICES, AUTOSCALERS, JOBS, PODS)
_WHOLE = (CLAIMS, NODES)
"""Seen without a selector: a claim or a node that matters need not be ours."""

Reconcile = Callable[[Context, str, str], Awaitable[float | None]]


class Operator:
    """One operator process over one cluster."""

    def __init__(self, connection: Connection, settings: Settings, *, version: str) -> None:
        self._connection = connection
        self._settings = settings
        self._metrics = Metrics()
        self._store = Store()
        self._client = Client.over(connection, user_agent=f"bud-operator/{version}")
        writer = Writer(
            self._client,
            self._store,
            see_own=see_linked,
            instance=socket.gethostname(),
            count=lambda verb, kind: self._metrics.writes.labels(verb, kind).inc(),
        )
        self._context = Context(self._client, self._store, writer, settings, self._metrics)
        self._controllers: dict[str, Reconcile] = {
            MODEL.kind: bud.model.handlers.reconcile,
            DEPLOYMENT.kind: bud.deployment.handlers.reconcile,
        }
        self._queue: Queue[Key] = Queue(self._work, workers=settings.workers)
        self._reflectors = [
            Reflector(self._client, self._store, resource, trim=see, selector=CHILD_SELECTOR) for resource in _CHILDREN
        ] + [Reflector(self._client, self._store, resource, trim=see) for resource in _WHOLE]
        self._own = {resource: Reflector(self._client, self._store, resource, trim=see_linked) for resource in OURS}
        self._started = asyncio.Event()

    async def run(self) -> None:
        """Runs until SIGTERM or SIGINT, or until cancelled.

        Raises `InvalidError` when the cluster cannot be served, and `WaitingError` when a new start may help.
        """
        self._store.listen(self._changed)
        if (task := asyncio.current_task()) is not None:
            _on_signals(task.cancel)
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
            tasks.append(group.create_task(self._reconcile()))
            await self._watch_ours()
            for task in tasks:
                task.cancel()

    async def _check_kinds(self) -> None:
        backoff = 0.5
        while True:
            try:
                for resource in OURS:
                    await self._client.list_page(resource, namespace=None, selector="", limit=1)
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

    async def _reconcile(self) -> None:
        """Starts the queue when everything is in the store, and looks at everything again from time to time."""
        for reflector in self._reflectors:
            await reflector.listed.wait()
        await self._list_ours()
        self._started.set()
        log.info("started: %d Models, %d Deployments", self._store.count(MODELS), self._store.count(DEPLOYMENTS))
        async with asyncio.TaskGroup() as group:
            group.create_task(self._queue.run())
            group.create_task(self._resync())

    async def _resync(self) -> None:
        while True:
            for resource in (MODELS, DEPLOYMENTS):
                for seen in self._store.all(resource):
                    self._queue.add((resource.kind, seen.namespace, seen.name))
            await asyncio.sleep(self._settings.resync_seconds)
            await self._list_ours()

    async def _list_ours(self) -> None:
        """Repairs what Kopf's watch missed: it keeps objects that were deleted while a watch was broken."""
        for reflector in self._own.values():
            while True:
                try:
                    await reflector.list()
                    break
                except BudError as error:
                    log.warning("listing our objects failed, again in 5 s: %s", error)
                    await asyncio.sleep(5.0)

    async def _watch_ours(self) -> None:
        registry, settings = kopf.OperatorRegistry(), kopf.OperatorSettings()
        settings.posting.enabled = False
        settings.scanning.disabled = True
        settings.watching.server_timeout = 120
        settings.watching.client_timeout = 150
        settings.watching.connect_timeout = 5
        settings.networking.connect_timeout = 5
        settings.networking.error_backoffs = _Backoffs()
        kopf.on.login(registry=registry)(self._login)
        for resource in OURS:
            kopf.on.event(GROUP, VERSION, resource.plural, registry=registry, id="see", param=resource)(self._see)
        tasks = await kopf.spawn_tasks(registry=registry, settings=settings, standalone=True, clusterwide=True)
        await _until_signal(tasks)

    async def _login(self, **_: Any) -> kopf.ConnectionInfo:
        return await self._connection.kopf_info()

    async def _see(self, *, event: Any, param: Any = None, **_: Any) -> None:
        resource: Resource = param
        raw = event["object"]
        metadata = raw["metadata"]
        if event["type"] == "DELETED":
            key = metadata.get("namespace", ""), metadata["name"]
            self._store.remove(resource, key, int(metadata["resourceVersion"]))
        else:
            self._store.put(see_linked(resource, raw))

    def _changed(self, resource: Resource, old: Any, new: Any) -> None:
        if self._started.is_set():
            for key in affected(self._store, resource, old, new):
                self._queue.add(key)

    async def _work(self, key: Key) -> float | None:
        kind, namespace, name = key
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
        if self._started.is_set():
            return web.Response(text="ok\n")
        missing = [r.resource.plural for r in self._reflectors if not r.listed.is_set()]
        return web.Response(status=503, text=f"waiting for the first list of {', '.join(missing) or 'our kinds'}\n")

    async def _metrics_page(self, _: web.Request) -> web.Response:
        self._metrics.queue_depth.set(len(self._queue))
        phases = Counter(
            (resource.kind, str(seen.data.status.get("phase") or "Unknown"))
            for resource in (MODELS, DEPLOYMENTS)
            for seen in self._store.all(resource)
        )
        self._metrics.objects.clear()
        for (kind, phase), count in phases.items():
            self._metrics.objects.labels(kind, phase).set(count)
        return web.Response(body=self._metrics.render(), headers={"Content-Type": "text/plain; version=0.0.4"})


def _on_signals(do: Callable[[], object]) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, do)


class _Backoffs:
    """Pauses between Kopf's tries, in seconds: it never gives up, however long the API server is away."""

    def __iter__(self) -> Iterator[float]:
        yield from (0.5, 1, 2, 5)
        yield from itertools.repeat(10)


def _first(group: ExceptionGroup[Exception]) -> Exception:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, ExceptionGroup) else error


async def _until_signal(tasks: Collection[asyncio.Task[None]]) -> None:
    """Waits for SIGINT, SIGTERM or the end of a task, then ends the tasks.

    Kopf's own way to stop waits five seconds for tasks that are not its own, and fails when a signal comes twice.
    """
    stop = asyncio.Event()
    _on_signals(stop.set)
    stopped = asyncio.create_task(stop.wait())
    try:
        done, _ = await asyncio.wait({*tasks, stopped}, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            if (error := task.exception()) is not None:
                raise WaitingError(f"the watch of our kinds ended, so this process does: {error}") from error
    finally:
        for task in (*tasks, stopped):
            task.cancel()
        await asyncio.gather(*tasks, stopped, return_exceptions=True)
