"""Answers that are no JSON, and documents: as they come, with what the gateway has to say in headers."""

from __future__ import annotations

import asyncio
import subprocess
import threading
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import orjson
import pytest
from aiohttp import web

from tests.gateway_process import KEY, GatewayProcess, key, project, provider, running_gateway
from tests.integration.gateway.speech import Speech, require
from tests.integration.gateway.upstream import Upstream, read_json, running, unread

MIB = 1024 * 1024
LAST = {"type": "speech.audio.done", "usage": {"input_tokens": 5, "output_tokens": 7, "total_tokens": 12}}
DOCUMENT = {
    "id": "doc_1", "object": "document", "created": 1, "model": "docling", "document_id": "1",
    "pages": [{"page_number": 1, "markdown": "# A"}], "document": {"md_content": "# A"},
    "usage_info": {"pages_processed": 1, "size_bytes": 9, "filename": "a.pdf"},
}  # fmt: skip


class Voice:
    """Says what its input asks for; `heard` is set when the caller has heard the first of it."""

    def __init__(self) -> None:
        self.heard = threading.Event()

    async def __call__(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        if request.path == "/v1/documents":
            return web.json_response(DOCUMENT)
        if body.get("stream_format") == "sse":
            delta = orjson.dumps({"type": "speech.audio.delta", "audio": "AAAA"})
            text = b"data: " + delta + b"\n\ndata: " + orjson.dumps(LAST) + b"\n\n"
            return web.Response(body=text, content_type="text/event-stream")
        length = {"content-length": str(2 * MIB)} if body["input"] == "breaks off early" else {}
        response = web.StreamResponse(headers={"content-type": "audio/mpeg", **length})
        await response.prepare(request)
        await response.write(b"first")
        if body["input"] == "waits":
            assert await asyncio.to_thread(self.heard.wait, 20)
        elif body["input"].startswith("breaks off"):
            assert request.transport is not None
            request.transport.abort()
            return response
        for _ in range(200 if body["input"] == "long" else 0):
            await response.write(bytes(MIB))
        await response.write(b"last")
        return response


@pytest.fixture(scope="module")
def voice() -> Voice:
    return Voice()


@pytest.fixture(scope="module")
def upstream(voice: Voice) -> Iterator[Upstream]:
    with running(voice, read=read_json) as started:
        yield started


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, upstream: Upstream) -> Iterator[GatewayProcess]:
    require()
    folder = tmp_path_factory.mktemp("speech")
    with running(Speech(folder), read=unread) as programs:
        offers = [
            {"name": "tts", "upstreamName": "tts-1", "pricing": {"perRequest": "0.25"}},
            {"name": "gpt-tts", "pricing": {"inputTokensPer1k": 1, "outputTokensPer1k": 2}},
            {"name": "ocr", "upstreamName": "docling"},
        ]
        quiet = {"apiVersion": "bud.studio/v1alpha1", "kind": "Project", "metadata": {"name": "quiet"}}
        shy, shy_provider = key("shy", "bud_shy"), provider("p", upstream.url, "tts")
        shy["metadata"]["namespace"] = shy_provider["metadata"]["namespace"] = "quiet"
        objects = (
            project(),
            key(),
            key("bounded", "bud_bounded", limits={"tokensPerDay": 1000}),
            provider("p", upstream.url, models=offers),
            provider("debian", programs.url, "espeak", "pocketsphinx"),
            quiet | {"spec": {"namespace": "quiet", "responseMetadata": False}},
            shy,
            shy_provider,
        )
        with running_gateway(folder / "objects", *objects) as started:
            yield started


@pytest.fixture(scope="module")
def client(gateway: GatewayProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key=KEY, base_url=f"{gateway.url}/v1", max_retries=0) as made:
        yield made


def ask(gateway: GatewayProcess, path: str = "audio/speech", secret: str = KEY, **body: Any) -> httpx.Response:
    headers = {"Authorization": f"Bearer {secret}"}
    given = {"model": "tts", "input": "hi", "voice": "alloy", **body}
    return httpx.post(f"{gateway.url}/v1/{path}", json=given, headers=headers, timeout=60)


def test_what_is_spoken_is_understood(client: openai.OpenAI, tmp_path: Path) -> None:
    sound, said = tmp_path / "said.wav", "one two three go forward ten meters"
    with client.audio.speech.with_streaming_response.create(
        model="espeak", voice="en-us", input=said, response_format="wav"
    ) as answer:
        assert answer.headers["content-type"] == "audio/wav"
        answer.stream_to_file(sound)
    with wave.open(str(sound)) as heard:
        assert heard.getframerate() == 22050
    assert client.audio.transcriptions.create(model="pocketsphinx", file=sound).text == said


def test_curl_sends_the_file_first_as_it_was_told(gateway: GatewayProcess, tmp_path: Path) -> None:
    subprocess.run(["espeak-ng", "-v", "en-us", "-s", "130", "-w", tmp_path / "said.wav", "good morning"], check=True)
    command = [
        "curl", "--silent", "--fail-with-body", f"{gateway.url}/v1/audio/transcriptions",
        "-H", f"Authorization: Bearer {KEY}",
        "-F", f"file=@{tmp_path}/said.wav", "-F", "model=pocketsphinx", "-F", "language=en",
    ]  # fmt: skip
    found = orjson.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    assert (found["text"], found["conduit_metadata"]["model_version"]) == ("good morning", "pocketsphinx")


def test_sound_comes_while_it_is_still_spoken(client: openai.OpenAI, voice: Voice) -> None:
    voice.heard.clear()
    with client.audio.speech.with_streaming_response.create(model="tts", voice="alloy", input="waits") as answer:
        chunks = answer.iter_bytes()
        assert next(chunks) == b"first"
        voice.heard.set()
        assert b"".join(chunks) == b"last"


def test_the_metadata_of_sound_is_in_headers(gateway: GatewayProcess) -> None:
    found = ask(gateway)
    assert (found.content, found.headers["content-type"]) == (b"firstlast", "audio/mpeg")
    told = {name: value for name, value in found.headers.items() if name.startswith("x-conduit")}
    assert int(told.pop("x-conduit-processing-time-ms")) >= 0
    assert told == {
        "x-conduit-provider": "openai-compatible",
        "x-conduit-model-version": "tts-1",
        "x-conduit-virtual-key-id": "alice",
        "x-conduit-cost": "0.25",
    }


def test_a_project_can_have_it_left_out(gateway: GatewayProcess) -> None:
    found = ask(gateway, secret="bud_shy")
    assert found.content == b"firstlast"
    assert not [name for name in found.headers if name.startswith("x-conduit")]


def test_a_long_answer_passes_in_little_memory(gateway: GatewayProcess) -> None:
    before = peak(gateway)
    assert len(ask(gateway, input="long").content) == 200 * MIB + 9
    assert peak(gateway) - before < 16 * MIB


def peak(gateway: GatewayProcess) -> int:
    """The most memory that the process ever had, in bytes."""
    (line,) = [one for one in Path(f"/proc/{gateway.pid}/status").read_text().splitlines() if one.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


@pytest.mark.parametrize("said", ["breaks off", "breaks off early"], ids=["of unknown length", "of known length"])
def test_sound_that_breaks_off_has_no_end(gateway: GatewayProcess, said: str) -> None:
    with pytest.raises(httpx.RemoteProtocolError, match="peer closed connection"):
        ask(gateway, input=said)


def test_sound_in_events_ends_with_the_metadata(gateway: GatewayProcess) -> None:
    found = ask(gateway, model="gpt-tts", stream_format="sse")
    first, last = (orjson.loads(line[6:]) for line in found.text.splitlines() if line)
    assert first == {"type": "speech.audio.delta", "audio": "AAAA"}
    assert last.pop("conduit_metadata")["cost"] == pytest.approx(0.019)
    assert last == LAST


@pytest.mark.parametrize(
    ("change", "param"),
    [({"response_format": "midi"}, "response_format"), ({"speed": 4.5}, "speed"), ({"input": ""}, "input")],
)
def test_what_cannot_be_spoken(gateway: GatewayProcess, change: dict[str, Any], param: str) -> None:
    found = ask(gateway, **change)
    assert (found.status_code, found.json()["error"]["param"]) == (400, param)


def test_a_document_passes_unread_and_costs_no_tokens_of_its_own(gateway: GatewayProcess, upstream: Upstream) -> None:
    asked = {
        "model": "ocr", "task": "extract", "prompt": "the tables", "options": {"to_formats": ["md", "csv"]},
        "document": {"type": "document_url", "document_url": "data:application/pdf;base64," + "QUJD" * 5000},
    }  # fmt: skip
    headers = {"Authorization": "Bearer bud_bounded"}
    found = httpx.post(f"{gateway.url}/v1/documents", json=asked, headers=headers, timeout=60)
    told = found.json()
    assert told.pop("conduit_metadata")["model_version"] == "docling"
    assert told == DOCUMENT | {"model": "ocr"}
    path, _, body = upstream.asked[-1]
    assert (path, body) == ("/v1/documents", asked | {"model": "docling"})
    assert int(found.headers["x-ratelimit-remaining-tokens"]) > 900


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"options": {"to_formats": ["odt"]}}, "options"),
        ({"task": "sing"}, "task"),
        ({"document": {"type": "image_url"}}, "document"),
        ({"document": None}, "document"),
    ],
)
def test_a_document_that_cannot_be_meant(gateway: GatewayProcess, change: dict[str, Any], param: str) -> None:
    document = {"type": "image_url", "image_url": "https://example.com/a.png"}
    found = ask(gateway, "documents", **{"model": "ocr", "document": document, **change})
    assert (found.status_code, found.json()["error"]["param"]) == (400, param)
