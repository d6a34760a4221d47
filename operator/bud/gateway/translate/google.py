"""Google's Gemini API. Pure.

Format: https://ai.google.dev/api/generate-content and https://ai.google.dev/api/caching#Content.
"""

from __future__ import annotations

import mimetypes
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import orjson

from bud.gateway.refusal import Refusal, of_status
from bud.gateway.sse import Splitter
from bud.gateway.translate import talk, wire
from bud.gateway.translate.wire import Json, Sent, Told

WHOSE = "Google"
_HONOURED = frozenset({"n", "seed", "frequency_penalty", "presence_penalty", "response_format", "stop_sequences"})
_NAMES = {
    "temperature": "temperature",
    "top_p": "topP",
    "top_k": "topK",
    "n": "candidateCount",
    "seed": "seed",
    "frequency_penalty": "frequencyPenalty",
    "presence_penalty": "presencePenalty",
}
_FILTERED = frozenset(
    {"SAFETY", "RECITATION", "LANGUAGE", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "MODEL_ARMOR"}
    | {"IMAGE_SAFETY", "IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION"}
)
_MODES = {"auto": "AUTO", "none": "NONE", "required": "ANY", "tool": "ANY"}


class Google(wire.Translator):
    label = WHOSE

    def send(self, body: Json, told: Told, *, most: int | None) -> Sent:
        own = talk.check(body, _HONOURED, WHOSE)
        system, turns = talk.conversation(body, WHOSE)
        roles = {"user": "user", "assistant": "model"}
        contents = [{"role": roles[turn.role], "parts": [_part(part) for part in turn.parts]} for turn in turns]
        config = _config(body) | talk.member(own, "generationConfig")
        own.pop("top_k", None)
        sent: Json = {"contents": contents, "generationConfig": config}
        if system:
            sent["systemInstruction"] = {"parts": [{"text": text.text} for text in system]}
        sent |= _tools(body) | own
        streams = body.get("stream") is True
        how = "streamGenerateContent?alt=sse" if streams else "generateContent"
        path = f"models/{quote(told.model.removeprefix('models/'), safe='')}:{how}"
        return Sent(path, orjson.dumps(sent), {}, GoogleReader(told), streams)

    def status(self, status: int, told: Mapping[str, Any], kind: str) -> int:
        details = told.get("details") if status == 400 else None
        for detail in details if isinstance(details, list) else ():
            if isinstance(detail, dict) and detail.get("reason") == "API_KEY_INVALID":
                return 401  # told as 400, though it is about the key
        return status


def _config(body: Json) -> Json:
    config: Json = {theirs: body[ours] for ours, theirs in _NAMES.items() if body.get(ours) is not None}
    if (most := talk.max_tokens(body)) is not None:
        config["maxOutputTokens"] = most
    if stops := talk.stops(body):
        config["stopSequences"] = stops
    schema = talk.wanted_schema(body, WHOSE)
    if schema is not None:
        config["responseMimeType"] = "application/json"
        if schema:
            config["responseJsonSchema"] = schema["schema"]
    return config


def _tools(body: Json) -> Json:
    tools = talk.tools(body, WHOSE)
    if not tools:
        return {}
    told = []
    for tool in tools:
        if tool.strict:
            raise talk.cannot("tools", f"{WHOSE} does not hold the model to a schema", where=f"{tool.name}.strict")
        told.append({"name": tool.name, "description": tool.description, "parametersJsonSchema": tool.schema})
    kind, name = talk.choice(body)
    config: Json = {"mode": _MODES[kind or "auto"]}
    if name:
        config["allowedFunctionNames"] = [name]
    sent: Json = {"tools": [{"functionDeclarations": told}]}
    return sent | ({"toolConfig": {"functionCallingConfig": config}} if kind else {})


def _part(part: talk.Part) -> Json:
    match part:
        case talk.Text():
            return {"text": part.text}
        case talk.Own():
            return part.raw
        case talk.Media() if part.url:
            media = mimetypes.guess_type(part.url.partition("?")[0])[0]
            return {"fileData": {"fileUri": part.url} | ({"mimeType": media} if media else {})}
        case talk.Media():
            return {"inlineData": {"mimeType": part.media, "data": part.data}}
        case talk.Call():
            made: Json = {"functionCall": {"name": part.name, "args": part.arguments}}
            return made | _signature(part.raw.get("extra_content"))
        case talk.Result():
            return {"functionResponse": {"name": part.name, "response": _response(part)}}


def _signature(extra: Any) -> Json:
    """What the model wants back with its call; it stands where Google's own OpenAI-compatible API puts it."""
    google = extra.get("google") if isinstance(extra, dict) else None
    signature = google.get("thought_signature") if isinstance(google, dict) else None
    return {"thoughtSignature": signature} if signature else {}


def _response(result: talk.Result) -> Json:
    """The API wants an object: the tool's own where it gave one."""
    for part in result.parts:
        if not isinstance(part, talk.Text):
            raise talk.cannot("messages", f"{WHOSE} takes text only from tools")
    text = "".join(part.text for part in result.parts if isinstance(part, talk.Text))
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        value = text
    return value if isinstance(value, dict) else {"result": value}


@dataclass(slots=True)
class GoogleReader:
    """One answer. `_calls` counts the tool calls of each candidate."""

    told: Told
    _splitter: Splitter = field(default_factory=Splitter)
    _calls: dict[int, int] = field(default_factory=dict)
    _used: Json = field(default_factory=dict)
    _begun: set[int] = field(default_factory=set)
    _ended: bool = False

    @property
    def is_over(self) -> bool:
        return False

    def whole(self, told: Json) -> Json:
        choices = []
        for candidate in told.get("candidates") or [_blocked(told)]:
            at = candidate.get("index") or 0
            parts = _parts(candidate)
            calls = [self._call(at, part) for part in parts if "functionCall" in part]
            message = wire.message(
                (part["text"] for part in parts if "text" in part and not part.get("thought")),
                calls,
                (part["text"] for part in parts if "text" in part and part.get("thought")),
            )
            finish = self._finish(at, candidate.get("finishReason") or "STOP")
            choices.append({"index": at, "message": message, "logprobs": None, "finish_reason": finish})
        return self.told.by(told.get("modelVersion")).whole(choices, _usage(told.get("usageMetadata") or {}))

    def feed(self, chunk: bytes) -> Iterator[Json]:
        for data in wire.data(self._splitter, chunk):
            event = orjson.loads(data)
            if "error" in event:
                raise _fault(event["error"])
            self._used |= event.get("usageMetadata") or {}
            self.told = self.told.by(event.get("modelVersion"))
            blocked = [_blocked(event)] if event.get("promptFeedback", {}).get("blockReason") else []
            for candidate in event.get("candidates") or blocked:
                yield from self._more(candidate)

    def end(self) -> Iterator[Json]:
        if not self._ended:
            raise wire.broken()
        yield self.told.used(_usage(self._used))

    def _more(self, candidate: Json) -> Iterator[Json]:
        at = candidate.get("index") or 0
        if at not in self._begun:
            self._begun.add(at)
            yield self.told.chunk({"role": "assistant", "content": ""}, index=at)
        for part in _parts(candidate):
            if "functionCall" in part:
                number = self._calls.get(at, 0)
                yield self.told.chunk({"tool_calls": [{"index": number} | self._call(at, part)]}, index=at)
            elif part.get("text"):
                kind = "reasoning_content" if part.get("thought") else "content"
                yield self.told.chunk({kind: part["text"]}, index=at)
        if why := candidate.get("finishReason"):
            self._ended = True
            yield self.told.chunk({}, index=at, finish=self._finish(at, why))

    def _call(self, at: int, part: Json) -> Json:
        number = self._calls[at] = self._calls.get(at, 0) + 1
        told = part["functionCall"]
        id = told.get("id") or f"call_{self.told.id.rpartition('-')[2]}_{at}_{number}"
        made = wire.call(id, told["name"], told.get("args") or {})
        if signature := part.get("thoughtSignature"):
            made["extra_content"] = {"google": {"thought_signature": signature}}
        return made

    def _finish(self, at: int, why: str) -> str:
        if why == "MAX_TOKENS":
            return "length"
        if why in _FILTERED:
            return "content_filter"
        return "tool_calls" if self._calls.get(at) else "stop"


def _parts(candidate: Json) -> list[Json]:
    return (candidate.get("content") or {}).get("parts") or []


def _blocked(told: Json) -> Json:
    """The candidate of a prompt that was refused, for which the API gives none."""
    return {"index": 0, "finishReason": "SAFETY" if (told.get("promptFeedback") or {}).get("blockReason") else "STOP"}


def _usage(told: Json) -> Json:
    written = (told.get("candidatesTokenCount") or 0) + (told.get("thoughtsTokenCount") or 0)
    read = (told.get("promptTokenCount") or 0) + (told.get("toolUsePromptTokenCount") or 0)
    return wire.usage(read=read, written=written, cached=told.get("cachedContentTokenCount") or 0)


def _fault(error: Json) -> Refusal:
    status = error.get("code")
    known = status if isinstance(status, int) and 400 <= status < 600 else 500
    return of_status(known, str(error.get("message") or "the model failed")[:2000])
