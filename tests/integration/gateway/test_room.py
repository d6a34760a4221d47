"""Callers who make the gateway hold much: they are refused, and nobody else is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
from aiohttp import web

from bud.gateway.bodies import ROOM_BYTES
from bud.gateway.request import JSON_BYTES
from tests.gateway_process import KEY, GatewayProcess, key, made, project, provider, running_gateway
from tests.integration.gateway.raw import connected
from tests.integration.gateway.upstream import completion, running, unread
from tests.waiting import eventually, is_equal

HEAD = (
    "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
    f"Authorization: Bearer {KEY}\r\nContent-Length: {JSON_BYTES}\r\n\r\n"
)


async def answer(request: web.Request, _: dict[str, Any]) -> web.StreamResponse:
    async for _piece in request.content.iter_any():
        pass
    return completion({"model": "m"})


def others(object: dict[str, Any]) -> dict[str, Any]:
    """The same in another project's namespace."""
    return {**object, "metadata": {**object["metadata"], "namespace": "others"}}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    with running(answer, read=unread) as upstream:
        objects = (
            project(), key(), provider("p", upstream.url, "m"), made("Project", "others", {"namespace": "others"}),
            others(key("bob", "bud_bob")), others(provider("p", upstream.url, "m")),
        )  # fmt: skip
        with running_gateway(tmp_path_factory.mktemp("room") / "objects", *objects) as started:
            yield started


def ask(gateway: GatewayProcess, size: int, secret: str = KEY) -> int:
    body = {"model": "m", "messages": [{"role": "user", "content": "x" * size}]}
    headers = {"Authorization": f"Bearer {secret}"}
    answer = httpx.post(f"{gateway.url}/v1/chat/completions", json=body, headers=headers, timeout=30)
    if answer.status_code != 200:
        assert answer.json()["error"]["code"] == "overloaded"
    return answer.status_code


def test_bodies_that_do_not_end_take_no_more_than_a_projects_half_of_the_room(gateway: GatewayProcess) -> None:
    with ExitStack() as stack:
        piece = bytes(JSON_BYTES - 1)
        for _ in range(ROOM_BYTES // 2 // len(piece)):
            caller = stack.enter_context(connected(gateway.port))
            caller.sendall(HEAD.encode())
            caller.sendall(piece)
        eventually(lambda: is_equal(ask(gateway, 8 * 1024 * 1024), 503))
        assert ask(gateway, 100) == 200
        assert ask(gateway, 8 * 1024 * 1024, "bud_bob") == 200
    eventually(lambda: is_equal(ask(gateway, 8 * 1024 * 1024), 200))
