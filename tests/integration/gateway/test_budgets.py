"""Budgets as callers meet them: chats, streams, uploads, and what has no price."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import orjson
import pytest
from aiohttp import web

from tests.gateway_process import GatewayProcess, key, project, provider, running_gateway
from tests.integration.gateway.forms import parts
from tests.integration.gateway.upstream import completion, running, unread

CHAT = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}
USAGE = {"prompt_tokens": 3, "completion_tokens": 5}
PRICE = {"inputTokensPer1k": "1", "outputTokensPer1k": "10"}
"""Of a request as above: 0.053; as it is estimated, 0.05 and 0.001 for each four bytes of its body."""


async def answer(request: web.Request, _: dict[str, Any]) -> web.StreamResponse:
    if request.path.endswith("transcriptions"):
        async for _part in parts(request):
            pass
        usage = {"type": "tokens", "input_tokens": 3, "output_tokens": 5, "total_tokens": 8}
        return web.json_response({"text": "hi", "usage": usage})
    body = await request.json()
    if not body.get("stream"):
        return completion(body)
    ends: list[dict[str, Any]] = [{"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}]
    events = [*ends, {"choices": [], "usage": USAGE}]
    text = b"".join(b"data: " + orjson.dumps({"model": body["model"], **event}) + b"\n\n" for event in events)
    return web.Response(body=text + b"data: [DONE]\n\n", content_type="text/event-stream")


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    with running(answer, read=unread) as upstream:
        budgets = {"chat": "0.4", "stream": "0.4", "upload": "0.1", "nothing": "0", "small": "0.06", "day": "0.001"}
        offers = [{"name": "m", "pricing": PRICE}, {"name": "ears", "pricing": PRICE}, {"name": "free"}]
        objects = (
            project(budget={"amount": "1000", "period": "Total"}),
            *(key(name, f"bud_{name}", budget={"amount": amount, "period": "Day"}) for name, amount in budgets.items()),
            provider("p", upstream.url, models=offers),
            provider("q", upstream.url, "chain"),
            provider("r", upstream.url, models=[{"name": "chain", "pricing": PRICE}], priority=-1),
        )
        with running_gateway(tmp_path_factory.mktemp("budgets") / "objects", *objects) as started:
            yield started


def ask(gateway: GatewayProcess, who: str, model: str = "m", **more: Any) -> httpx.Response:
    headers = {"Authorization": f"Bearer bud_{who}"}
    body = {"model": model, **CHAT, **more}
    return httpx.post(f"{gateway.url}/v1/chat/completions", json=body, headers=headers, timeout=30)


def until_refused(gateway: GatewayProcess, who: str, **more: Any) -> tuple[int, httpx.Response]:
    for count in range(50):
        if (found := ask(gateway, who, **more)).status_code != 200:
            return count, found
    raise AssertionError("never refused")


@pytest.mark.parametrize("who", ["chat", "stream"])
def test_spending_stops_at_the_limit_and_is_not_tried_again(gateway: GatewayProcess, who: str) -> None:
    # Seven cost 0.371; what is left does not suffice for one more.
    count, refusal = until_refused(gateway, who, stream=who == "stream")
    assert 5 <= count <= 7
    assert (refusal.status_code, refusal.headers["x-should-retry"]) == (429, "false")
    error = refusal.json()["error"]
    assert (error["type"], error["code"], error["param"]) == ("rate_limit_error", "budget_exceeded", None)
    assert "of the $0.4 that this key may spend a day" in error["message"]
    assert "retry-after" not in refusal.headers


def test_what_has_no_price_is_free(gateway: GatewayProcess) -> None:
    assert ask(gateway, "nothing", "free").status_code == 200
    assert ask(gateway, "nothing").json()["error"]["code"] == "budget_exceeded"


def test_a_chain_costs_what_the_dearest_of_it_may(gateway: GatewayProcess) -> None:
    assert ask(gateway, "nothing", "chain").json()["error"]["code"] == "budget_exceeded"


def test_an_image_within_the_body_is_no_text(gateway: GatewayProcess) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 400_000}}
    content = [{"type": "text", "text": "hi"}, image]
    assert ask(gateway, "small", messages=[{"role": "user", "content": content}], max_tokens=1).status_code == 200


def hear(gateway: GatewayProcess, who: str) -> httpx.Response:
    return httpx.post(
        f"{gateway.url}/v1/audio/transcriptions",
        data={"model": "ears"},
        files={"file": ("a.wav", b"RIFF", "audio/wav")},
        headers={"Authorization": f"Bearer bud_{who}"},
        timeout=30,
    )


def test_uploads_spend_what_they_are_told_to_have_cost(gateway: GatewayProcess) -> None:
    # One costs 0.053. What the first is to cost nobody knows, so it begins; of the second that is thought, too.
    assert [hear(gateway, "upload").status_code for _ in range(3)] == [200, 429, 429]
    assert hear(gateway, "nothing").json()["error"]["code"] == "budget_exceeded"
