"""Answers that come packed though nobody asked for that."""

from __future__ import annotations

import gzip
import zlib

import pytest

from bud.gateway.coding import Packed, unpacked
from bud.gateway.reply import Broken, Reply
from tests.unit.gateway.scripted import HELLO, OK, run, serving

TEXT = b'data: {"a": 1}\n\n' * 1000
BARE = zlib.compressobj(wbits=-15)
SIZE = 256 * 1024 + 21
DEFLATED = BARE.compress(TEXT) + BARE.flush()
CODED = {
    "gzip": ("gzip", gzip.compress(TEXT)),
    "gzip by its old name, in capitals": ("X-GZip", gzip.compress(TEXT)),
    "several members": ("gzip", gzip.compress(TEXT[:100]) + gzip.compress(b"") + gzip.compress(TEXT[100:])),
    "deflate as zlib has it": ("deflate", zlib.compress(TEXT)),
    "deflate without zlib's head": ("deflate", DEFLATED),
    "no coding": ("identity", TEXT),
    "stored, hardly smaller": ("gzip", gzip.compress(TEXT, 0)),
}


def answer(coding: str, body: bytes, *, status: bytes = OK) -> bytes:
    head = f"Content-Type: text/plain\r\nContent-Encoding: {coding}\r\nContent-Length: {len(body)}\r\n\r\n"
    return status + head.encode() + body


class ByByte(Reply):
    """An answer whose body comes byte by byte."""

    def __init__(self, coding: str, body: bytes) -> None:
        self.status, self.headers, self.length = 200, {"content-encoding": coding}, None
        self._bytes = iter(body)

    async def __anext__(self) -> bytes:
        for one in self._bytes:
            return bytes((one,))
        raise StopAsyncIteration


@pytest.mark.parametrize("coded", CODED.values(), ids=CODED)
def test_a_packed_answer_is_what_is_within_whole_or_in_pieces(coded: tuple[str, bytes]) -> None:
    async def test() -> None:
        sent = answer(*coded)
        async with serving(sent, sent, HELLO) as (server, client):
            reply = await client.ask("POST", server.url, headers={})
            assert await reply.read(10**6) == TEXT
            reply = await client.ask("POST", server.url, headers={})
            assert b"".join([piece async for piece in reply]) == TEXT
            assert reply.headers["content-type"] == "text/plain"
            if coded[0] != "identity":
                assert reply.length is None and not {"content-encoding", "content-length"} & reply.headers.keys()
            assert await (await client.ask("POST", server.url, headers={})).read(10) == b"hello"
            assert server.connections == 1
        assert b"".join([piece async for piece in unpacked(ByByte(*coded))]) == TEXT

    run(test)


def test_little_that_becomes_much_is_held_in_pieces_and_read_to_a_bound() -> None:
    async def test() -> None:
        sent = answer("gzip", gzip.compress(bytes(50_000_000)))
        async with serving(sent, sent) as (server, client):
            reply = await client.ask("POST", server.url, headers={})
            assert 1_000_000 < len(await reply.read(1_000_000)) <= 1_300_000
            reply.close()
            reply = await client.ask("POST", server.url, headers={})
            sizes = [len(piece) async for piece in reply]
            assert sum(sizes) == 50_000_000 and max(sizes) <= 300_000

    run(test)


BROKEN = {
    "gzip ends early": ("gzip", gzip.compress(TEXT)[:-9], "the gzip of its answer breaks off"),
    "deflate ends early": ("deflate", zlib.compress(TEXT)[:-5], "the deflate of its answer breaks off"),
    "not gzip": ("gzip", TEXT, "its answer is no gzip"),
    "not deflate": ("deflate", b"\xff" * 50, "its answer is no deflate"),
    "another sum of deflate": ("deflate", zlib.compress(TEXT)[:-4] + bytes(4), "its answer is no deflate"),
    "more after gzip": ("gzip", gzip.compress(TEXT) + b"more", "its answer is no gzip"),
    "another sum of gzip": ("gzip", gzip.compress(TEXT)[:-8] + bytes(8), "its answer is no gzip"),
}


@pytest.mark.parametrize(("coding", "body", "told"), BROKEN.values(), ids=BROKEN)
def test_what_is_not_packed_as_its_head_says_is_broken(coding: str, body: bytes, told: str) -> None:
    async def test() -> None:
        async with serving(answer(coding, body)) as (server, client):
            reply = await client.ask("POST", server.url, headers={})
            with pytest.raises(Broken, match=told):
                await reply.read(10**6)
            reply.close()
        with pytest.raises(Broken, match=told):
            await unpacked(ByByte(coding, body)).read(10**6)

    run(test)


def test_what_is_left_within_when_all_has_been_read_comes_too() -> None:
    """The last byte holds more than the piece that is made of it."""
    bare = zlib.compressobj(wbits=-15)
    packed = bare.compress(bytes(SIZE)) + bare.flush()

    async def test() -> None:
        async with serving(answer("deflate", packed)) as (server, client):
            assert len(await (await client.ask("POST", server.url, headers={})).read(10**6)) == SIZE

    run(test)


def test_nothing_at_all_is_nothing() -> None:
    async def test() -> None:
        async with serving(answer("gzip", b"")) as (server, client):
            assert await (await client.ask("POST", server.url, headers={})).read(10) == b""

    run(test)


@pytest.mark.parametrize("coding", ["br", "zstd", "gzip, gzip"])
def test_another_coding_is_named_unless_the_status_says_enough(coding: str) -> None:
    async def test() -> None:
        async with serving(answer(coding, b"?"), answer(coding, b"?", status=b"HTTP/1.1 404 No\r\n")) as (
            server,
            client,
        ):
            with pytest.raises(Packed, match=f"Content-Encoding '{coding}', which was not asked for"):
                await client.ask("POST", server.url, headers={})
            assert (await client.ask("POST", server.url, headers={})).status == 404

    run(test)
