"""What models that are served here cost, can do and are bound to, as their Deployments say."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import orjson
import pytest
from aiohttp import web

from tests.gateway_process import GatewayProcess, key, made, project, running_gateway
from tests.integration.gateway.upstream import USAGE, completion, running

HELD_SECONDS = 0.2
GPUS, HOUR = 2, 1800
PER_SECOND = GPUS * HOUR / 3600
BUDGET = 0.5
TOLD = {"capabilities": ["chat", "vision"], "contextLength": 4096, "maxOutputTokens": 300}


async def answer(_: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    """Takes as long as it takes."""
    await asyncio.sleep(HELD_SECONDS)
    if not body.get("stream"):
        return completion(body)
    ends: dict[str, Any] = {"index": 0, "delta": {"content": "hi"}, "finish_reason": "stop"}
    events: list[dict[str, Any]] = [{"choices": [ends]}, {"choices": [], "usage": USAGE}]
    text = b"".join(b"data: " + orjson.dumps({"model": body["model"], **event}) + b"\n\n" for event in events)
    return web.Response(body=text + b"data: [DONE]\n\n", content_type="text/event-stream")


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    with running(answer) as upstream:

        def own(name: str, **spec: Any) -> dict[str, Any]:
            status = {"endpointURL": upstream.url, "modelName": name, "readyReplicas": 1, "task": "text-generation"}
            return made("Deployment", name, {"modelRef": {"name": name}, **spec}) | {"status": status}

        objects = (
            project(),
            key(),
            key("poor", "bud_poor", budget={"amount": str(BUDGET), "period": "Total"}),
            own("by-time", pricing={"perGPUHour": HOUR}, resources={"gpu": GPUS}, **TOLD),
            own("by-tokens", pricing={"inputTokensPer1k": "2", "outputTokensPer1k": "10"}),
            own("free"),
        )
        with running_gateway(tmp_path_factory.mktemp("prices") / "objects", *objects) as started:
            yield started


def ask(gateway: GatewayProcess, model: str, who: str = "alice", **more: Any) -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5, **more}
    headers = {"Authorization": f"Bearer bud_{who}"}
    return httpx.post(f"{gateway.url}/v1/chat/completions", json=body, headers=headers, timeout=30)


def test_models_tell_what_their_deployments_say(gateway: GatewayProcess) -> None:
    listed = httpx.get(f"{gateway.url}/v1/models", headers={"Authorization": "Bearer bud_alice"}).json()["data"]
    fields = ("capabilities", "context_length", "max_output_tokens", "pricing", "ready")
    by_time = {"input_tokens_per_1k": 0.0, "output_tokens_per_1k": 0.0, "per_replica_hour": GPUS * float(HOUR)}
    assert {model["id"]: tuple(model[field] for field in fields) for model in listed} == {
        "by-time": (["chat", "vision"], 4096, 300, by_time, True),
        "by-tokens": (
            ["chat", "completion"], None, None, {"input_tokens_per_1k": 2.0, "output_tokens_per_1k": 10.0}, True,
        ),
        "free": (["chat", "completion"], None, None, None, True),
    }  # fmt: skip


def test_more_than_the_model_writes_is_refused(gateway: GatewayProcess) -> None:
    refused = ask(gateway, "by-time", max_tokens=301)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "max_tokens")


def test_tokens_of_a_deployment_cost_what_it_says(gateway: GatewayProcess) -> None:
    told = ask(gateway, "by-tokens")
    assert told.json()["conduit_metadata"]["cost"] == pytest.approx((3 * 2 + 5 * 10) / 1000)
    assert ask(gateway, "free").json()["conduit_metadata"]["cost"] is None


def test_requests_at_once_pay_together_for_the_time_that_the_gpus_were_busy(gateway: GatewayProcess) -> None:
    began = time.monotonic()
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: ask(gateway, "by-time"), range(4)))
    seconds = time.monotonic() - began
    costs = [answer.json()["conduit_metadata"]["cost"] for answer in answers]
    assert HELD_SECONDS * PER_SECOND <= sum(costs) <= seconds * PER_SECOND
    assert [float(answer.headers["x-conduit-cost"]) for answer in answers] == costs


def test_a_stream_tells_what_its_time_cost_at_its_end(gateway: GatewayProcess) -> None:
    streamed = ask(gateway, "by-time", stream=True)
    assert "x-conduit-cost" not in streamed.headers
    chunks = [orjson.loads(line[6:]) for line in streamed.text.splitlines() if line.startswith("data: {")]
    assert chunks[-1]["conduit_metadata"]["cost"] >= HELD_SECONDS * PER_SECOND


def test_time_spends_a_budget_and_then_nothing_more(gateway: GatewayProcess) -> None:
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: ask(gateway, "by-time", "poor"), range(64)))
    costs = [answer.json()["conduit_metadata"]["cost"] for answer in answers if answer.status_code == 200]
    # Each may take longer than what was usual before and was reserved, but none of what is left is spent twice.
    assert 0 < sum(costs) <= BUDGET + 16 * max(costs)
    refused = answers[-1]
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "budget_exceeded")
    assert ask(gateway, "free", "poor").status_code == 200
