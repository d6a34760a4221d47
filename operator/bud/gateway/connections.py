"""The gateway's connections to what answers: those that may lead anywhere, and those that `Reach` bounds."""

from __future__ import annotations

from dataclasses import dataclass

import aiohttp

from bud.gateway.reach import Reach

_CONNECT_SECONDS = 5.0


@dataclass(frozen=True)
class Connections:
    """`sockets` is for WebSockets, whose client would follow redirects. No proxy of the environment is used."""

    session: aiohttp.ClientSession
    sockets: aiohttp.ClientSession

    @classmethod
    def open(cls, reach: Reach | None) -> Connections:
        """Those that lead where `reach` allows, or, without one, anywhere. `close` ends them."""
        factory = None if reach is None else reach.socket
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=60, ttl_dns_cache=10, socket_factory=factory)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS)
        session = aiohttp.ClientSession(
            connector=connector, timeout=timeout, auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar()
        )
        tracing = aiohttp.TraceConfig()
        tracing.on_request_redirect.append(_refuse_redirect)
        sockets = aiohttp.ClientSession(
            connector=connector,
            connector_owner=False,
            timeout=timeout,
            trace_configs=[tracing],
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        return cls(session, sockets)

    async def close(self) -> None:
        await self.sockets.close()
        await self.session.close()


async def _refuse_redirect(_: object, __: object, told: aiohttp.TraceRequestRedirectParams) -> None:
    raise aiohttp.ClientPayloadError(f"{told.url.origin()} answers with a redirect, which is not followed")
