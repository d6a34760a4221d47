"""What is shown without a key: the gateway's health, its metrics, and the description of its API."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from functools import cached_property
from importlib.metadata import version
from typing import Any

import orjson

from bud.gateway.exposition import MEDIA_TYPE
from bud.gateway.metrics import Metrics
from bud.gateway.openapi import document, page
from bud.gateway.refusal import NotFound
from bud.gateway.request import Message, Send

_IS_JSON = (b"content-type", b"application/json")
_OK = b'{"status":"ok"}'
_HEALTH = frozenset({"/healthz", "/readyz"})
_TEXTS = frozenset({"/openapi.json", "/docs"})


class Pages:
    """`not_ready` says why requests should go to another gateway; empty when they need not.

    Callers see the metrics where they have no port of their own.
    """

    def __init__(self, metrics: Metrics, not_ready: Callable[[], str], *, shows_metrics: bool) -> None:
        self._metrics = metrics
        self._not_ready = not_ready
        self._shows_metrics = shows_metrics
        self.paths = _HEALTH | _TEXTS | ({"/metrics"} if shows_metrics else frozenset())
        """What callers are shown."""

    @cached_property
    def _texts(self) -> Mapping[str, tuple[bytes, tuple[bytes, bytes]]]:
        """What describes the API, made when it is first asked for."""
        described = document(version("bud-operator"), metrics=self._shows_metrics)
        return {
            "/openapi.json": (orjson.dumps(described), _IS_JSON),
            "/docs": (page(described).encode(), (b"content-type", b"text/html; charset=utf-8")),
        }

    async def show(self, path: str, send: Send) -> None:
        """One of the pages."""
        if path in _TEXTS:
            text, kind = self._texts[path]
            await answer(send, 200, text, [kind])
        elif path == "/metrics":
            await answer(send, 200, await self._metrics.render(), [(b"content-type", MEDIA_TYPE)])
        elif path == "/readyz" and (why := self._not_ready()):
            await answer(send, 503, orjson.dumps({"status": "not ready", "reason": why}), [_IS_JSON])
        else:
            await answer(send, 200, _OK, [_IS_JSON])

    async def inside(
        self, scope: MutableMapping[str, Any], receive: Callable[[], Awaitable[Message]], send: Send
    ) -> None:
        """The application on the port that callers do not reach: health and metrics alone."""
        del receive
        if scope["type"] != "http":
            return
        if scope["path"] in _HEALTH or scope["path"] == "/metrics":
            await self.show(scope["path"], send)
        else:
            refusal = NotFound("there are /metrics, /healthz and /readyz here")
            await answer(send, refusal.status, refusal.body(), [_IS_JSON])


async def answer(send: Send, status: int, body: bytes, headers: Iterable[tuple[bytes, bytes]]) -> None:
    """A whole answer."""
    length = (b"content-length", b"%d" % len(body))
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body})
