"""Callers that are slow, or never end, are given up: with 408 where they can still be told, and without holding an upstream."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web

from bud.gateway.protocol import Patience
from tests.gateway_process import KEY
from tests.integration.gateway.in_process import serving
from tests.integration.gateway.raw import Told, answers, connected, received
from tests.integration.gateway.upstream import Upstream, completion, read_json, running
from tests.waiting import eventually, is_so

SHORT = Patience(head=0.5, body=0.5, rate=1000.0, read=0.5, idle=1, ping=0.5)
HEAD = (
    f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nX-Request-ID: mine\r\n".encode()
)
CHAT = b'{"model":"m","messages":[{"role":"user","content":"hi"}]}'
STREAM = CHAT[:-1] + b',"stream":true}'
WHOLE = HEAD + b"Content-Length: %d\r\n\r\n" % len(CHAT) + CHAT
MIB = 1024 * 1024


async def answer(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    if request.path == "/v1/realtime":
        session = web.WebSocketResponse()
        await session.prepare(request)
        while True:
            await session.send_bytes(bytes(MIB))
    if not body.get("stream"):
        return completion(body)
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    chunk = {"model": "m", "choices": [{"index": 0, "delta": {"content": "x" * MIB}, "finish_reason": None}]}
    while True:
        await response.write(b"data: " + orjson.dumps(chunk) + b"\n\n")


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    async def read_any(request: web.Request) -> dict[str, Any]:
        return await read_json(request) if request.can_read_body else {}

    with running(answer, read=read_any) as made:
        yield made


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory, upstream: Upstream) -> Iterator[int]:
    with serving(tmp_path_factory.mktemp("patience"), upstream, patience=SHORT) as made:
        yield made


def sent(port: int, *pieces: bytes) -> list[Told]:
    with connected(port) as caller:
        for piece in pieces:
            caller.sendall(piece)
        return answers(received(caller))


@pytest.mark.parametrize(
    "data",
    [
        HEAD[:30],
        HEAD,
        HEAD + b"X-A: b",
        b"\r\n",
        HEAD + b"Content-Length: 100\r\n\r\n",
        HEAD + b"Content-Length: 100\r\n\r\n" + CHAT,
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n39\r\n" + CHAT,
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nffffffff\r\n" + CHAT,
        HEAD.replace(b"chat/completions", b"audio/transcriptions")
        + b"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 999\r\n\r\n--b\r\n",
        WHOLE + HEAD,
    ],
    ids=["a line", "headers", "half a header", "an empty line", "no body", "half a body", "no chunk", "no last chunk",
         "a chunk that is not all there", "half a form", "half of the second request"],
)  # fmt: skip
def test_what_stalls_is_told_so_and_ended(port: int, data: bytes) -> None:
    told = sent(port, data)[-1]
    error = json.loads(told.body)["error"]
    assert (told.status, error["type"], error["code"]) == (408, "invalid_request_error", "request_timeout")
    assert told.headers["connection"] == "close"
    if data.startswith(HEAD) and b"\r\n\r\n" in data and data != WHOLE + HEAD:
        assert told.headers["x-request-id"] == "mine"


def test_a_body_that_drips_is_ended_too(port: int) -> None:
    stop = threading.Event()

    def drip(caller: socket.socket) -> None:
        while not stop.wait(0.05):
            try:
                caller.sendall(b" ")
            except OSError:
                return

    with connected(port) as caller:
        caller.sendall(HEAD + b"Content-Length: 10000\r\n\r\n")
        dripping = threading.Thread(target=drip, args=(caller,))
        dripping.start()
        (told,) = answers(received(caller))
        stop.set()
        dripping.join()
    assert told.status == 408


@pytest.mark.parametrize("data", [b"", WHOLE], ids=["from the start", "after a request"])
def test_a_connection_that_says_nothing_is_ended_in_silence(port: int, data: bytes) -> None:
    assert [one.status for one in sent(port, data)] == ([200] if data else [])


def test_the_rest_of_a_body_that_was_refused_is_not_heard_for_ever(port: int) -> None:
    with connected(port) as caller:
        caller.sendall(HEAD.replace(KEY.encode(), b"other") + b"Content-Length: 1000\r\n\r\n")
        (told,) = answers(received(caller))
    assert told.status == 401


def test_a_caller_that_does_not_read_holds_no_upstream(port: int, upstream: Upstream) -> None:
    before = upstream.hung_up
    with connected(port) as caller:
        caller.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(STREAM) + STREAM)
        eventually(lambda: is_so(upstream.hung_up == before + 1), within=20)


def test_nor_does_one_that_does_not_read_its_session(port: int, upstream: Upstream) -> None:
    before = upstream.hung_up
    shake = (
        f"GET /v1/realtime?model=m HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nConnection: Upgrade\r\n"
        "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    with connected(port) as caller:
        caller.sendall(shake.encode())
        assert caller.recv(12) == b"HTTP/1.1 101"
        eventually(lambda: is_so(upstream.hung_up == before + 1), within=20)


def test_a_caller_who_asks_twice_at_once_and_leaves_ends_both(port: int, upstream: Upstream) -> None:
    before = upstream.hung_up
    with connected(port) as caller:
        caller.sendall((HEAD + b"Content-Length: %d\r\n\r\n" % len(STREAM) + STREAM) * 2)
        assert caller.recv(12) == b"HTTP/1.1 200"
    eventually(lambda: is_so(upstream.hung_up == before + 1), within=20)


def test_there_are_only_so_many_connections(tmp_path: Path, upstream: Upstream) -> None:
    with serving(tmp_path, upstream, patience=SHORT, most=2) as port, connected(port) as first, connected(port):
        (told,) = sent(port, b"")
        error = json.loads(told.body)["error"]
        assert (told.status, error["type"], error["code"]) == (503, "overloaded_error", "overloaded")
        first.sendall(WHOLE)
        assert first.recv(12) == b"HTTP/1.1 200"
