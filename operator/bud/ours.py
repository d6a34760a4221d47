"""Kopf watches our own kinds: level-triggered, and it keeps nothing on our objects."""

from __future__ import annotations

import asyncio
import itertools
import signal
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

import kopf

from bud.api import GROUP, VERSION
from bud.errors import WaitingError
from bud.kube.connect import Connection
from bud.kube.kinds import API_KEYS, DEPLOYMENTS, MODELS, PROJECTS, PROVIDERS, ROUTES, RUNTIMES, Resource

OURS = (MODELS, DEPLOYMENTS, RUNTIMES, PROJECTS, API_KEYS, PROVIDERS, ROUTES)

See = Callable[[Resource, str, Mapping[str, Any]], None]
"""Called with the kind, the type of the event ("" for what was listed) and the object."""


class Hearing:
    """Whether Kopf still hears: what we wrote or listed ourselves must come by its watch as well.

    Times are in seconds of one clock. Kopf tells neither of bookmarks nor of watches that break.
    """

    def __init__(self) -> None:
        self._known: dict[Resource, int] = {}
        self._heard: dict[Resource, int] = {}
        self._since: dict[Resource, float] = {}

    def knows(self, resource: Resource, version: int, *, now: float) -> None:
        """An object of this version was seen, by whatever way."""
        self._known[resource] = max(version, self._known.get(resource, 0))
        if self._known[resource] > self._heard.get(resource, 0):
            self._since.setdefault(resource, now)

    def hears(self, resource: Resource, version: int, *, now: float) -> None:
        """An object of this version came by Kopf's watch."""
        self._heard[resource] = max(version, self._heard.get(resource, 0))
        self._since.pop(resource, None)
        if self._known.get(resource, 0) > self._heard[resource]:
            self._since[resource] = now

    def overdue(self, resource: Resource, *, now: float) -> float:
        """For how long something is known that its watch has not told."""
        return now - self._since.get(resource, now)


async def watch_ours(connection: Connection, *, namespaces: tuple[str, ...], see: See) -> None:
    """Tells `see` of every change of our kinds until SIGTERM or SIGINT; no namespaces means all of them.

    Raises `WaitingError` when Kopf ends by itself.
    """
    registry, settings = kopf.OperatorRegistry(), kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.watching.server_timeout = 120
    settings.watching.client_timeout = 150
    settings.watching.connect_timeout = 5
    settings.networking.connect_timeout = 5
    settings.networking.error_backoffs = _Backoffs()
    settings.persistence.diffbase_storage = _NoDifferences()

    async def login(**_: Any) -> kopf.ConnectionInfo:
        return await connection.kopf_info()

    async def on_event(*, event: Any, param: Any = None, **_: Any) -> None:
        see(param, event["type"] or "", event["object"])

    kopf.on.login(registry=registry)(login)
    for resource in OURS:
        kopf.on.event(GROUP, VERSION, resource.plural, registry=registry, id="see", param=resource)(on_event)
    tasks = await kopf.spawn_tasks(
        registry=registry, settings=settings, standalone=True, namespaces=namespaces, clusterwide=not namespaces
    )
    await _until_signal(tasks)


def on_signals(do: Callable[[], object]) -> None:
    """Calls `do` on SIGINT and SIGTERM, in place of what was called before."""
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, do)


class _NoDifferences(kopf.DiffBaseStorage):
    """No handler of ours asks what changed: without this, Kopf would copy each object several times to find out."""

    def build(self, *, body: kopf.Body, extra_fields: Iterable[Any] | None = None) -> kopf.BodyEssence:
        return kopf.BodyEssence()

    def fetch(self, *, body: kopf.Body) -> kopf.BodyEssence | None:
        return None

    def store(self, *, body: kopf.Body, patch: kopf.Patch, essence: kopf.BodyEssence) -> None:
        pass


class _Backoffs:
    """Pauses between Kopf's tries, in seconds: it never gives up, however long the API server is away."""

    def __iter__(self) -> Iterator[float]:
        yield from (0.5, 1, 2, 5)
        yield from itertools.repeat(10)


async def _until_signal(tasks: Collection[asyncio.Task[None]]) -> None:
    """Waits for SIGINT, SIGTERM or the end of a task, then ends the tasks.

    Kopf's own way to stop waits five seconds for tasks that are not its own, and fails when a signal comes twice.
    """
    stop = asyncio.Event()
    on_signals(stop.set)
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
