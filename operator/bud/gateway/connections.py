"""The gateway's connections to what answers: those that may lead anywhere, and those that `Reach` bounds."""

from __future__ import annotations

import socket
from dataclasses import dataclass

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from bud.gateway.client import CONNECT_SECONDS, Client
from bud.gateway.lookups import Lookups
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
        client = Client(factory)
        resolver = _Resolver(client.lookups)
        sockets = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, resolver=resolver, use_dns_cache=False, socket_factory=factory),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
            trace_configs=[tracing],
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        return cls(client, sockets)

    async def close(self) -> None:
        await self.sockets.close()
        self.client.close()


class _Resolver(AbstractResolver):
    """The same lookups for WebSockets: aiohttp's own would share a few threads with names whose servers are silent."""

    def __init__(self, lookups: Lookups) -> None:
        self._lookups = lookups

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Raises `OSError`."""
        found = await self._lookups.find(host, port)
        return [
            ResolveResult(
                hostname=host,
                host=f"{at[0]}%{at[3]}" if any(at[3:]) else str(at[0]),
                port=port,
                family=kind,
                proto=proto,
                flags=0,
            )
            for kind, _, proto, _, at in found
            if family in (socket.AF_UNSPEC, kind)
        ]

    async def close(self) -> None:
        """Nothing is its own."""


async def _refuse_redirect(_: object, __: object, told: aiohttp.TraceRequestRedirectParams) -> None:
    answer = told.response
    answer.close()
    raise aiohttp.WSServerHandshakeError(answer.request_info, (), status=answer.status, headers=answer.headers)
