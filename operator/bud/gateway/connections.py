"""The gateway's connections to what answers: those that may lead anywhere, and those that `Reach` bounds."""

from __future__ import annotations

from dataclasses import dataclass

import aiohttp

from bud.gateway.client import CONNECT_SECONDS, Client
from bud.gateway.reach import Reach


@dataclass(frozen=True)
class Connections:
    """`sockets` is for WebSockets, whose client would follow redirects. No proxy of the environment is used."""

    client: Client
    sockets: aiohttp.ClientSession

    @classmethod
    def open(cls, reach: Reach | None) -> Connections:
        """Those that lead where `reach` allows, or, without one, anywhere. `close` ends them."""
        factory = None if reach is None else reach.socket
        tracing = aiohttp.TraceConfig()
        tracing.on_request_redirect.append(_refuse_redirect)
        sockets = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=10, socket_factory=factory),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
            trace_configs=[tracing],
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        return cls(Client(factory), sockets)

    async def close(self) -> None:
        await self.sockets.close()
        self.client.close()


async def _refuse_redirect(_: object, __: object, told: aiohttp.TraceRequestRedirectParams) -> None:
    raise aiohttp.ClientPayloadError(f"{told.url.origin()} answers with a redirect, which is not followed")
