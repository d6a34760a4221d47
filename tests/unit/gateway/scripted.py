"""A server that says exactly what a test wants, and a client that asks it."""

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import uvloop

from bud.gateway.client import Client

OK = b"HTTP/1.1 200 OK\r\n"
HELLO = OK + b"Content-Length: 5\r\n\r\nhello"
SECONDS = 10.0


@dataclass
class Server:
    """Answers the requests of each connection with the next of `answers`, and ends the connection at an empty one."""

    answers: list[bytes]
    asked: list[bytes] = field(default_factory=list)
    connections: int = 0
    ended: int = 0
    """How many connections the client has ended."""
    port: int = 0
    scheme: str = "http"
    host: str = "127.0.0.1"
    work: list[asyncio.Task[None]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.host}:{self.port}/v1/x"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self.work.append(task)
        try:
            while True:
                self.asked.append(await _request(reader))
                answer = self.answers.pop(0)
                writer.write(answer.removesuffix(b"<end>"))
                await writer.drain()
                if not answer or answer.endswith(b"<end>"):
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            self.ended += 1
        finally:
            await closed(writer)


async def closed(writer: asyncio.StreamWriter) -> None:
    """Ends a connection."""
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


async def _request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    if b"transfer-encoding: chunked" in head.lower():
        return head + await reader.readuntil(b"0\r\n\r\n")
    found = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
    return head + (await reader.readexactly(int(found[1])) if found else b"")


@asynccontextmanager
async def serving(*answers: bytes, context: ssl.SSLContext | None = None) -> AsyncIterator[tuple[Server, Client]]:
    server, client = Server(list(answers)), Client()
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=context)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        async with asyncio.timeout(SECONDS):
            yield server, client
    finally:
        client.close()
        listener.close()
        for one in server.work:
            one.cancel()
        await asyncio.gather(*server.work, return_exceptions=True)


@asynccontextmanager
async def listening(
    handle: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[tuple[str, Client]]:
    """The URL of a server that does with each connection what is told, and a client; within `SECONDS`."""
    listener, client = await asyncio.start_server(handle, "127.0.0.1", 0), Client()
    try:
        async with asyncio.timeout(SECONDS):
            yield f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/", client
    finally:
        client.close()
        listener.close()


async def asked(client: Client, server: Server, body: bytes = b"{}") -> tuple[int, bytes]:
    reply = await client.ask("POST", server.url, headers={"x-a": "b"}, body=body)
    return reply.status, await reply.read(10**9)


async def until(is_so: Callable[[], bool]) -> None:
    while not is_so():  # noqa: ASYNC110  what the other side does has no event here
        await asyncio.sleep(0.005)


def run(test: Callable[[], Coroutine[None, None, None]]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(test())
