"""The relay over real sockets, before an engine that says what it was asked."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import ClientPayloadError, ClientSession, web

from bud.relay.server import MAX_BODY, Rename, Routes, runner

FIELDS = {"chat": {"lora": [{"id": 0, "scale": 0}]}, "pirate": {"lora": [{"id": 0, "scale": 1}]}}


@dataclass
class Engine:
    """Answers with what it got; `cancelled` is set when a caller hung up on `/slow`."""

    begun: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        routes: dict[str, Callable[[web.Request], Awaitable[web.StreamResponse]]] = {
            "/v1/models": self._models,
            "/stream": self._stream,
            "/slow": self._slow,
            "/broken": self._broken,
        }
        return await routes.get(request.path, self._echo)(request)

    async def _echo(self, request: web.Request) -> web.StreamResponse:
        said = {
            "model": "chat",
            "path": request.raw_path,
            "method": request.method,
            "headers": dict(request.headers),
            "body": (await request.read()).decode(errors="replace"),
            "nested": {"text": '"model":"chat"'},
        }
        return web.Response(text=json.dumps(said, separators=(",", ":")), content_type="application/json", status=201)

    async def _models(self, request: web.Request) -> web.StreamResponse:
        return web.json_response({"object": "list", "data": [{"id": "chat", "object": "model", "aliases": ["chat"]}]})

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for piece in (b'data: {"model":"ch', b'at","n":1}\n\ndata: {"mod', b'el":"chat","n":2}\n\n', b'"model":"c'):
            await response.write(piece)
            await asyncio.sleep(0)
        return response

    async def _slow(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"first")
        self.begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        raise AssertionError

    async def _broken(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"half an ans")
        assert request.transport is not None
        request.transport.close()
        return response


@asynccontextmanager
async def serving(program: web.AppRunner) -> AsyncIterator[str]:
    await program.setup()
    await web.TCPSite(program, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{program.addresses[0][1]}"
    finally:
        await program.cleanup()


@asynccontextmanager
async def relayed() -> AsyncIterator[tuple[Engine, ClientSession]]:
    engine, app = Engine(), web.Application(client_max_size=0)
    app.router.add_route("*", "/{path:.*}", engine.handle)
    async with (
        serving(web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0)) as address,
        serving(runner(Routes(engine=address, base="chat", fields=FIELDS))) as relay,
        ClientSession(relay) as session,
    ):
        yield engine, session


async def sent(session: ClientSession, body: Any, **more: Any) -> dict[str, Any]:
    async with session.post("/v1/chat/completions", data=body, **more) as answer:
        assert answer.status == 201
        found: dict[str, Any] = await answer.json()
        return found


@pytest.mark.parametrize(
    ("body", "fields", "model"),
    [
        pytest.param({"model": "pirate", "n": 1.5}, FIELDS["pirate"], "pirate", id="an adapter by its name"),
        pytest.param({"model": "chat"}, FIELDS["chat"], "chat", id="the model itself"),
        pytest.param({"model": "gpt"}, FIELDS["chat"], "chat", id="a name that nobody has"),
        pytest.param({"prompt": "Hi"}, FIELDS["chat"], "chat", id="no name"),
        pytest.param({}, FIELDS["chat"], "chat", id="nothing"),
        pytest.param({"model": ["pirate"]}, FIELDS["chat"], "chat", id="a name that is none"),
        pytest.param({"model": "pirate", "lora": []}, {"lora": []}, "pirate", id="what the caller says himself"),
    ],
)
async def test_a_request_gets_the_fields_of_its_model(body: dict[str, Any], fields: dict[str, Any], model: str) -> None:
    async with relayed() as (_, session):
        found = await sent(session, json.dumps(body))
    assert json.loads(found["body"]) == body | fields
    assert found["model"] == model
    assert found["nested"] == {"text": '"model":"chat"'}


@pytest.mark.parametrize("body", ["{", "[1]", "not json", '"pirate"', "[" * 100_000, "\ufeff{}", '{"model": "pirate"'])
async def test_what_is_no_json_object_passes_as_it_is(body: str) -> None:
    async with relayed() as (_, session):
        assert (await sent(session, body))["body"] == body


async def test_every_other_byte_stays_as_it_was() -> None:
    async with relayed() as (_, session):
        found = await sent(session, '\n{ "n" : 1.50, "n":1e400,\t"model":"\\u0063hat" }')
    assert found["body"] == '\n{"lora": [{"id": 0, "scale": 0}], "n" : 1.50, "n":1e400,\t"model":"\\u0063hat" }'


async def test_a_field_that_the_caller_sets_himself_is_left_to_him() -> None:
    async with relayed() as (_, session):
        assert (await sent(session, '{"model": "pirate", "lora": []}'))["body"] == '{"model": "pirate", "lora": []}'


async def test_path_query_method_and_headers_pass_and_those_of_a_connection_do_not() -> None:
    headers = {"Authorization": "Bearer x", "Connection": "x-mine", "X-Mine": "1", "Accept-Encoding": "gzip"}
    async with relayed() as (_, session), session.put("/a%2Fb//c?q=%20&q=2", data=b"raw", headers=headers) as answer:
        found = await answer.json()
    assert (found["path"], found["method"], found["body"]) == ("/a%2Fb//c?q=%20&q=2", "PUT", "raw")
    assert found["headers"]["Authorization"] == "Bearer x"
    assert found["headers"]["Accept-Encoding"] == "identity"
    assert "X-Mine" not in found["headers"]


async def test_a_packed_body_is_understood() -> None:
    body = gzip.compress(b'{"model": "pirate"}')
    async with relayed() as (_, session):
        found = await sent(session, body, headers={"Content-Encoding": "gzip"})
    assert json.loads(found["body"]) == {"model": "pirate"} | FIELDS["pirate"]
    assert "Content-Encoding" not in found["headers"]


async def test_a_request_line_with_an_address_leads_to_the_engine_all_the_same() -> None:
    async with relayed() as (_, session):
        base = session._base_url
        assert base is not None
        reader, writer = await asyncio.open_connection(base.host, base.port)
        writer.write(b"GET http://192.0.2.1/x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        answer = await reader.read()
        writer.close()
    assert b'"path":"/x"' in answer


async def test_the_adapters_are_listed_beside_the_model() -> None:
    async with relayed() as (_, session), session.get("/v1/models") as answer:
        found = (await answer.json())["data"]
    assert found == [
        {"id": "chat", "object": "model", "aliases": ["chat"]},
        {"id": "pirate", "object": "model", "parent": "chat"},
    ]


async def test_a_stream_is_renamed_however_it_is_cut() -> None:
    async with relayed() as (_, session), session.post("/stream", json={"model": "pirate"}) as answer:
        assert answer.headers["Content-Type"] == "text/event-stream"
        text = await answer.text()
    assert text == 'data: {"model":"pirate","n":1}\n\ndata: {"model":"pirate","n":2}\n\n"model":"c'


async def test_a_caller_who_hangs_up_ends_the_engines_work() -> None:
    async with relayed() as (engine, session):
        async with session.post("/slow", json={"model": "pirate"}) as answer:
            assert await answer.content.readexactly(5) == b"first"
            answer.close()
        await asyncio.wait_for(engine.cancelled.wait(), 10)


async def test_an_answer_that_breaks_off_is_not_taken_for_whole() -> None:
    async with relayed() as (_, session), session.post("/broken", json={}) as answer:
        with pytest.raises(ClientPayloadError):
            await answer.read()


async def test_an_engine_that_is_away_is_told() -> None:
    routes = Routes(engine="http://127.0.0.1:9", base="chat", fields=FIELDS)
    async with (
        serving(runner(routes)) as relay,
        ClientSession(relay) as session,
        session.post("/v1/completions", json={}) as answer,
    ):
        assert answer.status == 502
        assert (await answer.json())["error"]["type"] == "engine_unavailable"


async def test_a_large_body_within_the_bound_passes() -> None:
    body = json.dumps({"model": "pirate", "image": "x" * (MAX_BODY // 2)}).encode()
    async with relayed() as (_, session):
        found = await sent(session, io.BytesIO(body))
    assert len(found["body"]) > MAX_BODY // 2


async def test_a_body_beyond_the_bound_is_refused() -> None:
    async with relayed() as (_, session), session.post("/x", data=io.BytesIO(bytes(MAX_BODY + 1))) as answer:
        assert answer.status == 413


@pytest.mark.parametrize("size", range(1, 20))
def test_a_name_is_found_wherever_the_stream_is_cut(size: int) -> None:
    text = b'{"model":"chat","x":"\\"model\\":\\"chat\\""}{"model":"chatter"}{"model":"chat'
    rename = Rename("chat", "p")
    out = b"".join(rename.feed(text[at : at + size]) for at in range(0, len(text), size)) + rename.rest()
    assert out == b'{"model":"p","x":"\\"model\\":\\"chat\\""}{"model":"chatter"}{"model":"chat'
