"""Google's Gemini API, strictly: https://ai.google.dev/api/generate-content."""

from __future__ import annotations

import re
from typing import Literal

import orjson
from aiohttp import web
from pydantic import ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from tests.integration.gateway.foreign import CITIES, Json, Strict, Wrong, demand, events, told_status


class Camel(Strict):
    model_config = ConfigDict(alias_generator=to_camel)


class GPart(Camel):
    text: str | None = None
    inline_data: Json | None = None
    file_data: Json | None = None
    function_call: Json | None = None
    function_response: Json | None = None
    thought_signature: str | None = None


class GContent(Camel):
    role: Literal["user", "model"] | None = None
    parts: list[GPart] = Field(min_length=1)


class GConfig(Camel):
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = None
    top_k: int | None = None
    candidate_count: int | None = None
    max_output_tokens: int | None = None
    stop_sequences: list[str] | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    response_mime_type: str | None = None
    response_json_schema: Json | None = None
    thinking_config: Json | None = None


class GRequest(Camel):
    contents: list[GContent] = Field(min_length=1)
    system_instruction: GContent | None = None
    generation_config: GConfig | None = None
    tools: list[Json] | None = None
    tool_config: Json | None = None
    safety_settings: list[Json] | None = None


async def google(request: web.Request, body: Json) -> web.StreamResponse:
    found = re.fullmatch(r"/v1beta/models/([^/:]+):(generateContent|streamGenerateContent)", request.path)
    model = found[1] if found else ""
    try:
        demand(found is not None, "no such path", 404)
        demand(request.headers.get("x-goog-api-key") == "goog", "API key not valid. Please pass a valid API key.")
        demand("authorization" not in request.headers, "two kinds of credentials", 401)
        asked = GRequest.model_validate(body)
        status = told_status(model)
        demand(status is None, "because", status or 400)
    except (ValidationError, Wrong) as error:
        status = getattr(error, "status", 400)
        fault: Json = {"code": status, "message": str(error), "status": "INVALID_ARGUMENT"}
        if "API key" in str(error):
            fault["details"] = [
                {
                    "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                    "reason": "API_KEY_INVALID",
                    "domain": "googleapis.com",
                }
            ]
        return web.json_response({"error": fault}, status=status)
    results = [part.function_response for part in asked.contents[-1].parts if part.function_response]
    said: list[Json] = [{"text": "hi "}, {"text": "there"}]
    if results:
        said = [{"text": "; ".join(str(result["response"]["result"]) for result in results)}]
    elif asked.tools:
        said = [
            {"text": "let me see"},
            *(
                {"functionCall": {"name": "weather", "args": {"city": city}}, "thoughtSignature": "c2ln"}
                for city in CITIES
            ),
        ]
    used = {
        "promptTokenCount": 10,
        "cachedContentTokenCount": 1,
        "candidatesTokenCount": 3,
        "thoughtsTokenCount": 2,
        "totalTokenCount": 15,
    }
    if found is not None and found[2] == "generateContent":
        candidate = {"content": {"role": "model", "parts": said}, "finishReason": "STOP", "index": 0}
        return web.json_response(
            {"candidates": [candidate], "usageMetadata": used, "modelVersion": model, "responseId": "r"}
        )
    demand(request.query.get("alt") == "sse", "a stream that is no stream of events")
    told: list[Json] = [{"candidates": [{"content": {"role": "model", "parts": [part]}, "index": 0}]} for part in said]
    if "fails" in model:
        told.append({"error": {"code": 503, "message": "The model is overloaded.", "status": "UNAVAILABLE"}})
    elif "breaks" not in model:
        told[-1]["candidates"][0]["finishReason"] = "STOP"
        told[-1]["usageMetadata"] = used
    chunks = [b"data: " + orjson.dumps(one) + b"\r\n\r\n" for one in told]
    return await events(request, chunks, "text/event-stream", whole=True)  # its end is the end of the bytes
