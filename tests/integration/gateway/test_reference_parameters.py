"""Every parameter that the reference names, by its line: in range it reaches the upstream, out of range it is 400."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.integration.gateway.reference import HI, Json, Reference

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
FUNCTION = {"name": "f", "parameters": {"type": "object", "properties": {}}}
TEXT: Json = {"type": "text", "text": "What is in this image?"}
IMAGE: Json = {"type": "image_url", "image_url": {"url": "https://example.com/image.jpg"}}
CALL: Json = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
ADDRESS: Json = {"type": "document_url", "document_url": "https://example.com/a.pdf"}


@dataclass(frozen=True)
class Row:
    """`name` on line `line` of `document`: `good` values pass, each of `bad` is refused."""

    document: str
    line: int
    name: str
    good: tuple[Any, ...]
    bad: tuple[Any, ...]
    beside: Json = field(default_factory=dict)
    """Other parameters, without which this one means nothing."""

    def __str__(self) -> str:
        return f"{self.document}:{self.line} {self.name}"


def said(**message: Any) -> list[Json]:
    """A conversation that ends with a message."""
    return [*HI, {"role": "user", "content": "Hello", **message}]


CHAT = [
    Row("chat", 62, "model", ("gpt-4",), (None, "", 5, ["gpt-4"])),
    Row("chat", 63, "messages", (HI, HI * 3), (None, [], "Hello", {}, [{"content": "Hello"}], [5])),
    Row("chat", 64, "temperature", (0, 0.7, 2.0), (-0.1, 2.1, "1", True)),
    Row("chat", 65, "max_tokens", (1, 4096), (0, -1, 1.5, "5", 4097)),
    Row("chat", 66, "max_completion_tokens", (1, 4096), (0, -1, 1.5, "5", 4097)),
    Row("chat", 67, "top_p", (0, 0.5, 1.0), (-0.1, 1.1, "1")),
    Row("chat", 68, "frequency_penalty", (-2.0, 0, 2), (-2.1, 2.1, "1")),
    Row("chat", 69, "presence_penalty", (-2.0, 0, 2), (-2.1, 2.1, "1")),
    Row("chat", 70, "repetition_penalty", (0.01, 1.0, 3), (0, -1, "1")),
    Row("chat", 71, "stream", (True, False), ("true", 1)),
    Row("chat", 72, "stream_options", ({"include_usage": True},), ("x", {"include_usage": "x"}), {"stream": True}),
    Row("chat", 73, "n", (1, 3), (0, -1, 1.5, "1")),
    Row("chat", 74, "stop", ("a", ["a"], ["a", "b", "c", "d"]), (["a", "b", "c", "d", "e"], 5, [5])),
    Row("chat", 75, "response_format", ({"type": "json_object"},), ("json_object", [])),
    Row("chat", 76, "seed", (0, -1, 2**40), (1.5, "1")),
    Row("chat", 77, "logprobs", (True, False), ("true", 1)),
    Row("chat", 78, "top_logprobs", (0, 20), (-1, 21, 1.5), {"logprobs": True}),
    Row("chat", 79, "logit_bias", ({"50256": -100}, {"1": 0.5}, {}), ({"1": 101}, [], {"1": "a"})),
    Row("chat", 80, "tools", ([TOOL], [TOOL, TOOL]), (TOOL, "f", [5])),
    Row("chat", 81, "tool_choice", ("auto", "none", "required", {"type": "function"}), ("f", 5), {"tools": [TOOL]}),
    Row("chat", 82, "parallel_tool_calls", (True, False), ("true", 1), {"tools": [TOOL]}),
    Row("chat", 83, "user", ("user-1",), (5, {})),
]
MESSAGES = [
    Row("chat", 89, "messages", tuple(said(role=role) for role in ("system", "user", "assistant")), (said(role="x"),)),
    Row("chat", 90, "messages", (said(content=[TEXT, IMAGE]), said(content="x")), (said(content=5), said(content=[5]))),
    Row("chat", 91, "messages", (said(name="Anna"),), (said(name=5),)),
    Row("chat", 92, "messages", (said(role="assistant", content=None, tool_calls=[CALL]),), (said(tool_calls="f"),)),
    Row("chat", 93, "messages", (said(role="tool", tool_call_id="call_1"),), (said(tool_call_id=5),)),
]
CORE = [
    Row("core", 112, "model", ("gpt-4",), (None, "")),
    Row("core", 113, "messages", (HI,), (None, [])),
    Row("core", 114, "max_tokens", (1000,), (0,)),
    Row("core", 115, "temperature", (0, 2.0), (-0.1, 2.1)),
    Row("core", 116, "top_p", (0.9,), (2,)),
    Row("core", 117, "frequency_penalty", (0.5,), ("much",)),
    Row("core", 118, "presence_penalty", (0.5,), ("much",)),
    Row("core", 119, "stream", (True,), ("yes",)),
    Row("core", 120, "functions", ([FUNCTION],), (FUNCTION, "f")),
    Row("core", 121, "function_call", ("auto", "none", {"name": "f"}), ("f", 5), {"functions": [FUNCTION]}),
    Row("core", 122, "tools", ([TOOL],), ("f",)),
    Row("core", 123, "tool_choice", ("auto",), ("f",), {"tools": [TOOL]}),
    Row("core", 250, "messages", (said(content=[TEXT, IMAGE]),), ()),
    Row("core", 618, "max_tokens", (4096,), (4097,)),
    Row("core", 690, "anthropic_version", ("2023-06-01",), ()),
    Row("core", 691, "stop_sequences", (["\n\nHuman:"],), ()),
]
EMBEDDINGS = [
    Row("core", 145, "model", ("gpt-4",), (None, "")),
    Row("core", 146, "input", ("a text", ["a", "b"]), (None, [], 5, {})),
    Row("core", 147, "encoding_format", ("float", "base64"), ("int8", 5)),
    Row("core", 148, "dimensions", (1, 1536), (0, -1, 1.5, "1")),
    Row("core", 149, "user", ("user-1",), (5,)),
]
CLASSIFY = [
    Row("facts", 8, "model", ("gpt-4",), (None, "")),
    Row("facts", 8, "input", (["a"], ["a", "b"]), (None, [], "a", [5])),
    Row("facts", 8, "raw_scores", (True, False), ("yes", 1)),
    Row("facts", 9, "priority", ("high", "normal", "low"), ("urgent", 1)),
]
DOCUMENTS = [
    Row("facts", 13, "model", ("gpt-4",), (None, "")),
    Row("facts", 13, "document", (ADDRESS,), (None, "x", {"type": "document_url"}, {"type": "text", "text": "x"})),
    Row("facts", 13, "document", ({"type": "image_url", "image_url": "data:image/png;base64,QQ=="},), ()),
    Row("facts", 14, "task", ("extract",), ("sing", 5)),
    Row("facts", 14, "prompt", ("the tables",), (5,)),
    Row("facts", 14, "options", ({"to_formats": ["md", "json", "html", "text", "doctags", "csv"]},), ({"to_formats": ["odt"]}, "md")),
]  # fmt: skip
BASES: dict[str, Json] = {
    "chat/completions": {"model": "gpt-4", "messages": HI},
    "embeddings": {"model": "gpt-4", "input": "a"},
    "classify": {"model": "gpt-4", "input": ["a"]},
    "documents": {"model": "gpt-4", "document": ADDRESS},
}
TABLE = [
    *((row, "chat/completions") for row in (*CHAT, *MESSAGES, *CORE)),
    *((row, "embeddings") for row in EMBEDDINGS),
    *((row, "classify") for row in CLASSIFY),
    *((row, "documents") for row in DOCUMENTS),
]
RENAMED = {"max_tokens": "max_completion_tokens"}
"""By what OpenAI's kind wants."""
EVERY = pytest.mark.parametrize(("row", "endpoint"), TABLE, ids=[f"{row} of {at}" for row, at in TABLE])


@EVERY
def test_in_range_it_reaches_the_upstream(reference: Reference, row: Row, endpoint: str) -> None:
    for value in row.good:
        found = reference.ask(f"/v1/{endpoint}", {**BASES[endpoint], **row.beside, row.name: value})
        assert found.status_code == 200, found.text
        assert reference.last[RENAMED.get(row.name, row.name)] == value


@EVERY
def test_out_of_range_it_is_refused_with_its_name(reference: Reference, row: Row, endpoint: str) -> None:
    before = len(reference.upstream.asked)
    for value in row.bad:
        found = reference.ask(f"/v1/{endpoint}", {**BASES[endpoint], **row.beside, row.name: value})
        error = found.json()["error"]
        assert (found.status_code, error["type"], error["param"]) == (400, "invalid_request_error", row.name), value
    assert len(reference.upstream.asked) == before


@pytest.mark.parametrize(("endpoint", "name"), [(endpoint, name) for endpoint, base in BASES.items() for name in base])
def test_what_is_required_must_be_there(reference: Reference, endpoint: str, name: str) -> None:
    """Chat, lines 62 and 63; core, lines 112, 113, 145 and 146; facts, lines 8 and 13."""
    rest = {other: value for other, value in BASES[endpoint].items() if other != name}
    found = reference.ask(f"/v1/{endpoint}", rest)
    error = found.json()["error"]
    assert (found.status_code, error["param"], error["code"]) == (400, name, "missing_required_parameter")


def test_every_line_of_the_tables_has_a_row() -> None:
    assert [row.line for row in CHAT] == list(range(62, 84))
    assert [row.line for row in MESSAGES] == list(range(89, 94))
    assert [row.line for row in CORE][:12] == list(range(112, 124))
    assert [row.line for row in EMBEDDINGS] == list(range(145, 150))


def test_of_both_bounds_the_newer_wins(reference: Reference) -> None:
    """Chat, line 66: an alternative to max_tokens."""
    assert reference.chat(max_tokens=5, max_completion_tokens=7).status_code == 200
    assert {"max_tokens", "max_completion_tokens"} & set(reference.last) == {"max_completion_tokens"}
    assert reference.last["max_completion_tokens"] == 7
    assert reference.chat("llama-3.2-1b", max_completion_tokens=7).status_code == 200
    assert (reference.last["max_tokens"], "max_completion_tokens" in reference.last) == (7, False)


def test_the_older_functions_go_as_tools_to_what_lacks_them(reference: Reference) -> None:
    """Core, lines 120 and 121."""
    assert reference.chat("llama-3.2-1b", functions=[FUNCTION], function_call={"name": "f"}).status_code == 200
    assert reference.last["tools"] == [{"type": "function", "function": FUNCTION}]
    assert reference.last["tool_choice"] == {"type": "function", "function": {"name": "f"}}
