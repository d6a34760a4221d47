"""Anthropic's Messages API. Pure.

Format: https://platform.claude.com/docs/en/api/messages, .../build-with-claude/streaming, .../api/errors and
.../api/versioning.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from bud.gateway.refusal import Invalid, Refusal, of_status
from bud.gateway.sse import Splitter
from bud.gateway.translate import talk, wire
from bud.gateway.translate.wire import Json, Sent, Told

WHOSE = "Anthropic"
VERSION = "2023-06-01"
"""The newest version of the API that takes every parameter of a chat."""
_UNSAMPLED = "2026-10-21"
"""The first version that refuses `temperature`, `top_p` and `top_k`, whatever their values."""
_MOST = 4096
"""Tokens of an answer where nobody says: the API wants a number, and every one of its models writes so many."""
_HONOURED = frozenset({"user", "response_format", "parallel_tool_calls", "stop_sequences", "anthropic_version"})
_FINISH = {
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
_STATUS = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 401,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "timeout_error": 504,
    "overloaded_error": 503,
}


class Anthropic(wire.Translator):
    label = WHOSE

    def __init__(self, version: str = VERSION) -> None:
        """`version` is that of the API, for callers who name none."""
        self._version = version

    def send(self, body: Json, told: Told, *, most: int | None) -> Sent:
        own = talk.check(body, _HONOURED, WHOSE)
        system, turns = talk.conversation(body, WHOSE)
        sent: Json = {
            "model": told.model,
            "max_tokens": talk.max_tokens(body) or most or _MOST,
            "messages": [{"role": turn.role, "content": [_block(part) for part in turn.parts]} for turn in turns],
        }
        if system:
            sent["system"] = [text.raw for text in system]
        version = _version(body) or self._version
        sent |= _sampling(body, version) | _tools(body)
        if schema := talk.wanted_schema(body, WHOSE):
            sent["output_config"] = {"format": {"type": "json_schema", "schema": schema["schema"]}}
        elif schema is not None:
            raise talk.cannot("response_format", f"{WHOSE} answers in JSON only by a json_schema")
        if (user := body.get("user")) is not None:
            sent["metadata"] = {"user_id": user}
        headers = {"anthropic-version": version}
        return Sent("messages", orjson.dumps(sent | own), headers, AnthropicReader(told), body.get("stream") is True)

    def status(self, status: int, told: Mapping[str, Any], kind: str) -> int:
        return {529: 503, 402: 401}.get(status, status)  # overloaded; the gateway's account, not the caller's


def _version(body: Json) -> str | None:
    version = body.get("anthropic_version")
    if version is not None and not (isinstance(version, str) and re.fullmatch(r"\d{4}-\d\d-\d\d", version, re.ASCII)):
        raise Invalid("anthropic_version: a version such as 2023-06-01", param="anthropic_version")
    return version


def _sampling(body: Json, version: str) -> Json:
    sent: Json = {}
    for name in ("temperature", "top_p", "top_k"):
        if body.get(name) is not None and version >= _UNSAMPLED:
            raise talk.cannot(name, f"{WHOSE} takes it up to version {VERSION} of its API only; leave it out")
    if (temperature := talk.bounded(body, "temperature", 1, WHOSE)) is not None:
        sent["temperature"] = temperature
    if body.get("top_p") is not None:
        sent["top_p"] = body["top_p"]
    if stops := talk.stops(body):
        sent["stop_sequences"] = stops
    if body.get("stream"):
        sent["stream"] = True
    return sent


def _tools(body: Json) -> Json:
    tools = talk.tools(body, WHOSE)
    if not tools:
        return {}
    told = []
    for tool in tools:
        one: Json = {"name": tool.name, "input_schema": tool.schema}
        told.append(one | ({"description": tool.description} if tool.description else {}))
        if tool.strict:
            told[-1]["strict"] = True
    kind, name = talk.choice(body)
    named = {None: "auto", "required": "any"}.get(kind, kind)
    choice: Json = {"type": named} | ({"name": name} if name else {})
    if body.get("parallel_tool_calls") is False and named != "none":
        choice["disable_parallel_tool_use"] = True
    return {"tools": told} | ({"tool_choice": choice} if choice != {"type": "auto"} else {})


def _block(part: talk.Part) -> Json:
    match part:
        case talk.Text(raw=raw) | talk.Own(raw=raw):
            return raw
        case talk.Media():
            source = {"type": "base64", "media_type": part.media, "data": part.data}
            if part.url:
                source = {"type": "url", "url": part.url}
            block: Json = {"type": "image" if part.kind == "image" else "document", "source": source}
            return block | ({"title": part.name} if part.name else {})
        case talk.Call():
            return {"type": "tool_use", "id": part.id, "name": part.name, "input": part.arguments}
        case talk.Result():
            return {"type": "tool_result", "tool_use_id": part.id, "content": [_block(one) for one in part.parts]}


@dataclass(slots=True)
class AnthropicReader:
    """One answer. `_calls` are the numbers of tool calls by the numbers of their blocks."""

    told: Told
    _splitter: Splitter = field(default_factory=Splitter)
    _calls: dict[int, int] = field(default_factory=dict)
    _thoughts: dict[int, Json] = field(default_factory=dict)
    _used: Json = field(default_factory=dict)
    _ended: bool = False

    @property
    def is_over(self) -> bool:
        return self._ended

    def whole(self, told: Json) -> Json:
        blocks = told["content"]
        calls = [wire.call(one["id"], one["name"], one["input"]) for one in blocks if one["type"] == "tool_use"]
        thoughts = [one for one in blocks if one["type"] in ("thinking", "redacted_thinking")]
        message = wire.message(
            (one["text"] for one in blocks if one["type"] == "text"),
            calls,
            (one.get("thinking", "") for one in thoughts),
        )
        if thoughts:
            message["thinking_blocks"] = thoughts
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _finish(told["stop_reason"])}
        return self.told.by(told.get("model")).whole([choice], _usage(told["usage"]))

    def feed(self, chunk: bytes) -> Iterator[Json]:
        for data in wire.data(self._splitter, chunk):
            yield from self._event(orjson.loads(data))
            if self._ended:
                return

    def end(self) -> Iterator[Json]:
        if not self._ended:
            raise wire.broken()
        yield self.told.used(_usage(self._used))

    def _event(self, event: Json) -> Iterator[Json]:
        match event["type"]:
            case "message_start":
                self._used |= event["message"].get("usage") or {}
                self.told = self.told.by(event["message"].get("model"))
                yield self.told.chunk({"role": "assistant", "content": ""})
            case "content_block_start":
                yield from self._begun(event["index"], event["content_block"])
            case "content_block_delta":
                yield from self._more(event["index"], event["delta"])
            case "content_block_stop" if event["index"] in self._thoughts:
                yield self.told.chunk({"thinking_blocks": [self._thoughts.pop(event["index"])]})
            case "message_delta":
                self._used |= {name: count for name, count in (event.get("usage") or {}).items() if count is not None}
                if (why := event["delta"].get("stop_reason")) is not None:
                    yield self.told.chunk({}, finish=_finish(why))
            case "message_stop":
                self._ended = True
            case "error":
                raise _fault(event["error"])

    def _begun(self, at: int, block: Json) -> Iterator[Json]:
        if block["type"] == "tool_use":
            number = self._calls[at] = len(self._calls)
            yield self.told.chunk({"tool_calls": [wire.call(block["id"], block["name"], "", index=number)]})
        elif block["type"] in ("thinking", "redacted_thinking"):
            self._thoughts[at] = dict(block)
        elif block.get("text"):
            yield self.told.chunk({"content": block["text"]})

    def _more(self, at: int, delta: Json) -> Iterator[Json]:
        match delta["type"]:
            case "text_delta":
                yield self.told.chunk({"content": delta["text"]})
            case "input_json_delta" if at in self._calls:
                yield self.told.chunk(wire.more_arguments(self._calls[at], delta["partial_json"]))
            case "thinking_delta":
                self._thoughts[at]["thinking"] += delta["thinking"]
                yield self.told.chunk({"reasoning_content": delta["thinking"]})
            case "signature_delta":
                self._thoughts[at]["signature"] = delta["signature"]


def _finish(reason: str | None) -> str:
    return _FINISH.get(reason or "", "stop")


def _usage(told: Json) -> Json:
    """Anthropic counts what it read from and wrote to its cache beside the rest of the input."""
    cached = told.get("cache_read_input_tokens") or 0
    read = (told.get("input_tokens") or 0) + (told.get("cache_creation_input_tokens") or 0) + cached
    return wire.usage(read=read, written=told.get("output_tokens") or 0, cached=cached)


def _fault(error: Json) -> Refusal:
    return of_status(_STATUS.get(error.get("type", ""), 500), str(error.get("message") or "the model failed")[:2000])
