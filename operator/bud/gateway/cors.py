"""Cross-origin requests of browsers, for the origins that the administrator names.

Protocol: https://fetch.spec.whatwg.org/#http-cors-protocol.
A key comes in a header that the page sets itself, never by the browser on its own, so `credentials` are never allowed.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from bud.gateway.request import Message, Send

Application = Callable[[Any, Callable[[], Awaitable[Message]], Send], Awaitable[None]]

_ORIGIN = re.compile(r"\*|[a-z][a-z0-9+.-]*://[^\s/?#@,*]+")
_NAMES = re.compile(rb"[A-Za-z0-9!#$%&'*+.^_`|~, -]{0,4096}")
_EXPOSED = b", ".join(
    [b"x-request-id", b"retry-after", b"x-should-retry", b"idempotent-replayed"]
    + [
        b"x-ratelimit-%s-%s" % (what, of)
        for of in (b"requests", b"tokens")
        for what in (b"limit", b"remaining", b"reset")
    ]
    + [
        b"x-conduit-" + one
        for one in (b"provider", b"model-version", b"virtual-key-id", b"processing-time-ms", b"cost")
    ]
)


def origins(texts: Iterable[str]) -> frozenset[str]:
    """Origins as they are compared. Raises `ValueError` for what is none."""
    found = frozenset(text.strip().rstrip("/").lower() for text in texts)
    for origin in found:
        if not _ORIGIN.fullmatch(origin):
            raise ValueError(f"--cors-origin {origin}: neither * nor an origin such as https://app.example.com")
    return found


class Cors:
    """An application whose answers pages of these origins may read; `*` stands for all."""

    def __init__(self, app: Application, origins: frozenset[str]) -> None:
        self._app = app
        self._origins = origins

    async def __call__(self, scope: Any, receive: Callable[[], Awaitable[Message]], send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        told = self._told(headers.get(b"origin"))
        if told and scope["method"] == "OPTIONS" and b"access-control-request-method" in headers:
            asked = headers.get(b"access-control-request-headers", b"")
            told += [
                (b"access-control-allow-methods", b"GET, POST"),
                (b"access-control-allow-headers", asked if _NAMES.fullmatch(asked) else b"authorization, content-type"),
                (b"access-control-max-age", b"600"),
            ]
            await send({"type": "http.response.start", "status": 204, "headers": told})
            await send({"type": "http.response.body", "body": b""})
            return

        async def tell(message: Message) -> None:
            if message["type"] == "http.response.start":
                more = [*told, (b"access-control-expose-headers", _EXPOSED)] if told else [(b"vary", b"Origin")]
                message = {**message, "headers": [*message["headers"], *more]}
            await send(message)

        await self._app(scope, receive, tell)

    def _told(self, origin: bytes | None) -> list[tuple[bytes, bytes]]:
        """What every answer to an origin that is allowed says; nothing to others."""
        if origin is None:
            return []
        if "*" in self._origins:
            return [(b"access-control-allow-origin", b"*")]
        if origin.decode("latin-1").lower() not in self._origins:
            return []
        return [(b"access-control-allow-origin", origin), (b"vary", b"Origin")]
