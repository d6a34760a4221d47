"""What is sent to translated providers, and what becomes of their answers, by tables."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bud.gateway.asks import check
from bud.gateway.refusal import Invalid, Refusal, Unavailable
from bud.gateway.translate import functions
from bud.gateway.translate.anthropic import Anthropic
from bud.gateway.translate.bedrock import Bedrock
from bud.gateway.translate.google import Google
from bud.gateway.translate.wire import Json, Told, Translator
from tests.integration.gateway import aws

TOLD = Told("chatcmpl-1", "m", 1)
ANTHROPIC, GOOGLE, BEDROCK = Anthropic(), Google(), Bedrock("us-east-1", {})
HI = [{"role": "user", "content": "hi"}]
TOOL = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object"}}}
PNG = "data:image/png;base64,iVBORw0KGgo="
PDF = "data:application/pdf;base64,JVBERi0="


def sent(translator: Translator, **body: Any) -> Json:
    request = translator.send({"model": "m", "messages": HI, **body}, TOLD, most=None)
    assert isinstance(request.body, bytes)
    told: Json = orjson.loads(request.body)
    return told


BASE: dict[Translator, Json] = {
    ANTHROPIC: {
        "model": "m",
        "max_tokens": 4096,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
    },
    GOOGLE: {"contents": [{"role": "user", "parts": [{"text": "hi"}]}], "generationConfig": {}},
    BEDROCK: {"messages": [{"role": "user", "content": [{"text": "hi"}]}], "inferenceConfig": {}},
}


def config(**members: Any) -> Json:
    return {"generationConfig": members}


def inference(**members: Any) -> Json:
    return {"inferenceConfig": members}


@pytest.mark.parametrize(
    ("translator", "body", "wanted"),
    [
        (ANTHROPIC, {"max_tokens": 5}, {"max_tokens": 5}),
        (ANTHROPIC, {"max_tokens": 5, "max_completion_tokens": 7}, {"max_tokens": 7}),
        (ANTHROPIC, {"temperature": 1, "top_p": 0.5, "top_k": 3}, {"temperature": 1, "top_p": 0.5, "top_k": 3}),
        (ANTHROPIC, {"stop": "a", "stop_sequences": ["b"]}, {"stop_sequences": ["a", "b"]}),
        (ANTHROPIC, {"stream": True, "stream_options": {"include_usage": True}}, {"stream": True}),
        (ANTHROPIC, {"user": "u"}, {"metadata": {"user_id": "u"}}),
        (ANTHROPIC, {"tools": [TOOL]}, {"tools": [{"name": "f", "description": "d", "input_schema": {"type": "object"}}]}),
        (ANTHROPIC, {"response_format": SCHEMA}, {"output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}}),
        (ANTHROPIC, {"thinking": {"type": "adaptive"}}, {"thinking": {"type": "adaptive"}}),
        (GOOGLE, {"max_tokens": 5, "temperature": 2}, config(maxOutputTokens=5, temperature=2)),
        (GOOGLE, {"top_p": 0.5, "top_k": 3, "n": 2, "seed": 4}, config(topP=0.5, topK=3, candidateCount=2, seed=4)),
        (GOOGLE, {"frequency_penalty": 1, "presence_penalty": -1}, config(frequencyPenalty=1, presencePenalty=-1)),
        (GOOGLE, {"stop": ["a"]}, config(stopSequences=["a"])),
        (GOOGLE, {"response_format": {"type": "json_object"}}, config(responseMimeType="application/json")),
        (GOOGLE, {"response_format": SCHEMA}, config(responseMimeType="application/json", responseJsonSchema={"type": "object"})),
        (GOOGLE, {"generationConfig": {"thinkingConfig": {}}, "top_p": 1}, config(topP=1, thinkingConfig={})),
        (GOOGLE, {"safetySettings": []}, {"safetySettings": []}),
        (GOOGLE, {"tools": [TOOL]}, {"tools": [{"functionDeclarations": [{"name": "f", "description": "d", "parametersJsonSchema": {"type": "object"}}]}]}),
        (BEDROCK, {"max_tokens": 5, "temperature": 1, "top_p": 0.5}, inference(maxTokens=5, temperature=1, topP=0.5)),
        (BEDROCK, {"stop": "a"}, inference(stopSequences=["a"])),
        (BEDROCK, {"user": "u"}, {"requestMetadata": {"user": "u"}}),
        (BEDROCK, {"top_k": 5, "additionalModelRequestFields": {"x": 1}}, {"additionalModelRequestFields": {"x": 1, "top_k": 5}}),
        (BEDROCK, {"guardrailConfig": {"guardrailIdentifier": "g", "guardrailVersion": "1"}}, {"guardrailConfig": {"guardrailIdentifier": "g", "guardrailVersion": "1"}}),
        (BEDROCK, {"response_format": SCHEMA}, {"outputConfig": {"textFormat": {"type": "json_schema", "structure": {"jsonSchema": {"schema": '{"type":"object"}', "name": "s"}}}}}),
        (BEDROCK, {"tools": [TOOL]}, {"toolConfig": {"tools": [{"toolSpec": {"name": "f", "description": "d", "inputSchema": {"json": {"type": "object"}}}}]}}),
        (BEDROCK, {"tools": [TOOL], "tool_choice": "none"}, {}),
        *((t, {"n": 1, "seed": None, "logprobs": False, "frequency_penalty": 0, "response_format": {"type": "text"}}, {}) for t in (ANTHROPIC, BEDROCK)),
    ],
)  # fmt: skip
def test_a_parameter_goes_where_the_provider_has_it(translator: Translator, body: Json, wanted: Json) -> None:
    told = sent(translator, **body)
    assert told == BASE[translator] | wanted
    if translator is BEDROCK:
        aws.validate("Converse", told | {"modelId": "m"})


@pytest.mark.parametrize(
    ("translator", "choice", "wanted"),
    [
        (ANTHROPIC, "auto", None),
        (ANTHROPIC, "none", {"type": "none"}),
        (ANTHROPIC, "required", {"type": "any"}),
        (ANTHROPIC, {"type": "function", "function": {"name": "f"}}, {"type": "tool", "name": "f"}),
        (GOOGLE, "auto", {"functionCallingConfig": {"mode": "AUTO"}}),
        (GOOGLE, "none", {"functionCallingConfig": {"mode": "NONE"}}),
        (GOOGLE, "required", {"functionCallingConfig": {"mode": "ANY"}}),
        (GOOGLE, {"type": "function", "function": {"name": "f"}}, {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["f"]}}),
        (BEDROCK, "auto", None),
        (BEDROCK, "required", {"any": {}}),
        (BEDROCK, {"type": "function", "function": {"name": "f"}}, {"tool": {"name": "f"}}),
    ],
)  # fmt: skip
def test_the_choice_of_a_tool_is_said_in_the_providers_words(translator: Translator, choice: Any, wanted: Any) -> None:
    told = sent(translator, tools=[TOOL], tool_choice=choice)
    found = (
        told["toolConfig"].get("toolChoice")
        if translator is BEDROCK
        else told.get("tool_choice") or told.get("toolConfig")
    )
    assert found == wanted


def test_one_tool_at_a_time_is_said_to_anthropic() -> None:
    told = sent(ANTHROPIC, tools=[TOOL], parallel_tool_calls=False)
    assert told["tool_choice"] == {"type": "auto", "disable_parallel_tool_use": True}


CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": ""}}
TALK: list[Json] = [
    {"role": "system", "content": "a"},
    {"role": "developer", "content": [{"type": "text", "text": "b"}]},
    {"role": "user", "content": [{"type": "text", "text": "see"}, {"type": "image_url", "image_url": {"url": PNG}}]},
    {"role": "user", "content": [{"type": "file", "file": {"filename": "my file.pdf", "file_data": PDF}}]},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c", "name": "f", "content": [{"type": "text", "text": '{"x":1}'}]},
    {"role": "user", "content": "go on"},
]


@pytest.mark.parametrize(
    ("translator", "system", "turns"),
    [
        (
            ANTHROPIC,
            [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
            [
                {"role": "user", "content": [
                    {"type": "text", "text": "see"},
                    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}},
                    {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="}, "title": "my file.pdf"},
                ]},
                {"role": "assistant", "content": [{"type": "tool_use", "id": "c", "name": "f", "input": {}}]},
                {"role": "user", "content": [
                    {"type": "tool_result", "tool_use_id": "c", "content": [{"type": "text", "text": '{"x":1}'}]},
                    {"type": "text", "text": "go on"},
                ]},
            ],
        ),
        (
            GOOGLE,
            {"parts": [{"text": "a"}, {"text": "b"}]},
            [
                {"role": "user", "parts": [
                    {"text": "see"},
                    {"inlineData": {"mimeType": "image/png", "data": "iVBORw0KGgo="}},
                    {"inlineData": {"mimeType": "application/pdf", "data": "JVBERi0="}},
                ]},
                {"role": "model", "parts": [{"functionCall": {"name": "f", "args": {}}}]},
                {"role": "user", "parts": [{"functionResponse": {"name": "f", "response": {"x": 1}}}, {"text": "go on"}]},
            ],
        ),
        (
            BEDROCK,
            [{"text": "a"}, {"text": "b"}],
            [
                {"role": "user", "content": [
                    {"text": "see"},
                    {"image": {"format": "png", "source": {"bytes": "iVBORw0KGgo="}}},
                    {"document": {"format": "pdf", "name": "my-file", "source": {"bytes": "JVBERi0="}}},
                ]},
                {"role": "assistant", "content": [{"toolUse": {"toolUseId": "c", "name": "f", "input": {}}}]},
                {"role": "user", "content": [{"toolResult": {"toolUseId": "c", "content": [{"text": '{"x":1}'}]}}, {"text": "go on"}]},
            ],
        ),
    ],
    ids=["Anthropic", "Google", "Bedrock"],
)  # fmt: skip
def test_a_conversation_is_told_in_turns(translator: Translator, system: Any, turns: Any) -> None:
    told = sent(translator, messages=TALK, tools=[TOOL])
    assert (told.get("system") or told.get("systemInstruction")) == system
    assert (told.get("messages") or told.get("contents")) == turns


def said(*blocks: Json, **more: Any) -> Json:
    return {"messages": [{"role": "user", "content": list(blocks), **more}]}


@pytest.mark.parametrize(
    ("translator", "body", "param"),
    [
        *((t, {name: value}, name) for t in (ANTHROPIC, GOOGLE, BEDROCK) for name, value in {
            "repetition_penalty": 1.1, "logprobs": True, "top_logprobs": 2, "logit_bias": {"1": 1}, "reasoning_effort": "low",
            "store": True, "modalities": ["audio"], "tool_choice": {"type": "custom"},
            "response_format": {"type": "grammar"}, "stop_sequences": 1,
        }.items() if name != "tool_choice"),
        *((t, {"tools": [TOOL], "tool_choice": {"type": "custom"}}, "tool_choice") for t in (ANTHROPIC, GOOGLE, BEDROCK)),
        *((t, {name: value}, name) for t in (ANTHROPIC, BEDROCK) for name, value in {
            "n": 2, "seed": 1, "frequency_penalty": 1, "presence_penalty": 1, "temperature": 1.5, "response_format": {"type": "json_object"},
        }.items()),
        *((t, {"parallel_tool_calls": False}, "parallel_tool_calls") for t in (GOOGLE, BEDROCK)),
        (GOOGLE, {"user": "u"}, "user"),
        (GOOGLE, {"generationConfig": 1}, "generationConfig"),
        (BEDROCK, {"additionalModelRequestFields": 1}, "additionalModelRequestFields"),
        (ANTHROPIC, {"anthropic_version": "a\r\nb"}, "anthropic_version"),
        *((ANTHROPIC, {"anthropic_version": "2026-10-21", name: 1}, name) for name in ("temperature", "top_p", "top_k")),
        (Anthropic("2026-10-21"), {"temperature": 1}, "temperature"),
        (ANTHROPIC, {"tools": [{"type": "custom", "custom": {}}]}, "tools"),
        (ANTHROPIC, said({"type": "input_audio", "input_audio": {}}), "messages"),
        (ANTHROPIC, said({"type": "image_url"}), "messages"),
        (ANTHROPIC, said({"type": "image_url", "image_url": {"url": "data:image/png,raw"}}), "messages"),
        (ANTHROPIC, said({"type": "image_url", "image_url": {"url": PNG, "detail": "low"}}), "messages"),
        (ANTHROPIC, said({"type": "text", "text": "a"}, name="bob"), "messages"),
        (ANTHROPIC, {"messages": [*HI, {"role": "tool", "tool_call_id": "x", "content": "y"}]}, "messages"),
        (ANTHROPIC, {"messages": [*HI, {"role": "assistant", "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": "{"}}]}]}, "messages"),
        (BEDROCK, said({"type": "image_url", "image_url": {"url": "https://a/b.png"}}), "messages"),
        (BEDROCK, {"messages": TALK, "tools": [TOOL], "tool_choice": "none"}, "tool_choice"),
    ],
)  # fmt: skip
def test_what_a_provider_cannot_be_told_is_refused_by_name(translator: Translator, body: Json, param: str) -> None:
    with pytest.raises(Invalid) as refused:
        sent(translator, **body)
    assert (refused.value.status, refused.value.param) == (400, param)


def test_what_a_model_thought_comes_out_and_goes_back_with_its_signature() -> None:
    thought = {"type": "thinking", "thinking": "hm", "signature": "sig"}
    blocks = [thought, {"type": "text", "text": "ok"}]
    reader = ANTHROPIC.send({"model": "m", "messages": HI}, TOLD, most=None).reader
    assert reader is not None
    told = reader.whole({"content": blocks, "stop_reason": "end_turn", "usage": {}})
    message = told["choices"][0]["message"]
    assert (message["reasoning_content"], message["content"]) == ("hm", "ok")
    assert sent(ANTHROPIC, messages=[*HI, message])["messages"][1]["content"] == blocks


def test_the_signature_of_googles_calls_goes_back() -> None:
    part = {"functionCall": {"name": "f", "args": {"a": 1}}, "thoughtSignature": "sig"}
    reader = GOOGLE.send({"model": "m", "messages": HI}, TOLD, most=None).reader
    assert reader is not None
    told = reader.whole({"candidates": [{"content": {"parts": [part]}, "finishReason": "STOP"}]})
    message = told["choices"][0]["message"]
    assert told["choices"][0]["finish_reason"] == "tool_calls"
    assert sent(GOOGLE, messages=[*HI, message])["contents"][1]["parts"] == [part]


@pytest.mark.parametrize(
    ("translator", "answer", "finish"),
    [
        *((ANTHROPIC, {"content": [], "usage": {}, "stop_reason": why}, finish) for why, finish in {
            "end_turn": "stop", "stop_sequence": "stop", "max_tokens": "length", "refusal": "content_filter",
        }.items()),
        *((GOOGLE, {"candidates": [{"finishReason": why}]}, finish) for why, finish in {
            "STOP": "stop", "MAX_TOKENS": "length", "SAFETY": "content_filter", "RECITATION": "content_filter",
        }.items()),
        (GOOGLE, {"promptFeedback": {"blockReason": "SAFETY"}}, "content_filter"),
        *((BEDROCK, {"output": {"message": {"content": []}}, "usage": {"inputTokens": 1, "outputTokens": 1}, "stopReason": why}, finish) for why, finish in {
            "end_turn": "stop", "max_tokens": "length", "guardrail_intervened": "content_filter", "content_filtered": "content_filter",
        }.items()),
    ],
)  # fmt: skip
def test_an_end_has_openais_name(translator: Translator, answer: Json, finish: str) -> None:
    reader = translator.send({"model": "m", "messages": HI}, TOLD, most=None).reader
    assert reader is not None
    assert reader.whole(answer)["choices"][0]["finish_reason"] == finish


@pytest.mark.parametrize(
    ("translator", "member", "event"),
    [
        (ANTHROPIC, "model", {"type": "message_start", "message": {"model": "up-0125"}}),
        (GOOGLE, "modelVersion", {"candidates": [{"index": 0}], "modelVersion": "up-0125"}),
    ],
)
def test_an_answer_tells_the_providers_own_name_for_the_model(translator: Translator, member: str, event: Json) -> None:
    reader = translator.send({"model": "m", "messages": HI}, TOLD, most=None).reader
    assert reader is not None
    whole = {"content": [], "stop_reason": "end_turn", "usage": {}}
    named = {"up-0125": "up-0125", "": TOLD.model, 7: TOLD.model, None: TOLD.model}
    assert [reader.whole(whole | {member: name})["model"] for name in named] == list(named.values())
    assert [one["model"] for one in reader.feed(b"data: " + orjson.dumps(event) + b"\n\n")] == ["up-0125"]


@pytest.mark.parametrize("translator", [ANTHROPIC, GOOGLE, BEDROCK])
def test_an_event_that_is_too_long_breaks_the_stream(translator: Translator) -> None:
    reader = translator.send({"model": "m", "messages": HI, "stream": True}, TOLD, most=None).reader
    assert reader is not None
    much: Json = {"type": "ping", "x": "x" * 2 * 1024 * 1024}
    is_packed = translator is BEDROCK
    text = aws.event("metadata", much) if is_packed else b"data: " + orjson.dumps(much) + b"\n\n"
    with pytest.raises(Unavailable) as refused:
        list(reader.feed(text))
    assert refused.value.code == "stream_broken"


def test_a_stream_is_read_whatever_its_pieces_and_a_damaged_one_is_broken() -> None:
    events = (
        aws.event("messageStart", {"role": "assistant"}),
        aws.event("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": "hi"}}),
        aws.event("messageStop", {"stopReason": "end_turn"}),
    )
    text = b"".join(events)
    reader = BEDROCK.send({"model": "m", "messages": HI}, TOLD, most=None).reader
    assert reader is not None
    told = [one for at in range(len(text)) for one in reader.feed(text[at : at + 1])]
    assert [one["choices"][0]["delta"].get("content") for one in told] == ["", "hi", None]
    assert list(reader.end()) == []
    damaged = BEDROCK.send({"model": "m", "messages": HI}, TOLD, most=None).reader
    assert damaged is not None
    with pytest.raises(Refusal):
        list(damaged.feed(text.replace(b"hi", b"ho")))


@pytest.mark.parametrize(
    ("translator", "status", "told", "kind", "wanted"),
    [
        (ANTHROPIC, 529, {}, "", 503),
        (ANTHROPIC, 402, {}, "", 401),
        (GOOGLE, 400, {"details": [{"reason": "API_KEY_INVALID"}]}, "", 401),
        (GOOGLE, 400, {"details": "no list"}, "", 400),
        (BEDROCK, 400, {}, "ExpiredTokenException:http://x", 401),
        (BEDROCK, 424, {}, "ModelErrorException", 502),
        (BEDROCK, 408, {}, "ModelTimeoutException", 504),
    ],
)
def test_an_error_has_the_status_that_openai_would_give(
    translator: Translator, status: int, told: Json, kind: str, wanted: int
) -> None:
    assert translator.status(status, told, kind) == wanted


WORDS = st.sampled_from(["text", "image_url", "file", "function", "json_schema", "refusal", "f", PNG, "{", ""])
NAMES = (
    "type",
    "text",
    "image_url",
    "url",
    "file",
    "file_data",
    "id",
    "function",
    "name",
    "arguments",
    "json_schema",
    "schema",
    "google",
)
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
    max_leaves=8,
)
BLOCKS = st.lists(st.dictionaries(st.sampled_from(NAMES), JUNK, max_size=4), max_size=3)
MESSAGE = st.fixed_dictionaries(
    {
        "role": st.sampled_from(["system", "user", "assistant", "tool", "function"]),
        "content": BLOCKS | st.text(max_size=3),
    },
    optional={
        "tool_calls": BLOCKS,
        "tool_call_id": st.sampled_from(["f", ""]),
        "name": WORDS,
        "function_call": JUNK,
        "thinking_blocks": JUNK,
    },
)
OBJECT = st.dictionaries(st.sampled_from(NAMES), JUNK, max_size=4)
ASKED = st.fixed_dictionaries(
    {"model": st.just("m"), "messages": st.lists(MESSAGE, min_size=1, max_size=3)},
    optional={
        "tools": BLOCKS,
        "tool_choice": OBJECT,
        "functions": BLOCKS,
        "function_call": OBJECT,
        "response_format": OBJECT,
        "generationConfig": JUNK,
        "additionalModelRequestFields": JUNK,
        "anthropic_version": JUNK,
        "stop_sequences": JUNK,
    },
)


@settings(max_examples=100, deadline=None)
@given(body=ASKED, translator=st.sampled_from([ANTHROPIC, GOOGLE, BEDROCK]))
def test_whatever_is_asked_is_sent_or_refused(body: Json, translator: Translator) -> None:
    refused = None
    try:
        check("chat/completions", body)
        translator.send(functions.as_tools(body) if functions.are_used(body) else body, TOLD, most=None)
    except Refusal as refusal:
        refused = refusal
    assert refused is None or (refused.status == 400 and refused.param)
