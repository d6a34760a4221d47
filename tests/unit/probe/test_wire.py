"""The probe's own HTTP: what it reads well, and what it refuses."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import httpx
import pytest

from bud.probe import wire
from bud.probe.wire import Address, BadAnswerError, parse_address, request, serve
from tests.tiny_engine import free_port

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"


@asynccontextmanager
async def server_that_says(raw: bytes) -> AsyncIterator[tuple[Address, list[bytes]]]:
    heard: list[bytes] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(raw)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(handle, "127.0.0.1", 0) as server:
        yield Address("127.0.0.1", server.sockets[0].getsockname()[1], "/prefix"), heard


@pytest.mark.parametrize(
    ("raw", "status", "body"),
    [
        (HEAD + b"Content-Length: 5\r\n\r\nhello", 200, b"hello"),
        (HEAD + b"content-length: 0\r\n\r\n", 200, b""),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\n\r\n", 200, b"hello"),
        (HEAD + b"\r\nhello", 200, b"hello"),
        (b"HTTP/1.0 503 Service Unavailable\r\n\r\nloading", 503, b"loading"),
        (b"HTTP/1.1 404\r\nContent-Length: 0\r\n\r\n", 404, b""),
    ],
)
async def test_an_answer_is_read_however_its_end_is_marked(raw: bytes, status: int, body: bytes) -> None:
    async with server_that_says(raw) as (address, heard):
        answer = await request(address, "/path", seconds=5)
    assert (answer.status, answer.body) == (status, body)
    assert heard[0].startswith(b"GET /prefix/path HTTP/1.1\r\nHost: 127.0.0.1:")


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 twohundred OK\r\n\r\n",
        HEAD + b"Content-Length: 9\r\n\r\nhello",
        HEAD + b"Content-Length: -1\r\n\r\n",
        HEAD + b"Content-Length: 999999999999\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nffffffff\r\n",
        HEAD + b"X: " + b"x" * 2 * wire.MAX_HEAD,
    ],
)
async def test_what_is_cut_short_too_large_or_not_http_is_refused(raw: bytes) -> None:
    async with server_that_says(raw) as (address, _):
        with pytest.raises(BadAnswerError):
            await request(address, "/path", seconds=5)


async def test_a_body_without_an_end_is_refused_at_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "MAX_BODY", 1000)
    async with server_that_says(HEAD + b"\r\n" + b"x" * 1001) as (address, _):
        with pytest.raises(BadAnswerError, match="larger"):
            await request(address, "/path", seconds=5)


async def test_a_server_that_says_nothing_is_a_timeout_and_is_hung_up_on() -> None:
    hung_up = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        await writer.wait_closed()
        hung_up.set()

    async with await asyncio.start_server(handle, "127.0.0.1", 0) as server:
        address = Address("127.0.0.1", server.sockets[0].getsockname()[1], "")
        with pytest.raises(TimeoutError):
            await request(address, "/", seconds=0.05)
        await asyncio.wait_for(hung_up.wait(), timeout=5)


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://127.0.0.1:8000", Address("127.0.0.1", 8000, "")),
        ("http://[::1]:8000/api/", Address("::1", 8000, "/api")),
        ("http://localhost", Address("localhost", 80, "")),
    ],
)
def test_addresses_are_read(url: str, address: Address) -> None:
    assert parse_address(url) == address


@pytest.mark.parametrize("url", ["", "localhost:8000", "https://127.0.0.1", "http://", "http://127.0.0.1:x"])
def test_what_is_no_plain_http_address_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_address(url)


@pytest.fixture
async def page_port() -> AsyncIterator[int]:
    def pages(path: str) -> tuple[int, str]:
        return (200, "yes") if path == "/there" else (503, "why")

    port = free_port()
    async with await serve(port, pages):
        yield port


async def test_pages_are_served_to_any_client(page_port: int) -> None:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{page_port}") as client:
        there, away = await client.get("/there"), await client.get("/elsewhere")
    assert (there.status_code, there.text) == (200, "yes\n")
    assert (away.status_code, away.text) == (503, "why\n")


async def test_a_caller_that_speaks_no_http_stops_nobody(page_port: int) -> None:
    for noise in (b"\r\n\r\n", b"x" * 2 * wire.MAX_HEAD, b""):
        reader, writer = await asyncio.open_connection("127.0.0.1", page_port)
        writer.write(noise)
        writer.write_eof()
        with suppress(ConnectionResetError):
            assert await reader.read() == b""
        writer.close()
    async with httpx.AsyncClient() as client:
        assert (await client.get(f"http://127.0.0.1:{page_port}/there")).status_code == 200


async def test_a_port_that_is_taken_is_an_error(page_port: int) -> None:
    with pytest.raises(OSError, match="in use"):
        await serve(page_port, lambda path: (200, ""))
