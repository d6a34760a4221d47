"""Upstreams of realtime sessions: one does what a test says, one ends them at once."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import pytest
from aiohttp import web
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.integration.gateway.upstream import failing

MIB = 1024 * 1024
USAGE = {"total_tokens": 30, "input_tokens": 10, "output_tokens": 20}


class Model:
    """Speaks as the realtime API does; `held` stops its reading, `closed` is how its caller closed the last session."""

    def __init__(self) -> None:
        self.may_read = threading.Event()
        self.may_read.set()
        self.read = 0
        self.said = 0
        self.closed: list[tuple[int | None, str]] = []

    async def __call__(self, request: web.Request, _: dict[str, Any]) -> web.StreamResponse:
        if "refused" in request.query:
            return failing(int(request.query["refused"]), "no", location=f"{request.path}?model=elsewhere")
        socket = web.WebSocketResponse(protocols=["realtime"], max_msg_size=16 * MIB)
        await socket.prepare(request)
        model = request.query["model"]
        await socket.send_json({"type": "session.created", "session": {"model": model, "query": dict(request.query)}})
        await asyncio.to_thread(self.may_read.wait)
        try:
            async for message in socket:
                self.read += 1
                if message.type is web.WSMsgType.BINARY:
                    await socket.send_bytes(message.data[::-1])
                else:
                    await self._hear(socket, json.loads(message.data))
        finally:
            # When the connection ends with the last word, this is cancelled while it still answers that.
            self.closed.append((socket.close_code, ""))
        return socket

    async def _hear(self, socket: web.WebSocketResponse, event: dict[str, Any]) -> None:
        kind = event["type"]
        if kind == "response.create":
            await socket.send_json({"type": "response.done", "response": {"output": [], "usage": USAGE}})
        elif kind == "close":
            await socket.close(code=event["code"], message=event["reason"].encode())
        elif kind == "break":
            assert socket._req is not None and socket._req.transport is not None
            socket._req.transport.abort()
        elif kind == "talk":
            for _ in range(event["count"]):
                await socket.send_str("x" * event["size"])
                self.said += 1
        elif kind != "heard":
            await socket.send_json({"type": "echo", "event": event})


async def end_session(request: web.Request) -> web.StreamResponse:
    """Ends a session as it begins; its model is the reason."""
    session = web.WebSocketResponse()
    await session.prepare(request)
    await session.close(message=request.query["model"].encode())
    return session


def end_of_session(port: int, model: str, secret: str) -> str:
    """The reason with which a session with a gateway is ended."""
    headers = {"Authorization": f"Bearer {secret}"}
    url = f"ws://127.0.0.1:{port}/v1/realtime?model={model}"
    with (
        connect(url, additional_headers=headers, proxy=None, open_timeout=30) as session,
        pytest.raises(ConnectionClosed) as closed,
    ):
        session.recv(30)
    assert closed.value.rcvd is not None
    return closed.value.rcvd.reason
