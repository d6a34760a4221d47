"""Sessions through the gateway: real WebSocket clients, and an upstream that does what a test says."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from aiohttp import WSCloseCode
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.gateway_process import KEY, GatewayProcess, key, made, project, provider, running_gateway
from tests.integration.gateway.talking import Model
from tests.integration.gateway.upstream import Upstream, running, unread
from tests.tiny_engine import free_port
from tests.waiting import contains, eventually, is_equal

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def model() -> Model:
    return Model()


@pytest.fixture(scope="module")
def upstream(model: Model) -> Iterator[Upstream]:
    with running(model, read=unread) as started:
        yield started


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, upstream: Upstream) -> Iterator[GatewayProcess]:
    with running_gateway(tmp_path_factory.mktemp("realtime") / "objects", *objects(upstream)) as started:
        yield started


def objects(upstream: Upstream, **changes: Any) -> list[dict[str, Any]]:
    names = ("voice", "spare")
    offers = [{"name": name, "upstreamName": "gpt-realtime", "pricing": {"inputTokensPer1k": 1}} for name in names]
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"apiKey": "sk-upstream"}}
    hourly = {"modelRef": {"name": "m"}, "pricing": {"perGPUHour": 3_600_000}, "resources": {"gpu": 1}}
    status = {"endpointURL": upstream.url, "modelName": "own", "readyReplicas": 1, "task": "text-generation"}
    return [
        secret,
        project(),
        key(**changes),
        *(key(f"hourly-{name}", f"bud_hourly_{name}", budget={"amount": "0.015"}) for name in ("talker", "listener")),
        made("Deployment", "own", hourly) | {"status": status},
        key("bounded", "bud_bounded", limits={"tokensPerDay": 50, "requestsPerDay": 9}),
        key("poor", "bud_poor", budget={"amount": "0.015"}),
        key("narrow", "bud_narrow", scopes={"endpoints": ["models"]}),
        provider("p", upstream.url, models=offers, credentialsSecretRef={"name": "s"}),
        provider("gone", f"http://127.0.0.1:{free_port()}/v1", "spare", "nobody", priority=9),
    ]


@contextmanager
def session(
    gateway: GatewayProcess, path: str = "/v1/realtime?model=voice", secret: str = KEY, **more: Any
) -> Iterator[ClientConnection]:
    headers = {"Authorization": f"Bearer {secret}"} if secret else {}
    url = f"ws://127.0.0.1:{gateway.port}{path}"
    with connect(url, additional_headers=headers, proxy=None, max_size=None, compression=None, **more) as socket:
        yield socket


def say(socket: ClientConnection, kind: str, **more: Any) -> None:
    socket.send(json.dumps({"type": kind, **more}))


@pytest.mark.filterwarnings(r"ignore:connect\(\) must be used as a context manager:DeprecationWarning")  # the SDK's
def test_the_sdk_talks(gateway: GatewayProcess, upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with (
        openai.OpenAI(api_key=KEY, base_url=f"{gateway.url}/v1") as client,
        client.realtime.connect(model="voice") as connection,
    ):
        first = connection.recv()
        assert first.type == "session.created" and first.session.model == "voice"  # type: ignore[union-attr]
        connection.response.create()
        last = connection.recv()
        assert last.type == "response.done" and last.response.usage is not None
        assert last.response.usage.output_tokens == 20
    _, headers, _ = upstream.asked[-1]
    assert headers["authorization"] == "Bearer sk-upstream"
    eventually(lambda: contains(metrics(gateway), 'gen_ai_token_type="output"} 20.0'), within=20)


def metrics(gateway: GatewayProcess) -> str:
    told = httpx.get(f"{gateway.url}/metrics").text
    return "\n".join(line for line in told.splitlines() if "realtime" in line)


@pytest.mark.parametrize("path", ["/v1/realtime", "/v1/realtime/connect", "/projects/team/v1/realtime"])
def test_every_address_leads_there_with_what_else_is_asked(gateway: GatewayProcess, path: str) -> None:
    with session(gateway, f"{path}?intent=a%26b&model=voice") as socket:
        assert json.loads(socket.recv(20))["session"] == {
            "model": "voice",
            "query": {"model": "voice", "intent": "a&b"} | {"model": "gpt-realtime"},
        }
        assert socket.response is not None
        told = socket.response.headers
        assert (told["x-conduit-provider"], told["x-conduit-model-version"]) == ("openai-compatible", "gpt-realtime")
        assert told["x-request-id"].startswith("req-")


def test_text_and_bytes_pass_both_ways_and_the_model_is_renamed_in_both(gateway: GatewayProcess) -> None:
    with session(gateway) as socket:
        socket.recv(20)
        socket.send(b"\x00\xff\x01")
        assert socket.recv(20) == b"\x01\xff\x00"
        say(socket, "session.update", session={"model": "voice", "instructions": "\u00e9"})
        found = json.loads(socket.recv(20))
        assert found["event"]["session"] == {"model": "voice", "instructions": "\u00e9"}


def test_a_browsers_key_comes_as_a_subprotocol_and_goes_no_further(gateway: GatewayProcess, upstream: Upstream) -> None:
    offered: Any = ["realtime", f"openai-insecure-api-key.{KEY}"]
    with session(gateway, secret="", subprotocols=offered) as socket:
        assert socket.subprotocol == "realtime"
    _, headers, _ = upstream.asked[-1]
    assert headers["sec-websocket-protocol"] == "realtime"
    assert headers["authorization"] == "Bearer sk-upstream"
    assert KEY not in str(headers) + gateway.log


@pytest.mark.parametrize(
    ("path", "secret", "status", "kind", "code"),
    [
        ("/v1/realtime?model=voice", "", 401, "authentication_error", "invalid_api_key"),
        ("/v1/realtime?model=voice", "bud_wrong", 401, "authentication_error", "invalid_api_key"),
        ("/v1/realtime?model=voice", "bud_narrow", 403, "permission_error", "insufficient_permissions"),
        ("/projects/other/v1/realtime?model=voice", KEY, 403, "permission_error", "insufficient_permissions"),
        ("/v1/realtime", KEY, 400, "invalid_request_error", "missing_required_parameter"),
        ("/v1/realtime?model=voice&model=nobody", KEY, 400, "invalid_request_error", "invalid_value"),
        ("/v1/realtime?model=nothing", KEY, 404, "invalid_request_error", "model_not_found"),
        ("/v1/realtime?model=nobody", KEY, 503, "overloaded_error", "upstream_unavailable"),
        ("/v1/realtime?model=voice&refused=401", KEY, 503, "overloaded_error", "provider_credentials"),
        ("/v1/realtime?model=voice&refused=404", KEY, 404, "not_found_error", "not_found"),
        ("/v1/realtime?model=voice&refused=307", KEY, 503, "overloaded_error", "upstream_redirect"),
        ("/v1/chat/completions", KEY, 400, "invalid_request_error", "not_a_websocket"),
        ("/v1/nothing", KEY, 404, "not_found_error", "not_found"),
    ],
)
def test_what_cannot_be_is_refused_before_the_upgrade(
    gateway: GatewayProcess, path: str, secret: str, status: int, kind: str, code: str
) -> None:
    with pytest.raises(InvalidStatus) as refused, session(gateway, path, secret):
        pass
    answer = refused.value.response
    error = json.loads(answer.body or b"")["error"]
    assert (answer.status_code, error["type"], error["code"]) == (status, kind, code)
    assert answer.headers["content-type"] == "application/json"
    assert "x-request-id" in answer.headers


def test_what_cannot_be_reached_has_a_fallback(gateway: GatewayProcess) -> None:
    with session(gateway, "/v1/realtime?model=spare") as socket:
        assert json.loads(socket.recv(20))["session"]["model"] == "spare"


def test_who_asks_without_an_upgrade_is_told_so(gateway: GatewayProcess) -> None:
    found = httpx.get(f"{gateway.url}/v1/realtime?model=voice", headers={"Authorization": f"Bearer {KEY}"})
    assert (found.status_code, found.json()["error"]["code"]) == (426, "upgrade_required")


@pytest.mark.parametrize(
    ("code", "told"), [(1000, 1000), (1001, 1001), (1008, 1008), (1011, 1011), (3000, 3000), (4321, 4321)]
)
def test_an_end_passes_both_ways(gateway: GatewayProcess, model: Model, code: int, told: int) -> None:
    with session(gateway) as socket:
        socket.recv(20)
        say(socket, "close", code=code, reason="because")
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(20)
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (told, "because")
    count = len(model.closed)
    with session(gateway) as socket:
        socket.recv(20)
        socket.close(code, "because")
    eventually(lambda: contains(model.closed[count:], (code, "")), within=20)


def test_an_upstream_that_breaks_off_is_an_error_of_the_server(gateway: GatewayProcess) -> None:
    with session(gateway) as socket:
        socket.recv(20)
        say(socket, "break")
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(20)
        assert closed.value.rcvd is not None and closed.value.rcvd.code == WSCloseCode.INTERNAL_ERROR


def test_a_caller_who_is_lost_ends_the_upstreams_session(gateway: GatewayProcess, model: Model) -> None:
    count = len(model.closed)
    with session(gateway) as socket:
        socket.recv(20)
        socket.socket.shutdown(2)
        eventually(lambda: contains(model.closed[count:], (1000, "")), within=20)


def test_a_message_that_is_too_long_ends_the_session(gateway: GatewayProcess, model: Model) -> None:
    with session(gateway) as socket:
        socket.recv(20)
        say(socket, "talk", count=1, size=16 * MIB + 1)
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(20)
        assert closed.value.rcvd is not None and closed.value.rcvd.code == WSCloseCode.MESSAGE_TOO_BIG
    count = len(model.closed)
    with session(gateway) as socket:
        socket.recv(20)
        with pytest.raises(ConnectionClosed):
            socket.send(bytes(16 * MIB + 1))
    eventually(lambda: contains(model.closed[count:], (WSCloseCode.MESSAGE_TOO_BIG, "")), within=20)


def test_an_upstream_that_does_not_read_stops_the_caller(gateway: GatewayProcess, model: Model) -> None:
    model.may_read.clear()
    count, before = model.read, gateway.memory
    message = json.dumps({"type": "heard", "audio": "x" * MIB})
    sent = [0]
    with session(gateway, close_timeout=0) as socket:
        socket.recv(20)

        def talk() -> None:
            for _ in range(100):
                socket.send(message)
                sent[0] += 1

        caller = threading.Thread(target=talk)
        caller.start()
        stalled = eventually(Still(lambda: sent[0]), within=30)
        assert 0 < stalled < 40  # what the sockets of three processes hold, and a message or two
        assert gateway.memory - before < 24 * MIB
        model.may_read.set()
        caller.join()
        eventually(lambda: is_equal(model.read - count, 100), within=30)


def test_a_caller_who_does_not_read_stops_the_upstream(gateway: GatewayProcess, model: Model) -> None:
    before, said = gateway.memory, model.said
    with session(gateway, max_queue=1) as socket:
        socket.recv(20)
        say(socket, "talk", count=100, size=MIB)
        stalled = eventually(Still(lambda: model.said - said), within=30)
        assert 0 < stalled < 40
        assert gateway.memory - before < 24 * MIB
        assert {len(socket.recv(20)) for _ in range(100)} == {MIB}


def test_limits_bind_sessions_and_what_they_say(gateway: GatewayProcess) -> None:
    with session(gateway, secret="bud_bounded") as socket:
        assert socket.response is not None
        assert socket.response.headers["x-ratelimit-remaining-requests"] == "8"
        socket.recv(20)
        say(socket, "response.create")
        assert json.loads(socket.recv(20))["type"] == "response.done"
        say(socket, "response.create")
        assert json.loads(socket.recv(20))["type"] == "response.done"
        told = json.loads(socket.recv(20))
        assert (told["type"], told["error"]["code"]) == ("error", "rate_limit_exceeded")
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(20)
        assert closed.value.rcvd is not None and closed.value.rcvd.code == WSCloseCode.POLICY_VIOLATION
    with pytest.raises(InvalidStatus) as refused, session(gateway, secret="bud_bounded"):
        pass
    assert refused.value.response.status_code == 429
    assert int(refused.value.response.headers["retry-after"]) >= 1


def test_a_session_ends_when_its_budget_is_spent(gateway: GatewayProcess) -> None:
    with session(gateway, secret="bud_poor") as socket:
        socket.recv(20)
        for _ in range(2):
            say(socket, "response.create")
            assert json.loads(socket.recv(20))["type"] == "response.done"
        assert json.loads(socket.recv(20))["error"]["code"] == "budget_exceeded"
    with pytest.raises(InvalidStatus) as refused, session(gateway, secret="bud_poor"):
        pass
    assert refused.value.response.headers["x-should-retry"] == "false"


def test_a_session_that_talks_pays_for_the_time_of_its_gpus(gateway: GatewayProcess) -> None:
    with session(gateway, "/v1/realtime?model=own", secret="bud_hourly_talker") as socket:
        socket.recv(20)
        say(socket, "response.create")
        assert json.loads(socket.recv(20))["type"] == "response.done"
        assert json.loads(socket.recv(20))["error"]["code"] == "budget_exceeded"


def test_a_session_that_was_silent_pays_for_the_time_of_its_gpus_at_its_end(gateway: GatewayProcess) -> None:
    def refused() -> str:
        try:
            with session(gateway, "/v1/realtime?model=own", secret="bud_hourly_listener") as socket:
                socket.recv(20)
        except InvalidStatus as refusal:
            return json.loads(refusal.response.body)["error"]["code"]  # type: ignore[no-any-return]
        return ""

    assert not refused()
    eventually(lambda: is_equal(refused(), "budget_exceeded"))


def test_a_key_that_is_revoked_ends_its_sessions_at_the_next_word(gateway: GatewayProcess, upstream: Upstream) -> None:
    with session(gateway) as socket:
        socket.recv(20)
        gateway.write(*objects(upstream, revoked=True))
        unknown = {"Authorization": f"Bearer {KEY}"}
        eventually(lambda: is_equal(httpx.get(f"{gateway.url}/v1/models", headers=unknown).status_code, 401), within=20)
        say(socket, "heard")
        assert json.loads(socket.recv(20))["error"]["type"] == "authentication_error"
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(20)
        assert closed.value.rcvd is not None and closed.value.rcvd.code == WSCloseCode.POLICY_VIOLATION


def test_a_gateway_that_stops_says_that_it_comes_back(tmp_path: Path, upstream: Upstream, model: Model) -> None:
    count = len(model.closed)
    with running_gateway(tmp_path / "objects", *objects(upstream)) as gateway, session(gateway) as socket:
        socket.recv(20)
        gateway.signal(15)
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(20)
        assert closed.value.rcvd is not None and closed.value.rcvd.code == WSCloseCode.SERVICE_RESTART
        eventually(lambda: contains(model.closed[count:], (1001, "")), within=20)
        assert gateway.wait() == 0


class Still:
    """Fails until a count that has begun has been the same for ten looks."""

    def __init__(self, count: Callable[[], int]) -> None:
        self._count = count
        self._seen: list[int] = []

    def __call__(self) -> int:
        self._seen.append(self._count())
        assert len(self._seen) >= 10 and set(self._seen[-10:]) == {self._seen[-1]} and self._seen[-1] > 0
        return self._seen[-1]
