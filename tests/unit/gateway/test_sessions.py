"""How a session of two WebSockets ends, whoever ends it."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

from aiohttp import WSMessage, WSMsgType

from bud.gateway.realtime import _Session
from bud.gateway.refusal import Limited, Refusal
from tests.virtual_time import run


class Peer:
    """An upstream that says one word, and then nothing."""

    def __init__(self) -> None:
        self.closed_with: list[int] = []
        self.heard: list[str] = []
        self._words = [WSMessage(WSMsgType.TEXT, "a word", None)]

    async def receive(self) -> WSMessage:
        if not self._words:
            await asyncio.Event().wait()
        return self._words.pop()

    async def send_str(self, text: str) -> None:
        self.heard.append(text)

    async def close(self, *, code: int, message: bytes) -> None:
        self.closed_with.append(code)


def test_a_session_that_both_ways_may_not_go_on_with_ends_once_however_long_each_looks() -> None:
    told, peer, inbox = list[dict[str, Any]](), Peer(), asyncio.Queue[dict[str, Any]]()
    inbox.put_nowait({"type": "websocket.receive", "text": "a word, too"})

    async def send(message: Any) -> None:
        told.append(message)
        await asyncio.sleep(0)

    async def may_go_on(_: _Session) -> Refusal:
        await asyncio.sleep(1)
        return Limited("nothing is left")

    call = SimpleNamespace(request=SimpleNamespace(id="r", receive=inbox.get), served=SimpleNamespace(name="m"))
    target = SimpleNamespace(model="m")
    session = _Session(cast(Any, call), cast(Any, target), cast(Any, peer), send, may_go_on, lambda _, __: None)

    async def test() -> None:
        async with asyncio.timeout(60):
            await session.run()

    run(test())
    assert [message["type"] for message in told] == ["websocket.send", "websocket.send", "websocket.close"]
    assert "nothing is left" in told[1]["text"] and told[2]["code"] == 1008
    assert (peer.closed_with, peer.heard) == ([1001], [])
