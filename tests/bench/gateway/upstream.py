"""A model that costs next to nothing: fixed answers over raw HTTP/1.1, whole or as a stream of 50 chunks.

Run as a program; prints its port. It reads no more of a request than its length and whether it asks for a stream.
"""

from __future__ import annotations

import asyncio
import json

CHUNKS = 50

_BASE = {"id": "chatcmpl-1", "created": 1, "model": "bench"}
_USAGE = {"prompt_tokens": 12, "completion_tokens": CHUNKS, "total_tokens": 12 + CHUNKS}


def _http(body: bytes, kind: str) -> bytes:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _whole() -> bytes:
    message = {"role": "assistant", "content": "word " * CHUNKS}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    return _http(
        json.dumps({**_BASE, "object": "chat.completion", "choices": choices, "usage": _USAGE}).encode(),
        "application/json",
    )


def _event(value: object) -> bytes:
    data = b"data: " + (value if isinstance(value, bytes) else json.dumps(value).encode()) + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(data), data)


def _stream() -> list[bytes]:
    base = {**_BASE, "object": "chat.completion.chunk"}
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    word = {"index": 0, "delta": {"content": "word "}, "finish_reason": None}
    last = {"index": 0, "delta": {}, "finish_reason": "stop"}
    events = [_event({**base, "choices": [word]})] * CHUNKS
    end = _event({**base, "choices": [last]}) + _event({**base, "choices": [], "usage": _USAGE}) + _event(b"[DONE]")
    return [head, *events, end + b"0\r\n\r\n"]


WHOLE, STREAM = _whole(), _stream()


class Model(asyncio.Protocol):
    """One connection; requests come one after another."""

    def __init__(self) -> None:
        self._pending = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._pending += data
        while (end := self._pending.find(b"\r\n\r\n")) >= 0:
            head = self._pending[:end].lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self._pending) < end + 4 + length:
                return
            body, self._pending = self._pending[end + 4 : end + 4 + length], self._pending[end + 4 + length :]
            if b'"stream":true' in body or b'"stream": true' in body:
                self._send(0)
            else:
                self._transport.write(WHOLE)

    def _send(self, number: int) -> None:
        if not self._transport.is_closing():
            self._transport.write(STREAM[number])
            if number + 1 < len(STREAM):
                asyncio.get_running_loop().call_soon(self._send, number + 1)


async def main() -> None:
    server = await asyncio.get_running_loop().create_server(Model, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
