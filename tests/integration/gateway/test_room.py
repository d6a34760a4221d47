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
from tests.integration.gateway.upstream import completion, failing, running, unread
from tests.waiting import eventually, is_equal

MIB = 1024 * 1024
HEAD = (
    "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
    f"Authorization: Bearer {KEY}\r\nContent-Length: {JSON_BYTES}\r\n\r\n"
)


async def answer(request: web.Request, _: dict[str, Any]) -> web.StreamResponse:
    """What the body names its model: one breaks off a long answer, one fails."""
    read = b"".join([piece async for piece in request.content.iter_any()])
    if b'"fails"' in read:
        return failing(500)
    if b'"breaks"' not in read:
        return completion({"model": "m"})
    response = web.StreamResponse(headers={"content-type": "application/json"})
    await response.prepare(request)
    for _piece in range(32):
        await response.write(bytes(MIB))
    assert request.transport is not None
    request.transport.abort()
    return response


def others(object: dict[str, Any]) -> dict[str, Any]:
    """The same in another project's namespace."""
    return {**object, "metadata": {**object["metadata"], "namespace": "others"}}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    with running(answer, read=unread) as upstream:
        objects = (
            project(), key(), provider("p", upstream.url, "m", "breaks", "fails"), made("Project", "others", {"namespace": "others"}),
            others(key("bob", "bud_bob")), others(provider("p", upstream.url, "m")),
        )  # fmt: skip
        with running_gateway(tmp_path_factory.mktemp("room") / "objects", *objects) as started:
            yield started


def ask(gateway: GatewayProcess, size: int, secret: str = KEY, *, model: str = "m") -> int:
    body = {"model": model, "messages": [{"role": "user", "content": "x" * size}]}
    headers = {"Authorization": f"Bearer {secret}"}
    answer = httpx.post(f"{gateway.url}/v1/chat/completions", json=body, headers=headers, timeout=30)
    if model == "m" and answer.status_code != 200:
        assert answer.json()["error"]["code"] == "overloaded"
    return answer.status_code


def test_bodies_that_do_not_end_take_no_more_than_a_projects_half_of_the_room(gateway: GatewayProcess) -> None:
    with ExitStack() as stack:
        piece = bytes(JSON_BYTES - 1)
        for _ in range(ROOM_BYTES // 2 // len(piece)):
            caller = stack.enter_context(connected(gateway.port))
            caller.sendall(HEAD.encode())
            caller.sendall(piece)
        eventually(lambda: is_equal(ask(gateway, 8 * MIB), 503))
        assert ask(gateway, 100) == 200
        assert ask(gateway, 8 * MIB, "bud_bob") == 200
    eventually(lambda: is_equal(ask(gateway, 8 * MIB), 200))


@pytest.mark.parametrize(("model", "size", "status"), [("breaks", 100, 503), ("fails", 16 * MIB, 500)])
def test_what_fails_leaves_nothing_of_its_body_or_answer(
    gateway: GatewayProcess, model: str, size: int, status: int
) -> None:
    assert ask(gateway, size, model=model) == status
    before = gateway.memory
    for _ in range(5):
        assert ask(gateway, size, model=model) == status
    assert gateway.memory - before < 64 * MIB
