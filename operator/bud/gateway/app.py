"""The gateway as an ASGI application: authenticate, route, relay, meter.

Written on ASGI itself, since every request passes here; https://asgi.readthedocs.io/en/latest/specs/www.html.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from typing import Any

from prometheus_client import CollectorRegistry

from bud.gateway import models
from bud.gateway.admission import Admission
from bud.gateway.asks import FORMS
from bud.gateway.auth import authenticate, request_id
from bud.gateway.background import Background
from bud.gateway.catalog import Catalog, Key
from bud.gateway.forms import Uploads
from bud.gateway.health import Health, samples
from bud.gateway.inference import Inference
from bud.gateway.ledgers import Ledger, MemoryLedger
from bud.gateway.metrics import NOT_ANSWERED
from bud.gateway.naps import Naps, Note
from bud.gateway.observe import Observer
from bud.gateway.pages import Pages, answer
from bud.gateway.paths import Place, place
from bud.gateway.protocol import was_late
from bud.gateway.realtime import Realtime, denying, key_of
from bud.gateway.refusal import Invalid, Limited, NotFound, Refusal, Unavailable
from bud.gateway.relay import Relay
from bud.gateway.request import Gone, Message, Request, Send
from bud.gateway.settings import Settings
from bud.gateway.shared import Shared

log = logging.getLogger("bud.gateway")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]

_IS_JSON = (b"content-type", b"application/json")


class Gateway:
    """One gateway process. `catalog` is replaced as a whole by whoever watches the objects.

    `waits_for` says what it waits for before it can serve; one that `is_draining` is about to stop. `shared` gives the
    Redis that replicas share, if they do; budgets are kept in `ledger`, and `note` notes which Deployments are used.
    """

    def __init__(  # noqa: PLR0913  what it is made of, each with a default
        self,
        catalog: Catalog,
        settings: Settings,
        *,
        observer: Observer | None = None,
        clock: Callable[[], float] = time.time,
        shared: Callable[[CollectorRegistry], Shared] | None = None,
        ledger: Ledger | None = None,
        note: Note | None = None,
    ) -> None:
        self._catalog = catalog
        self.naps = Naps(lambda: self.catalog, note)
        self.settings = settings
        self.clock = clock
        self.waits_for: Callable[[], str] = str
        self.is_draining = False
        self.observer = observer or Observer()
        found = shared(self.observer.metrics.registry) if shared is not None else None
        self.admission = Admission(
            ledger or MemoryLedger(),
            clock,
            shared=found,
            replicas=settings.replicas,
            known=lambda project: None if self.catalog.fault else self.catalog.known(project),
        )
        self.observer.metrics.more.append(self.admission.samples)
        self._inference: Inference | None = None
        self._uploads: Uploads | None = None
        self._realtime: Realtime | None = None
        self.pages = Pages(self.observer.metrics, self._not_ready, shows_metrics=not settings.metrics_port)

    @property
    def catalog(self) -> Catalog:
        return self._catalog

    @catalog.setter
    def catalog(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self.naps.changed()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._websocket(scope, receive, send)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        relay = Relay.open(self.settings.reach)
        now = asyncio.get_running_loop().time
        self.observer.metrics.more.append(lambda: samples(self.catalog, relay.board, now=now()))
        beside = Background()
        beside.loop("the probing of addresses", Health(relay.board, lambda: self.catalog, relay.probe).run)
        await self.admission.open()
        beside.loop("the noting of use", self.naps.run)
        self._inference = Inference(self.admission, relay, self.naps, clock=self.clock, catalog=lambda: self.catalog)
        self._uploads = Uploads(self.admission, self._inference)
        self._realtime = Realtime(self.admission, relay, self.naps, clock=self.clock, catalog=lambda: self.catalog)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await beside.close()
        await self.admission.close()
        await relay.close()
        await self.observer.close()
        await send({"type": "lifespan.shutdown.complete"})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope["path"]
        if self.is_draining:
            send = closing(send)
        if path in self.pages.paths:
            await self.pages.show(path, send)
            return
        request = Request(scope, receive, send, id=request_id(scope), began=self.clock())
        await self._answer(request, self._serve(request))

    def _not_ready(self) -> str:
        if self.is_draining:
            return "it is about to stop"
        missing = self.waits_for()
        return f"it has not read these yet: {missing}" if missing else ""

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        request = Request(scope, receive, denying(send), id=request_id(scope), began=self.clock())
        await self._answer(request, self._join(request, send))

    async def _answer(self, request: Request, work: Coroutine[Any, Any, None]) -> None:
        """Whatever comes of the work, the caller and the metrics are told."""
        self.observer.began(request)
        try:
            await work
        except Refusal as refusal:
            await self._refuse(request, refusal)
        except Gone:
            request.facts.status = 408 if was_late(request.scope) else NOT_ANSWERED
            log.debug("request %s: the caller hung up", request.id)
        except asyncio.CancelledError:
            # By the server alone: the time that what is under way has at a stop is over.
            await self._refuse(request, Unavailable("the gateway stops before this is answered; ask again"))
        except Exception:
            log.exception("request %s failed", request.id)
            await self._refuse(request, Refusal("the gateway has a fault; tell whoever runs it the request's id"))
        finally:
            self.observer.ended(request, now=self.clock())
            log.debug("%s %s: %d", request.id, request.scope["path"], request.facts.status)

    async def _serve(self, request: Request) -> None:
        key = authenticate(request.headers, self.catalog, now=request.began)
        where = self._place(request, key)
        if where.endpoint == "models" or where.endpoint.startswith("models/"):
            _only(request, "GET")
            body = models.answer(self.catalog, key, where)
            await self.admission.look_again(request)
            request.facts.status = 200
            await answer(request.send, 200, body, [_IS_JSON, *request.own_headers()])
            return
        if where.endpoint == "realtime":
            raise Invalid(
                "connect a WebSocket here", code="upgrade_required", status=426, headers={"upgrade": "websocket"}
            )
        _only(request, "POST")
        _unpacked(request)
        serves = self._uploads if where.endpoint in FORMS else self._inference
        if serves is None:
            raise Unavailable("the gateway is starting")
        await serves.serve(request, key, where)

    async def _join(self, request: Request, send: Send) -> None:
        key = key_of(request, self.catalog)
        where = self._place(request, key)
        if where.endpoint != "realtime":
            raise Invalid(f"/v1/{where.endpoint} is no WebSocket", code="not_a_websocket")
        if self._realtime is None:
            raise Unavailable("the gateway is starting")
        await self._realtime.serve(request, send, key, where)

    def _place(self, request: Request, key: Key) -> Place:
        """Where a known key goes. Raises `NotFound` and `NotAllowed`."""
        where = place(request.scope["path"])
        if where is None:
            raise NotFound(f"there is nothing at {request.scope['path'][:200]}")
        self.admission.look(request, key)
        request.facts.project = key.project.name
        where.check(key)
        request.facts.endpoint = "models" if where.endpoint.startswith("models/") else where.endpoint
        return where

    async def _refuse(self, request: Request, refusal: Refusal) -> None:
        request.facts.status = refusal.status
        request.facts.limit = refusal.limit if isinstance(refusal, Limited) else ""
        if request.streams:
            # Not kept, if answers are: the caller may ask again.
            event = b"data: " + refusal.body() + b"\n\n"
            await request.send({"type": "http.response.body", "body": event})
        if request.begun:
            return
        await self.admission.look_again(request)
        told = [(name.lower().encode(), value.encode()) for name, value in refusal.headers.items()]
        await answer(request.send, refusal.status, refusal.body(), [_IS_JSON, *request.own_headers(), *told])


def closing(send: Send) -> Send:
    """Tells callers to come back on another connection, by which they reach another gateway."""

    async def last(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
        await send(message)

    return last


def _only(request: Request, method: str) -> None:
    if request.scope["method"] != method:
        raise Invalid(f"use {method} here", code="method_not_allowed", status=405, headers={"allow": method})


def _unpacked(request: Request) -> None:
    codings = {value.strip().lower() for name, value in request.scope["headers"] if name == b"content-encoding"}
    if not codings <= {b"", b"identity"}:
        words = "Content-Encoding: bodies are read as they are; send it without compression, and leave the header out"
        raise Invalid(words, code="unsupported_encoding")
