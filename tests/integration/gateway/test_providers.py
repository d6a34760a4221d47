"""Providers that are translated, by the official OpenAI SDK through a real gateway, against servers of their wire formats."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import openai
import pytest
from aiohttp import web

from tests.gateway_process import KEY, GatewayProcess, key, project, provider, running_gateway
from tests.integration.gateway import aws, foreign
from tests.integration.gateway.foreign_anthropic import anthropic
from tests.integration.gateway.foreign_bedrock import bedrock
from tests.integration.gateway.foreign_google import google
from tests.integration.gateway.upstream import Upstream, completion, running
from tests.waiting import eventually

Json = dict[str, Any]
CLAUDE, GEMINI, NOVA = "claude-3-sonnet", "gemini-2.0-flash", "us.amazon.nova-lite-v1:0"
MODELS = (CLAUDE, GEMINI, NOVA)
HI: Any = [{"role": "user", "content": "hi"}]
WEATHER: Json = {
    "name": "weather",
    "description": "Tells the weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
PRICE = {"inputTokensPer1k": 1, "outputTokensPer1k": 2}
PATHS = {"Anthropic": "/v1", "Google": "/v1beta", "Bedrock": ""}
FAULTS = ("status-429", "status-500", "status-503", "breaks", "ends", "fails")


@pytest.fixture(scope="module")
def upstreams() -> Iterator[dict[str, Upstream]]:
    async def openai_like(request: web.Request, body: Json) -> web.Response:
        if request.path == "/openai/deployments/azure-gpt/chat/completions":
            assert (request.headers["api-key"], request.query_string) == ("sk", "api-version=2024-10-21")
        else:
            assert request.path == "/v1/chat/completions"
        if "tools" not in body:
            return completion(body)
        call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Rome"}'}}
        message = {"role": "assistant", "content": None, "tool_calls": [call]}
        return completion(body, choices=[{"index": 0, "message": message, "finish_reason": "tool_calls"}])

    with ExitStack() as stack:
        served = {"Anthropic": anthropic, "Google": google, "Bedrock": bedrock}
        yield {
            kind: stack.enter_context(running(answer)) for kind, answer in (served | {"OpenAI": openai_like}).items()
        }


def secret(name: str, **data: str) -> Json:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, upstreams: dict[str, Upstream]) -> Iterator[GatewayProcess]:
    def offer(kind: str, prefix: str, *models: str, name: str = "", **spec: Any) -> Json:
        url = upstreams[kind].url.removesuffix("/v1") + PATHS.get(kind, "/v1")
        names = (*models, *(f"{prefix}-{fault}" for fault in FAULTS))
        priced = [{"name": one, "pricing": PRICE} for one in names]
        credentials = {"name": spec.pop("secret", kind.lower())}
        return provider(name or kind.lower(), url, kind=kind, models=priced, credentialsSecretRef=credentials, **spec)

    session = {"AWS_SESSION_TOKEN": aws.TOKEN}
    keys = {"AWS_ACCESS_KEY_ID": aws.ACCESS, "AWS_SECRET_ACCESS_KEY": aws.SECRET}
    objects = (
        secret("anthropic", apiKey="sk-ant"),
        secret("google", apiKey="goog"),
        secret("bedrock", **keys, **session),
        secret("wrong", apiKey="wrong", AWS_ACCESS_KEY_ID=aws.ACCESS, AWS_SECRET_ACCESS_KEY="wrong", **session),
        secret("openai", apiKey="sk"),
        offer("Anthropic", "claude", CLAUDE, "claude-status-529", "claude-endless", "shared-status-529"),
        offer("Google", "gemini", GEMINI),
        offer("Bedrock", "nova", NOVA, region=aws.REGION),
        provider("spare", upstreams["OpenAI"].url, "shared-status-529", kind="OpenAI", priority=-1),
        provider("llama", upstreams["OpenAI"].url, "llama"),
        provider("gpt", upstreams["OpenAI"].url, "gpt-4", kind="OpenAI"),
        provider(
            "azure",
            upstreams["OpenAI"].url,
            "azure-gpt",
            kind="AzureOpenAI",
            apiVersion="2024-10-21",
            credentialsSecretRef={"name": "openai"},
        ),
        offer("Anthropic", "wrong-claude", name="wrong-a", secret="wrong"),
        offer("Google", "wrong-gemini", name="wrong-g", secret="wrong"),
        offer("Bedrock", "wrong-nova", name="wrong-b", secret="wrong", region=aws.REGION),
    )
    folder = tmp_path_factory.mktemp("providers") / "objects"
    with running_gateway(folder, project(), key(), *objects) as made:
        yield made


@pytest.fixture(scope="module")
def client(gateway: GatewayProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key=KEY, base_url=f"{gateway.url}/v1", max_retries=0) as made:
        yield made


def metadata(told: Any) -> Json:
    found: Json = (told.model_extra or {})["conduit_metadata"]
    return found


@pytest.mark.parametrize(("model", "name"), [(CLAUDE, "anthropic"), (GEMINI, "google"), (NOVA, "bedrock")])
def test_a_whole_answer_is_told_with_its_usage_and_cost(client: openai.OpenAI, model: str, name: str) -> None:
    found = client.chat.completions.create(model=model, messages=HI, max_tokens=50, temperature=0.5)
    assert (found.object, found.model, found.choices[0].message.content) == ("chat.completion", model, "hi there")
    assert (found.choices[0].finish_reason, found.choices[0].message.role) == ("stop", "assistant")
    assert found.id.startswith("chatcmpl-") and found.created > 0
    assert found.usage is not None and found.usage.prompt_tokens_details is not None
    assert (found.usage.prompt_tokens, found.usage.completion_tokens, found.usage.total_tokens) == (10, 5, 15)
    assert found.usage.prompt_tokens_details.cached_tokens == 1
    assert (metadata(found)["provider"], metadata(found)["cost"]) == (name, pytest.approx(0.02))


@pytest.mark.parametrize("model", MODELS)
def test_a_stream_ends_with_the_usage_the_metadata_and_done(
    client: openai.OpenAI, gateway: GatewayProcess, model: str
) -> None:
    asked: Any = {"model": model, "messages": HI, "stream": True}
    chunks = list(client.chat.completions.create(**asked, stream_options={"include_usage": True}))
    assert "".join(one.choices[0].delta.content or "" for one in chunks[:-1]) == "hi there"
    assert sum(bool(one.choices and one.choices[0].delta.content) for one in chunks) == 2
    assert [one.choices[0].finish_reason for one in chunks if one.choices][-1] == "stop"
    assert {(one.model, one.id) for one in chunks} == {(model, chunks[0].id)}
    last = chunks[-1]
    assert last.usage is not None and (last.usage.prompt_tokens, last.usage.completion_tokens) == (10, 5)
    assert metadata(last)["cost"] == pytest.approx(0.02)

    raw = httpx.post(f"{gateway.url}/v1/chat/completions", json=asked, headers={"Authorization": f"Bearer {KEY}"})
    events = [line.removeprefix("data: ") for line in raw.text.splitlines() if line]
    assert raw.headers["content-type"].startswith("text/event-stream") and events[-1] == "[DONE]"
    assert '"usage"' not in raw.text and "conduit_metadata" in json.loads(events[-2])


@pytest.mark.parametrize("streams", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("model", MODELS)
def test_tools_are_called_and_their_results_go_back(client: openai.OpenAI, model: str, streams: bool) -> None:
    tools: Any = [{"type": "function", "function": WEATHER}]
    if streams:
        with client.chat.completions.stream(model=model, messages=HI, tools=tools, tool_choice="required") as stream:
            first: Any = stream.get_final_completion()
    else:
        first = client.chat.completions.create(model=model, messages=HI, tools=tools, tool_choice="required")
    choice = first.choices[0]
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", "let me see")
    calls = choice.message.tool_calls
    assert [(one.function.name, json.loads(one.function.arguments)) for one in calls] == [
        ("weather", {"city": city}) for city in foreign.CITIES
    ]
    assert len({one.id for one in calls}) == 2
    results = [{"role": "tool", "tool_call_id": one.id, "content": f"sun {at}"} for at, one in enumerate(calls)]
    history: Any = [*HI, choice.message.to_dict(), *results]
    for message in history:
        message.pop("parsed", None)
    last = client.chat.completions.create(model=model, messages=history, tools=tools)
    assert last.choices[0].message.content == "sun 0; sun 1"


@pytest.mark.parametrize("streams", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("model", MODELS)
def test_the_older_functions_go_as_tools_and_come_back(client: openai.OpenAI, model: str, streams: bool) -> None:
    asked: Any = {"model": model, "messages": HI, "functions": [WEATHER], "function_call": {"name": "weather"}}
    if streams:
        chunks = [one.choices[0] for one in client.chat.completions.create(**asked, stream=True) if one.choices]
        called = [one.delta.function_call for one in chunks if one.delta.function_call]
        assert (called[0].name, json.loads("".join(one.arguments or "" for one in called))) == (
            "weather",
            {"city": "Boston"},
        )
        assert chunks[-1].finish_reason == "function_call"
        return
    choice = client.chat.completions.create(**asked).choices[0]
    assert choice.finish_reason == "function_call" and choice.message.tool_calls is None
    assert choice.message.function_call is not None and choice.message.function_call.name == "weather"
    call: Any = choice.message.function_call.to_dict()
    history: Any = [
        *HI,
        {"role": "assistant", "content": None, "function_call": call},
        {"role": "function", "name": "weather", "content": "sun"},
    ]
    last = client.chat.completions.create(model=model, messages=history, functions=[WEATHER])  # type: ignore[list-item]
    assert last.choices[0].message.content == "sun"


def test_functions_go_as_tools_to_engines_and_as_they_are_to_openai(
    client: openai.OpenAI, upstreams: dict[str, Upstream]
) -> None:
    asked: Any = {"messages": HI, "functions": [WEATHER], "function_call": "auto"}
    choice = client.chat.completions.create(model="llama", **asked).choices[0]
    assert choice.finish_reason == "function_call" and choice.message.function_call is not None
    assert choice.message.function_call.arguments == '{"city":"Rome"}'
    assert "functions" not in upstreams["OpenAI"].asked[-1][2]
    client.chat.completions.create(model="gpt-4", **asked, max_tokens=9)
    body = upstreams["OpenAI"].asked[-1][2]
    assert body == {"model": "gpt-4", **asked, "max_completion_tokens": 9}


@pytest.mark.parametrize(
    ("model", "status", "kind", "code"),
    [
        ("claude-status-429", 429, "rate_limit_error", "rate_limit_exceeded"),
        ("claude-status-500", 500, "api_error", "upstream_error"),
        ("claude-status-529", 503, "overloaded_error", "upstream_unavailable"),
        ("gemini-status-429", 429, "rate_limit_error", "rate_limit_exceeded"),
        ("gemini-status-503", 503, "overloaded_error", "upstream_unavailable"),
        ("nova-status-429", 429, "rate_limit_error", "rate_limit_exceeded"),
        ("nova-status-500", 500, "api_error", "upstream_error"),
        ("wrong-claude-breaks", 503, "overloaded_error", "provider_credentials"),
        ("wrong-gemini-breaks", 503, "overloaded_error", "provider_credentials"),
        ("wrong-nova-breaks", 503, "overloaded_error", "provider_credentials"),
    ],
)
def test_a_providers_error_is_told_as_ours(
    client: openai.OpenAI, upstreams: dict[str, Upstream], model: str, status: int, kind: str, code: str
) -> None:
    before = sum(len(one.asked) for one in upstreams.values())
    with pytest.raises(openai.APIStatusError) as refused:
        client.chat.completions.create(model=model, messages=HI)
    body: Any = refused.value.body
    assert (refused.value.status_code, body["type"], body["code"]) == (status, kind, code)
    assert ("because" in body["message"]) == (code != "provider_credentials")
    tries = sum(len(one.asked) for one in upstreams.values()) - before
    assert tries == (1 if code == "provider_credentials" else 3)


@pytest.mark.parametrize(
    ("model", "code"),
    [
        ("claude-fails", "upstream_unavailable"),
        ("gemini-fails", "upstream_unavailable"),
        ("nova-fails", "upstream_unavailable"),
        ("claude-breaks", "stream_broken"),
        ("gemini-breaks", "stream_broken"),
        ("nova-breaks", "stream_broken"),
        ("claude-ends", "stream_broken"),
        ("nova-ends", "stream_broken"),
    ],
)
def test_a_fault_in_a_stream_is_its_last_event(gateway: GatewayProcess, model: str, code: str) -> None:
    asked = {"model": model, "messages": HI, "stream": True}
    raw = httpx.post(f"{gateway.url}/v1/chat/completions", json=asked, headers={"Authorization": f"Bearer {KEY}"})
    events = [json.loads(line.removeprefix("data: ")) for line in raw.text.splitlines() if line]
    assert (raw.status_code, events[-1]["error"]["code"]) == (200, code)
    assert any(one["choices"][0]["delta"].get("content") for one in events[:-1])


@pytest.mark.parametrize("model", MODELS)
def test_what_a_provider_cannot_honour_is_refused_before_it_is_asked(
    client: openai.OpenAI, upstreams: dict[str, Upstream], model: str
) -> None:
    before = sum(len(one.asked) for one in upstreams.values())
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model=model, messages=HI, logit_bias={"1": 5})
    body: Any = refused.value.body
    assert (body["type"], body["param"], body["code"]) == (
        "invalid_request_error",
        "logit_bias",
        "unsupported_parameter",
    )
    with pytest.raises(openai.APIStatusError) as missing:
        client.embeddings.create(model=model, input="x")
    assert missing.value.status_code == 501 and missing.value.response.headers["x-should-retry"] == "false"
    assert sum(len(one.asked) for one in upstreams.values()) == before


def test_a_translated_provider_that_fails_is_followed_by_the_next_of_the_chain(client: openai.OpenAI) -> None:
    found = client.chat.completions.create(model="shared-status-529", messages=HI)
    assert (found.choices[0].message.content, metadata(found)["provider"]) == ("hi", "openai")


def test_parameters_of_anthropic_alone_pass(client: openai.OpenAI, upstreams: dict[str, Upstream]) -> None:
    own = {"anthropic_version": "2026-10-21", "stop_sequences": ["\n\nHuman:"], "thinking": {"type": "adaptive"}}
    client.chat.completions.create(model=CLAUDE, messages=HI, stop="end", extra_body=own)
    _, headers, body = upstreams["Anthropic"].asked[-1]
    assert headers["anthropic-version"] == "2026-10-21" and "anthropic_version" not in body
    assert (body["stop_sequences"], body["thinking"]) == (["end", "\n\nHuman:"], own["thinking"])
    assert KEY not in str(headers)


@pytest.mark.parametrize("model", MODELS)
def test_a_translated_stream_is_kept_for_its_idempotency_key_and_counted(
    client: openai.OpenAI, gateway: GatewayProcess, upstreams: dict[str, Upstream], model: str
) -> None:
    asked = {"model": model, "messages": HI, "stream": True}
    headers = {"Authorization": f"Bearer {KEY}", "Idempotency-Key": f"once-{model}"}
    counter = f'gen_ai_request_model="{model}",gen_ai_token_type="output"}} '
    name = "gen_ai_client_token_usage_sum"

    def written() -> float:
        lines = httpx.get(f"{gateway.url}/metrics").text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name) and counter in line)

    before, tokens = sum(len(one.asked) for one in upstreams.values()), written()
    first, again = (httpx.post(f"{gateway.url}/v1/chat/completions", json=asked, headers=headers) for _ in range(2))
    assert (again.content, again.headers["idempotent-replayed"]) == (first.content, "true")
    assert sum(len(one.asked) for one in upstreams.values()) == before + 1
    assert written() == tokens + 5


def test_azures_older_address_holds_the_deployment_and_the_version(client: openai.OpenAI) -> None:
    found = client.chat.completions.create(model="azure-gpt", messages=HI)
    assert (found.model, metadata(found)["provider"]) == ("azure-gpt", "azure")


def test_a_caller_who_hangs_up_ends_a_translated_providers_work(
    gateway: GatewayProcess, upstreams: dict[str, Upstream]
) -> None:
    asked = {"model": "claude-endless", "messages": HI, "stream": True}
    headers = {"Authorization": f"Bearer {KEY}"}
    with httpx.stream("POST", f"{gateway.url}/v1/chat/completions", json=asked, headers=headers) as answer:
        assert next(answer.iter_lines()).startswith("data: ")

    def ended() -> None:
        assert upstreams["Anthropic"].hung_up == 1

    eventually(ended, within=20)
    assert "Traceback" not in gateway.log
