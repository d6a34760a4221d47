"""The little HTTP/1.1 that the probe speaks: one request per connection, one answer per connection.

`http.client` and `http.server` would pull in the `email` package, a third of this process's memory, which
is paid beside every engine.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple
from urllib.parse import urlsplit

MAX_HEAD = 64 * 1024
MAX_BODY = 16 * 1024 * 1024
NOTHING_SLOW: Mapping[str, Callable[[], Awaitable[str]]] = MappingProxyType({})


class BadAnswerError(Exception):
    """What came back is not HTTP, or larger than `MAX_BODY`."""


class Answer(NamedTuple):
    """An engine's answer; header names are lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def well(self) -> bool:
        return 200 <= self.status < 300


class Address(NamedTuple):
    """Where an engine listens, and the path that stands before each of its own."""

    host: str
    port: int
    prefix: str


def parse_address(url: str) -> Address:
    """Read an `http://host:port[/prefix]` address; raises ValueError for anything else."""
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        raise ValueError(f"{url!r} is not an http://host:port address")
    return Address(parts.hostname, parts.port or 80, parts.path.rstrip("/"))


async def request(
    address: Address, path: str, *, body: bytes | None = None, content_type: str = "", seconds: float
) -> Answer:
    """GET, or POST where there is a body.

    Raises OSError (TimeoutError among them, after `seconds` in all) or BadAnswerError.
    """
    async with asyncio.timeout(seconds):
        reader, writer = await asyncio.open_connection(address.host, address.port, limit=MAX_HEAD)
        try:
            writer.write(_head(address, path, body, content_type) + (body or b""))
            await writer.drain()
            return await _read_answer(reader)
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError) as error:
            raise BadAnswerError(f"the answer is cut short or not HTTP ({error})") from error
        finally:
            writer.close()


def _head(address: Address, path: str, body: bytes | None, content_type: str) -> bytes:
    host = f"[{address.host}]" if ":" in address.host else address.host
    lines = [
        f"{'GET' if body is None else 'POST'} {address.prefix}{path} HTTP/1.1",
        f"Host: {host}:{address.port}",
        "User-Agent: bud-probe",
        "Accept: */*",
        "Connection: close",
    ]
    if body is not None:
        lines += [f"Content-Type: {content_type}", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode()


async def _read_answer(reader: asyncio.StreamReader) -> Answer:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    version, status, *_ = head[0].split(" ")
    if not version.startswith("HTTP/1."):
        raise ValueError(head[0][:80])
    fields = (line.partition(":") for line in head[1:] if line)
    headers = {name.strip().lower(): value.strip() for name, _, value in fields}
    return Answer(int(status), headers, await _read_body(reader, headers))


async def _read_body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    if "chunked" in headers.get("transfer-encoding", "").lower():
        return await _read_chunks(reader)
    if "content-length" in headers:
        return await _read_exactly(reader, int(headers["content-length"]), so_far=0)
    body = bytearray()
    while piece := await reader.read(MAX_HEAD):
        body += piece
        if len(body) > MAX_BODY:
            raise BadAnswerError(f"the answer is larger than {MAX_BODY} bytes")
    return bytes(body)


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    body = bytearray()
    while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
        body += await _read_exactly(reader, size, so_far=len(body))
        await reader.readexactly(2)
    return bytes(body)


async def _read_exactly(reader: asyncio.StreamReader, size: int, *, so_far: int) -> bytes:
    if size < 0 or so_far + size > MAX_BODY:
        raise BadAnswerError(f"the answer is larger than {MAX_BODY} bytes")
    return await reader.readexactly(size)


async def serve(
    port: int, pages: Callable[[str], tuple[int, str]], slow: Mapping[str, Callable[[], Awaitable[str]]] = NOTHING_SLOW
) -> asyncio.Server:
    """Answer GET requests on every interface with the status and text that `pages` gives for a path, or with the text
    that `slow` gives for it in time.

    Raises OSError where the port cannot be had.
    """

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(5):
                head = await reader.readuntil(b"\r\n\r\n")
            path = head.split(b" ", 2)[1].decode("latin-1")
            writer.write(_page(200, await slow[path]()) if path in slow else _page(*pages(path)))
            async with asyncio.timeout(5):
                await writer.drain()
        except (OSError, IndexError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # a caller that hung up or spoke no HTTP is owed nothing
        finally:
            writer.close()

    try:
        return await asyncio.start_server(handle, None, port, limit=MAX_HEAD)
    except OSError:
        # A node with IPv6 compiled in but switched off refuses the wildcard of that family.
        return await asyncio.start_server(handle, "0.0.0.0", port, limit=MAX_HEAD)


def _page(status: int, text: str) -> bytes:
    body = (text + "\n").encode()
    reason = {200: "OK", 404: "Not Found"}.get(status, "Service Unavailable")
    head = f"HTTP/1.1 {status} {reason}\r\nContent-Type: text/plain; charset=utf-8\r\n"
    return f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body
