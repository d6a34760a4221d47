"""HTTP/1.1 to upstreams, for as little CPU as may be: `docs/decisions/0012` says why it is own code.

Redirects are not followed, and no proxy or cookie is used.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from aiohappyeyeballs import AddrInfoType, start_connection
from yarl import URL

from bud.gateway.coding import unpacked
from bud.gateway.lookups import Lookups
from bud.gateway.reply import Body, Broken, Connection, Lost, Reply

CONNECT_SECONDS = 5.0
_IDLE_SECONDS = 60.0
_NEXT_ADDRESS_SECONDS = 0.25
"""Until the next address of a name is tried beside the first, as RFC 8305 has it."""
_LOST_SECONDS = 1.0
"""How soon a kept connection must be lost for its request to be sent again: later, somebody worked on it."""
_MOST_PLACES = 10_000
_AGENT = "User-Agent: bud-gateway\r\n"


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a URL leads: `head` is the first line of a request for it, but for the method, with what every one says."""

    host: str
    port: int
    secure: bool
    head: str
    at: tuple[str, int, bool]


class Client:
    """Asks upstreams, over connections that are kept. `make_socket` may refuse an address by raising `OSError`."""

    def __init__(self, make_socket: Callable[[AddrInfoType], socket.socket] | None = None) -> None:
        self._make_socket = make_socket
        self._places: dict[tuple[str, bool], _Place] = {}
        self._idle: dict[tuple[str, int, bool], list[Connection]] = defaultdict(list)
        self._open: set[Connection] = set()
        self.lookups = Lookups()
        self._sweep: asyncio.TimerHandle | None = None
        self._context: ssl.SSLContext | None = None

    async def ask(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        body: Body = b"",
        as_written: bool = False,
    ) -> Reply:
        """An answer whose head has come. Raises `OSError`, and `Broken`, which is one.

        A body that is no bytes is sent in chunks, unless `headers` tell its length. A URL `as_written` is quoted no
        more. Where a connection that was kept turns out to be gone at once, another takes its place, unless the body
        comes in pieces.
        """
        place = self._place(url, as_written)
        told = headers.get("content-length")
        length = len(body) if isinstance(body, bytes) else int(told) if told is not None else None
        head = _head(method, place, headers, length=length)
        connection = self._kept(place)
        if connection is not None and isinstance(body, bytes):
            since = connection.loop.time()
            try:
                return await _begun(connection, connection.ask(head, body))
            except Lost:
                # What was worked on for a while was not lost on its way.
                if connection.loop.time() - since > _LOST_SECONDS:
                    raise
            connection = None
        connection = connection or await self._connected(place)
        return await _begun(connection, connection.ask(head, body, length=length))

    def close(self) -> None:
        """Ends all connections."""
        if self._sweep is not None:
            self._sweep.cancel()
        for connection in list(self._open):
            connection.abort()

    def _place(self, url: str, as_written: bool) -> _Place:
        place = self._places.get((url, as_written))
        if place is None:
            if len(self._places) >= _MOST_PLACES:
                self._places.clear()
            place = self._places[url, as_written] = _place(URL(url, encoded=as_written))
        return place

    def _kept(self, place: _Place) -> Connection | None:
        idle = self._idle[place.at]
        while idle:
            connection = idle.pop()
            if not connection.is_closed and not connection.transport.is_closing():
                return connection
        return None

    async def _connected(self, place: _Place) -> Connection:
        loop = asyncio.get_running_loop()

        def free(connection: Connection) -> None:
            connection.idle_since = loop.time()
            self._idle[place.at].append(connection)
            if self._sweep is None:
                self._sweep = loop.call_later(_IDLE_SECONDS / 4, self._drop_old)

        async with asyncio.timeout(CONNECT_SECONDS):
            sock = await self._socket(place)
            try:
                _, connection = await loop.create_connection(
                    lambda: Connection(loop, free=free, lost=self._open.discard),
                    sock=sock,
                    ssl=self._tls() if place.secure else None,
                    server_hostname=place.host if place.secure else None,
                )
            except BaseException:
                sock.close()
                raise
        self._open.add(connection)
        return connection

    async def _socket(self, place: _Place) -> socket.socket:
        sock = await start_connection(
            await self.lookups.find(place.host, place.port),
            happy_eyeballs_delay=_NEXT_ADDRESS_SECONDS,
            interleave=1,
            socket_factory=self._make_socket,
        )
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        return sock

    def _drop_old(self) -> None:
        loop = asyncio.get_running_loop()
        oldest = loop.time() - _IDLE_SECONDS
        for at, idle in list(self._idle.items()):
            for connection in [one for one in idle if one.is_closed or one.idle_since < oldest]:
                idle.remove(connection)
                connection.abort()
            if not idle:
                del self._idle[at]
        self._sweep = loop.call_later(_IDLE_SECONDS / 4, self._drop_old) if self._idle else None

    def _tls(self) -> ssl.SSLContext:
        if self._context is None:
            self._context = ssl.create_default_context()
            self._context.set_alpn_protocols(["http/1.1"])
        return self._context


def _place(url: URL) -> _Place:
    """Raises `ValueError` for an address of no HTTP."""
    host, port = url.raw_host, url.port
    if url.scheme not in ("http", "https") or not host or port is None:
        raise ValueError(f"{url} is no address of HTTP")
    shown = f"[{host}]" if ":" in host else host
    shown = shown if url.is_default_port() else f"{shown}:{port}"
    secure, line = url.scheme == "https", f" {url.raw_path_qs} HTTP/1.1\r\nHost: {shown}\r\n{_AGENT}"
    return _Place(host, port, secure, line, (host, port, secure))


def _head(method: str, place: _Place, headers: Mapping[str, str], *, length: int | None) -> bytes:
    """Raises `Broken` for a header that no request may have: it would be another request's beginning."""
    lines = [f"{name}: {value}\r\n" for name, value in headers.items() if name != "content-length"]
    if length is None:
        lines.append("Transfer-Encoding: chunked\r\n")
    elif length or method != "GET":
        lines.append(f"Content-Length: {length}\r\n")
    head = "".join((method, place.head, *lines, "\r\n"))
    ends = len(lines) + 4
    if head.count("\n") != ends or head.count("\r") != ends or "\0" in head:
        raise Broken("a header holds the end of a line")
    return head.encode()


async def _begun(connection: Connection, reply: Reply) -> Reply:
    try:
        return unpacked(await reply.begun())
    except BaseException:
        connection.abort()
        raise
