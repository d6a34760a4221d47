"""What becomes of requests when upstreams fail, callers hang up, and objects change."""

from __future__ import annotations

import asyncio
import json
import secrets
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from aiohttp import web

from tests.gateway_process import KEY, GatewayProcess, key, made, project, provider, running_gateway
from tests.integration.gateway.upstream import Answer, completion, failing, running
from tests.tiny_engine import free_port
from tests.waiting import contains, eventually, is_equal

CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}

Serve = Callable[..., GatewayProcess]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    with running_gateway(tmp_path_factory.mktemp("relay") / "objects", project(), key()) as started:
        yield started


@pytest.fixture
def serve(shared: GatewayProcess) -> Serve:
    """One gateway for all, with these objects in the place of those before, beside a project and a fresh key of it."""

    def change(*objects: dict[str, Any], **key_spec: Any) -> GatewayProcess:
        if objects:
            mark = secrets.token_hex(4)
            shared.write(project(), key(f"alice-{mark}", **key_spec), key(mark, mark), *objects)
            eventually(lambda: is_equal(_listed(shared, mark).status_code, 200), within=20)
        return shared

    return change


@pytest.fixture
def serve_alone(tmp_path: Path) -> Iterator[Serve]:
    """Starts a gateway with these objects beside a project and its key."""
    with ExitStack() as stack:
        yield lambda *more: stack.enter_context(running_gateway(tmp_path / "objects", project(), key(), *more))


def ask(
    gateway: GatewayProcess, body: Any = None, *, path: str = "/v1/chat/completions", **headers: str
) -> httpx.Response:
    content = body if isinstance(body, bytes) else orjson.dumps(body or CHAT)
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json", **headers}
    return httpx.post(f"{gateway.url}{path}", content=content, headers=headers, timeout=30)


def _listed(gateway: GatewayProcess, secret: str) -> httpx.Response:
    return httpx.get(f"{gateway.url}/v1/models", headers={"Authorization": f"Bearer {secret}"}, timeout=30)


async def well(_: web.Request, body: dict[str, Any]) -> web.Response:
    return completion(body)


def after(faults: int, fault: Callable[[], web.Response]) -> Answer:
    """Answers well after so many faults."""
    left = [faults]

    async def answer(_: web.Request, body: dict[str, Any]) -> web.Response:
        left[0] -= 1
        return fault() if left[0] >= 0 else completion(body)

    return answer


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_what_may_heal_is_tried_again(serve: Serve, status: int) -> None:
    with running(after(2, lambda: failing(status))) as upstream:
        found = ask(serve(provider("p", upstream.url, "m")))
        assert (found.status_code, len(upstream.asked)) == (200, 3)


@pytest.mark.parametrize(
    ("status", "told", "kind", "code"),
    [
        (400, 400, "invalid_request_error", "invalid_value"),
        (401, 503, "overloaded_error", "provider_credentials"),
        (403, 503, "overloaded_error", "provider_credentials"),
        (404, 404, "not_found_error", "not_found"),
        (422, 422, "invalid_request_error", "invalid_value"),
        (501, 501, "api_error", "not_implemented"),
    ],
)
def test_what_cannot_heal_is_told_at_once(serve: Serve, status: int, told: int, kind: str, code: str) -> None:
    async def answer(_: web.Request, __: dict[str, Any]) -> web.Response:
        return failing(status, "because")

    with running(answer) as upstream:
        found = ask(serve(provider("p", upstream.url, "m")))
        error = found.json()["error"]
        assert (found.status_code, error["type"], error["code"], len(upstream.asked)) == (told, kind, code, 1)
        assert ("because" in error["message"]) == (told == status)


def test_another_provider_of_the_model_is_the_fallback(serve: Serve) -> None:
    dead = f"http://127.0.0.1:{free_port()}/v1"
    with running(well) as upstream:
        gateway = serve(provider("first", dead, "m", priority=9), provider("second", upstream.url, "m"))
        assert ask(gateway).json()["choices"][0]["message"]["content"] == "hi"


@pytest.mark.parametrize("status", [401, 403])
def test_where_the_gateways_own_credentials_are_refused_another_is_asked(serve: Serve, status: int) -> None:
    async def refuses(_: web.Request, __: dict[str, Any]) -> web.Response:
        return failing(status)

    with running(refuses) as revoked, running(well) as upstream:
        targets = [{"providerRef": {"name": "revoked"}, "weight": 1000}, {"providerRef": {"name": "good"}, "weight": 1}]
        lone = [{"providerRef": {"name": "revoked", "model": "m"}}]
        gateway = serve(
            provider("revoked", revoked.url, "m", priority=9),
            provider("good", upstream.url, "m"),
            made("Route", "r", {"model": "m", "targets": targets}),
            made("Route", "lone", {"targets": lone, "fallbacks": lone}),
        )
        asked = []
        for _ in range(7):
            assert ask(gateway).status_code == 200
            asked.append(len(revoked.asked))
        # Once for each request: its address is other accounts' as well, and does not rest.
        assert asked == [1, 2, 3, 4, 5, 6, 7]
        assert (ask(gateway, CHAT | {"model": "lone"}).json()["error"]["code"], len(revoked.asked)) == (
            "provider_credentials",
            8,
        )


def test_a_caller_who_hangs_up_ends_the_upstreams_work_and_pays_for_what_was_said(serve: Serve) -> None:
    begun = threading.Event()

    async def endless(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        while True:
            chunk = {
                "model": body["model"],
                "choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": None}],
            }
            await response.write(b"data: " + orjson.dumps(chunk) + b"\n\n")
            begun.set()
            await asyncio.sleep(0.02)

    with running(endless) as upstream:
        gateway = serve(provider("p", upstream.url, "m"), limits={"tokensPerMinute": 100_000, "tokensPerDay": 100_000})
        with socket.create_connection(("127.0.0.1", gateway.port)) as caller:
            body = orjson.dumps(CHAT | {"stream": True, "max_tokens": 50_000})
            head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nContent-Length: {len(body)}\r\n\r\n"
            caller.sendall(head.encode() + body)
            begun.wait(20)
            assert caller.recv(65536).startswith(b"HTTP/1.1 200")
        eventually(lambda: is_equal(upstream.hung_up, 1), within=20)
        left = int(_listed(gateway, KEY).headers["x-ratelimit-remaining-tokens"])
        assert 99_000 < left < 100_000


@pytest.mark.parametrize("is_lost", [True, False], ids=["with its connection", "without [DONE]"])
def test_a_stream_that_breaks_off_says_so_and_is_not_done(is_lost: bool, serve_alone: Serve) -> None:
    async def breaks(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b'data: {"model":"m","choices":[]}\n\n')
        if is_lost and request.transport is not None:
            request.transport.abort()
        return response

    with running(breaks) as upstream:
        gateway = serve_alone(provider("p", upstream.url, "m"))
        found = ask(gateway, CHAT | {"stream": True}, **{"Idempotency-Key": "a"})
        events = [line.removeprefix("data: ") for line in found.text.splitlines() if line]
        assert json.loads(events[-1])["error"]["code"] == "stream_broken"
        assert "[DONE]" not in events
        assert len(upstream.asked) == 1
        assert ask(gateway, CHAT | {"stream": True}, **{"Idempotency-Key": "a"}).status_code == 200
        assert len(upstream.asked) == 2  # what broke off is not kept
        assert "failed" not in gateway.log


def test_the_upstream_gets_the_gateways_credentials_and_the_callers_id_only(serve: Serve) -> None:
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"apiKey": "sk-upstream"}}
    with running(well) as upstream:
        gateway = serve(secret, provider("p", upstream.url, "m", credentialsSecretRef={"name": "s"}))
        parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        given = {"X-Request-ID": "abc", "traceparent": parent, "tracestate": "a=1"}
        found = ask(gateway, **given, **{"Cookie": "a=b", "X-Forwarded-For": "1.2.3.4"})
        (_, headers, body) = upstream.asked[0]
        assert headers["authorization"] == "Bearer sk-upstream"
        assert headers["x-request-id"] == found.headers["x-request-id"] == "abc"
        assert (headers["traceparent"], headers["tracestate"]) == (parent, "a=1")
        assert not {"cookie", "x-forwarded-for"} & set(headers)
        assert body == CHAT
        assert "sk-upstream" not in found.text + str(found.headers)


def test_limits_are_told_on_every_answer_and_kept(serve: Serve) -> None:
    with running(well) as upstream:
        gateway = serve(provider("p", upstream.url, "m"), limits={"requestsPerDay": 2, "tokensPerDay": 10_000})
        found = [ask(gateway) for _ in range(3)]
        assert [answer.status_code for answer in found] == [200, 200, 429]
        assert [answer.headers["x-ratelimit-remaining-requests"] for answer in found] == ["1", "0", "0"]
        assert {answer.headers["x-ratelimit-limit-requests"] for answer in found} == {"2"}
        assert int(found[2].headers["retry-after"]) >= 1
        assert found[2].json()["error"]["type"] == "rate_limit_error"
        assert (
            ask(gateway, {"model": "gone", "messages": CHAT["messages"]}).headers["x-ratelimit-limit-tokens"] == "10000"
        )
        assert len(upstream.asked) == 2


def test_a_change_of_the_files_is_taken_up_and_nonsense_changes_nothing(serve_alone: Serve) -> None:
    with running(well) as upstream:
        gateway = serve_alone(provider("p", upstream.url, "m"))
        gateway.write(project(), key(revoked=True), provider("p", upstream.url, "m"))
        eventually(lambda: is_equal(ask(gateway).status_code, 401), within=20)
        gateway.write(project(), key(), provider("p", upstream.url, "m", "another"))
        eventually(lambda: is_equal(ask(gateway, CHAT | {"model": "another"}).status_code, 200), within=20)
        (gateway.folder / "objects.yaml").write_text("kind: [")
        eventually(lambda: contains(gateway.log, "what it said before holds"), within=20)
        assert ask(gateway).status_code == 200


def test_a_stop_lets_a_request_end_first(serve_alone: Serve) -> None:
    begun, may_end = threading.Event(), threading.Event()

    async def slow(_: web.Request, body: dict[str, Any]) -> web.Response:
        begun.set()
        await asyncio.to_thread(may_end.wait)
        return completion(body)

    with running(slow) as upstream:
        gateway = serve_alone(provider("p", upstream.url, "m"))
        found: list[int] = []
        caller = threading.Thread(target=lambda: found.append(ask(gateway).status_code))
        caller.start()
        assert begun.wait(20)
        gateway.signal(signal.SIGTERM)
        eventually(lambda: contains(gateway.log, "Waiting for connections to close"), within=20)
        may_end.set()
        caller.join()
        assert (found, gateway.wait()) == ([200], 0)


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        (b"{", 400, "invalid_json"),
        (b"[]", 400, "invalid_json"),
        (b'{"model": "m"}', 400, "missing_required_parameter"),
        (b"\xff\xfe", 400, "invalid_json"),
        (b" " * (25 * 1024 * 1024 + 1), 413, "request_too_large"),
    ],
    ids=["not JSON", "no object", "a parameter is missing", "not UTF-8", "too large"],
)
def test_bodies_that_cannot_be_meant(serve: Serve, sent: bytes, status: int, code: str) -> None:
    found = ask(serve(), sent)
    assert (found.status_code, found.json()["error"]["code"]) == (status, code)
    assert found.json()["error"]["type"] == "invalid_request_error"
    assert found.headers["x-request-id"].startswith("req-")


@pytest.mark.parametrize(
    ("path", "method", "status", "kind"),
    [
        ("/v1/nothing", "POST", 404, "not_found_error"),
        ("/", "GET", 404, "not_found_error"),
        ("/v1/chat/completions", "GET", 405, "invalid_request_error"),
        ("/projects/other/v1/models", "GET", 403, "permission_error"),
    ],
)
def test_paths_that_lead_nowhere(serve: Serve, path: str, method: str, status: int, kind: str) -> None:
    found = httpx.request(method, f"{serve().url}{path}", headers={"Authorization": f"Bearer {KEY}"})
    assert (found.status_code, found.json()["error"]["type"]) == (status, kind)


def test_the_base_urls_of_a_project_and_of_a_deployment_work(serve: Serve) -> None:
    with running(well) as upstream:
        chat = {
            "apiVersion": "bud.studio/v1alpha1", "kind": "Deployment", "metadata": {"name": "chat"},
            "spec": {"modelRef": {"name": "m"}}, "status": {"endpointURL": upstream.url, "readyReplicas": 1},
        }  # fmt: skip
        gateway = serve(chat, provider("p", upstream.url, "m"))
        for base in ("/v1", "/projects/team/v1", "/projects/team/deployments/chat/v1"):
            assert ask(gateway, CHAT | {"model": "chat"}, path=f"{base}/chat/completions").status_code == 200
        at = "/projects/team/deployments/chat/v1/chat/completions"
        assert ask(gateway, {"messages": CHAT["messages"]}, path=at).json()["model"] == "chat"
        assert ask(gateway, CHAT, path=at).json()["error"]["code"] == "model_not_found"


def test_the_callers_deadline_is_kept(serve: Serve) -> None:
    async def never(_: web.Request, __: dict[str, Any]) -> web.Response:
        await asyncio.sleep(60)
        raise AssertionError

    with running(never) as upstream:
        found = ask(serve(provider("p", upstream.url, "m")), **{"X-Request-Timeout": "0.3"})
        assert (found.status_code, found.json()["error"]["code"]) == (504, "timeout")
        eventually(lambda: is_equal(upstream.hung_up, 1), within=20)


def test_a_request_that_comes_twice_is_served_once(serve: Serve) -> None:
    with running(well) as upstream:
        gateway = serve(provider("p", upstream.url, "m"))
        first, again = (ask(gateway, **{"Idempotency-Key": "a"}) for _ in range(2))
        assert (first.content, first.status_code) == (again.content, again.status_code)
        assert ("idempotent-replayed" in first.headers, again.headers["idempotent-replayed"]) == (False, "true")
        assert first.headers["x-request-id"] != again.headers["x-request-id"]
        another = ask(gateway, CHAT | {"n": 2}, **{"Idempotency-Key": "a"})
        assert (another.status_code, another.json()["error"]["code"]) == (422, "idempotency_key_reused")
        assert ask(gateway, **{"Idempotency-Key": "b"}).status_code == 200
        assert len(upstream.asked) == 2


def test_while_a_request_is_served_its_key_is_taken_and_a_failure_frees_it(serve: Serve) -> None:
    begun, may_end = threading.Event(), threading.Event()

    async def fails_slowly(_: web.Request, body: dict[str, Any]) -> web.Response:
        if begun.is_set():
            return completion(body)
        begun.set()
        await asyncio.to_thread(may_end.wait)
        return failing(400)

    with running(fails_slowly) as upstream:
        gateway = serve(provider("p", upstream.url, "m"))
        found: list[int] = []
        caller = threading.Thread(target=lambda: found.append(ask(gateway, **{"Idempotency-Key": "a"}).status_code))
        caller.start()
        assert begun.wait(20)
        second = ask(gateway, **{"Idempotency-Key": "a"})
        assert (second.status_code, second.json()["error"]["code"]) == (409, "idempotency_in_flight")
        may_end.set()
        caller.join()
        assert found == [400]
        assert ask(gateway, **{"Idempotency-Key": "a"}).status_code == 200


@pytest.mark.parametrize(("words", "status"), [(10, 200), (3000, 409)], ids=["short", "longer than is kept"])
def test_a_stream_is_replayed_if_it_is_short(serve: Serve, words: int, status: int) -> None:
    async def says(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        chunk = {"model": "m", "choices": [{"index": 0, "delta": {"content": "x" * 400}, "finish_reason": None}]}
        await response.write((b"data: " + orjson.dumps(chunk) + b"\n\n") * words + b"data: [DONE]\n\n")
        return response

    with running(says) as upstream:
        gateway = serve(provider("p", upstream.url, "m"))
        first, again = (ask(gateway, CHAT | {"stream": True}, **{"Idempotency-Key": "a"}) for _ in range(2))
        assert (first.status_code, again.status_code, len(upstream.asked)) == (200, status, 1)
        assert (again.content == first.content) == (status == 200)


def test_the_api_describes_itself_without_a_key(serve: Serve) -> None:
    gateway = serve()
    described = httpx.get(f"{gateway.url}/openapi.json").json()
    temperature = described["components"]["schemas"]["ChatCompletion"]["properties"]["temperature"]
    assert {"minimum": 0.0, "maximum": 2.0}.items() <= temperature["anyOf"][0].items()
    shown = httpx.get(f"{gateway.url}/docs")
    assert shown.headers["content-type"].startswith("text/html")
    for path in described["paths"]:
        assert path in shown.text


def test_what_was_used_is_counted_and_no_key_is_a_label(serve_alone: Serve) -> None:
    with running(well) as upstream:
        offers = [{"name": "m", "pricing": {"inputTokensPer1k": 1, "outputTokensPer1k": 2}}]
        gateway = serve_alone(provider("p", upstream.url, models=offers))
        assert ask(gateway).status_code == 200
        assert ask(gateway, CHAT | {"model": "gone"}).status_code == 404
        told = httpx.get(f"{gateway.url}/metrics").text
        called = 'gen_ai_provider_name="openai-compatible",gen_ai_request_model="m"'
        who = f'bud_project="team",gen_ai_operation_name="chat",{called}'
        for line in (
            f'bud_gateway_requests_total{{{who},http_response_status_code="200"}} 1',
            'bud_gateway_requests_total{bud_project="team",gen_ai_operation_name="chat",http_response_status_code="404"} 1',
            f'gen_ai_client_token_usage_sum{{{who},gen_ai_token_type="output"}} 5.0',
            f"bud_gateway_cost_dollars_total{{{who}}} 0.013",
            f"gen_ai_server_request_duration_seconds_count{{{who}}} 1",
            'bud_gateway_upstream_circuit_open{bud_namespace="default",bud_target="p/m"} 0',
        ):
            assert f"\n{line}\n" in told
        assert "alice" not in told and "gone" not in told
