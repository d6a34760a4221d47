"""What a request may say; the lines are those of the reference's chat completions and core APIs."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from pydantic import ValidationError

from bud.gateway.asks import ASKS, check, check_form
from bud.gateway.refusal import Invalid

CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}

DOCUMENT: dict[str, Any] = {
    "model": "m",
    "document": {"type": "document_url", "document_url": "data:application/pdf;base64,JVBERg=="},
}

IN_RANGE: list[dict[str, Any]] = [
    {"temperature": 0},
    {"temperature": 2.0},
    {"max_tokens": 1},
    {"max_completion_tokens": 1},
    {"top_p": 0.0},
    {"top_p": 1},
    {"frequency_penalty": -2},
    {"presence_penalty": 2.0},
    {"repetition_penalty": 0.01},
    {"stream": True, "stream_options": {"include_usage": True}},
    {"n": 2},
    {"stop": "a"},
    {"stop": ["a", "b", "c", "d"]},
    {"response_format": {"type": "json_object"}},
    {"seed": -1},
    {"logprobs": True, "top_logprobs": 20},
    {"logit_bias": {"50256": -100}},
    {"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "required"},
    {"tool_choice": {"type": "function", "function": {"name": "f"}}},
    {"parallel_tool_calls": False},
    {"functions": [{"name": "f"}], "function_call": "auto"},
    {"function_call": {"name": "f"}},
    {"user": "someone"},
    {"a_parameter_of_tomorrow": [1]},
    {"temperature": None},
    {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x/y"}}]}]},
    {"messages": [{"role": "tool", "content": "4", "tool_call_id": "c"}]},
    {"messages": [{"role": "assistant", "content": None, "tool_calls": [{"id": "c"}]}]},
]


@pytest.mark.parametrize("given", IN_RANGE, ids=[str(row)[:60] for row in IN_RANGE])
def test_every_parameter_of_the_reference_is_taken(given: dict[str, Any]) -> None:
    check("chat/completions", CHAT | given)


OUT_OF_RANGE: list[tuple[dict[str, Any], str, str]] = [
    ({"Model": "another"}, "Model", "write it as model"),
    ({"temperature": 2.1}, "temperature", "temperature: Input should be less than or equal to 2"),
    ({"temperature": -0.1}, "temperature", "greater than or equal to 0"),
    ({"temperature": "0.5"}, "temperature", "valid number"),
    ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
    ({"max_tokens": 1.5}, "max_tokens", "valid integer"),
    ({"max_completion_tokens": 0}, "max_completion_tokens", "greater than or equal to 1"),
    ({"top_p": 1.1}, "top_p", "less than or equal to 1"),
    ({"frequency_penalty": 2.5}, "frequency_penalty", "less than or equal to 2"),
    ({"presence_penalty": -2.5}, "presence_penalty", "greater than or equal to -2"),
    ({"repetition_penalty": 0}, "repetition_penalty", "greater than 0"),
    ({"stream": "yes"}, "stream", "valid boolean"),
    ({"stream_options": {"include_usage": 1}}, "stream_options", "stream_options.include_usage: "),
    ({"n": 0}, "n", "greater than or equal to 1"),
    ({"n": True}, "n", "valid integer"),
    ({"stop": ["a"] * 5}, "stop", "at most 4 items"),
    ({"top_logprobs": 21}, "top_logprobs", "less than or equal to 20"),
    ({"logit_bias": {"5": 101}}, "logit_bias", "logit_bias.5: "),
    ({"tool_choice": "any"}, "tool_choice", "'auto', 'none' or 'required'"),
    ({"seed": "x"}, "seed", "valid integer"),
    ({"user": 7}, "user", "valid string"),
    ({"messages": []}, "messages", "at least 1 item"),
    ({"messages": [{"role": "nobody"}]}, "messages", r"messages[0].role: "),
    ({"messages": [{"content": "x"}]}, "messages", r"messages[0].role is required"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages", r"messages[0].content: "),
    ({"model": ""}, "model", "at least 1 character"),
]


@pytest.mark.parametrize(("given", "param", "says"), OUT_OF_RANGE, ids=[str(row[0])[:60] for row in OUT_OF_RANGE])
def test_what_is_out_of_range_is_refused_by_its_name(given: dict[str, Any], param: str, says: str) -> None:
    with pytest.raises(Invalid) as refused:
        check("chat/completions", CHAT | given)
    assert refused.value.status == 400
    error = orjson.loads(refused.value.body())["error"]
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, refused.value.code)
    assert says in error["message"]


@pytest.mark.parametrize(
    ("endpoint", "body", "param"),
    [
        ("completions", {"model": "m"}, "prompt"),
        ("embeddings", {"model": "m"}, "input"),
        ("embeddings", {"model": "m", "input": "x", "encoding_format": "hex"}, "encoding_format"),
        ("embeddings", {"model": "m", "input": "x", "dimensions": 0}, "dimensions"),
        ("classify", {"model": "m", "input": "not a list"}, "input"),
        ("classify", {"model": "m", "input": ["x"], "priority": "urgent"}, "priority"),
        ("rerank", {"model": "m", "query": "q", "documents": []}, "documents"),
        ("images/generations", {"model": "m"}, "prompt"),
        ("audio/speech", {"model": "m", "input": "x", "speed": 5.0}, "speed"),
        ("audio/speech", {"model": "m", "input": "x", "response_format": "midi"}, "response_format"),
        ("documents", {"model": "m"}, "document"),
        ("documents", {"model": "m", "document": {"type": "audio_url", "document_url": "x"}}, "document"),
        ("documents", {"model": "m", "document": {"type": "image_url", "document_url": "x"}}, "document"),
        ("documents", DOCUMENT | {"task": "summarize"}, "task"),
        ("documents", DOCUMENT | {"options": {"to_formats": ["md", "odt"]}}, "options"),
        ("documents", DOCUMENT | {"options": {"to_formats": []}}, "options"),
        ("responses", {"model": "m", "max_output_tokens": 0}, "max_output_tokens"),
        ("chat/completions", {}, "model"),
    ],
)
def test_every_endpoint_names_what_it_lacks(endpoint: str, body: dict[str, Any], param: str) -> None:
    with pytest.raises(Invalid) as refused:
        check(endpoint, body)
    assert refused.value.param == param


def test_a_document_may_be_an_address_or_data_and_be_wanted_in_every_format() -> None:
    formats = ["md", "json", "html", "text", "doctags", "csv"]
    check("documents", DOCUMENT | {"task": "extract", "prompt": "the table", "options": {"to_formats": formats}})
    check("documents", {"model": "m", "document": {"type": "image_url", "image_url": "https://example.com/a.png"}})


SAID: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"temperature": "0"}, {"temperature": 0.0}),
    ({"temperature": "1.0"}, {"temperature": 1.0}),
    ({"response_format": "diarized_json"}, {"response_format": "diarized_json"}),
    ({"stream": "true"}, {"stream": True}),
    ({"language": "en"}, {"language": "en"}),
    ({"timestamp_granularities": ["word", "segment"]}, {"timestamp_granularities": ["word", "segment"]}),
    ({"model": "whisper-1"}, {"model": "whisper-1"}),
]


@pytest.mark.parametrize(("given", "means"), SAID)
def test_the_fields_of_a_form_are_taken_for_what_they_say(given: dict[str, Any], means: dict[str, Any]) -> None:
    assert check_form("audio/transcriptions", given) == means


@pytest.mark.parametrize(
    ("endpoint", "given"),
    [
        ("audio/transcriptions", {"temperature": "1.1"}),
        ("audio/transcriptions", {"temperature": "-0.1"}),
        ("audio/transcriptions", {"temperature": "nan"}),
        ("audio/transcriptions", {"temperature": "warm"}),
        ("audio/transcriptions", {"response_format": "docx"}),
        ("audio/transcriptions", {"stream": "perhaps"}),
        ("audio/transcriptions", {"timestamp_granularities": ["word", "letter"]}),
        ("audio/transcriptions", {"model": ""}),
        ("audio/translations", {"response_format": "diarized_json"}),
        ("audio/translations", {"temperature": "2"}),
    ],
)
def test_a_field_that_is_out_of_range_is_refused_by_its_name(endpoint: str, given: dict[str, Any]) -> None:
    with pytest.raises(Invalid) as refused:
        check_form(endpoint, given)
    assert (refused.value.param, refused.value.status) == (next(iter(given)), 400)


@pytest.mark.parametrize("body", [[], "text", 5, None])
def test_a_body_that_is_no_object_is_refused(body: object) -> None:
    with pytest.raises(Invalid, match="must be a JSON object"):
        check("chat/completions", body)


MANY: list[tuple[str, str, Any]] = [
    ("chat/completions", "messages", [{}] * 1000),
    ("chat/completions", "messages", [{"role": "user", "content": ["x"] * 1000}]),
    ("chat/completions", "messages", [{"role": "assistant", "tool_calls": ["x"] * 1000}]),
    ("chat/completions", "tools", ["x"] * 1000),
    ("chat/completions", "functions", ["x"] * 1000),
    ("chat/completions", "logit_bias", {str(token): "x" for token in range(2000)}),
    ("chat/completions", "messages", [{"role": "user"}] * 10_001),
    ("completions", "prompt", [[]] * 1000 + ["x"]),
    ("completions", "prompt", [["x"] * 1000]),
    ("embeddings", "input", [[]] * 1000 + ["x"]),
    ("classify", "input", [1] * 1000),
    ("rerank", "documents", [1] * 1000),
    ("responses", "input", ["x"] * 1000),
    ("documents", "options", {"to_formats": ["x"] * 1000}),
]


@pytest.mark.parametrize(("endpoint", "name", "value"), MANY)
def test_of_many_faults_a_few_are_enough(endpoint: str, name: str, value: Any) -> None:
    body = {**CHAT, "input": "x", "query": "x", "documents": ["x"], "prompt": "x", **DOCUMENT, name: value}
    with pytest.raises(ValidationError) as refused:
        ASKS[endpoint].__pydantic_validator__.validate_python(body)
    assert refused.value.error_count() <= 8
    with pytest.raises(Invalid) as told:
        check(endpoint, body)
    assert told.value.param == name
