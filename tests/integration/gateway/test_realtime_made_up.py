"""Handshakes, parameters and frames made up by hypothesis, for the endpoint that schemathesis cannot open: each is answered
by the reference's error object, or by a session that ends with a close code."""

from __future__ import annotations

import http.client
import json
import os
import re
import struct
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote_plus

import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.gateway_process import KEY, GatewayProcess, key, project, provider, running_gateway
from tests.integration.gateway.raw import connected, received
from tests.integration.gateway.upstream import running, unread

MADE_UP = settings(max_examples=200, deadline=None, derandomize=True, database=None)
KINDS = {"invalid_request_error", "authentication_error", "permission_error", "not_found_error", "rate_limit_error"}
CODES = {*range(1000, 1004), *range(1007, 1015), *range(3000, 5000)}
"""That may be sent: https://www.rfc-editor.org/rfc/rfc6455#section-7.4."""
TEXT, BINARY, CLOSE = 0x81, 0x82, 0x88
ENDS = CLOSE, b"\x03\xe8"

Frame = tuple[int, bytes]
"""The first byte, and the payload."""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    async def echo(request: web.Request, _: dict[str, Any]) -> web.StreamResponse:
        session = web.WebSocketResponse()
        await session.prepare(request)
        async for message in session:
            await (session.send_bytes if message.type is web.WSMsgType.BINARY else session.send_str)(message.data)
        return session

    with running(echo, read=unread) as upstream:
        objects = (
            project(),
            key(),
            key("narrow", "bud_narrow", scopes={"endpoints": ["models"]}),
            provider("p", upstream.url, "voice"),
        )
        with running_gateway(tmp_path_factory.mktemp("made-up") / "objects", *objects) as started:
            yield started
            # Not even addresses, into which callers write keys; nor is what they do wrong the gateway's error.
            assert KEY not in started.log and not re.search("ERROR|Traceback", started.log), started.log


words = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=12)
visible = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=20)
names = st.one_of(
    st.sampled_from(["model", "MODEL", "deployment", "api-version", "intent", "call_id", "key", "model[]"]), words
)
pairs = st.lists(st.tuples(names, st.sampled_from(["voice", KEY]) | words), max_size=4)
queries = st.one_of(
    st.just("model=voice"),
    words.map(lambda word: f"model=voice&x={quote_plus(word)}"),
    pairs.map(lambda found: "&".join(f"{quote_plus(name)}={quote_plus(value)}" for name, value in found)),
    visible,
)
PROPER: dict[str, str | None] = {
    "Authorization": f"Bearer {KEY}",
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}
STRANGE = {
    "Authorization": (None, "", "Bearer", "Bearer bud_narrow", "Basic YTpi"),
    "Connection": (None, "keep-alive, upgrade", "close"),
    "Upgrade": (None, "WebSocket", "h2c"),
    "Sec-WebSocket-Version": (None, "8", "x", "13, 8"),
    "Sec-WebSocket-Key": (None, "", "x", "AAAA"),
    "Sec-WebSocket-Protocol": ("realtime", f"realtime, openai-insecure-api-key.{KEY}", "a, a", "a b", ","),
    "Sec-WebSocket-Extensions": ("permessage-deflate", "permessage-deflate; x=1", "=;"),
    "OpenAI-Beta": ("realtime=v1",),
    "X-Request-ID": ("mine",),
    "X-Stainless-Timeout": ("0", "-1", "nan", "1e999"),
}
"""What a header of a handshake may be instead, beside any visible characters."""
changes = st.one_of([st.tuples(st.just(name), st.sampled_from(some) | visible) for name, some in STRANGE.items()])
headers = st.lists(changes, max_size=2).map(lambda found: {**PROPER, **dict(found)})
payloads = st.one_of(
    st.just(b'{"type":"response.create"}'),
    st.just(b'{"type":"session.update","session":{"model":"voice"}}'),
    st.recursive(st.none() | st.integers() | words, lambda inner: st.lists(inner) | st.dictionaries(words, inner)).map(
        lambda told: json.dumps(told).encode()
    ),
    st.binary(max_size=300),
)
frames = st.one_of(
    st.tuples(st.sampled_from([TEXT, BINARY]), payloads),
    st.tuples(st.integers(0, 255), payloads),
    st.tuples(st.just(CLOSE), st.integers(0, 65535).map(lambda code: struct.pack("!H", code)) | payloads),
)


def shake(query: str, fields: dict[str, str | None], *, path: str) -> bytes:
    told = "".join(f"{name}: {value}\r\n" for name, value in fields.items() if value is not None)
    return f"GET {path}?{query} HTTP/1.1\r\nHost: x\r\n{told}\r\n".encode("latin-1")


def framed(first: int, payload: bytes) -> bytes:
    """As a caller sends it, masked: https://www.rfc-editor.org/rfc/rfc6455#section-5.2."""
    size, mask = len(payload), os.urandom(4)
    length = bytes([0x80 | size]) if size < 126 else bytes([0x80 | 126]) + struct.pack("!H", size)
    return bytes([first]) + length + mask + bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))


def unframed(data: bytes) -> list[Frame]:
    """As the gateway sends them, unmasked."""
    found = []
    while data:
        size, at = data[1], 2
        if size in (126, 127):
            width = 2 if size == 126 else 8
            size, at = int.from_bytes(data[2 : 2 + width]), 2 + width
        found.append((data[0], data[at : at + size]))
        data = data[at + size :]
    return found


@MADE_UP
@given(query=queries, fields=headers, path=st.sampled_from(["/v1/realtime", "/v1/realtime/connect"]))
def test_a_handshake_is_a_session_or_the_error_object(
    gateway: GatewayProcess, query: str, fields: dict[str, str | None], path: str
) -> None:
    with connected(gateway.port) as caller, caller.makefile("rb") as stream:
        caller.sendall(shake(query, fields, path=path))
        status = int(stream.readline().split()[1])
        told = http.client.parse_headers(stream)
        if status == 101:
            caller.sendall(framed(*ENDS))
            assert unframed(stream.read()) == [ENDS]
            return
        error = json.loads(stream.read(int(told["content-length"])))["error"]
    assert 400 <= status < 500 and error["type"] in KINDS and error["message"], error
    assert set(error) >= {"message", "type", "param", "code"} and told["x-request-id"]


@MADE_UP
@given(said=st.lists(frames, max_size=5))
def test_frames_end_with_a_close_code(gateway: GatewayProcess, said: list[Frame]) -> None:
    with connected(gateway.port) as caller:
        caller.sendall(shake("model=voice", PROPER, path="/v1/realtime"))
        head = caller.recv(65536)
        assert head.startswith(b"HTTP/1.1 101 ") and head.endswith(b"\r\n\r\n")
        caller.sendall(b"".join(framed(*frame) for frame in [*said, ENDS]))
        *_, (first, payload) = unframed(received(caller))
    assert first == CLOSE and (not payload or int.from_bytes(payload[:2]) in CODES)
