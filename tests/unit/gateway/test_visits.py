"""WebSockets that upstreams refuse, drop, or leave waiting: what the caller is told, and what rests thereafter."""

from __future__ import annotations

import asyncio
import math
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from bud.gateway.catalog import Served, Target
from bud.gateway.connections import Connections
from bud.gateway.refusal import Refusal
from bud.gateway.relay import Relay, Visit
from bud.gateway.route import Board, Key, model_at
from tests.tiny_engine import free_port
from tests.unit.gateway.scripted import SECONDS, closed, listening, run

Serve = Callable[[StreamReader, StreamWriter], Awaitable[None]]
HEAD = b"HTTP/1.1 "
EMPTY = b"Content-Length: 0\r\n\r\n"


def saying(answer: bytes) -> Serve:
    """Answers each request so, and hangs up."""

    async def serve(reader: StreamReader, writer: StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        await closed(writer)

    return serve


async def silent(reader: StreamReader, writer: StreamWriter) -> None:
    """Takes a request, and answers nothing until the caller leaves."""
    await reader.read(-1)
    await closed(writer)


@asynccontextmanager
async def relaying() -> AsyncIterator[Relay]:
    relay = Relay(Connections.open(None), Connections.open(None), Board())
    try:
        yield relay
    finally:
        await relay.close()


async def refused(relay: Relay, served: Served, *, within: float = math.inf) -> Refusal:
    """What is told of a WebSocket that is wanted within so many seconds."""
    visit = Visit(lambda _: "realtime?model=m", {}, until=asyncio.get_running_loop().time() + within)
    with pytest.raises(Refusal) as told:
        async with relay.visit(served, visit):
            pass
    return told.value


def at(url: str) -> Target:
    return Target("p/voice", "openai-compatible", "voice", (url.rstrip("/"),), own=True, namespace="team")


@pytest.mark.parametrize(
    ("serve", "told", "rests"),
    [
        (saying(b""), (503, "upstream_unavailable"), True),
        (saying(b"nonsense\r\n\r\n"), (503, "upstream_unavailable"), True),
        (saying(HEAD + b"200 OK\r\n" + EMPTY), (503, "upstream_unavailable"), True),
        (saying(HEAD + b"500 No\r\n" + EMPTY), (500, "upstream_error"), True),
        (saying(HEAD + b"307 There\r\nLocation: /v1/realtime/\r\n" + EMPTY), (503, "upstream_redirect"), False),
        (saying(HEAD + b"404 No\r\n" + EMPTY), (404, "not_found"), False),
        (saying(HEAD + b"429 Later\r\n" + EMPTY), (429, "rate_limit_exceeded"), False),
    ],
    ids=["dropped", "no HTTP", "no upgrade", "a fault", "a redirect", "not there", "a limit"],
)  # fmt: skip
def test_who_was_connected_has_a_fault_of_its_own_model_at_most(
    serve: Serve, told: tuple[int, str], rests: bool
) -> None:
    async def test() -> None:
        async with listening(serve) as (url, _), relaying() as relay:
            target = at(url)
            for _ in range(5):
                refusal = await refused(relay, Served("m", (target,), retries=0))
                assert (refusal.status, refusal.code) == told
            wanted: list[Key] = [model_at(target, target.urls[0])] if rests else []
            assert list(relay.board.resting()) == wanted

    run(test)


def test_an_address_to_which_no_connection_leads_rests_for_all() -> None:
    async def test() -> None:
        async with relaying() as relay:
            target = at(f"http://127.0.0.1:{free_port()}/v1")
            for _ in range(5):
                assert (await refused(relay, Served("m", (target,), retries=0))).code == "upstream_unavailable"
            assert list(relay.board.resting()) == [target.urls[0]]

    run(test)


@pytest.mark.parametrize(("timeout", "rests"), [(600.0, False), (0.05, True)], ids=["a caller's haste", "its own time"])
def test_nobodys_haste_makes_a_fault(timeout: float, rests: bool) -> None:
    async def test() -> None:
        async with listening(silent) as (url, _), relaying() as relay:
            target = at(url)
            served = Served("m", (target,), (replace(target, id="spare"),), timeout=timeout)
            for _ in range(5):
                refusal = await refused(relay, served, within=0.05)
                assert (refusal.status, refusal.code) == (504, "timeout")
            assert list(relay.board.resting()) == ([model_at(target, target.urls[0])] if rests else [])

    run(test)


def test_who_takes_longer_than_is_waited_for_has_hung_and_the_next_is_asked() -> None:
    async def test() -> None:
        gone = saying(HEAD + b"404 No\r\n" + EMPTY)
        async with listening(silent) as (url, _), listening(gone) as (other, _), relaying() as relay:
            target = replace(at(url), first_byte=0.02)
            for _ in range(5):
                refusal = await refused(relay, Served("m", (target,), (at(other),)), within=SECONDS)
                assert refusal.status == 404
            assert list(relay.board.resting()) == [model_at(target, target.urls[0])]

    run(test)


@pytest.mark.parametrize("status", [b"429 Later", b"503 Later"])
def test_the_pause_that_an_upstream_wants_is_told(status: bytes) -> None:
    async def test() -> None:
        answer = HEAD + status + b"\r\nRetry-After: 70\r\n" + EMPTY
        async with listening(saying(answer)) as (url, _), relaying() as relay:
            refusal = await refused(relay, Served("m", (at(url),)))
            assert (refusal.status, refusal.headers) == (int(status[:3]), {"retry-after": "70"})

    run(test)
