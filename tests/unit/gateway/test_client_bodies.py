"""Bodies that the client sends in pieces."""

import asyncio
from collections.abc import AsyncGenerator

import pytest

from bud.gateway.reply import Broken
from tests.unit.gateway.scripted import HELLO, closed, listening, run, serving, until


async def _pieces(*pieces: bytes) -> AsyncGenerator[bytes, None]:
    for piece in pieces:
        await asyncio.sleep(0)
        yield piece


def test_a_body_in_pieces_goes_in_chunks_or_by_its_length() -> None:
    async def test() -> None:
        async with serving(HELLO, HELLO) as (server, client):
            for headers in ({}, {"content-length": "7"}):
                reply = await client.ask("POST", server.url, headers=headers, body=_pieces(b"abc", b"", b"defg"))
                assert await reply.read(10) == b"hello"
            assert server.asked[0].endswith(b"\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n")
            assert server.asked[1].endswith(b"\r\nContent-Length: 7\r\n\r\nabcdefg")
            assert server.connections == 1

    run(test)


@pytest.mark.parametrize("told", ["6", "8"])
def test_a_body_of_another_length_than_told_is_never_sent_as_whole(told: str) -> None:
    async def test() -> None:
        async with serving(HELLO) as (server, client):
            with pytest.raises(Broken, match="another length"):
                await client.ask("POST", server.url, headers={"content-length": told}, body=_pieces(b"abc", b"defg"))
            await until(lambda: server.ended == 1)
            assert not server.asked

    run(test)


def test_an_answer_before_the_body_has_gone_ends_the_connection_and_the_body() -> None:
    ended = asyncio.Event()

    async def endless() -> AsyncGenerator[bytes, None]:
        try:
            while True:
                yield b"x"
                await asyncio.sleep(0)
        finally:
            ended.set()

    async def early(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await reader.readexactly(10**9)
        await closed(writer)

    async def test() -> None:
        async with listening(early) as (url, client):
            reply = await client.ask("POST", url, headers={}, body=endless())
            assert (reply.status, await reply.read(10)) == (413, b"no")
            await ended.wait()

    run(test)


def test_a_slow_upstream_slows_an_upload_down() -> None:
    sent, over = 0, asyncio.Event()

    async def endless() -> AsyncGenerator[bytes, None]:
        nonlocal sent
        while True:
            sent += 65536
            yield bytes(65536)

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        await over.wait()
        await closed(writer)

    async def test() -> None:
        async with listening(slow) as (url, client):
            reply = await client.ask("POST", url, headers={}, body=endless())
            await until(lambda: reply._connection._writable is not None)
            assert sent < 64 * 1024 * 1024
            over.set()

    run(test)


def test_a_connection_with_a_body_still_to_send_is_not_used_again() -> None:
    over = asyncio.Event()

    async def early(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
        await over.wait()
        await closed(writer)

    async def test() -> None:
        async with listening(early) as (url, client):
            for _ in range(2):
                reply = await client.ask("POST", url, headers={}, body=bytes(20 * 1024 * 1024))
                assert (reply.status, await reply.read(10)) == (413, b"no")
            await until(lambda: not client._open)
            over.set()

    run(test)
