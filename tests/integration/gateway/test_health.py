"""An upstream that is away and comes back: nobody's request finds out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
from aiohttp import web

from tests.gateway_process import KEY, GatewayProcess, key, project, provider, running_gateway
from tests.integration.gateway.upstream import Upstream, completion, failing, running
from tests.waiting import eventually


class Sick:
    """Answers nothing but faults until it is `well`."""

    def __init__(self) -> None:
        self.well = False

    async def __call__(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        if not self.well:
            return failing(503)
        return completion(body) if request.method == "POST" else web.json_response({"object": "list", "data": []})


async def _well(_: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    return completion(body)


def test_who_is_away_gets_no_requests_until_it_says_that_it_is_well(tmp_path: Path) -> None:
    sick = Sick()
    with running(sick) as first, running(_well) as second:
        secret = {"kind": "Secret", "metadata": {"name": "s"}, "stringData": {"apiKey": "sk-upstream"}}
        objects = (
            project(), key(), secret,
            provider("first", first.url, "m", priority=9, credentialsSecretRef={"name": "s"}), provider("second", second.url, "m"),
        )  # fmt: skip
        with running_gateway(tmp_path / "objects", *objects) as gateway:
            for _ in range(2):
                _ask(gateway)
            _rests(gateway, 1)
            before = len(_requests(first))
            for _ in range(3):
                _ask(gateway)
            assert (before, len(_requests(first)), len(_requests(second))) == (6, 6, 5)
            sick.well = True
            eventually(lambda: _rests(gateway, 0), within=30)
            _ask(gateway)
            assert (len(_requests(first)), len(_requests(second))) == (7, 5)
            looks = [headers for path, headers, _ in first.asked if path == "/v1/models"]
            assert {headers["authorization"] for headers in looks} == {"Bearer sk-upstream"}
            assert not [path for path, _, _ in second.asked if path == "/v1/models"]


def _ask(gateway: GatewayProcess) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    headers = {"Authorization": f"Bearer {KEY}"}
    assert httpx.post(f"{gateway.url}/v1/chat/completions", json=body, headers=headers, timeout=30).status_code == 200


def _rests(gateway: GatewayProcess, count: int) -> None:
    told = httpx.get(f"{gateway.url}/metrics").text
    assert f'bud_gateway_upstream_circuit_open{{bud_namespace="default",bud_target="first/m"}} {count}\n' in told


def _requests(upstream: Upstream) -> list[str]:
    return [path for path, _, _ in upstream.asked if path == "/v1/chat/completions"]
