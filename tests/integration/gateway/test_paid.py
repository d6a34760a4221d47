"""What is paid and what is not: hang-ups, refusals of upstreams, many answers at once, and keys that are revoked meanwhile."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import orjson
import pytest
from aiohttp import web

from tests.gateway_process import GatewayProcess, key, made, project, provider, running_gateway
from tests.integration.gateway.raw import answers, connected, received
from tests.integration.gateway.upstream import Upstream, completion, failing, read_json, running
from tests.waiting import eventually, is_equal

PRICE = {"perRequest": "0.5"}
BUDGET = {"amount": "2", "period": "Total"}
"""Of four requests."""
SHORT = 0.3
KEYS = ("uploader", "patient", "many", "talker", "revoked", "plain")
MESSAGES = [{"role": "user", "content": "x"}]


async def read(request: web.Request) -> dict[str, Any]:
    if "audio" not in request.path:
        return await read_json(request)
    await request.read()
    return {"model": "ears"}


def answering() -> Any:
    seen = Counter[str]()

    async def answer(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        model = body["model"]
        seen[model] += 1
        if model == "ears":
            await asyncio.Event().wait()
        if model == "busy":
            return failing(429, "busy", **{"Retry-After": "20"})
        if model == "moody":
            return failing(500) if seen[model] % 2 else failing(400)
        if model == "short":
            broken = web.StreamResponse(status=400, headers={"Content-Length": "500"})
            await broken.prepare(request)
            await broken.write(b"{")
            assert request.transport is not None
            request.transport.close()
            return broken
        return completion(body)

    return answer


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with running(answering(), read=read) as started:
        yield started


def objects(url: str, **revoked: bool) -> list[dict[str, Any]]:
    names = ("ears", "busy", "moody", "short", "ok", "writer")
    offers: list[dict[str, Any]] = [{"name": name, "pricing": PRICE} for name in names]
    offers[-1]["pricing"] = {"outputTokensPer1k": "1"}
    targets = [{"providerRef": {"name": "p", "model": "moody"}}]
    fallbacks = [{"providerRef": {"name": "p", "model": "ok"}}]
    return [
        project(),
        *(key(name, f"bud_{name}", budget=BUDGET, revoked=revoked.get(name, False)) for name in KEYS[:-1]),
        key("plain", "bud_plain"),
        provider("p", url, models=offers),
        made("Route", "changing", {"targets": targets, "fallbacks": fallbacks, "retries": 0}),
    ]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, upstream: Upstream) -> Iterator[GatewayProcess]:
    with running_gateway(tmp_path_factory.mktemp("paid") / "objects", *objects(upstream.url)) as started:
        yield started


def ask(gateway: GatewayProcess, who: str, model: str, *, seconds: float = 20.0, **more: Any) -> httpx.Response:
    body = {"model": model, **({} if "prompt" in more else {"messages": MESSAGES}), "max_tokens": 5, **more}
    path = "completions" if "prompt" in more else "chat/completions"
    headers = {"Authorization": f"Bearer bud_{who}"}
    return httpx.post(f"{gateway.url}/v1/{path}", json=body, headers=headers, timeout=seconds)


def upload(gateway: GatewayProcess) -> int:
    """The status, 0 if the caller hung up first."""
    headers = {"Authorization": "Bearer bud_uploader"}
    files = {"file": ("a.wav", b"x" * 1000)}
    url = f"{gateway.url}/v1/audio/transcriptions"
    try:
        return httpx.post(url, headers=headers, data={"model": "ears"}, files=files, timeout=SHORT).status_code
    except httpx.TimeoutException:
        return 0


def test_an_upload_whose_caller_hangs_up_is_paid(gateway: GatewayProcess) -> None:
    # One more may begin before the last is settled.
    found = [upload(gateway) for _ in range(8)]
    assert found[:4] == [0] * 4
    assert found[6:] == [429] * 2


def test_who_gives_up_while_the_upstream_refuses_pays_nothing(gateway: GatewayProcess) -> None:
    for _ in range(5):
        with pytest.raises(httpx.TimeoutException):
            ask(gateway, "patient", "busy", seconds=SHORT)
    assert ask(gateway, "patient", "ok").status_code == 200


@pytest.mark.parametrize(
    "more",
    [{"prompt": ["a"] * 1000, "max_tokens": 10}, {"prompt": "a", "max_tokens": 1000, "best_of": 20}],
    ids=["prompts", "answers of which the best is chosen"],
)
def test_many_at_once_are_reserved_all(gateway: GatewayProcess, upstream: Upstream, more: dict[str, Any]) -> None:
    before = len(upstream.asked)
    refusal = ask(gateway, "many", "writer", **more)
    assert (refusal.status_code, refusal.json()["error"]["code"]) == (429, "budget_exceeded")
    assert len(upstream.asked) == before


def test_what_responses_write_is_reserved_although_nobody_bounds_it(gateway: GatewayProcess) -> None:
    body = {"model": "writer", "input": "x"}
    headers = {"Authorization": "Bearer bud_talker"}
    found = httpx.post(f"{gateway.url}/v1/responses", json=body, headers=headers, timeout=20)
    assert found.status_code == 200
    # 256 tokens are thought to be written at first, then as many as were.
    assert ask(gateway, "talker", "writer", max_tokens=2000).status_code == 429


def test_a_400_that_breaks_off_is_the_answer(gateway: GatewayProcess, upstream: Upstream) -> None:
    before = len(upstream.asked)
    assert ask(gateway, "plain", "short").status_code == 400
    assert len(upstream.asked) == before + 1


def test_faults_between_answers_rest_nothing(gateway: GatewayProcess, upstream: Upstream) -> None:
    before = Counter(body["model"] for _, _, body in upstream.asked)
    found = [ask(gateway, "plain", "changing").status_code for _ in range(12)]
    asked = Counter(body["model"] for _, _, body in upstream.asked) - before
    assert (found, asked["moody"]) == ([200, 400] * 6, 12)


def test_a_key_that_is_revoked_while_its_body_comes_is_refused(gateway: GatewayProcess, upstream: Upstream) -> None:
    body = orjson.dumps({"model": "ok", "messages": MESSAGES})
    head = (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer bud_revoked\r\n"
        b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    )
    with connected(gateway.port) as caller:
        caller.sendall(head + body[:10])
        gateway.write(*objects(upstream.url, revoked=True))
        eventually(lambda: is_equal(ask(gateway, "revoked", "ok").status_code, 401), within=20)
        before = len(upstream.asked)
        caller.sendall(body[10:])
        (told,) = answers(received(caller))
    assert (told.status, len(upstream.asked)) == (401, before)
