"""Answers as the client takes them, from servers that say exactly what a test wants."""

import asyncio
import ssl
from pathlib import Path

import pytest

from bud.gateway import client as client_module
from bud.gateway import reply as reply_module
from bud.gateway.client import Client
from bud.gateway.reply import HEAD_BYTES, Broken, Lost
from tests.cluster.pki import Authority
from tests.unit.gateway.scripted import HELLO, OK, asked, closed, listening, run, serving, until

READ = {
    "of a length": (HELLO, 200, b"hello"),
    "in chunks": (OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\n\r\n", 200, b"hello"),
    "in chunks, with a trailer": (
        OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n",
        200,
        b"hello",
    ),
    "until the connection ends": (OK + b"\r\nhello<end>", 200, b"hello"),
    "without a body": (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
    "after being told to go on": (b"HTTP/1.1 100 Continue\r\n\r\n" + HELLO, 200, b"hello"),
    "of a fault": (b"HTTP/1.1 500 Oh\r\nContent-Length: 2\r\n\r\nno", 500, b"no"),
    "by HTTP/1.0": (b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello<end>", 200, b"hello"),
}


@pytest.mark.parametrize(("raw", "status", "body"), READ.values(), ids=READ.keys())
def test_an_answer_is_read(raw: bytes, status: int, body: bytes) -> None:
    async def test() -> None:
        async with serving(raw) as (server, client):
            assert await asked(client, server) == (status, body)

    run(test)


BROKEN = {
    "shorter than told": OK + b"Content-Length: 50\r\n\r\nhello<end>",
    "ends within a chunk": OK + b"Transfer-Encoding: chunked\r\n\r\n50\r\nhello<end>",
    "ends before the last chunk": OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n<end>",
    "ends within the head": OK + b"Content-Le<end>",
    "no HTTP": b"hello\r\n\r\n",
    "of two lengths": OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    "with an endless end": OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"X: y\r\n" * (HEAD_BYTES // 5),
    "with an endless head": OK + b"X: y\r\n" * (HEAD_BYTES // 5),
    "another protocol": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    "nothing": b"",
}


@pytest.mark.parametrize("raw", BROKEN.values(), ids=BROKEN.keys())
def test_an_answer_that_is_none_is_broken_and_its_connection_ends(raw: bytes) -> None:
    async def test() -> None:
        async with serving(raw, HELLO) as (server, client):
            with pytest.raises(Broken):
                await asked(client, server)
            assert await asked(client, server) == (200, b"hello")
            assert server.connections == 2

    run(test)


def test_a_request_is_written_once_with_its_headers_and_length() -> None:
    async def test() -> None:
        async with serving(HELLO) as (server, client):
            await asked(client, server, b'{"a":1}')
            lines = [b"POST /v1/x HTTP/1.1", b"Host: 127.0.0.1:%d" % server.port, b"User-Agent: bud-gateway"]
            lines += [b"x-a: b", b"Content-Length: 7"]
            assert server.asked == [b"\r\n".join([*lines, b"", b'{"a":1}'])]

    run(test)


AGAIN = {
    "a whole answer": (HELLO, 1),
    "chunks": (OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", 1),
    "an answer that ends the connection": (OK + b"Connection: close\r\nContent-Length: 5\r\n\r\nhello", 2),
    "an answer by HTTP/1.0": (b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", 2),
    "an answer with another that nobody asked for": (HELLO + HELLO, 2),
}


@pytest.mark.parametrize(("first", "connections"), AGAIN.values(), ids=AGAIN.keys())
def test_a_connection_is_used_again_after(first: bytes, connections: int) -> None:
    async def test() -> None:
        async with serving(first, HELLO) as (server, client):
            for _ in range(2):
                assert await asked(client, server) == (200, b"hello")
            assert server.connections == connections

    run(test)


def test_an_answer_that_comes_between_two_requests_is_nobodys() -> None:
    async def test() -> None:
        async with serving(HELLO, HELLO) as (server, client):
            reply = await client.ask("POST", server.url, headers={})
            assert await reply.read(10) == b"hello"
            connection = client._idle[("127.0.0.1", server.port, False)][0]
            connection.data_received(HELLO.replace(b"hello", b"other"))
            assert await asked(client, server) == (200, b"hello")
            assert server.connections == 2

    run(test)


def test_a_kept_connection_that_is_gone_costs_one_more_and_no_fault() -> None:
    async def test() -> None:
        async with serving(HELLO, b"", HELLO) as (server, client):
            for _ in range(2):
                assert await asked(client, server) == (200, b"hello")
            assert (server.connections, len(server.asked)) == (2, 3)

    run(test)


def test_what_was_worked_on_for_a_while_is_not_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "_LOST_SECONDS", -1.0)

    async def test() -> None:
        async with serving(HELLO, b"", HELLO) as (server, client):
            await asked(client, server)
            with pytest.raises(Lost):
                await asked(client, server)
            assert len(server.asked) == 2

    run(test)


def test_a_new_connection_that_is_lost_is_a_fault() -> None:
    async def test() -> None:
        async with serving(HELLO, b"", b"", HELLO) as (server, client):
            await asked(client, server)
            with pytest.raises(Lost):
                await asked(client, server)
            assert len(server.asked) == 3

    run(test)


def test_an_answer_that_nobody_wants_any_more_ends_its_connection() -> None:
    async def test() -> None:
        async with serving(OK + b"Content-Length: 50\r\n\r\nhello") as (server, client):
            (await client.ask("POST", server.url, headers={})).close()
            await until(lambda: server.ended == 1)

    run(test)


CHUNK = OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"


def test_an_answer_that_is_left_has_a_second_to_end_and_its_connection_is_kept() -> None:
    may_end, left = asyncio.Event(), list[bytes]()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in (CHUNK, HELLO):
            left.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(answer)
            if answer is CHUNK:
                await may_end.wait()
                writer.write(b"6\r\n other\r\n0\r\n\r\n")
        await closed(writer)

    async def test() -> None:
        async with listening(handle) as (url, client):
            reply = await client.ask("GET", url, headers={})
            assert await anext(reply) == b"hello"
            reply.leave()
            reply.close()
            may_end.set()
            await until(lambda: any(client._idle.values()))
            assert await (await client.ask("GET", url, headers={})).read(9) == b"hello"
            assert len(left) == 2

    run(test)


@pytest.mark.parametrize("reads_on", [True, False])
def test_after_that_it_is_over_without_a_fault_and_its_connection_with_it(
    reads_on: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reply_module, "_LEAVE_SECONDS", 0.02)

    async def test() -> None:
        async with serving(CHUNK, HELLO) as (server, client):
            reply = await client.ask("POST", server.url, headers={})
            assert await anext(reply) == b"hello"
            reply.leave()
            if reads_on:
                assert [chunk async for chunk in reply] == []
            reply.close()
            await until(lambda: server.ended == 1)
            assert await asked(client, server) == (200, b"hello")

    run(test)


def test_a_connection_that_is_lost_after_its_answer_was_left_is_no_fault() -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(CHUNK)
        await may_end.wait()
        writer.transport.abort()
        await closed(writer)

    may_end = asyncio.Event()

    async def test() -> None:
        async with listening(handle) as (url, client):
            reply = await client.ask("GET", url, headers={})
            assert await anext(reply) == b"hello"
            reply.leave()
            may_end.set()
            assert [chunk async for chunk in reply] == []

    run(test)


def test_a_request_that_is_given_up_ends_its_connection() -> None:
    async def test() -> None:
        async with serving(b"HTTP/1.1 100 Continue\r\n\r\n") as (server, client):
            asking = asyncio.create_task(asked(client, server))
            await until(lambda: bool(server.asked) and not server.answers)
            asking.cancel()
            await until(lambda: server.ended == 1)

    run(test)


def test_a_connection_that_nobody_uses_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "_IDLE_SECONDS", 0.02)

    async def test() -> None:
        async with serving(HELLO) as (server, client):
            await asked(client, server)
            await until(lambda: server.ended == 1)
            assert not client._idle

    run(test)


def test_a_long_answer_waits_for_a_slow_reader() -> None:
    body = bytes(48 * 1024 * 1024)

    async def test() -> None:
        async with serving(OK + b"Content-Length: %d\r\n\r\n" % len(body) + body, HELLO) as (server, client):
            reply = await client.ask("POST", server.url, headers={})
            sizes = []
            async for chunk in reply:
                sizes.append(len(chunk))
                await asyncio.sleep(0)
            assert sum(sizes) == len(body)
            # What comes in one turn of the loop stands beyond the bound.
            assert max(sizes) < 1024 * 1024
            assert await asked(client, server) == (200, b"hello")
            assert server.connections == 1

    run(test)


def test_an_answer_that_nobody_reads_is_not_held() -> None:
    body = bytes(48 * 1024 * 1024)

    async def test() -> None:
        async with serving(OK + b"Content-Length: %d\r\n\r\n" % len(body) + body) as (server, client):
            reply = await client.ask("POST", server.url, headers={})
            await until(lambda: reply._connection._paused)
            assert reply._size < 1024 * 1024
            assert len(await reply.read(10**9)) == len(body)

    run(test)


def test_of_an_answer_that_is_too_long_a_part_is_read() -> None:
    async def test() -> None:
        async with serving(OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n") as (server, client):
            reply = await client.ask("POST", server.url, headers={})
            assert await reply.read(3) == b"hello"
            reply.close()
            await until(lambda: server.ended == 1)

    run(test)


@pytest.mark.parametrize("value", ["a\r\nX-B: c", "a\nb", "a\rb", "a\0b"])
def test_a_header_that_would_be_another_is_not_sent(value: str) -> None:
    async def test() -> None:
        async with serving(HELLO) as (server, client):
            with pytest.raises(Broken, match="end of a line"):
                await client.ask("POST", server.url, headers={"x-a": value})
            assert server.connections == 0

    run(test)


def test_an_address_that_nobody_has_is_an_error_of_the_system() -> None:
    async def test() -> None:
        client = Client()
        for url in ("http://127.0.0.1:9/", "http://nobody.invalid/", f"http://{'x' * 64}.invalid/"):
            with pytest.raises(OSError, match=r"."):
                await client.ask("POST", url, headers={})
        client.close()

    run(test)


@pytest.mark.parametrize("is_known", [True, False], ids=["a known authority", "an unknown authority"])
def test_https_is_spoken_to_a_server_of(is_known: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = Authority()
    pair = authority.server(["127.0.0.1"])
    (tmp_path / "pair.pem").write_bytes(pair.certificate + pair.key)
    (tmp_path / "ca.pem").write_bytes((authority if is_known else Authority()).certificate)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "pair.pem")

    async def test() -> None:
        async with serving(HELLO, context=context) as (server, client):
            server.scheme = "https"
            if is_known:
                assert await asked(client, server) == (200, b"hello")
            else:
                with pytest.raises(ssl.SSLCertVerificationError):
                    await asked(client, server)
                assert not server.asked

    run(test)
