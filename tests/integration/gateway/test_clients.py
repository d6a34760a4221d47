"""Real clients against a real engine behind a real gateway: the OpenAI SDK, and curl as the reference writes it."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from typing import Any, Literal

import openai
import pytest
from pydantic import BaseModel

from tests.gateway_process import KEY, GatewayProcess
from tests.tiny_model import CALL_BIAS

QUESTION: Any = [{"role": "user", "content": "What is AI?"}]
LETTERS = {"grammar": "root ::= [a-z]+", "ignore_eos": True}
"""Parameters of llama.cpp alone, which pass: random weights would say random bytes."""


@pytest.fixture(scope="module")
def client(served: GatewayProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key=KEY, base_url=f"{served.url}/v1", max_retries=0) as made:
        yield made


CHAT_CURL = """
  curl https://gateway.bud.studio/v1/chat/completions \\
    -H "Authorization: Bearer YOUR_API_KEY" \\
    -H "Content-Type: application/json" \\
    -d '{
      "model": "llama-3.2-1b",
      "messages": [
        {
          "role": "user",
          "content": "What is AI?"
        }
      ]
    }'
"""
CORE_CHAT_CURL = """
curl https://api.conduit.yourdomain.com/v1/chat/completions \\
  -H "Content-Type: application/json" \\
  -H "Authorization: Bearer condt_your_virtual_key" \\
  -d '{
    "model": "gpt-4",
    "messages": [
      {
        "role": "system",
        "content": "You are a helpful assistant."
      },
      {
        "role": "user",
        "content": "Explain quantum computing in simple terms."
      }
    ],
    "max_tokens": 1000,
    "temperature": 0.7,
    "stream": false
  }'
"""
CORE_EMBEDDINGS_CURL = """
curl https://api.conduit.yourdomain.com/v1/embeddings \\
  -H "Content-Type: application/json" \\
  -H "Authorization: Bearer condt_your_virtual_key" \\
  -d '{
    "model": "text-embedding-3-large",
    "input": [
      "The quick brown fox jumps over the lazy dog.",
      "Machine learning is a subset of artificial intelligence."
    ],
    "encoding_format": "float",
    "dimensions": 1536
  }'
"""
CORE_MODELS_CURL = """
curl https://api.conduit.yourdomain.com/v1/models \\
  -H "Authorization: Bearer condt_your_virtual_key"
"""
BASIC = """
{
  "model": "gpt-3.5-turbo",
  "messages": [
    {"role": "user", "content": "Hello, how are you?"}
  ]
}
"""


@pytest.mark.parametrize(
    ("snippet", "kind", "model"),
    [
        pytest.param(CHAT_CURL, "chat.completion", "llama-3.2-1b", id="chat completions, lines 11-22"),
        pytest.param(CORE_CHAT_CURL, "chat.completion", "gpt-4", id="core APIs, lines 90-108"),
        pytest.param(CORE_EMBEDDINGS_CURL, "list", "text-embedding-3-large", id="core APIs, lines 130-141"),
        pytest.param(CORE_MODELS_CURL, "list", None, id="core APIs, lines 156-157"),
    ],
)
def test_the_curls_of_the_reference(served: GatewayProcess, snippet: str, kind: str, model: str | None) -> None:
    command, places = re.subn(r"https://[a-z.]+", served.url, snippet.strip())
    command, keys = re.subn("YOUR_API_KEY|condt_your_virtual_key", KEY, command)
    assert (places, keys) == (1, 1)
    command = command.replace("curl ", "curl --silent --fail-with-body ", 1)
    found = json.loads(subprocess.run(["sh", "-c", command], check=True, capture_output=True).stdout)
    assert (found["object"], found.get("model")) == (kind, model)
    if kind == "chat.completion":
        assert found["usage"]["total_tokens"] == found["usage"]["prompt_tokens"] + found["usage"]["completion_tokens"]
        assert found["choices"][0]["message"]["role"] == "assistant"


def test_the_basic_request_of_the_reference_has_all_that_its_response_has(served: GatewayProcess) -> None:
    command = [
        "curl",
        "--silent",
        f"{served.url}/v1/chat/completions",
        "-H",
        f"Authorization: Bearer {KEY}",
        "-d",
        BASIC,
    ]
    found = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    wanted = {"id", "object", "created", "model", "choices", "usage", "conduit_metadata"}  # core APIs, lines 405-433
    assert wanted <= set(found)
    assert {"index", "message", "finish_reason"} <= set(found["choices"][0])


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


def test_a_response_of_the_newer_api(client: openai.OpenAI) -> None:
    found = client.responses.create(model="llama-3.2-1b", input="hi", max_output_tokens=8, extra_body=LETTERS)
    assert (found.model, len(found.output_text)) == ("llama-3.2-1b", 8)
    assert "conduit_metadata" in (found.model_extra or {})
    events = list(
        client.responses.create(model="llama-3.2-1b", input="hi", max_output_tokens=8, extra_body=LETTERS, stream=True)
    )
    last = events[-1]
    assert last.type == "response.completed"
    assert (last.response.model, last.response.usage and last.response.usage.output_tokens) == ("llama-3.2-1b", 8)


def test_models_are_listed_and_found(client: openai.OpenAI) -> None:
    found = {model.id: model for model in client.models.list()}["llama-3.2-1b"]
    assert (found.object, found.owned_by) == ("model", "openai-compatible")
    more = client.models.retrieve("llama-3.2-1b").model_extra or {}
    assert more["pricing"] == {"input_tokens_per_1k": 0.5, "output_tokens_per_1k": 1.0}
    assert (more["max_output_tokens"], more["ready"]) == (300, True)


def test_what_an_engine_does_not_offer_is_501_and_not_tried_again(client: openai.OpenAI) -> None:
    with pytest.raises(openai.APIStatusError) as refused:
        client.embeddings.create(model="llama-3.2-1b", input="x", encoding_format="float")
    assert refused.value.status_code == 501
    assert refused.value.response.headers["x-should-retry"] == "false"


WEATHER: Any = {
    "name": "get_current_weather",
    "parameters": {
        "type": "object",
        "properties": {"unit": {"type": "string", "enum": ["celsius", "fahrenheit"]}},
        "required": ["unit"],
    },
}
CALLING: Any = {
    "model": "llama-3.2-1b",
    "messages": QUESTION,
    "tools": [{"type": "function", "function": WEATHER}],
    "tool_choice": "required",
    "logit_bias": CALL_BIAS,
    "max_tokens": 300,
}


def test_a_tool_is_called_and_its_result_goes_back(client: openai.OpenAI) -> None:
    choice = client.chat.completions.create(**CALLING).choices[0]
    assert (choice.finish_reason, len(choice.message.tool_calls or [])) == ("tool_calls", 1)
    call: Any = (choice.message.tool_calls or [])[0]
    assert call.function.name == "get_current_weather"
    assert json.loads(call.function.arguments)["unit"] in ("celsius", "fahrenheit")
    result: Any = {"role": "tool", "tool_call_id": call.id, "content": "21"}
    messages: Any = [*QUESTION, choice.message.model_dump(exclude_none=True), result]
    again = client.chat.completions.create(model="llama-3.2-1b", messages=messages, max_tokens=5)
    assert again.choices[0].message.role == "assistant"


def test_a_tool_is_called_in_a_stream(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(**CALLING) as stream:
        found: Any = stream.get_final_completion().choices[0]
    assert found.finish_reason == "tool_calls"
    assert json.loads(found.message.tool_calls[0].function.arguments)["unit"] in ("celsius", "fahrenheit")


class Unit(BaseModel):
    unit: Literal["celsius", "fahrenheit"]


def test_an_answer_keeps_to_a_schema(client: openai.OpenAI) -> None:
    found = client.chat.completions.parse(model="llama-3.2-1b", messages=QUESTION, response_format=Unit, max_tokens=300)
    assert found.choices[0].message.parsed is not None


def test_embeddings_are_the_same_as_numbers_and_as_base64(client: openai.OpenAI) -> None:
    asked: Any = {"model": "text-embedding-3-large", "input": ["one", "two"]}
    plain = client.embeddings.create(**asked, encoding_format="float").data
    coded = client.embeddings.create(**asked).data  # asks for base64, and decodes it
    assert [one.embedding for one in plain] == [pytest.approx(one.embedding) for one in coded]
    assert plain[0].embedding != plain[1].embedding


@pytest.mark.parametrize(
    ("change", "error", "param", "code"),
    [
        ({"model": "invalid-model"}, openai.NotFoundError, "model", "model_not_found"),
        ({"temperature": 3.0}, openai.BadRequestError, "temperature", "invalid_value"),
        ({"max_tokens": 301}, openai.BadRequestError, "max_tokens", "invalid_value"),
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


def test_a_wrong_key_is_refused(served: GatewayProcess) -> None:
    with (
        openai.OpenAI(api_key="bud_wrong", base_url=f"{served.url}/v1", max_retries=0) as stranger,
        pytest.raises(openai.AuthenticationError) as refused,
    ):
        stranger.models.list()
    body: Any = refused.value.body
    assert (body["type"], body["code"]) == ("authentication_error", "invalid_api_key")
    assert "bud_wrong" not in served.log
