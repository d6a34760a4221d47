"""How streams begin and end: with an error, with nothing but comments, without their last event, or long before their connection."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import orjson
import pytest
from aiohttp import web

from bud.gateway import inference, relay
from bud.gateway.protocol import Patience
from tests.gateway_process import KEY, GatewayProcess, key, made, project, provider, running_gateway
from tests.integration.gateway.forms import parts
from tests.integration.gateway.in_process import serving
from tests.integration.gateway.upstream import USAGE, Upstream, completion, read_json, running
from tests.waiting import eventually, is_so

Json = dict[str, Any]


def event(told: Json | bytes) -> bytes:
    return b"data: " + (told if isinstance(told, bytes) else orjson.dumps(told)) + b"\n\n"


def error(**told: Any) -> bytes:
    return event({"error": {"message": "because", **told}})


STOPPED = event({"model": "m", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
WORD = event({"model": "m", "choices": [{"index": 0, "delta": {"content": "hi"}, "finish_reason": None}]})
USED = event({"model": "m", "choices": [], "usage": USAGE})
DONE = event(b"[DONE]")
CREATED = event({"type": "response.created", "response": {"id": "r", "error": None}})
TEXT = event({"type": "response.output_text.done", "text": "hi"})
COMPLETED = event({"type": "response.completed", "response": {"id": "r", "usage": USAGE}})
FAILED = event({"type": "response.failed", "response": {"id": "r"}})
INCOMPLETE = event({"type": "response.incomplete", "response": {"id": "r"}})
BROKEN = b"event: error\n" + event({"type": "error", "code": "server_error", "message": "no"})
SOUND, SPOKEN = event({"type": "speech.audio.delta", "audio": "AAAA"}), event({"type": "speech.audio.done"})
HEARD, SAID = (
    event({"type": "transcript.text.delta", "delta": "hi"}),
    event({"type": "transcript.text.done", "text": "hi"}),
)
OPENED = b"event: message_start\n" + event({"type": "message_start", "message": {"usage": {"input_tokens": 3}}})
CLOSED = event({"type": "message_delta", "delta": {"stop_reason": "end_turn"}}) + event({"type": "message_stop"})
AFTER = event({"after": "the end"})

OPEN: dict[str, tuple[str, bytes, bytes]] = {
    "chat": ("chat/completions", WORD + USED + DONE, b"[DONE]"),
    "claude": ("chat/completions", OPENED + CLOSED, b"[DONE]"),
    "responses": ("responses", CREATED + COMPLETED, b"response.completed"),
    "failed": ("responses", CREATED + FAILED, b"response.failed"),
    "failing": ("responses", CREATED + BROKEN, b'"type":"error"'),
    "speech": ("audio/speech", SOUND + SPOKEN, b"speech.audio.done"),
    "transcripts": ("audio/transcriptions", HEARD + SAID, b"transcript.text.done"),
}
"""Streams whose connection stays open after their end: the path, what they say, and what stands in the last event."""
SHORT = {
    "short-responses": ("responses", CREATED + TEXT),
    "short-speech": ("audio/speech", SOUND),
    "short-transcripts": ("audio/transcriptions", HEARD),
}
"""Those that end before their last event, though their connection has no fault."""
FIRST: dict[str, tuple[bytes, int, str, str, int]] = {
    "overloaded": (error(type="overloaded_error"), 503, "overloaded_error", "upstream_unavailable", 3),
    "limited": (error(code="rate_limit_exceeded"), 429, "rate_limit_error", "rate_limit_exceeded", 3),
    "failed-at-once": (BROKEN, 500, "api_error", "server_error", 3),
    "of-a-number": (b": alive\n\n" + error(code=502), 502, "api_error", "upstream_error", 3),
    "nothing": (b": alive\n\n", 503, "overloaded_error", "upstream_unavailable", 3),
    "invalid": (error(type="invalid_request_error", param="n"), 400, "invalid_request_error", "invalid_value", 1),
    "not-found": (error(code=404) + DONE, 404, "not_found_error", "not_found", 1),
    "refused": (error(type="authentication_error"), 503, "overloaded_error", "provider_credentials", 1),
    "unclear": (event({"error": "because"}), 502, "api_error", "upstream_unclear", 1),
    "claude-overloaded": (
        b"event: error\n" + event({"type": "error", "error": {"type": "overloaded_error", "message": "because"}}),
        503, "overloaded_error", "upstream_unavailable", 3,
    ),
}  # fmt: skip
"""Streams that begin with an error: what they say, the status, type and code of the answer, and how often they are asked."""


CRASHED = event({"type": "response.failed", "response": {"error": {"code": "server_error", "message": "no"}}})
LATER: dict[str, tuple[str, bytes, bytes, str, int]] = {
    "crashed": (
        "chat/completions",
        WORD + error(code=500, type="InternalServerError") + DONE,
        WORD,
        "upstream_error",
        500,
    ),
    "refused-later": (
        "chat/completions",
        WORD + error(code="invalid_api_key") + DONE,
        WORD,
        "provider_credentials",
        503,
    ),
    "unclear-later": ("audio/transcriptions", HEARD + error() + DONE, HEARD, "upstream_unclear", 502),
    "failed-later": ("responses", CREATED + CRASHED, CREATED + CRASHED, "", 500),
    "broken-later": ("responses", CREATED + BROKEN, CREATED + BROKEN, "", 500),
    "incomplete": ("responses", CREATED + INCOMPLETE, CREATED + INCOMPLETE, "", 200),
}
"""Streams with an error after their first event: the path, what they say, what of it passes, the code of the error that
follows (none: it is among what passes), and the status that is counted."""


async def read(request: web.Request) -> Json:
    if request.content_type != "multipart/form-data":
        return await read_json(request)
    return {name: data.decode() async for name, _, data in parts(request) if data}


async def answer(request: web.Request, body: Json) -> web.StreamResponse:
    model = body["model"]
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    if model in OPEN:
        await response.write(OPEN[model][1] + (b"" if model == "failing" else AFTER))
        await asyncio.sleep(60)
    if model == "late":
        assert request.transport is not None
        await response.write(WORD.replace(b"hi", b"%d" % request.transport.get_extra_info("peername")[1]) + DONE)
        await asyncio.sleep(0.1)
        return response
    while model == "comments":
        await response.write(b": alive\n\n")
        await asyncio.sleep(0.05)
    if model in LATER:
        await response.write(LATER[model][1])
        return response
    await response.write(SHORT[model][1] if model in SHORT else FIRST[model][0] if model in FIRST else WORD + DONE)
    if model == "invalid":
        await asyncio.sleep(60)
    return response


@dataclass
class Place:
    gateway: GatewayProcess
    upstream: Upstream

    def ask(
        self,
        model: str,
        path: str = "chat/completions",
        *,
        secret: str = KEY,
        timeout: float = 20,
        once: str | None = None,
    ) -> httpx.Response:
        url, headers = f"{self.gateway.url}/v1/{path}", {"Authorization": f"Bearer {secret}"}
        headers |= {} if once is None else {"Idempotency-Key": once}
        if path == "audio/transcriptions":
            form = {"model": model, "stream": "true"}
            return httpx.post(url, data=form, files={"file": b"sound"}, headers=headers, timeout=timeout)
        bodies: dict[str, Json] = {
            "chat/completions": {"messages": [{"role": "user", "content": "hi"}], "stream": True},
            "responses": {"input": "hi", "stream": True},
            "audio/speech": {"input": "hi", "voice": "a", "stream_format": "sse"},
        }
        return httpx.post(url, json={"model": model, **bodies[path]}, headers=headers, timeout=timeout)

    def left(self, secret: str) -> int:
        """The tokens that a key has left."""
        told = httpx.get(f"{self.gateway.url}/v1/models", headers={"Authorization": f"Bearer {secret}"}).headers
        return int(told["x-ratelimit-remaining-tokens"])

    def asked(self, model: str) -> int:
        return sum(body.get("model") == model for _, _, body in self.upstream.asked)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "ant"}, "stringData": {"apiKey": "sk-ant"}}
    foreign = [model for model in (*OPEN, *FIRST) if model.startswith("claude")]
    own = [model for model in (*OPEN, *SHORT, *LATER, *FIRST, "comments", "late", "well") if model not in foreign]
    routes = [
        made(
            "Route",
            f"{model}-or-another",
            {
                "targets": [{"providerRef": {"name": "p", "model": model}}],
                "fallbacks": [{"providerRef": {"name": "p", "model": "well"}}],
                "firstByteSeconds": 1,
                "timeoutSeconds": 10,
                "retries": 0,
            },
        )
        for model in ("comments", "overloaded", "nothing", "invalid", "unclear")
    ]
    with running(answer, read=read) as upstream:
        objects = (
            project(), key(), secret, *routes,
            *(key(name, f"bud_{name}", limits={"tokensPerDay": 1000}) for name in ("bob", "carol")),
            provider("p", upstream.url, *own, timeoutSeconds=10),
            provider("claude", upstream.url, *foreign, kind="Anthropic", credentialsSecretRef={"name": "ant"}),
        )  # fmt: skip
        with running_gateway(tmp_path_factory.mktemp("streams") / "objects", *objects) as gateway:
            yield Place(gateway, upstream)


@pytest.mark.parametrize("model", OPEN)
def test_an_answer_ends_with_its_last_event_and_the_upstream_soon_after(place: Place, model: str) -> None:
    path, _, last = OPEN[model]
    hung_up = place.upstream.hung_up
    found = place.ask(model, path)
    *_, end = found.content.removesuffix(b"\n\n").split(b"\n\n")
    assert found.status_code == 200 and last in end, found.text
    assert b"after the end" not in found.content and b"stream_broken" not in found.content
    if model in ("chat", "claude"):
        eventually(lambda: is_so(place.upstream.hung_up > hung_up), within=20)


def test_what_an_answer_used_that_ended_before_its_connection_is_counted(place: Place) -> None:
    place.ask("chat", secret="bud_bob")
    assert place.left("bud_bob") == 1000 - USAGE["total_tokens"]


def test_who_hangs_up_before_the_first_event_pays_for_no_more_than_what_was_asked(place: Place) -> None:
    with pytest.raises(httpx.ReadTimeout):
        place.ask("comments", secret="bud_carol", timeout=0.3)
    eventually(lambda: is_so(950 < place.left("bud_carol") < 1000), within=20)


def test_a_connection_whose_end_comes_after_that_of_the_answer_is_kept(place: Place) -> None:
    found = list[str]()

    def is_used_again() -> None:
        found.append(orjson.loads(place.ask("late").text.split("\n")[0][6:])["choices"][0]["delta"]["content"])
        assert len(set(found)) < len(found)

    eventually(is_used_again, within=10)


@pytest.mark.parametrize("model", SHORT)
def test_a_stream_that_ends_before_its_last_event_says_so(place: Place, model: str) -> None:
    path, said = SHORT[model]
    found = place.ask(model, path)
    told = found.content.removesuffix(b"\n\n").split(b"\n\n")
    assert b"\n\n".join(told[:-1]) + b"\n\n" == said
    assert json.loads(told[-1].removeprefix(b"data: "))["error"]["code"] == "stream_broken"
    counted = f'gen_ai_request_model="{model}",http_response_status_code="503"}} 1'
    eventually(lambda: is_so(counted in httpx.get(f"{place.gateway.url}/metrics").text), within=20)


@pytest.mark.parametrize("model", LATER)
def test_an_error_within_a_stream_is_told_once_counted_and_not_kept(place: Place, model: str) -> None:
    path, _, said, code, status = LATER[model]
    passes = said.replace(b'"model":"m"', b'"model":"%b"' % model.encode())
    before = place.asked(model)
    for _ in range(2):
        found = place.ask(model, path, once=model)
        assert found.status_code == 200 and found.content.startswith(passes.removesuffix(b"}\n\n"))
        assert found.content.count(b"\n\n") == passes.count(b"\n\n") + bool(code)
        if code:
            fault = json.loads(found.content.removeprefix(passes + b"data: "))["error"]
            assert (fault["code"], "because" in fault["message"]) == (code, code != "provider_credentials")
    assert "Traceback" not in place.gateway.log
    times = 1 if status == 200 else 2
    assert (place.asked(model) - before, "idempotent-replayed" in found.headers) == (times, times == 1)
    counted = f'gen_ai_request_model="{model}",http_response_status_code="{status}"}} {times}'
    eventually(lambda: is_so(counted in httpx.get(f"{place.gateway.url}/metrics").text), within=20)


def test_openais_own_client_raises_where_a_stream_ends_too_soon(place: Place) -> None:
    with openai.OpenAI(api_key=KEY, base_url=f"{place.gateway.url}/v1", max_retries=0) as client:
        stream = client.responses.create(model="short-responses", input="hi", stream=True)
        assert next(stream).type == "response.created"
        with pytest.raises(openai.APIError, match="broke off"):
            list(stream)
        stream.close()


@pytest.mark.parametrize("model", FIRST)
def test_a_stream_that_begins_with_an_error_is_that_error(place: Place, model: str) -> None:
    _, status, kind, code, times = FIRST[model]
    before, hung_up = place.asked(model), place.upstream.hung_up
    found = place.ask(model)
    told = found.json()["error"]
    assert (found.status_code, told["type"], told["code"]) == (status, kind, code)
    assert ("because" in told["message"]) == (model not in ("failed-at-once", "nothing", "refused"))
    assert place.asked(model) == before + times
    assert found.headers["content-type"] == "application/json"
    if model == "invalid":  # the one that would go on
        eventually(lambda: is_so(place.upstream.hung_up > hung_up), within=5)


@pytest.mark.parametrize(
    ("model", "status"), [("comments", 200), ("overloaded", 200), ("nothing", 200), ("invalid", 400), ("unclear", 502)]
)
def test_another_is_asked_where_that_may_help(place: Place, model: str, status: int) -> None:
    before = place.asked("well")
    found = place.ask(f"{model}-or-another")
    assert (found.status_code, place.asked("well") - before) == (status, int(status == 200))
    if status == 200:
        assert [line for line in found.text.splitlines() if line][-1] == "data: [DONE]"
        assert "alive" not in found.text and "because" not in found.text


@pytest.mark.parametrize(
    ("more", "end", "last"),
    [
        ({}, WORD + DONE, b"data: [DONE]"),
        ({"functions": [{"name": "f"}]}, WORD + STOPPED, b"data: [DONE]"),
        ({}, error(type="invalid_request_error"), b'"code":"invalid_value"'),
        ({}, error(type="server_error"), b'"code":"upstream_invalid"'),
    ],
    ids=["well", "as tools and without [DONE]", "an error", "then one object"],
)
def test_comments_before_the_first_event_keep_the_callers_connection_alive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: Json, end: bytes, last: bytes
) -> None:
    monkeypatch.setattr(inference, "_COMMENT_SECONDS", 0.2)
    heard = threading.Event()

    async def waits(request: web.Request, body: Json) -> web.StreamResponse:
        if heard.is_set():  # asked again
            return completion(body)
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        while not heard.is_set():
            await response.write(b": the upstream's own words\n\n")
            await asyncio.sleep(0.05)
        await response.write(end)
        return response

    with running(waits) as upstream, serving(tmp_path, upstream, patience=Patience()) as port:
        body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True, **more}
        url, headers = f"http://127.0.0.1:{port}/v1/chat/completions", {"Authorization": f"Bearer {KEY}"}
        with httpx.stream("POST", url, json=body, headers=headers, timeout=20) as found:
            told = found.iter_bytes()
            first = next(told)
            heard.set()
            *comments, final = (first + b"".join(told)).removesuffix(b"\n\n").split(b"\n\n")
    assert (found.status_code, found.headers["content-type"]) == (200, "text/event-stream")
    assert first == comments[0] + b"\n\n" == b": the model is at work\n\n"
    assert last in final and b"own words" not in b"".join(comments)


def test_a_fault_of_the_gateways_own_leaves_no_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise ValueError

    async def goes_on(request: web.Request, _: Json) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await response.write(WORD)
        await asyncio.sleep(60)
        return response

    monkeypatch.setattr(relay, "fault_of", fails)
    with running(goes_on) as upstream, serving(tmp_path, upstream, patience=Patience()) as port:
        body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True}
        url, headers = f"http://127.0.0.1:{port}/v1/chat/completions", {"Authorization": f"Bearer {KEY}"}
        assert httpx.post(url, json=body, headers=headers, timeout=20).status_code == 500
        eventually(lambda: is_so(upstream.hung_up == 1), within=20)
