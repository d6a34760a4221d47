"""Upstreams with faults: whose they are, who is asked instead, how long that takes, and what the caller is told."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from aiohttp import web

from tests.gateway_process import KEY, GatewayProcess, key, made, project, provider, running_gateway
from tests.integration.gateway.upstream import Upstream, completion, failing, running
from tests.waiting import eventually

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}
ALONE = (
    "broken",
    "well",
    "html",
    "list",
    "half",
    "nothing",
    "slow",
    "limited",
    "soon",
    "spoken",
    "stuck",
    "events",
    "rude",
)
WITH_ANOTHER = ("html", "list", "half", "silent", "mute", "limited")
"""Models of the first Provider that a Route leads to, with another Provider as the fallback."""


@dataclass
class Place:
    gateway: GatewayProcess
    first: Upstream
    second: Upstream

    def ask(self, model: str, *, path: str = "chat/completions", body: Any = None, **headers: str) -> httpx.Response:
        body = {"model": model, **(CHAT if body is None else body)}
        headers = {"Authorization": f"Bearer {KEY}"} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        return httpx.post(f"{self.gateway.url}/v1/{path}", json=body, headers=headers, timeout=30)

    def resting(self, model: str) -> int:
        """At how many addresses a model of the first Provider rests."""
        told = httpx.get(f"{self.gateway.url}/metrics").text
        start = f'bud_gateway_upstream_circuit_open{{bud_namespace="default",bud_target="first/{model}"}} '
        return next(int(line.removeprefix(start)) for line in told.splitlines() if line.startswith(start))

    def asked(self, model: str) -> int:
        return sum(body.get("model") == model for _, _, body in self.first.asked)


def _html() -> web.Response:
    return web.Response(text="<html>Sign in</html>", content_type="text/html")


AT_ONCE: Mapping[str, Callable[[], web.Response]] = {
    "broken": lambda: failing(500),
    "html": _html,
    "spoken": _html,
    "events": lambda: web.Response(text='data: {"choices": []}\n\n', content_type="text/event-stream"),
    "rude": lambda: web.Response(headers={f"X-{n}": "y" * 4000 for n in range(20)}),
    "list": lambda: web.json_response([1]),
    "nothing": lambda: web.Response(content_type="application/json"),
    "limited": lambda: failing(429, **{"Retry-After": "7"}),
}


class First:
    """What each model does; the one called `soon` is well when it is asked again."""

    def __init__(self) -> None:
        self._was_asked = False

    async def __call__(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        model = str(body.get("model"))
        if model in AT_ONCE:
            return AT_ONCE[model]()
        if model == "soon" and not self._was_asked:
            self._was_asked = True
            return failing(503, **{"Retry-After": "1"})
        if model in ("half", "mute"):
            await _begun(request, model)
        if model in ("silent", "slow", "stuck"):
            await asyncio.sleep(1.5 if model == "slow" else 60)
        return failing(503) if request.method == "GET" else completion(body)


async def _begun(request: web.Request, model: str) -> None:
    """An answer that breaks off, or of which nothing comes after its head."""
    kind = "application/json" if model == "half" else "text/event-stream"
    response = web.StreamResponse(headers={"content-type": kind})
    await response.prepare(request)
    if model == "mute":
        await asyncio.sleep(60)
    await response.write(b'{"model"')
    assert request.transport is not None
    request.transport.abort()
    await asyncio.sleep(60)


async def _second(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    if not body.get("stream"):
        return completion(body)
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    chunk = {"model": body["model"], "choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": "stop"}]}
    await response.write(b"data: " + orjson.dumps(chunk) + b"\n\ndata: [DONE]\n\n")
    return response


_BRIEF = made(
    "Route", "brief", {"targets": [{"providerRef": {"name": "first", "model": "stuck"}}], "timeoutSeconds": 1}
)


def _route(model: str) -> dict[str, Any]:
    return made(
        "Route",
        f"{model}-or-another",
        {
            "targets": [{"providerRef": {"name": "first", "model": model}}],
            "fallbacks": [{"providerRef": {"name": "second", "model": "m"}}],
            "firstByteSeconds": 1,
        },
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with running(First()) as first, running(_second) as second:
        objects = (
            project(), key(), provider("first", first.url, *{*ALONE, *WITH_ANOTHER}, firstByteSeconds=1),
            provider("second", second.url, "m"), *map(_route, WITH_ANOTHER), _BRIEF,
        )  # fmt: skip
        with running_gateway(tmp_path_factory.mktemp("faults") / "objects", *objects) as gateway:
            yield Place(gateway, first, second)


def test_a_model_that_fails_rests_and_its_neighbours_at_the_same_address_do_not(place: Place) -> None:
    for _ in range(2):
        assert place.ask("broken").status_code == 500
    assert (place.resting("broken"), place.resting("well")) == (1, 0)
    assert place.ask("well").status_code == 200


def test_a_model_that_answers_with_what_is_no_http_rests_alone(place: Place) -> None:
    for _ in range(2):
        assert place.ask("rude").status_code == 503
    assert (place.resting("rude"), place.resting("well")) == (1, 0)


def test_a_model_that_hangs_until_the_deadline_rests(place: Place) -> None:
    with ThreadPoolExecutor(5) as pool:
        assert set(pool.map(lambda _: place.ask("brief").status_code, range(5))) == {504}
    assert (place.resting("stuck"), place.resting("well")) == (1, 0)


@pytest.mark.parametrize("model", ["html", "list", "half", "nothing", "events"])
def test_an_answer_that_is_no_json_object_is_none(place: Place, model: str) -> None:
    found = place.ask(model)
    assert found.status_code == 503
    error = found.json()["error"]
    assert error["type"] == "overloaded_error" and error["code"].startswith("upstream_")
    assert "Sign in" not in found.text


@pytest.mark.parametrize("model", WITH_ANOTHER)
@pytest.mark.parametrize("stream", [False, True])
def test_another_is_asked_instead(place: Place, model: str, stream: bool) -> None:
    began = time.monotonic()
    found = place.ask(f"{model}-or-another", body=CHAT | {"stream": stream})
    assert found.status_code == 200 and time.monotonic() - began < 20, found.text
    assert found.headers["content-type"].startswith("text/event-stream" if stream else "application/json")


def test_sound_is_passed_on_whatever_it_is(place: Place) -> None:
    found = place.ask("spoken", path="audio/speech", body={"input": "hello", "voice": "a"})
    assert (found.status_code, found.text) == (200, "<html>Sign in</html>")


def test_who_is_slow_and_the_only_one_has_all_the_time(place: Place) -> None:
    assert place.ask("slow").status_code == 200
    assert place.asked("slow") == 1


def test_the_pause_that_an_upstream_wants_is_told_where_it_does_not_fit(place: Place) -> None:
    before = place.asked("limited")
    found = place.ask("limited", X_Request_Timeout="5")
    assert (found.status_code, found.headers["retry-after"]) == (429, "7")
    assert place.asked("limited") == before + 1


def test_the_pause_that_an_upstream_wants_is_kept_where_it_fits(place: Place) -> None:
    began = time.monotonic()
    assert place.ask("soon").status_code == 200
    assert place.asked("soon") == 2 and time.monotonic() - began >= 1


def test_the_callers_time_begins_with_the_head_of_the_request(place: Place) -> None:
    body = json.dumps(CHAT | {"model": "well"}).encode()
    before = place.asked("well")
    with socket.create_connection(("127.0.0.1", place.gateway.port)) as caller:
        caller.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nX-Request-Timeout: 0.5\r\nConnection: close\r\n"
            b"Authorization: Bearer %s\r\nContent-Length: %d\r\n\r\n" % (KEY.encode(), len(body))
        )
        # Until the time is over, which began with the head.
        caller.settimeout(1)
        with pytest.raises(TimeoutError):
            caller.recv(1)
        caller.settimeout(20)
        caller.sendall(body)
        told = caller.makefile("rb").read()
    assert told.startswith(b"HTTP/1.1 504") and b'"code":"timeout"' in told
    assert place.asked("well") == before


@contextmanager
def _streaming(gateway: GatewayProcess) -> Iterator[Iterator[str]]:
    body, headers = CHAT | {"model": "m", "stream": True}, {"Authorization": f"Bearer {KEY}"}
    url = f"{gateway.url}/v1/chat/completions"
    with httpx.stream("POST", url, json=body, headers=headers, timeout=30) as answer:
        yield answer.iter_lines()


def test_a_stream_that_the_end_of_a_stop_cuts_off_says_so_and_is_not_done(tmp_path: Path) -> None:
    async def endless(request: web.Request, _: dict[str, Any]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        while True:
            await response.write(b'data: {"model":"m","choices":[{"index":0,"delta":{"content":"x"}}]}\n\n')
            await asyncio.sleep(0.05)

    with running(endless) as upstream:
        objects = project(), key(), provider("p", upstream.url, "m")
        with running_gateway(tmp_path / "objects", *objects, options=("--drain-limit", "1")) as gateway:
            with _streaming(gateway) as lines:
                next(lines)
                gateway.signal(signal.SIGTERM)
                told = [line for line in lines if line]
            assert json.loads(told[-1].removeprefix("data: "))["error"]["type"] == "overloaded_error"
            assert gateway.wait() == 0
        eventually(lambda: _equal(upstream.hung_up, 1))


def _equal(found: int, wanted: int) -> None:
    assert found == wanted
