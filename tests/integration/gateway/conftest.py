"""A gateway before two tiny engines and strict local servers, for all real clients."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import orjson
import pytest
from aiohttp import web

from tests.gateway_process import GatewayProcess, key, project, provider, running_gateway
from tests.integration.gateway.foreign_anthropic import anthropic
from tests.integration.gateway.reference import Reference, read, running_reference
from tests.integration.gateway.upstream import Upstream, completion, running
from tests.tiny_engine import running_tiny
from tests.tiny_model import TOOLS_TEMPLATE, write_tiny_model

CHATS = ("llama-3.2-1b", "gpt-4", "gpt-3.5-turbo")
PRICED = {"inputTokensPer1k": "0.5", "outputTokensPer1k": 1}


async def _strict(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    """Stands in for models that hear, speak, see pictures, decide by themselves to call a tool, or never end."""
    if request.path == "/v1/audio/transcriptions":
        return web.json_response({"text": body["file"].file.read().decode()})
    if request.path == "/v1/audio/speech":
        return web.Response(body=body["input"].encode(), content_type="audio/mpeg")
    assert request.path == "/v1/chat/completions"
    if body["model"] == "gpt-4-vision-preview":
        kinds = [block["type"] for block in body["messages"][0]["content"]]
        assert kinds == ["text", "image_url"]
        return completion(body)
    if body["model"] == "gpt-4-tools":
        assert [tool["function"]["name"] for tool in body["tools"]] == ["get_current_weather"]
        function = {"name": "get_current_weather", "arguments": '{"location": "Boston, MA"}'}
        call = {"id": "call_1", "type": "function", "function": function}
        message = {"role": "assistant", "content": None, "tool_calls": [call]}
        return completion(body, choices=[{"index": 0, "message": message, "finish_reason": "tool_calls"}])
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    chunk = {"model": body["model"], "choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": None}]}
    while True:
        await response.write(b"data: " + orjson.dumps(chunk) + b"\n\n")
        await asyncio.sleep(0.01)


@pytest.fixture(scope="session")
def strict() -> Iterator[Upstream]:
    with running(_strict, read=read) as started:
        yield started


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory, strict: Upstream) -> Iterator[GatewayProcess]:
    """Chats and embeddings of llama.cpp, by the names that the reference uses."""
    folder = tmp_path_factory.mktemp("clients")
    model = write_tiny_model(folder / "tiny.gguf", template=TOOLS_TEMPLATE)
    chats: list[dict[str, Any]] = [{"name": name, "upstreamName": "tiny", "pricing": PRICED} for name in CHATS]
    chats[0] |= {"maxOutputTokens": 300}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "ant"}, "stringData": {"apiKey": "sk-ant"}}
    with (
        running_tiny(model, "--alias", "tiny") as (_, chat),
        running_tiny(model, "--alias", "tiny", "--embeddings") as (_, embedding),
        running(anthropic) as claude,
        running_gateway(
            folder / "objects",
            project(),
            key(),
            *(key(f"limited-{name}", f"bud_limited_{name}", limits={"requestsPerDay": 1}) for name in ("new", "old")),
            provider("local", _url(chat), models=chats),
            provider("vectors", _url(embedding), models=[{"name": "text-embedding-3-large", "upstreamName": "tiny"}]),
            provider("strict", strict.url, "gpt-4-vision-preview", "gpt-4-tools", "endless", "whisper-1", "tts-1"),
            secret,
            provider("claude", claude.url, "claude-3-sonnet", kind="Anthropic", credentialsSecretRef={"name": "ant"}),
        ) as running_one,
    ):
        yield running_one


def _url(engine: httpx.Client) -> str:
    return f"{str(engine.base_url).rstrip('/')}/v1"


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reference]:
    """A gateway before an upstream that answers as the reference says."""
    with running_reference(tmp_path_factory.mktemp("reference") / "objects") as made:
        yield made
