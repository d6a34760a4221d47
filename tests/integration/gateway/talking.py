"""An upstream of realtime sessions that does what a test says."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

from aiohttp import web

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
