"""What a caller writes chooses no address, and what must not be known is nowhere: not in answers, logs, metrics or pages."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from aiohttp import web
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.gateway_process import KEY, GatewayProcess, key, made, project, provider, running_gateway
from tests.integration.gateway.raw import connected, received
from tests.integration.gateway.upstream import Upstream, completion, failing, running
from tests.waiting import contains, eventually

Json = dict[str, Any]
HI: Any = [{"role": "user", "content": "hi"}]
PROVIDED = "sk-the-providers-own"
AWS = {
    "AWS_ACCESS_KEY_ID": "AKIAOFTHEPROVIDER",
    "AWS_SECRET_ACCESS_KEY": "aws-secret-of-the-provider",
    "AWS_SESSION_TOKEN": "aws-session-of-the-provider",
}
HIDDEN = (KEY, PROVIDED, *AWS.values())
KINDS = {
    "open": {"kind": "OpenAICompatible"},
    "azure": {"kind": "AzureOpenAI", "apiVersion": "2024-10-21"},
    "claude": {"kind": "Anthropic"},
    "gemini": {"kind": "Google"},
    "nova": {"kind": "Bedrock", "region": "eu-west-1"},
}
PATHS = {
    "open": "/v1/chat/completions",
    "azure": "/openai/deployments/azure/chat/completions",
    "claude": "/v1/messages",
    "gemini": "/v1/models/gemini:generateContent",
    "nova": "/v1/model/nova/converse",
}


async def echo(request: web.Request, body: Json) -> web.StreamResponse:
    """Repeats all that it was sent, as the model in the path or body wants it: whole, as events, or as an error."""
    heard = "; ".join(f"{name}: {value}" for name, value in request.headers.items())
    user = body.get("user") or (body.get("metadata") or {}).get("user_id") or ""
    if body.get("stream"):
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        chunk = {"model": "open", "choices": [{"index": 0, "delta": {"content": heard}, "finish_reason": None}]}
        error = {"error": {"message": heard, "type": "server_error"}}
        await response.write(b"data: " + orjson.dumps(chunk) + b"\n\ndata: " + orjson.dumps(error) + b"\n\n")
        return response
    if request.path == PATHS["open"] and user == "whole":
        answer = completion(body, system_fingerprint=heard, model=request.headers["Authorization"])
        answer.headers["OpenAI-Version"] = "1"
        return answer
    return failing(
        int(user) if user.isdigit() else 400,
        f"you said {heard}",
        **{"X-Echo": heard.replace(PROVIDED, PROVIDED)[:2000]},
    )


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with running(echo) as started:
        yield started


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, upstream: Upstream) -> Iterator[GatewayProcess]:
    """It logs all that it can."""
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"apiKey": PROVIDED}}
    aws = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "aws"}, "stringData": AWS}
    objects = [
        provider(name, upstream.url, name, credentialsSecretRef={"name": "aws" if name == "nova" else "s"}, **more)
        for name, more in KINDS.items()
    ]
    broken = made("Provider", "broken", {"kind": "Nobody", "models": [{"name": PROVIDED}]})
    folder = tmp_path_factory.mktemp("secrecy") / "objects"
    options = ("--log-level=debug",)
    with running_gateway(folder, project(), key(), secret, aws, broken, *objects, options=options) as started:
        yield started


def ask(
    gateway: GatewayProcess, body: Any, path: str = "/v1/chat/completions", secret: str = KEY, **headers: str
) -> httpx.Response:
    content = body if isinstance(body, bytes) else orjson.dumps({"messages": HI} | body)
    headers = {"Authorization": f"Bearer {secret}", **headers}
    return httpx.post(f"{gateway.url}{path}", content=content, headers=headers, timeout=30)


@pytest.mark.parametrize("model", sorted(KINDS))
@pytest.mark.parametrize("status", [400, 401, 404, 429])
def test_an_upstream_that_repeats_its_credentials_repeats_them_to_no_caller(
    gateway: GatewayProcess, model: str, status: int
) -> None:
    body: Json = {"model": model, "max_tokens": 5}
    found = ask(gateway, body if model in ("gemini", "nova") else body | {"user": str(status)})
    assert found.status_code in (400, 404, 429, 503)
    assert not any(word in found.text + str(found.headers) for word in HIDDEN)
    if found.status_code == 400:
        assert "[hidden]" in found.text


@pytest.mark.parametrize("more", [{"user": "whole"}, {"stream": True}], ids=["whole", "a stream"])
def test_nor_in_an_answer(gateway: GatewayProcess, more: Json) -> None:
    found = ask(gateway, {"model": "open", **more})
    assert found.status_code == 200
    assert not any(word in found.text + str(found.headers) for word in HIDDEN)
    assert "Bearer [hidden]" in found.text


def test_nothing_that_can_be_read_holds_a_key(gateway: GatewayProcess, upstream: Upstream) -> None:
    url, known = gateway.url, {"Authorization": f"Bearer {KEY}"}
    pages = [
        httpx.get(f"{url}/{path}", headers=known)
        for path in ("metrics", "docs", "openapi.json", "v1/models", f"v1/{KEY}", "readyz")
    ]
    pages += [ask(gateway, b"{"), ask(gateway, {"model": "none"}), ask(gateway, {"model": "open", "n": -1})]
    pages += [
        ask(gateway, {"model": "open"}, secret=f"{KEY}-not"),
        ask(gateway, {"model": "open"}, path="/projects/other/v1/chat/completions"),
    ]
    protocols: tuple[Any, ...] = ([], ["realtime", f"openai-insecure-api-key.{KEY}"])
    for offered in protocols:
        headers = {} if offered else known
        with (
            pytest.raises(InvalidStatus) as refused,
            connect(
                f"ws://127.0.0.1:{gateway.port}/v1/realtime?model=open",
                additional_headers=headers,
                subprotocols=offered,
                proxy=None,
            ),
        ):
            pass
        assert KEY.encode() not in (refused.value.response.body or b"") and KEY not in str(
            refused.value.response.headers
        )
    gateway.write(
        made("APIKey", "odd", {"hash": "short"}),
        {"kind": "Secret", "metadata": {"name": "s2"}, "data": {"apiKey": "?"}},
        file="more.yaml",
    )
    eventually(lambda: contains(gateway.log, "APIKey default/odd"), within=20)
    for page in pages:
        assert not any(
            word in page.text + str(page.headers) for word in HIDDEN if word != KEY or f"v1/{KEY}" not in str(page.url)
        )
    assert "DEBUG" in gateway.log
    assert not [word for word in HIDDEN if word in gateway.log.replace(f"/v1/{KEY}", "")]
    encoded = [base64.b64encode(word.encode()).decode() for word in HIDDEN]
    assert not [word for word in encoded if word in gateway.log]


HOSTILE = [
    "../../admin", "open/../azure", "..", "open?api-version=1", "open#x", "open\r\nHost: evil.example", "open%2f..%2fadmin", "http://evil.example/v1",
    "//evil.example", "@evil.example", "open\0", "\u202eopen", "open ", " open", "models/gemini:streamGenerateContent?alt=sse&x=", "OPEN", "",
]  # fmt: skip


@pytest.mark.parametrize("model", HOSTILE)
def test_a_models_name_is_looked_up_and_nothing_else(gateway: GatewayProcess, upstream: Upstream, model: str) -> None:
    before = len(upstream.asked)
    assert ask(gateway, {"model": model}).status_code in (400, 404)
    assert len(upstream.asked) == before


@pytest.mark.parametrize("model", sorted(KINDS))
def test_the_address_is_the_providers_whatever_the_caller_says(
    gateway: GatewayProcess, upstream: Upstream, model: str
) -> None:
    at = {
        "model": model,
        "max_tokens": 5,
        "base_url": "http://evil.example",
        "api_base": "http://evil.example",
        "deployment": "x",
    }
    path = f"/projects/team/v1/chat/completions?model=evil&deployment=x&api-version=1&url=http://evil.example/{model}"
    ask(
        gateway,
        at,
        path=path,
        Host="evil.example",
        **{"X-Request-ID": "a?b#c/../d", "Idempotency-Key": f"k/../{model}?x"},
    )
    asked, headers, _ = upstream.asked[-1]
    assert asked == PATHS[model]
    assert headers["host"] == upstream.url.removeprefix("http://").removesuffix("/v1")
    assert headers["x-request-id"] == "a?b#c/../d"
    assert set(headers) <= {
        "host", "content-type", "accept", "accept-encoding", "x-request-id", "user-agent", "content-length", "authorization", "api-key", "x-api-key",
        "anthropic-version", "x-goog-api-key", "x-amz-date", "x-amz-security-token", "x-amz-content-sha256",
    }  # fmt: skip


@pytest.mark.parametrize("path", ["/projects/team/deployments/../v1/chat/completions", "/projects/team/deployments/%2e%2e%2f/v1/chat/completions",
                                  "/projects/team/deployments/open%3fx/v1/chat/completions", "/projects/te%61m%2f../v1/chat/completions",
                                  "/projects//deployments/open/v1/chat/completions", "/projects/team/deployments/http:%2f%2fevil.example/v1/chat/completions"])  # fmt: skip
def test_a_path_leads_to_what_is_known_or_nowhere(gateway: GatewayProcess, upstream: Upstream, path: str) -> None:
    before, body = len(upstream.asked), orjson.dumps({"model": "open", "messages": HI})
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    with connected(gateway.port) as caller:
        caller.sendall(head.encode() + body)
        assert re.match(rb"HTTP/1.1 40[034] ", received(caller))
    assert len(upstream.asked) == before


def test_a_version_of_the_caller_is_a_version(gateway: GatewayProcess, upstream: Upstream) -> None:
    before = len(upstream.asked)
    found = ask(gateway, {"model": "claude", "max_tokens": 5, "anthropic_version": "2023-06-01\r\nx-api-key: other"})
    assert (found.status_code, found.json()["error"]["param"], len(upstream.asked)) == (
        400,
        "anthropic_version",
        before,
    )


@pytest.mark.parametrize("more", ["deployment=gpt-5", "api-version=1", "API_KEY=x", "call_id=rtc_1", "model=other"])
def test_a_session_chooses_no_other_model_version_or_account(
    gateway: GatewayProcess, upstream: Upstream, more: str
) -> None:
    before, known = len(upstream.asked), {"Authorization": f"Bearer {KEY}"}
    url = f"ws://127.0.0.1:{gateway.port}/v1/realtime?model=open&{more}"
    with pytest.raises(InvalidStatus) as refused, connect(url, additional_headers=known, proxy=None):
        pass
    assert (refused.value.response.status_code, len(upstream.asked)) == (400, before)


def test_the_gateway_fetches_nothing_that_a_body_points_to(tmp_path: Path, upstream: Upstream) -> None:
    async def trap(_: web.Request, __: Json) -> web.Response:
        return web.Response()

    with (
        running(trap) as canary,
        running_gateway(
            tmp_path / "objects",
            project(),
            key(),
            *(provider(name, upstream.url, name, **KINDS[name]) for name in ("open", "claude", "gemini")),
        ) as gateway,
    ):
        image = {"type": "image_url", "image_url": {"url": f"{canary.url}/a.png"}}
        file = {"type": "file", "file": {"file_data": f"{canary.url}/a.pdf", "filename": "a.pdf"}}
        for model in ("open", "claude", "gemini"):
            for part in (image, file):
                ask(gateway, {"model": model, "max_tokens": 5, "messages": [{"role": "user", "content": [part]}]})
        document = {"model": "open", "document": {"type": "document_url", "document_url": f"{canary.url}/a.pdf"}}
        ask(gateway, orjson.dumps(document), path="/v1/documents")
        assert upstream.asked[-1][2] == document
        assert canary.asked == []
