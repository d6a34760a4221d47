"""Requests that two readers could read in two ways: each is refused, or arrives upstream as the gateway means it."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import pytest

from tests.gateway_process import KEY, GatewayProcess, key, project, provider, running_gateway
from tests.integration.gateway.raw import RawUpstream, connected, raw_upstream, received, talk

CHAT = b'{"model":"m","messages":[{"role":"user","content":"hi"}]}'
CHUNKS = b"%x\r\n%s\r\n0\r\n\r\n" % (len(CHAT), CHAT)
TE, CL = b"Transfer-Encoding: chunked", b"Content-Length: %d" % len(CHAT)
SHAKE = (b"Upgrade: websocket", b"Connection: Upgrade")
WEBSOCKET = (b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")
REALTIME = b"GET /v1/realtime?model=m HTTP/1.1"


def post(
    *headers: bytes, first: bytes = b"POST /v1/chat/completions HTTP/1.1", body: bytes = CHAT, close: bool = True
) -> bytes:
    """A request that is right but for these."""
    own = [first, b"Host: gateway.example", b"Authorization: Bearer " + KEY.encode()]
    own += [b"Connection: close"] if close else []
    return b"\r\n".join([*own, *headers, b"", b""]) + body


def line(text: str) -> bytes:
    return post(CL, first=text.encode())


@pytest.fixture(scope="module")
def upstream() -> Iterator[RawUpstream]:
    with raw_upstream() as made:
        yield made


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, upstream: RawUpstream) -> Iterator[GatewayProcess]:
    folder = tmp_path_factory.mktemp("raw") / "objects"
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "s"},
        "stringData": {"apiKey": "sk-of-the-provider"},
    }
    offers = provider("p", upstream.url, "m", credentialsSecretRef={"name": "s"})
    with running_gateway(folder, project(), key(), secret, offers) as made:
        yield made


REFUSED = {
    "Content-Length twice": (400, post(CL, CL)),
    "two Content-Lengths": (400, post(CL, b"Content-Length: 5")),
    "a list as Content-Length": (400, post(b"Content-Length: 57, 57")),
    "a signed Content-Length": (400, post(b"Content-Length: +57")),
    "a hexadecimal Content-Length": (400, post(b"Content-Length: 0x39")),
    "a negative Content-Length": (400, post(b"Content-Length: -1")),
    "a Content-Length beyond any number": (400, post(b"Content-Length: 99999999999999999999999")),
    "Content-Length, then chunks": (400, post(CL, TE, body=CHUNKS)),
    "chunks, then Content-Length": (400, post(TE, b"Content-Length: 4", body=CHUNKS)),
    "chunked, identity": (400, post(b"Transfer-Encoding: chunked, identity", body=CHUNKS)),
    "identity, chunked": (400, post(b"Transfer-Encoding: identity, chunked", body=CHUNKS)),
    "gzip, chunked": (400, post(b"Transfer-Encoding: gzip, chunked", body=CHUNKS)),
    "identity": (400, post(b"Transfer-Encoding: identity", body=CHUNKS)),
    "xchunked": (400, post(b"Transfer-Encoding: xchunked", body=CHUNKS)),
    "chunked twice": (400, post(TE, TE, body=CHUNKS)),
    "chunked after a control character": (400, post(b"Transfer-Encoding: \x0bchunked", body=CHUNKS)),
    "a space before the colon": (400, post(b"Transfer-Encoding : chunked", body=CHUNKS)),
    "chunks in HTTP/1.0": (400, post(TE, first=b"POST /v1/chat/completions HTTP/1.0", body=CHUNKS)),
    "a folded header": (400, post(CL, b"X-A: b\r\n c")),
    "a folded Transfer-Encoding": (400, post(b"Transfer-Encoding:\r\n chunked", body=CHUNKS)),
    "a folded first header": (400, post(CL).replace(b"\r\nHost", b"\r\n Host")),
    "bare line feeds": (400, post(CL).replace(b"\r\n", b"\n")),
    "one bare line feed": (400, post(CL, b"X-A: b\nX-B: c")),
    "a bare carriage return": (400, post(CL, b"X-A: b\rX-B: c")),
    "NUL in a value": (400, post(CL, b"X-A: b\0c")),
    "NUL in a name": (400, post(CL, b"X\0A: b")),
    "a control character in an id": (400, post(CL, b"X-Request-ID: a\x0bb")),
    "a space in a name": (400, post(CL, b"X A: b")),
    "no name": (400, post(CL, b": b")),
    "no colon": (400, post(CL, b"X-A")),
    "a name beyond ASCII": (400, post(CL, "X-\u00e4: b".encode())),
    "a chunk's size that is none": (400, post(TE, body=b"zz\r\n" + CHAT)),
    "a chunk's size with 0x": (400, post(TE, body=b"0x39\r\n" + CHAT + b"\r\n0\r\n\r\n")),
    "a negative chunk": (400, post(TE, body=b"-1\r\n" + CHAT + b"\r\n0\r\n\r\n")),
    "a chunk's size beyond any number": (400, post(TE, body=b"f" * 17 + b"\r\n" + CHAT + b"\r\n0\r\n\r\n")),
    "a chunk that is longer than it says": (400, post(TE, body=b"5\r\n" + CHAT + b"\r\n0\r\n\r\n")),
    "chunks with bare line feeds": (400, post(TE, body=CHUNKS.replace(b"\r\n", b"\n"))),
    "a line feed in a chunk's extension": (400, post(TE, body=CHUNKS.replace(b"\r\n", b";a\nb\r\n", 1))),
    "a body that is longer than it says": (400, post(b"Content-Length: 5")),
    "Authorization twice": (400, post(CL, b"Authorization: Bearer other")),
    "Host twice": (400, post(CL, b"Host: other")),
    "no Host": (400, post(CL).replace(b"Host: gateway.example\r\n", b"")),
    "CONNECT": (400, line("CONNECT evil.example:443 HTTP/1.1")),
    "an asterisk": (404, line("OPTIONS * HTTP/1.1")),
    "a host as a path": (404, line("POST //evil.example/v1/chat/completions HTTP/1.1")),
    "dots in the path": (405, line("POST /v1/models/../chat/completions HTTP/1.1")),
    "a line's end in the path": (404, line("POST /v1/chat/completions%0d%0aX-A:%20b HTTP/1.1")),
    "a path beyond ASCII": (400, line("POST /v1/\u00e4 HTTP/1.1")),
    "a space in the path": (400, line("POST /v1/chat completions HTTP/1.1")),
    "HTTP/0.9": (400, b"GET /v1/models\r\n\r\n"),
    "HTTP/2.0": (400, line("POST /v1/chat/completions HTTP/2.0")),
    "HTTP/2's first words": (400, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "another protocol": (400, line("POST /v1/chat/completions HTTQ/1.1")),
    "a method of no one": (400, line("FETCH /v1/chat/completions HTTP/1.1")),
    "TLS": (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
    "an upgrade with a body": (400, post(CL, b"Upgrade: h2c", b"Connection: Upgrade", close=False)),
    "a WebSocket by POST": (400, post(CL, *SHAKE, *WEBSOCKET, close=False)),
    "a WebSocket with a body": (400, post(CL, *SHAKE, *WEBSOCKET, first=REALTIME, close=False)),
    "a WebSocket without a version": (426, post(*SHAKE, WEBSOCKET[1], first=REALTIME, body=b"", close=False)),
    "a WebSocket with half a key": (426, post(*SHAKE, WEBSOCKET[0], b"Sec-WebSocket-Key: x", first=REALTIME, body=b"", close=False)),
    "a WebSocket with protocols that are none": (426, post(*SHAKE, *WEBSOCKET, b"Sec-WebSocket-Protocol: a b, @", first=REALTIME, body=b"", close=False)),
    "a packed body that says it is none, too": (400, post(CL, b"Content-Encoding: br", b"Content-Encoding: identity")),
    "a long header": (431, post(CL, b"X-A: " + b"a" * 8000)),
    "long headers": (431, post(CL, *(b"X-%d: %s" % (n, b"a" * 900) for n in range(40)))),
    "many headers": (431, post(CL, *(b"X-%d: b" % n for n in range(97)))),
    "a long address": (431, line(f"POST /v1/chat/completions?{'a' * 8000} HTTP/1.1")),
    "headers without an end": (431, post(CL, b"X-A: " + b"a" * 400_000)[:-4]),
}  # fmt: skip


@pytest.mark.parametrize(("status", "data"), REFUSED.values(), ids=REFUSED)
def test_what_can_be_read_in_two_ways_is_refused(
    gateway: GatewayProcess, upstream: RawUpstream, status: int, data: bytes
) -> None:
    before = len(upstream.asked)
    told = talk(gateway.port, data)
    assert [one.status for one in told] == [status]
    error = json.loads(told[0].body)["error"]
    assert error["type"] in ("invalid_request_error", "not_found_error") and error["code"]
    assert told[0].headers["content-type"] == "application/json"
    assert told[0].headers["x-request-id"]
    assert (len(upstream.asked), upstream.strange) == (before, [])


@pytest.mark.parametrize("path", [b"chat/completions", b"audio/transcriptions"])
def test_a_packed_body_is_refused_before_any_of_it_comes(gateway: GatewayProcess, path: bytes) -> None:
    first = b"POST /v1/%s HTTP/1.1" % path
    (told,) = talk(gateway.port, post(CL, b"Content-Encoding: gzip", first=first, body=b""))
    error = json.loads(told.body)["error"]
    assert (told.status, error["code"]) == (400, "unsupported_encoding")
    assert error["message"].startswith("Content-Encoding: ") and "send it without compression" in error["message"]


UNDERSTOOD = {
    "as usual": post(CL),
    "in chunks": post(TE, body=CHUNKS),
    "in chunks, in capitals": post(b"TRANSFER-ENCODING:\tCHUNKED", body=CHUNKS),
    "a chunk's extension": post(TE, body=CHUNKS.replace(b"\r\n", b";a=b\r\n", 1)),
    "headers after the chunks": post(TE, body=CHUNKS[:-2] + b"Authorization: Bearer x\r\nX-Request-ID: t\r\nX-A: b\r\n\r\n"),
    "an absolute address": line("POST http://evil.example:1/v1/chat/completions HTTP/1.1"),
    "an absolute address with a user": line("POST http://a@evil.example/v1/chat/completions HTTP/1.1"),
    "a body that is not packed": post(CL, b"Content-Encoding: identity"),
    "a query": line("POST /v1/chat/completions?model=x&api-version=1#f HTTP/1.1"),
    "HTTP/1.0": line("POST /v1/chat/completions HTTP/1.0"),
    "headers that lead elsewhere": post(
        CL, b"X-Forwarded-Host: evil.example", b"Forwarded: host=evil.example", b"X-Original-URL: /admin",
        b"X-HTTP-Method-Override: DELETE", b"Cookie: a=b", b"OpenAI-Organization: other", b"api-key: x", b"X-Api-Key: x",
        b"TE: trailers", b"Trailer: X-A", b"Proxy-Authorization: Basic x", b"Accept-Encoding: br", b"Expect: 100-continue",
    ),
}  # fmt: skip


@pytest.mark.parametrize("data", UNDERSTOOD.values(), ids=UNDERSTOOD)
def test_what_is_understood_arrives_as_the_gateway_means_it(
    gateway: GatewayProcess, upstream: RawUpstream, data: bytes
) -> None:
    before = len(upstream.asked)
    (told,) = [one for one in talk(gateway.port, data) if one.status != 100]
    assert told.status == 200
    ((head, body),) = upstream.asked[before:]
    lines = head.removesuffix(b"\r\n\r\n").decode().split("\r\n")
    headers = dict(one.split(": ", 1) for one in lines[1:])
    assert lines[0] == "POST /v1/chat/completions HTTP/1.1"
    assert headers.pop("x-request-id") == told.headers["x-request-id"]
    assert headers.pop("User-Agent") == "bud-gateway"
    assert headers == {
        "Host": f"127.0.0.1:{upstream.port}",
        "content-type": "application/json",
        "accept": "application/json",
        "accept-encoding": "identity",
        "Authorization": "Bearer sk-of-the-provider",
        "Content-Length": str(len(CHAT)),
    }
    assert (body, upstream.strange) == (CHAT, [])


@pytest.mark.parametrize("name", [b"model", b"mod\\u0065l"], ids=["plainly", "by an escape"])
def test_a_model_that_is_named_twice_is_the_one_that_was_checked(
    gateway: GatewayProcess, upstream: RawUpstream, name: bytes
) -> None:
    body = b'{"%b":"gpt-forbidden",' % name + CHAT[1:]
    (told,) = talk(gateway.port, post(b"Content-Length: %d" % len(body), body=body))
    assert told.status == 200
    assert upstream.asked[-1][1] == CHAT


def test_requests_behind_one_another_are_answered_one_by_one(gateway: GatewayProcess, upstream: RawUpstream) -> None:
    before = len(upstream.asked)
    asked = [
        post(CL, b"X-Request-ID: a", close=False),
        post(TE, b"X-Request-ID: b", body=CHUNKS, close=False),
        post(CL, b"X-Request-ID: c"),
    ]
    assert [(one.status, one.headers["x-request-id"]) for one in talk(gateway.port, b"".join(asked))] == [
        (200, "a"),
        (200, "b"),
        (200, "c"),
    ]
    assert [body for _, body in upstream.asked[before:]] == [CHAT] * 3


def test_what_follows_a_request_that_would_upgrade_is_not_served(
    gateway: GatewayProcess, upstream: RawUpstream
) -> None:
    before = len(upstream.asked)
    first = post(b"Upgrade: h2c", b"Connection: Upgrade", first=b"GET /v1/models HTTP/1.1", body=b"", close=False)
    assert [one.status for one in talk(gateway.port, first + post(CL))] == [200]
    assert len(upstream.asked) == before


def test_bodies_are_bounded_whatever_they_say_of_their_length(gateway: GatewayProcess, upstream: RawUpstream) -> None:
    before, mib = len(upstream.asked), 1024 * 1024
    chunks = (b"%x\r\n%s\r\n" % (mib, b" " * mib) for _ in range(26))
    for pieces in ([post(b"Content-Length: %d" % (25 * mib + 1), body=b"")], [post(TE, body=b""), *chunks]):
        (told,) = talk(gateway.port, *pieces)
        assert (told.status, json.loads(told.body)["error"]["code"]) == (413, "request_too_large")
    form = b"Content-Type: multipart/form-data; boundary=c0ffee"
    first = b"POST /v1/audio/transcriptions HTTP/1.1"
    (told,) = talk(gateway.port, post(b"Content-Length: %d" % (200 * mib + 1), form, first=first, body=b""))
    assert told.status == 413
    assert len(upstream.asked) == before


def test_of_an_upstreams_headers_few_are_the_callers(gateway: GatewayProcess, upstream: RawUpstream) -> None:
    usual = upstream.head
    upstream.head = (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nSet-Cookie: a=b\r\nConnection: keep-alive, X-Hop\r\n"
        b"X-Hop: 1\r\nKeep-Alive: timeout=9\r\nProxy-Authenticate: Basic\r\nServer: theirs\r\nAuthorization: Bearer sk-of-the-provider\r\n"
        b"X-RateLimit-Limit-Requests: 7\r\nX-Request-ID: theirs\r\nLocation: http://theirs/\r\nAccess-Control-Allow-Origin: *\r\n"
        b"OpenAI-Model: \xc3\xa4\xff\r\nOpenAI-Version: 1\r\n"
    )
    (told,) = talk(gateway.port, post(CL))
    upstream.head = usual
    assert told.status == 200
    names = {name.lower() for name in told.headers} - {"x-conduit-cost"}
    assert names == {
        "content-type", "content-length", "connection", "x-request-id", "openai-model", "openai-version", "x-conduit-provider",
        "x-conduit-model-version", "x-conduit-virtual-key-id", "x-conduit-processing-time-ms",
    }  # fmt: skip
    assert told.headers["x-request-id"] != "theirs"
    assert told.headers["openai-model"].encode("latin-1", "surrogateescape") == b"\xc3\xa4\xff"


@pytest.mark.parametrize(
    "head", [b"OpenAI-Model: a\rSet-Cookie: b\r\n", b"OpenAI-Model: a\x01b\r\n", b"OpenAI-Model: a\r\n Set-Cookie: b\r\n"], ids=["a carriage return", "a control character", "folded"]
)  # fmt: skip
def test_an_upstreams_header_makes_no_header_of_its_own(
    gateway: GatewayProcess, upstream: RawUpstream, head: bytes
) -> None:
    usual, upstream.head = upstream.head, upstream.head + head
    with connected(gateway.port) as caller:
        caller.sendall(post(CL))
        told = received(caller)
    upstream.head = usual
    top = told.partition(b"\r\n\r\n")[0].lower()
    assert (
        b"\r\nset-cookie" not in top
        and b"\n set-cookie" not in top
        and b"\x01" not in top
        and top.startswith(b"http/1.1 ")
    )
    assert httpx.get(f"{gateway.url}/healthz").status_code == 200
