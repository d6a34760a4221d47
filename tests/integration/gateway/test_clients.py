"""Real clients against a real engine behind a real gateway: the OpenAI SDK, and curl as the reference writes it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.gateway_process import KEY, GatewayProcess, key, project, provider, running_gateway
from tests.tiny_engine import running_tiny
from tests.tiny_model import write_tiny_model

QUESTION: Any = [{"role": "user", "content": "What is AI?"}]
LETTERS = {"grammar": "root ::= [a-z]+", "ignore_eos": True}
"""Parameters of llama.cpp alone, which pass: random weights would say random bytes."""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    folder = tmp_path_factory.mktemp("gateway")
    model = write_tiny_model(folder / "tiny.gguf")
    with running_tiny(model, "--alias", "tiny") as (_, engine):
        url = f"{str(engine.base_url).rstrip('/')}/v1"
        priced = {"inputTokensPer1k": "0.5", "outputTokensPer1k": 1}
        offers = [{"name": "llama-3.2-1b", "upstreamName": "tiny", "pricing": priced, "maxOutputTokens": 100}]
        objects = (project(), key(), provider("local", url, models=offers))
        with running_gateway(folder / "objects", *objects) as running:
            yield running


@pytest.fixture(scope="module")
def client(gateway: GatewayProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key=KEY, base_url=f"{gateway.url}/v1", max_retries=0) as made:
        yield made


def test_the_curl_of_the_reference(gateway: GatewayProcess) -> None:
    command = [
        "curl", "--silent", "--fail-with-body", f"{gateway.url}/v1/chat/completions",
        "-H", f"Authorization: Bearer {KEY}",
        "-H", "Content-Type: application/json",
        "-d", json.dumps({"model": "llama-3.2-1b", "messages": QUESTION, "max_tokens": 5}),
    ]  # fmt: skip
    found = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    assert (found["object"], found["model"]) == ("chat.completion", "llama-3.2-1b")
    assert found["usage"]["total_tokens"] == found["usage"]["prompt_tokens"] + found["usage"]["completion_tokens"]
    assert found["choices"][0]["message"]["role"] == "assistant"


def test_a_chat_by_the_sdk_carries_the_metadata(client: openai.OpenAI) -> None:
    answer = client.chat.completions.with_raw_response.create(
        model="llama-3.2-1b",
        messages=QUESTION,
        max_tokens=5,
        extra_body=LETTERS,
        extra_headers={"X-Request-ID": "req-7"},
    )
    found = answer.parse()
    assert found.usage is not None and found.usage.completion_tokens == 5
    metadata: Any = (found.model_extra or {})["conduit_metadata"]
    cost = found.usage.prompt_tokens * 0.0005 + 5 * 0.001
    assert metadata["cost"] == pytest.approx(cost)
    assert (metadata["provider"], metadata["model_version"]) == ("openai-compatible", "tiny")
    assert metadata["virtual_key_id"] == "alice"
    assert metadata["request_id"] == answer.headers["x-request-id"] == "req-7"
    assert metadata["processing_time_ms"] >= 0


@pytest.mark.parametrize("options", [None, {"include_usage": True}], ids=["without usage", "with usage"])
def test_a_stream_by_the_sdk_ends_with_the_metadata(client: openai.OpenAI, options: Any) -> None:
    extra = {"stream_options": options} if options else {}
    chunks = list(
        client.chat.completions.create(
            model="llama-3.2-1b", messages=QUESTION, max_tokens=8, stream=True, extra_body=LETTERS, **extra
        )
    )
    assert {chunk.model for chunk in chunks} == {"llama-3.2-1b"}
    words = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices]
    assert len("".join(word or "" for word in words)) >= 8
    assert [chunk.usage is not None for chunk in chunks] == [False] * (len(chunks) - 1) + [options is not None]
    assert ["conduit_metadata" in (chunk.model_extra or {}) for chunk in chunks] == [False] * (len(chunks) - 1) + [True]


def test_text_is_completed(client: openai.OpenAI) -> None:
    found = client.completions.create(model="llama-3.2-1b", prompt="Once", max_tokens=7, extra_body=LETTERS)
    assert (found.object, found.model) == ("text_completion", "llama-3.2-1b")
    assert found.usage is not None and found.usage.completion_tokens == 7


def test_models_are_listed_and_found(client: openai.OpenAI) -> None:
    (found,) = client.models.list().data
    assert (found.id, found.object, found.owned_by) == ("llama-3.2-1b", "model", "openai-compatible")
    more = client.models.retrieve("llama-3.2-1b").model_extra or {}
    assert more["pricing"] == {"input_tokens_per_1k": 0.5, "output_tokens_per_1k": 1.0}
    assert (more["max_output_tokens"], more["ready"]) == (100, True)


def test_what_an_engine_does_not_offer_is_501_and_not_tried_again(client: openai.OpenAI) -> None:
    with pytest.raises(openai.APIStatusError) as refused:
        client.embeddings.create(model="llama-3.2-1b", input="x", encoding_format="float")
    assert refused.value.status_code == 501
    assert refused.value.response.headers["x-should-retry"] == "false"


@pytest.mark.parametrize(
    ("change", "error", "param", "code"),
    [
        ({"model": "invalid-model"}, openai.NotFoundError, "model", "model_not_found"),
        ({"temperature": 3.0}, openai.BadRequestError, "temperature", "invalid_value"),
        ({"max_tokens": 101}, openai.BadRequestError, "max_tokens", "invalid_value"),
        ({"messages": []}, openai.BadRequestError, "messages", "invalid_value"),
    ],
    ids=["an unknown model", "out of range", "more than the model writes", "nothing said"],
)
def test_the_sdk_raises_what_it_should(
    client: openai.OpenAI, change: dict[str, Any], error: type[openai.APIStatusError], param: str, code: str
) -> None:
    with pytest.raises(error) as refused:
        client.chat.completions.create(**{"model": "llama-3.2-1b", "messages": QUESTION, **change})
    body: Any = refused.value.body
    assert (body["type"], body["param"], body["code"]) == ("invalid_request_error", param, code)


def test_a_wrong_key_is_refused(gateway: GatewayProcess) -> None:
    with (
        openai.OpenAI(api_key="bud_wrong", base_url=f"{gateway.url}/v1", max_retries=0) as stranger,
        pytest.raises(openai.AuthenticationError) as refused,
    ):
        stranger.models.list()
    body: Any = refused.value.body
    assert (body["type"], body["code"]) == ("authentication_error", "invalid_api_key")
    assert "bud_wrong" not in gateway.log
