"""Targets that cannot answer and never sleep, beside others that do, at a gateway that can wake those: nobody waits
for the former."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from bud.api.limits import Limits
from bud.gateway.app import Gateway
from bud.gateway.catalog import Catalog, Key, Nap, Project, Served, Target
from bud.gateway.protocol import Patience
from bud.gateway.reach import Reach
from bud.gateway.settings import Settings
from tests.gateway_process import KEY
from tests.integration.gateway.in_process import started
from tests.integration.gateway.talking import end_session
from tests.integration.gateway.upstream import completion, read_json, running
from tests.tiny_engine import free_port

CHAT = {"messages": [{"role": "user", "content": "hi"}]}
NAMES = ["beside one that is up", "beside one that may sleep", "beside one that sleeps"]


async def answer(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    return await end_session(request) if request.path == "/v1/realtime" else completion(body)


async def read(request: web.Request) -> dict[str, Any]:
    return await read_json(request) if request.can_read_body else {}


async def note(_: str) -> None:
    """Nothing wakes."""


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with running(answer, read=read) as upstream:
        down = Target("down", "bud", "m", (), own=True)
        up = Target("up", "openai", "m", (upstream.url,), own=True)
        asleep = Target("asleep", "bud", "m", (), own=True, nap=Nap("asleep-1", 400))
        awake = Target("awake", "bud", "m", (upstream.url,), own=True, nap=Nap("awake-1", 400))
        served = [
            Served(name, (down,), found) for name, found in zip(NAMES, [(up,), (awake,), (up, asleep)], strict=True)
        ]
        served += [Served("asleep", (asleep,), (up,)), Served("down", (down,))]
        hashed = hashlib.sha256(KEY.encode()).hexdigest()
        key = Key("u", "alice", Project("team", "team", Limits()), hashed)
        settings = Settings(folder=Path(), port=free_port(), reach=Reach.of([], {}))
        catalog = Catalog({hashed: key}, {"team": {one.name: one for one in served}})
        with started(Gateway(catalog, settings, note=note), settings, patience=Patience()):
            yield settings.port


def status_of_chat(port: int, name: str, seconds: float) -> int:
    headers = {"Authorization": f"Bearer {KEY}", "X-Request-Timeout": str(seconds)}
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    return httpx.post(url, json=CHAT | {"model": name}, headers=headers, timeout=30).status_code


def status_of_session(port: int, name: str, seconds: float) -> int:
    headers = {"Authorization": f"Bearer {KEY}", "X-Request-Timeout": str(seconds)}
    url = f"ws://127.0.0.1:{port}/v1/realtime?{httpx.QueryParams(model=name)}"
    try:
        with connect(url, additional_headers=headers, proxy=None, open_timeout=30):
            return 101
    except InvalidStatus as refused:
        return refused.response.status_code


@pytest.mark.parametrize("name", NAMES)
def test_who_is_up_answers_for_what_is_down(port: int, name: str) -> None:
    assert (status_of_chat(port, name, 20), status_of_session(port, name, 20)) == (200, 101)


def test_where_nobody_is_up_nobody_is_waited_for_but_who_sleeps(port: int) -> None:
    assert (status_of_chat(port, "down", 20), status_of_session(port, "down", 20)) == (503, 503)
    assert (status_of_chat(port, "asleep", 0.2), status_of_session(port, "asleep", 0.2)) == (504, 504)
