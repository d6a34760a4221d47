"""Every endpoint, header, error and field of a response that the reference names, by its line."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import httpx
import pytest

from tests.gateway_process import KEY
from tests.integration.gateway.reference import DATED, HI, LIMITS, Json, Reference
from tests.integration.gateway.test_reference_parameters import FUNCTION

SPOKEN = {"input": "hi", "voice": "alloy"}
ENDPOINTS: list[tuple[str, str, Json]] = [
    ("concepts:45, core:55", "/v1/chat/completions", {"messages": HI}),
    ("concepts:46, core:56", "/v1/completions", {"prompt": "Once"}),
    ("concepts:47, core:57", "/v1/embeddings", {"input": "a"}),
    ("concepts:48, facts:7", "/v1/classify", {"input": ["a"]}),
    ("concepts:49, core:61", "/v1/images/generations", {"prompt": "a cat"}),
    ("concepts:51, core:60", "/v1/audio/speech", SPOKEN),
    ("concepts:52, facts:12", "/v1/documents", {"document": {"type": "document_url", "document_url": "https://x/y"}}),
    ("the next API of OpenAI", "/v1/responses", {"input": "Hello"}),
    ("vLLM's and Jina's", "/v1/rerank", {"query": "a", "documents": ["b"]}),
]


@pytest.mark.parametrize(("path", "body"), [row[1:] for row in ENDPOINTS], ids=[row[0] for row in ENDPOINTS])
@pytest.mark.parametrize("base", ["", "/projects/team"], ids=["", "concepts:15 of a project"])
def test_endpoints_reach_the_model(reference: Reference, base: str, path: str, body: Json) -> None:
    found = reference.ask(f"{base}{path}", {"model": "gpt-4", **body})
    assert found.status_code == 200
    assert reference.upstream.asked[-1][0] == path
    assert reference.last == {"model": "gpt-4", **body}


@pytest.mark.parametrize("name", ["llama-3.2-1b", "adapted", "routed", "gpt-4"])
def test_a_model_goes_by_the_name_of_a_deployment_an_adapter_or_a_route(reference: Reference, name: str) -> None:
    """Chat, line 62; core, line 295."""
    sent = {"routed": "gpt-4"}.get(name, name)
    found = reference.chat(name).json()
    assert (found["model"], reference.last["model"]) == (name, sent)
    assert found["conduit_metadata"]["model_version"] == (DATED[sent] if sent == "gpt-4" else name)


def test_a_deployment_has_a_base_url_of_its_own(reference: Reference) -> None:
    """Concepts, lines 11-15."""
    path = "/projects/team/deployments/llama-3.2-1b/v1/chat/completions"
    assert reference.ask(path, {"messages": HI}).json()["model"] == "llama-3.2-1b"
    assert reference.last == {"model": "llama-3.2-1b", "messages": HI}


def test_a_form_reaches_the_model(reference: Reference) -> None:
    """Concepts, line 50; core, line 59."""
    found = httpx.post(
        f"{reference.gateway.url}/v1/audio/transcriptions",
        data={"model": "gpt-4"},
        files={"file": ("a.wav", b"sound")},
        headers={"Authorization": f"Bearer {KEY}"},
    )
    assert (found.status_code, found.json()["text"]) == (200, "hello")
    assert reference.last["model"] == "gpt-4"


@pytest.mark.parametrize("path", ["/v1/realtime/connect", "/v1/realtime"])
def test_the_path_of_the_websocket_says_how_it_is_reached(reference: Reference, path: str) -> None:
    """Core, line 62; what passes over it has tests of its own."""
    found = reference.ask(path)
    assert (found.status_code, found.headers["upgrade"]) == (426, "websocket")


def test_completions_are_501_where_the_target_has_none(reference: Reference) -> None:
    """Core, line 56."""
    for status in (404, 501):
        found = reference.ask("/v1/completions", {"model": f"status-{status}", "prompt": "Once"})
        assert (found.status_code, found.json()["error"]["type"]) == (501, "api_error")
        assert found.headers["x-should-retry"] == "false"


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer wrong", f"Basic {KEY}", KEY, f"Bearer {KEY} {KEY}"], ids=str
)
def test_the_key_is_required(reference: Reference, header: str | None) -> None:
    """Chat, line 56; concepts, line 31; core, lines 68-72 and 326."""
    for path in ("/v1/models", "/v1/models/gpt-4", "/v1/nothing", "/projects/team/v1/models"):
        found = reference.ask(path, secret=None, **({} if header is None else {"Authorization": header}))
        assert found.status_code == 401
        assert found.json()["error"]["type"] == "authentication_error"


def test_request_headers_are_taken(reference: Reference) -> None:
    """Core, lines 77-80."""
    headers = {"Content_Type": "application/json", "User_Agent": "YourApp/1.0", "X_Request_ID": "unique-request-id"}
    found = reference.ask("/v1/chat/completions", {"model": "gpt-4", "messages": HI}, **headers)
    assert found.headers["x-request-id"] == found.json()["conduit_metadata"]["request_id"] == "unique-request-id"
    assert reference.upstream.asked[-1][1]["x-request-id"] == "unique-request-id"
    assert reference.chat().headers["x-request-id"].startswith("req-")


ERRORS: list[tuple[str, str, Json, str, int, str]] = [
    ("core:310 an unknown model", KEY, {"model": "invalid-model"}, "invalid_request_error", 404, "model_not_found"),
    ("core:325 malformed", KEY, {"temperature": "hot"}, "invalid_request_error", 400, "invalid_value"),
    ("core:325 by the model", KEY, {"model": "status-400"}, "invalid_request_error", 400, "invalid_value"),
    ("core:326", "condt_wrong", {}, "authentication_error", 401, "invalid_api_key"),
    ("core:327, core:590", "bud_narrow", {}, "permission_error", 403, "insufficient_permissions"),
    ("core:328 by the model", KEY, {"model": "status-404"}, "not_found_error", 404, "not_found"),
    ("core:329 by the model", KEY, {"model": "status-429"}, "rate_limit_error", 429, "rate_limit_exceeded"),
    ("core:330", KEY, {"model": "once"}, "api_error", 500, "upstream_error"),
    ("core:331 by the model", KEY, {"model": "status-503"}, "overloaded_error", 503, "upstream_unavailable"),
    ("core:331 nobody there", KEY, {"model": "dead"}, "overloaded_error", 503, "upstream_unavailable"),
]


@pytest.mark.parametrize(
    ("secret", "change", "kind", "status", "code"), [row[1:] for row in ERRORS], ids=[row[0] for row in ERRORS]
)
def test_errors_have_the_types_and_statuses_of_the_reference(
    reference: Reference, secret: str, change: Json, kind: str, status: int, code: str
) -> None:
    found = reference.chat(**{"secret": secret, **change})
    error = found.json()["error"]
    assert (found.status_code, error["type"], error["code"]) == (status, kind, code)
    assert set(error) == {"message", "type", "param", "code"}
    assert found.headers["content-type"] == "application/json" and found.headers["x-request-id"]


def test_the_error_of_an_unknown_model_is_the_references_to_the_letter(reference: Reference) -> None:
    """Core, lines 310-318."""
    assert reference.chat("invalid-model").json() == {
        "error": {
            "message": "The model 'invalid-model' does not exist",
            "type": "invalid_request_error",
            "param": "model",
            "code": "model_not_found",
        }
    }


def test_another_path_is_not_found(reference: Reference) -> None:
    """Core, line 328."""
    found = reference.ask("/v1/nothing", {})
    assert (found.status_code, found.json()["error"]["type"]) == (404, "not_found_error")


def test_limits_stand_in_every_answer(reference: Reference) -> None:
    """Core, lines 362-367."""
    for found in (
        reference.chat(secret="bud_limited"),
        reference.chat("invalid-model", secret="bud_limited"),
        reference.ask("/v1/models", secret="bud_limited"),
        reference.chat(secret="bud_limited", stream=True),
    ):
        told = {name: int(value) for name, value in found.headers.items() if name.startswith("x-ratelimit")}
        assert (told["x-ratelimit-limit-requests"], told["x-ratelimit-limit-tokens"]) == tuple(LIMITS.values())
        assert 0 < told["x-ratelimit-remaining-requests"] <= 1000
        assert 0 < told["x-ratelimit-remaining-tokens"] <= 100_000
        for unit in ("requests", "tokens"):
            assert 0 < told[f"x-ratelimit-reset-{unit}"] - time.time() <= 86400
    assert not [name for name in reference.chat().headers if name.startswith("x-ratelimit")]


def test_a_refusal_says_when_to_come_again(reference: Reference) -> None:
    """Core, lines 329, 344 and 379; the key is of the form of line 71."""
    assert reference.chat(secret="condt_spent").status_code == 200
    found = reference.chat(secret="condt_spent")
    assert (found.status_code, found.json()["error"]["type"]) == (429, "rate_limit_error")
    assert 1 <= int(found.headers["retry-after"]) <= 86400
    assert found.headers["x-ratelimit-remaining-requests"] == "0"


def test_a_response_has_the_documents_fields(reference: Reference) -> None:
    """Chat, lines 29-47; core, lines 405-433."""
    answer = reference.chat("gpt-3.5-turbo")
    found = answer.json()
    assert list(found) == ["id", "object", "created", "model", "choices", "usage", "conduit_metadata"]
    assert (found["object"], found["model"]) == ("chat.completion", "gpt-3.5-turbo")
    assert found["choices"] == [
        {"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}
    ]
    assert set(found["usage"]) == {"prompt_tokens", "completion_tokens", "total_tokens"}
    metadata = found["conduit_metadata"]
    assert list(metadata) == [
        "provider", "model_version", "virtual_key_id", "request_id", "processing_time_ms", "cost",
    ]  # fmt: skip
    assert (metadata["provider"], metadata["model_version"]) == ("openai", "gpt-3.5-turbo-0125")
    assert answer.headers["x-conduit-model-version"] == "gpt-3.5-turbo-0125"
    assert isinstance(metadata["processing_time_ms"], int) and metadata["cost"] > 0


def test_the_cost_is_that_of_the_prices(reference: Reference) -> None:
    """Core, lines 174-177 and 432."""
    found = reference.chat().json()
    usage, cost = found["usage"], found["conduit_metadata"]["cost"]
    assert cost == pytest.approx((usage["prompt_tokens"] * 0.03 + usage["completion_tokens"] * 0.06) / 1000)


def test_a_function_call_has_the_documents_fields(reference: Reference) -> None:
    """Core, lines 441-465."""
    found = reference.chat(functions=[FUNCTION], function_call="auto").json()
    called = {"name": "get_current_weather", "arguments": '{"location": "Boston, MA"}'}
    message = {"role": "assistant", "content": None, "function_call": called}
    assert found["choices"] == [{"index": 0, "message": message, "finish_reason": "function_call"}]


def test_a_stream_has_the_documents_form(reference: Reference) -> None:
    """Core, lines 203-207: the last chunk of data carries the metadata, too."""
    found = reference.chat(stream=True)
    assert found.headers["content-type"].startswith("text/event-stream")
    first, second, done, rest = found.text.split("\n\n")
    assert first == (
        'data: {"id":"chatcmpl-123","object":"chat.completion.chunk","created":1677652288,"model":"gpt-4",'
        '"choices":[{"index":0,"delta":{"content":"Hello"},"finish_reason":null}]}'
    )
    last = json.loads(second.removeprefix("data: "))
    assert (last["model"], last["choices"][0]["delta"]) == ("gpt-4", {"content": " there"})
    assert found.headers["x-conduit-model-version"] == "gpt-4"
    assert (done, rest) == ("data: [DONE]", "")


MODEL = {
    "id": "gpt-4",
    "object": "model",
    "created": 0,
    "owned_by": "openai",
    "provider": "openai",
    "capabilities": ["chat", "function_calling"],
    "context_length": 8192,
    "max_output_tokens": 4096,
    "pricing": {"input_tokens_per_1k": 0.03, "output_tokens_per_1k": 0.06},
    "ready": True,
}


def test_models_have_the_documents_fields(reference: Reference) -> None:
    """Core, lines 162-180."""
    found = reference.ask("/v1/models").json()
    assert (set(found), found["object"]) == ({"object", "data"}, "list")
    assert MODEL in found["data"]
    assert {frozenset(one) for one in found["data"]} == {frozenset(MODEL)}
    assert reference.ask("/v1/models/gpt-4").json() == MODEL
    assert [one["id"] for one in reference.ask("/v1/models", secret="bud_narrow").json()["data"]] == ["gpt-4"]


FIELDS: list[tuple[str, str, Json, set[str]]] = [
    ("facts:9", "classify", {"input": ["a"]}, {"id", "object", "created", "model", "results"}),
    (
        "facts:16",
        "documents",
        {"document": {"type": "image_url", "image_url": "https://x/y"}},
        {"id", "object", "created", "model", "document_id", "pages", "usage_info", "document"},
    ),
    ("core:125", "embeddings", {"input": "a"}, {"object", "model", "data", "usage"}),
]


@pytest.mark.parametrize(
    ("endpoint", "body", "fields"), [row[1:] for row in FIELDS], ids=[f"{row[0]} {row[1]}" for row in FIELDS]
)
def test_other_responses_keep_their_fields(reference: Reference, endpoint: str, body: Json, fields: set[str]) -> None:
    found = reference.ask(f"/v1/{endpoint}", {"model": "gpt-4", **body}).json()
    assert set(found) == fields | {"conduit_metadata"}
    assert found["model"] == "gpt-4"


@pytest.mark.parametrize(("status", "times"), [(429, 3), (500, 3), (503, 3), (400, 1), (404, 1)])
def test_what_may_pass_is_tried_again_and_wrong_requests_are_not(reference: Reference, status: int, times: int) -> None:
    """Concepts, line 60."""
    before = len(reference.upstream.asked)
    assert reference.chat(f"status-{status}").status_code == status
    assert len(reference.upstream.asked) - before == times


def test_a_backup_answers_when_the_first_provider_cannot(reference: Reference) -> None:
    """Core, lines 301-304."""
    found = reference.chat("backed-up")
    assert (found.status_code, found.json()["conduit_metadata"]["model_version"]) == (200, "backed-up")


def test_the_same_submission_is_served_once(reference: Reference) -> None:
    """Concepts, line 63."""
    before = len(reference.upstream.asked)
    body = {"model": "gpt-4", "messages": HI}
    first, again = (reference.ask("/v1/chat/completions", body, Idempotency_Key="k") for _ in range(2))
    assert (first.content, len(reference.upstream.asked) - before) == (again.content, 1)


def test_what_is_to_be_observed_is_told(reference: Reference) -> None:
    """Concepts, lines 69-72."""
    assert reference.chat(stream=True).status_code == 200
    told = reference.ask("/metrics", secret=None).text
    for line in (
        r"gen_ai_server_request_duration_seconds_bucket\{",
        r'bud_gateway_requests_total\{.*="chat".*http_response_status_code="200"',
        r"gen_ai_client_token_usage_sum\{",
        r"gen_ai_server_time_to_first_token_seconds_bucket\{",
    ):
        assert re.search(f"^{line}", told, re.MULTILINE), line


@pytest.mark.parametrize("header", ["X_Request_Timeout", "X_Stainless_Timeout", "X_Stainless_Read_Timeout"])
def test_the_callers_timeout_is_kept(reference: Reference, header: str) -> None:
    """Concepts, line 57."""
    body: Any = {"model": "status-503", "messages": HI}
    found = reference.ask("/v1/chat/completions", body, **{header: "0.01"})
    assert (found.status_code, found.json()["error"]["code"]) == (504, "timeout")
