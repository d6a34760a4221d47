"""Anthropic's Messages API, strictly: https://platform.claude.com/docs/en/api/messages."""

from __future__ import annotations

from typing import Literal

import orjson
from aiohttp import web
from pydantic import Field, ValidationError

from tests.integration.gateway.foreign import CITIES, Json, Strict, Wrong, demand, events, matched, pieces, told_status


class AText(Strict):
    type: Literal["text"]
    text: str = Field(min_length=1)
    cache_control: Json | None = None


class ASource(Strict):
    type: Literal["base64", "url"]
    media_type: Literal["image/png", "image/jpeg", "application/pdf"] | None = None
    data: str | None = None
    url: str | None = None


class AImage(Strict):
    type: Literal["image", "document"]
    source: ASource
    title: str | None = None


class AUse(Strict):
    type: Literal["tool_use"]
    id: str = Field(pattern=r"^[a-zA-Z0-9_-]+$")
    name: str
    input: Json


class AResult(Strict):
    type: Literal["tool_result"]
    tool_use_id: str
    content: list[AText | AImage]


class AThinking(Strict):
    type: Literal["thinking"]
    thinking: str
    signature: str = Field(min_length=1)


class AMessage(Strict):
    role: Literal["user", "assistant"]
    content: list[AText | AImage | AUse | AResult | AThinking] = Field(min_length=1)


class ATool(Strict):
    name: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,128}$")
    description: str | None = None
    input_schema: Json
    strict: bool | None = None


class ARequest(Strict):
    model: str
    max_tokens: int = Field(ge=1)
    messages: list[AMessage] = Field(min_length=1)
    system: list[AText] | None = None
    temperature: float | None = Field(None, ge=0, le=1)
    top_p: float | None = None
    top_k: int | None = None
    stop_sequences: list[str] | None = None
    stream: bool | None = None
    tools: list[ATool] | None = None
    tool_choice: Json | None = None
    metadata: Json | None = None
    output_config: Json | None = None
    thinking: Json | None = None


async def anthropic(request: web.Request, body: Json) -> web.StreamResponse:
    try:
        demand(request.path == "/v1/messages", "no such path", 404)
        demand(request.headers.get("x-api-key") == "sk-ant", "invalid x-api-key", 401)
        demand("authorization" not in request.headers, "two kinds of credentials", 401)
        demand(
            request.headers.get("anthropic-version") in ("2023-06-01", "2026-10-21"),
            "anthropic-version: header is required",
        )
        asked = ARequest.model_validate(body)
        unsampled = request.headers["anthropic-version"] == "2026-10-21"
        demand(
            not (unsampled and {"temperature", "top_p", "top_k"} & set(body)), "sampling parameters are not supported"
        )
        matched(
            [
                [(type(part).__name__, getattr(part, "id", getattr(part, "tool_use_id", ""))) for part in said.content]
                for said in asked.messages
            ]
        )
        status = told_status(asked.model)
        demand(status is None, "because", status or 400)
    except (ValidationError, Wrong) as error:
        status = getattr(error, "status", 400)
        kind = {401: "authentication_error", 429: "rate_limit_error", 529: "overloaded_error", 500: "api_error"}.get(
            status, "invalid_request_error"
        )
        return web.json_response(
            {"type": "error", "error": {"type": kind, "message": str(error)}, "request_id": "r"}, status=status
        )
    blocks: list[Json] = _played(asked.messages, bool(asked.tools))
    stop = "tool_use" if blocks[-1]["type"] == "tool_use" else "end_turn"
    used = {"input_tokens": 7, "cache_creation_input_tokens": 2, "cache_read_input_tokens": 1, "output_tokens": 5}
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": asked.model, "stop_sequence": None}
    if not asked.stream:
        return web.json_response(message | {"content": blocks, "stop_reason": stop, "usage": used})
    told: list[Json] = [
        {
            "type": "message_start",
            "message": message | {"content": [], "stop_reason": None, "usage": used | {"output_tokens": 1}},
        },
        {"type": "ping"},
    ]
    for at, block in enumerate(blocks):
        if block["type"] == "text":
            begun, deltas = (
                block | {"text": ""},
                [{"type": "text_delta", "text": piece} for piece in pieces(block["text"])],
            )
        else:
            begun = block | {"input": {}}
            deltas = [
                {"type": "input_json_delta", "partial_json": piece}
                for piece in pieces(orjson.dumps(block["input"]).decode())
            ]
        told.append({"type": "content_block_start", "index": at, "content_block": begun})
        told += [{"type": "content_block_delta", "index": at, "delta": delta} for delta in deltas]
        told.append({"type": "content_block_stop", "index": at})
    if "fails" in asked.model:
        told.append({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}})
    elif not asked.model.endswith(("breaks", "ends", "endless")):
        told += [
            {
                "type": "message_delta",
                "delta": {"stop_reason": stop, "stop_sequence": None},
                "usage": {"output_tokens": 5},
            },
            {"type": "message_stop"},
        ]
    chunks = [b"event: %b\ndata: %b\n\n" % (one["type"].encode(), orjson.dumps(one)) for one in told]
    endless = chunks[1] if "endless" in asked.model else b""  # a ping
    return await events(
        request, chunks, "text/event-stream; charset=utf-8", whole="breaks" not in asked.model, endless=endless
    )


def _played(messages: list[AMessage], offered: bool) -> list[Json]:
    results = [part for part in messages[-1].content if isinstance(part, AResult)]
    if results:
        said = "; ".join(part.text for result in results for part in result.content if isinstance(part, AText))
        return [{"type": "text", "text": said}]
    if offered:
        calls = [
            {"type": "tool_use", "id": f"toolu_{city}", "name": "weather", "input": {"city": city}} for city in CITIES
        ]
        return [{"type": "text", "text": "let me see"}, *calls]
    return [{"type": "text", "text": "hi there"}]
