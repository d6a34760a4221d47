"""How streams begin: with their first event, which may be an error whatever the status said."""

from __future__ import annotations

import pytest

from bud.gateway.faults import UNKNOWN, status_of
from bud.gateway.opening import first_event
from bud.gateway.sse import TooLong
from bud.gateway.stream import CutShort
from tests.unit.gateway.scripted import OK, run, serving

CHUNK = b'data: {"choices":[{"index":0,"delta":{"content":"hi"}}]}'
DONE = b"data: [DONE]"


def stream(*pieces: bytes) -> bytes:
    """An answer of events, each piece a chunk of its own."""
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return OK + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"


BEGINNINGS = {
    "at once": [CHUNK + b"\n\n" + DONE + b"\n\n"],
    "after comments": [b": alive\n\n: alive\n\n", b":\n\n" + CHUNK + b"\n\n", DONE + b"\n\n"],
    "after what has no data": [b"retry: 10\n\ndata:\n\n", CHUNK + b"\n\n", DONE + b"\n\n"],
    "in pieces": [b": alive\n", b"\n" + CHUNK[:9], CHUNK[9:30], CHUNK[30:] + b"\n\n" + DONE[:3], DONE[3:] + b"\n\n"],
    "with other ends of lines": [(b": alive\n\n" + CHUNK + b"\n\n" + DONE + b"\n\n").replace(b"\n", b"\r\n")],
}


@pytest.mark.parametrize("pieces", BEGINNINGS.values(), ids=BEGINNINGS)
def test_a_stream_goes_on_with_its_first_event_and_without_what_came_before_it(pieces: list[bytes]) -> None:
    async def test() -> None:
        async with serving(stream(*pieces)) as (server, client):
            reply = await client.ask("POST", server.url, headers={})
            assert await first_event(reply, None) == CHUNK
            assert (
                b"".join([chunk async for chunk in reply]).replace(b"\r\n", b"\n") == CHUNK + b"\n\n" + DONE + b"\n\n"
            )

    run(test)


def test_whoever_waits_is_told_of_comments_and_of_no_event() -> None:
    told = list[str]()

    async def alive() -> None:
        told.append("alive")

    async def test() -> None:
        async with serving(stream(b": alive\n\n"), stream(CHUNK + b"\n\n")) as (server, client):
            with pytest.raises(CutShort):
                await first_event(await client.ask("POST", server.url, headers={}), alive)
            assert told == ["alive"]
            await first_event(await client.ask("POST", server.url, headers={}), alive)
            assert told == ["alive"]

    run(test)


def test_a_first_event_has_an_end() -> None:
    async def test() -> None:
        async with serving(stream(b"data: " + bytes(17 * 1024 * 1024))) as (server, client):
            with pytest.raises(TooLong):
                await first_event(await client.ask("POST", server.url, headers={}), None)

    run(test)


@pytest.mark.parametrize(
    ("event", "status"),
    [
        (CHUNK, None),
        (b"data: [DONE]", None),
        (b'data: {"choices":[{"delta":{"content":"an error"}}]}', None),
        (b'event: response.created\ndata: {"type":"response.created","response":{"error":null}}', None),
        (b'data: {"error":null,"choices":[]}', None),
        (b'data: "error"', None),
        (b'data: {"error":{"message":"m","type":"overloaded_error"}}', 503),
        (b'data: {"error":{"message":"m","type":"rate_limit_error","code":null}}', 429),
        (b'data: {"error":{"message":"m","type":"invalid_request_error"}}', 400),
        (b'data: {"error":{"message":"m","type":"not_found_error"}}', 404),
        (b'data: {"error":{"message":"m","type":"authentication_error"}}', 401),
        (b'data: {"error":{"message":"m","type":"permission_error"}}', 403),
        (b'data: {"error":{"message":"m","type":"api_error"}}', 500),
        (b'data: {"error":{"message":"m","type":"server_error"}}', 500),
        (b'data: {"error":{"message":"m","type":"requests","code":"rate_limit_exceeded"}}', 429),
        (b'data: {"error":{"message":"m","type":"invalid_request_error","code":"model_not_found"}}', 404),
        (b'data: {"error":{"message":"m","type":"InternalServerError","code":500}}', 500),
        (b'data: {"error":{"message":"m","type":"BadRequestError","code":"400"}}', 400),
        (b'data: {"error":{"message":"m","code":529},"choices":[]}', 529),
        (b'data: {"object":"error","message":"m","type":"BadRequestError","code":400}', 400),
        (b'event: error\ndata: {"type":"error","code":"server_error","message":"m","sequence_number":0}', 500),
        (b'data: {"type":"error","error":{"type":"overloaded_error","message":"m"}}', 503),
        (b'event: error\ndata: {"message":"m"}', UNKNOWN),
        (b"event: error\ndata: no JSON", UNKNOWN),
        (b'data: {"error":"m"}', UNKNOWN),
        (b'data: {"error":{"message":"m","type":"strange","code":7}}', UNKNOWN),
        (b'data: {"error":{"message":"m","code":true}}', UNKNOWN),
        (b'data: {"error":{"message":"m","code":"%b"}}' % (b"9" * 5000), UNKNOWN),
        (b'data: {"error":{"message":"m","code":"0404"}}', UNKNOWN),
        (b'data: {"error":{"message":"m","code":[],"type":{}}}', UNKNOWN),
    ],
)
def test_an_event_tells_of_an_error_and_of_which_kind(event: bytes, status: int | None) -> None:
    assert status_of(event) == status
