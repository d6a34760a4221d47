"""Watches of a server that no longer says anything."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest
from aiohttp import web
from kubernetes.aio.client import Configuration

from bud.errors import ApiUnavailable
from bud.kube.client import Client
from bud.kube.connect import Connection
from bud.kube.kinds import API_KEYS


async def test_a_watch_that_does_not_end_when_it_should_is_dead() -> None:
    asked: list[str] = []

    async def silent(request: web.Request) -> web.StreamResponse:
        asked.append(request.query["timeoutSeconds"])
        answer = web.StreamResponse()
        await answer.prepare(request)
        await asyncio.sleep(60)
        return answer

    app = web.Application()
    app.router.add_get("/{path:.*}", silent)
    runner = web.AppRunner(app, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    async with aiohttp.ClientSession(base_url=f"http://{host}:{port}/") as session:
        client = Client(Connection(Configuration(), "default"), session)
        watch = client.watch(API_KEYS, namespace=None, selector="", version="1", seconds=0.2)
        with pytest.raises(ApiUnavailable, match="broke"):
            await asyncio.wait_for(anext(watch), 10)
    await runner.cleanup()
    assert asked == ["1"]
