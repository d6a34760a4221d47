"""What the log and an OpenTelemetry collector are told of requests, and that nobody waits for either."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from aiohttp import web

from tests.gateway_process import KEY, key, project, provider, running_gateway
from tests.integration.gateway.collector import Collector, Seen
from tests.integration.gateway.upstream import completion, failing, running, unread
from tests.tiny_engine import free_port

PARENT = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331")
SECRET = "the words of the prompt"


def chat(model: str, **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": SECRET}], **more}


class Told:
    """All that was told of a few requests, once the gateway had stopped."""

    def __init__(self) -> None:
        self.collector = Collector()
        self.lines: list[dict[str, Any]] = []
        self.log = ""
        self.asked: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        self.port = 0

    def of(self, id: str) -> tuple[Seen, list[Seen]]:
        """The span of a request by its id, and those of what was asked for it."""
        (server,) = [one for one in self.collector.spans if one.attributes.get("bud.request.id") == id]
        return server, [one for one in self.collector.spans if one.parent == server.id]

    def line(self, id: str) -> dict[str, Any]:
        (line,) = [one for one in self.lines if one.get("request_id") == id]
        return line


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    """A gateway that is asked for one thing of each kind, and then stopped at once."""
    made, fails = Told(), [1]

    async def answer(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        if body["model"] == "flaky" and fails:
            fails.pop()
            return failing(503, code="away")
        if not body.get("stream"):
            return completion(body)
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        chunk = {"model": body["model"], "choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": None}]}
        await response.write(b"data: " + orjson.dumps(chunk) + b"\n\n")
        assert request.transport is not None
        request.transport.abort()
        return response

    folder = tmp_path_factory.mktemp("traces")
    with running(answer) as upstream, running(made.collector, read=unread) as receiver:
        offers = [{"name": "m", "upstreamName": "m-1", "pricing": {"inputTokensPer1k": 1, "outputTokensPer1k": 2}}]
        objects = (
            project(), key(), provider("p", upstream.url, models=offers),
            provider("q", upstream.url, "flaky", "breaks"), provider("r", f"http://127.0.0.1:{free_port()}/v1", "dead"),
        )  # fmt: skip
        environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url.removesuffix("/v1")}
        options = ("--access-log", "--log-format", "json")
        with running_gateway(folder / "objects", *objects, options=options, environment=environment) as gateway:
            context = {"traceparent": "00-{}-{}-01".format(*PARENT), "tracestate": "vendor=1"}
            _ask(gateway.url, "fine", chat("m"), **context)
            _ask(gateway.url, "flaky", chat("flaky"))
            _ask(gateway.url, "breaks", chat("breaks", stream=True))
            _ask(gateway.url, "dead", chat("dead"))
            _ask(gateway.url, "unknown", chat("gone"), traceparent="nonsense")
        made.log, made.asked, made.port = gateway.log, upstream.asked, int(upstream.url.split(":")[2].split("/")[0])
    made.lines = [
        one for line in gateway.log.splitlines() if (one := json.loads(line))["logger"] == "bud.gateway.access"
    ]
    return made


def _ask(url: str, id: str, body: dict[str, Any], **headers: str) -> httpx.Response:
    headers = {"Authorization": f"Bearer {KEY}", "X-Request-ID": id, **headers}
    return httpx.post(f"{url}/v1/chat/completions", json=body, headers=headers, timeout=30)


def test_the_receiver_takes_all_that_it_is_sent(told: Told) -> None:
    assert (told.collector.faults, told.collector.service) == ([], "bud-gateway")
    assert len([one for one in told.collector.spans if one.kind == "SERVER"]) == 5


def test_a_request_is_part_of_the_callers_trace_and_what_is_asked_part_of_it(told: Told) -> None:
    server, (client,) = told.of("fine")
    assert (server.trace, server.parent, server.state) == (*PARENT, "vendor=1")
    assert (server.kind, client.kind, client.trace) == ("SERVER", "CLIENT", PARENT[0])
    headers = told.asked[0][1]
    assert headers["traceparent"] == f"00-{PARENT[0]}-{client.id}-01"
    assert headers["tracestate"] == "vendor=1"


def test_spans_have_the_names_of_the_conventions(told: Told) -> None:
    server, (client,) = told.of("fine")
    used = {"gen_ai.usage.input_tokens": 3, "gen_ai.usage.output_tokens": 5, "gen_ai.operation.name": "chat"}
    assert (server.name, server.failed, client.name, client.failed) == (
        "POST /v1/chat/completions",
        False,
        "chat m-1",
        False,
    )
    assert server.attributes == used | {
        "http.request.method": "POST", "http.route": "/v1/chat/completions", "http.response.status_code": 200,
        "gen_ai.request.model": "m", "gen_ai.provider.name": "openai-compatible",
        "bud.project": "team", "bud.request.id": "fine",
    }  # fmt: skip
    assert client.attributes == used | {
        "gen_ai.request.model": "m-1", "gen_ai.provider.name": "openai-compatible", "bud.target": "p/m",
        "server.address": "127.0.0.1", "server.port": told.port,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("id", "status", "clients"),
    [
        ("flaky", 200, ["upstream_unavailable", None]),
        ("breaks", 503, ["stream_broken"]),
        ("dead", 503, ["upstream_unavailable"] * 3),
        ("unknown", 404, []),
    ],
)
def test_each_try_and_its_fault_is_a_span(told: Told, id: str, status: int, clients: list[str | None]) -> None:
    server, asked = told.of(id)
    assert server.attributes["http.response.status_code"] == status
    assert server.attributes.get("error.type") == (str(status) if status >= 400 else None)
    assert server.failed == (status >= 500)
    assert [one.attributes.get("error.type") for one in asked] == clients
    assert [one.failed for one in asked] == [kind is not None for kind in clients]
    assert server.parent == ""


def test_neither_the_prompt_nor_the_key_is_told(told: Told) -> None:
    for secret in (SECRET, KEY):
        assert secret.encode() not in told.collector.text
        assert secret not in told.log


def test_each_request_is_a_line_of_the_log(told: Told) -> None:
    line = told.line("fine")
    assert line.pop("duration_ms") > 0
    assert {name: line[name] for name in line if name not in ("time", "level", "logger", "message")} == {
        "request_id": "fine", "endpoint": "chat/completions", "status": 200, "project": "team", "model": "m",
        "provider": "openai-compatible", "input_tokens": 3, "output_tokens": 5, "cost": 0.013,
    }  # fmt: skip
    assert line["message"].startswith("request_id=fine endpoint=chat/completions status=200 duration_ms=")
    assert told.line("breaks")["status"] == 503
    assert "model" not in told.line("unknown")


def test_nobody_waits_for_a_receiver_that_does_not_answer(tmp_path: Path) -> None:
    async def well(_: web.Request, body: dict[str, Any]) -> web.Response:
        return completion(body)

    with running(well) as upstream, socket.create_server(("127.0.0.1", 0)) as silent:
        environment = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{silent.getsockname()[1]}",
            "OTEL_BSP_SCHEDULE_DELAY": "1",
            "OTEL_EXPORTER_OTLP_TIMEOUT": "0.3",
        }
        objects = (project(), key(), provider("p", upstream.url, "m"))
        with running_gateway(tmp_path / "objects", *objects, environment=environment) as gateway:
            assert _ask(gateway.url, "a", chat("m")).status_code == 200
            caller, _ = silent.accept()
            with caller:
                assert caller.recv(1 << 16).startswith(b"POST /v1/traces")
                assert [_ask(gateway.url, "a", chat("m")).status_code for _ in range(5)] == [200] * 5
                gateway.stop()
                assert gateway.wait() == 0
