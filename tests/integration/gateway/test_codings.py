"""Upstreams that pack their answers though the gateway asked for plain ones."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from typing import Any

import httpx
import orjson
import pytest
from aiohttp import web

from tests.gateway_process import KEY, GatewayProcess, key, project, provider, running_gateway
from tests.integration.gateway.upstream import USAGE, Upstream, completion, failing, running
from tests.waiting import contains, eventually

CHUNKS = (
    {"model": "m", "choices": [{"index": 0, "delta": {"content": "hi"}, "finish_reason": "stop"}]},
    {"model": "m", "choices": [], "usage": USAGE},
)
STREAM = b"".join(b"data: %b\n\n" % orjson.dumps(chunk) for chunk in CHUNKS) + b"data: [DONE]\n\n"


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    async def packs(request: web.Request, body: dict[str, Any]) -> web.Response:
        how = str(body["user"])
        if how == "stream":
            plain = web.Response(body=STREAM, content_type="text/event-stream")
        elif how == "error":
            plain = failing(400, "too sweet")
        elif how == "bomb":
            plain = web.Response(body=b" " * (129 * 1024 * 1024), content_type="application/json")
        else:
            plain = web.Response(body=b"RIFF", content_type="audio/wav") if how == "sound" else completion(body)
        assert isinstance(plain.body, bytes) and request.headers["accept-encoding"] == "identity"
        coding = "br" if how == "br" else "gzip"
        packed, headers = gzip.compress(plain.body, 1), {"content-encoding": coding}
        return web.Response(status=plain.status, body=packed, headers=headers, content_type=plain.content_type)

    with running(packs) as made:
        yield made


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, upstream: Upstream) -> Iterator[GatewayProcess]:
    folder = tmp_path_factory.mktemp("codings") / "objects"
    with running_gateway(folder, project(), key(), provider("p", upstream.url, "m")) as made:
        yield made


def ask(gateway: GatewayProcess, how: str, *, path: str = "chat/completions", **more: Any) -> httpx.Response:
    asked: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "user": how} | more
    headers = {"Authorization": f"Bearer {KEY}"}
    found = httpx.post(f"{gateway.url}/v1/{path}", json=asked, headers=headers, timeout=60)
    assert "content-encoding" not in found.headers
    return found


def test_json_events_and_sound_arrive_unpacked_and_usage_is_counted(gateway: GatewayProcess) -> None:
    assert ask(gateway, "whole").json()["choices"][0]["message"]["content"] == "hi"
    said = ask(gateway, "stream", stream=True).text
    assert '"content":"hi"' in said and said.endswith("data: [DONE]\n\n")
    assert ask(gateway, "sound", path="audio/speech", input="hi", voice="v").content == b"RIFF"
    who = 'bud_project="team",gen_ai_operation_name="chat",gen_ai_provider_name="openai-compatible",gen_ai_request_model="m"'
    told = f'gen_ai_client_token_usage_sum{{{who},gen_ai_token_type="output"}} {2.0 * USAGE["completion_tokens"]}'
    eventually(lambda: contains(httpx.get(f"{gateway.url}/metrics").text, told), within=20)


@pytest.mark.parametrize(
    ("how", "status", "code", "words"),
    [
        ("error", 400, "invalid_value", "too sweet"),
        ("br", 503, "upstream_invalid", "it answers in Content-Encoding 'br'"),
        ("bomb", 503, "upstream_unavailable", "the model's answer is longer than 128 MiB"),
    ],
)
def test_what_cannot_be_passed_on_says_why(
    gateway: GatewayProcess, how: str, status: int, code: str, words: str
) -> None:
    found = ask(gateway, how)
    error = found.json()["error"]
    assert (found.status_code, error["code"]) == (status, code) and words in error["message"]
