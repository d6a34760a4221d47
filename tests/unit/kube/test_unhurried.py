"""A watch that is read from time to time, over a real connection."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web

from bud.kube.unhurried import unhurried


@asynccontextmanager
async def served(*events: bytes, whole: bool) -> AsyncIterator[str]:
    """Events one after another, and then an end, or silence; gives the address."""
    silence = asyncio.Event()

    async def watch(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for event in events:
            await response.write(event)
            await asyncio.sleep(0.01)
        if not whole:
            await silence.wait()
        return response

    async def short(_: web.Request) -> web.Response:
        return web.Response(text="ok")

    app = web.Application()
    app.router.add_get("/watch", watch)
    app.router.add_get("/short", short)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        silence.set()
        await runner.cleanup()


def wakes_at(response: aiohttp.ClientResponse) -> int:
    assert response.connection is not None and response.connection.transport is not None
    peer: socket.socket = response.connection.transport.get_extra_info("socket")
    return peer.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT)


async def test_events_that_come_one_after_another_are_read_together() -> None:
    events = [b"%d" % number for number in range(9)]
    async with (
        served(*events, whole=False) as url,
        aiohttp.ClientSession() as session,
        session.get(f"{url}/watch") as response,
        unhurried(response, 0.5),
    ):
        await asyncio.sleep(0)
        assert wakes_at(response) > 1
        chunks = list[bytes]()
        async for chunk in response.content.iter_any():
            chunks.append(chunk)
            if b"".join(chunks) == b"".join(events):
                break
    # The first may have come with the headers, and the clock may strike once between them.
    assert len(chunks) <= 3


@pytest.mark.parametrize("seconds", [0.0, 0.05])
async def test_the_connection_serves_short_answers_afterwards(seconds: float) -> None:
    async with served(b"a", b"b", whole=True) as url, aiohttp.ClientSession() as session:
        async with session.get(f"{url}/watch") as response, unhurried(response, seconds):
            assert await response.read() == b"ab"
        async with asyncio.timeout(10), session.get(f"{url}/short") as response:
            assert await response.text() == "ok"


async def test_a_connection_that_is_gone_is_no_fault() -> None:
    async with (
        served(b"a", whole=False) as url,
        aiohttp.ClientSession() as session,
        session.get(f"{url}/watch") as response,
        unhurried(response, 0.01),
    ):
        response.close()
        await asyncio.sleep(0.05)
