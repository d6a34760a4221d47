"""AWS Bedrock's Converse API. Signing and framing are botocore's.

Format: https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html,
.../API_runtime_ConverseStream.html and https://smithy.io/2.0/aws/amazon-eventstream.html.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import orjson
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.eventstream import EventStreamBuffer, ParserError

from bud.gateway.refusal import Refusal, of_status
from bud.gateway.translate import talk, wire
from bud.gateway.translate.wire import Json, Sent, Told

WHOSE = "Bedrock"
_HONOURED = frozenset({"user", "response_format", "stop_sequences"})
_OWN = frozenset(
    {"guardrailConfig", "promptVariables", "additionalModelResponseFieldPaths", "requestMetadata"}
    | {"performanceConfig", "serviceTier", "outputConfig"}
)
"""Members of the API's requests; other parameters are the model's own, and go into `additionalModelRequestFields`."""
_FINISH = {
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "guardrail_intervened": "content_filter",
    "content_filtered": "content_filter",
}
_CREDENTIALS = frozenset({"ExpiredTokenException", "UnrecognizedClientException", "InvalidSignatureException"})
_STATUS = {
    "validationException": 400,
    "throttlingException": 429,
    "internalServerException": 500,
    "modelStreamErrorException": 502,
    "serviceUnavailableException": 503,
}
_FORMATS = {
    "image/jpeg": "jpeg",
    "image/png": "png",
    "image/gif": "gif",
    "image/webp": "webp",
    "application/pdf": "pdf",
    "text/csv": "csv",
    "text/html": "html",
    "text/plain": "txt",
    "text/markdown": "md",
    "application/msword": "doc",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
    "application/vnd.ms-excel": "xls",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": "xlsx",
}


class Bedrock(wire.Translator):
    label = WHOSE

    def __init__(self, region: str, secret: Mapping[str, str]) -> None:
        """`secret` holds the credentials by the names of AWS's environment variables."""
        key = secret.get("AWS_ACCESS_KEY_ID")
        self._signer = None
        if key:
            known = Credentials(key, secret.get("AWS_SECRET_ACCESS_KEY", ""), secret.get("AWS_SESSION_TOKEN") or None)
            self._signer = SigV4Auth(known, "bedrock", region)

    def send(self, body: Json, told: Told, *, most: int | None) -> Sent:
        own = talk.check(body, _HONOURED, WHOSE)
        system, turns = talk.conversation(body, WHOSE)
        sent: Json = {
            "messages": [{"role": turn.role, "content": [_block(part) for part in turn.parts]} for turn in turns],
            "inferenceConfig": _sampling(body),
        }
        if system:
            sent["system"] = [{"text": text.text} for text in system]
        sent |= _tools(body, called=any(isinstance(part, talk.Call) for turn in turns for part in turn.parts))
        if (schema := talk.wanted_schema(body, WHOSE)) is not None:
            sent["outputConfig"] = _output(schema)
        if (user := body.get("user")) is not None:
            sent["requestMetadata"] = {"user": user}
        more = talk.member(own, "additionalModelRequestFields")
        fields = more | {name: value for name, value in own.items() if name not in _OWN}
        sent |= {name: value for name, value in own.items() if name in _OWN}
        if fields:
            sent["additionalModelRequestFields"] = fields
        streams = body.get("stream") is True
        path = f"model/{quote(told.model, safe='')}/{'converse-stream' if streams else 'converse'}"
        return Sent(path, orjson.dumps(sent), {}, BedrockReader(told), streams)

    def signed(self, url: str, body: bytes) -> Mapping[str, str]:
        if self._signer is None:
            return {}
        request = AWSRequest("POST", url, {"content-type": "application/json"}, body)
        self._signer.add_auth(request)
        return dict(request.headers.items())

    def status(self, status: int, told: Mapping[str, Any], kind: str) -> int:
        if kind.partition(":")[0] in _CREDENTIALS:
            return 401
        return {408: 504, 424: 502}.get(status, status)  # the model's time is over; the model failed


def _sampling(body: Json) -> Json:
    sent: Json = {}
    if (most := talk.max_tokens(body)) is not None:
        sent["maxTokens"] = most
    if (temperature := talk.bounded(body, "temperature", 1, WHOSE)) is not None:
        sent["temperature"] = temperature
    if body.get("top_p") is not None:
        sent["topP"] = body["top_p"]
    if stops := talk.stops(body):
        sent["stopSequences"] = stops
    return sent


def _tools(body: Json, *, called: bool) -> Json:
    """The API has no word for `none`: no tools are offered then, unless the conversation has calls of them."""
    tools = talk.tools(body, WHOSE)
    kind, name = talk.choice(body)
    if kind == "none" and called:
        raise talk.cannot("tool_choice", f"{WHOSE} must offer the tools that were called; choose auto")
    if not tools or kind == "none":
        return {}
    told = []
    for tool in tools:
        spec: Json = {"name": tool.name, "inputSchema": {"json": tool.schema}}
        if tool.description:
            spec["description"] = tool.description
        if tool.strict:
            spec["strict"] = True
        told.append({"toolSpec": spec})
    config: Json = {"tools": told}
    if kind == "required":
        config["toolChoice"] = {"any": {}}
    elif kind == "tool":
        config["toolChoice"] = {"tool": {"name": name}}
    return {"toolConfig": config}


def _output(schema: Json) -> Json:
    if not schema:
        raise talk.cannot("response_format", f"{WHOSE} answers in JSON only by a json_schema")
    told = {"schema": orjson.dumps(schema["schema"]).decode()}
    told |= {name: schema[name] for name in ("name", "description") if schema.get(name)}
    return {"textFormat": {"type": "json_schema", "structure": {"jsonSchema": told}}}


def _block(part: talk.Part) -> Json:
    match part:
        case talk.Text():
            return {"text": part.text}
        case talk.Own():
            return part.raw
        case talk.Media():
            return _media(part)
        case talk.Call():
            return {"toolUse": {"toolUseId": part.id, "name": part.name, "input": part.arguments}}
        case talk.Result():
            return {"toolResult": {"toolUseId": part.id, "content": [_block(one) for one in part.parts]}}


def _media(part: talk.Media) -> Json:
    media = _FORMATS.get(part.media)
    if part.url or media is None:
        raise talk.cannot("messages", f"{WHOSE} takes a data URI of a type that it knows, no address", where=part.kind)
    told: Json = {"format": media, "source": {"bytes": part.data}}
    if part.kind == "image":
        return {"image": told}
    name = "".join(one if one.isascii() and one.isalnum() else "-" for one in part.name.partition(".")[0])
    return {"document": told | {"name": name or "document"}}


@dataclass(slots=True)
class BedrockReader:
    """One answer. `_calls` are the numbers of tool calls by the numbers of their blocks."""

    told: Told
    _buffer: EventStreamBuffer = field(default_factory=EventStreamBuffer)
    _calls: dict[int, int] = field(default_factory=dict)
    _used: Json | None = None
    _ended: bool = False

    @property
    def is_over(self) -> bool:
        return self._ended and self._used is not None

    def whole(self, told: Json) -> Json:
        blocks = told["output"]["message"]["content"]
        uses = [block["toolUse"] for block in blocks if "toolUse" in block]
        message = wire.message(
            (block["text"] for block in blocks if "text" in block),
            [wire.call(use["toolUseId"], use["name"], use["input"]) for use in uses],
            (_thought(block["reasoningContent"]) for block in blocks if "reasoningContent" in block),
        )
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _finish(told["stopReason"])}
        return self.told.whole([choice], _usage(told["usage"]))

    def feed(self, chunk: bytes) -> Iterator[Json]:
        self._buffer.add_data(chunk)
        try:
            for message in self._buffer:
                kind = message.headers.get(":event-type") or message.headers.get(":exception-type")
                told = orjson.loads(wire.bounded(message.payload or b"{}"))
                if message.headers.get(":message-type") != "event":
                    raise _fault(str(kind), told)
                yield from self._event(str(kind), told)
                if self.is_over:
                    return
        except ParserError:
            raise wire.broken() from None

    def end(self) -> Iterator[Json]:
        if not self._ended:
            raise wire.broken()
        if self._used is not None:
            yield self.told.used(_usage(self._used))

    def _event(self, kind: str, event: Json) -> Iterator[Json]:
        match kind:
            case "messageStart":
                yield self.told.chunk({"role": "assistant", "content": ""})
            case "contentBlockStart" if use := (event.get("start") or {}).get("toolUse"):
                number = self._calls[event["contentBlockIndex"]] = len(self._calls)
                call = wire.call(use["toolUseId"], use["name"], "", index=number)
                yield self.told.chunk({"tool_calls": [call]})
            case "contentBlockDelta":
                yield from self._more(event["contentBlockIndex"], event["delta"])
            case "messageStop":
                self._ended = True
                yield self.told.chunk({}, finish=_finish(event["stopReason"]))
            case "metadata":
                self._used = event["usage"]

    def _more(self, at: int, delta: Json) -> Iterator[Json]:
        if "text" in delta:
            yield self.told.chunk({"content": delta["text"]})
        elif "toolUse" in delta:
            yield self.told.chunk(wire.more_arguments(self._calls[at], delta["toolUse"]["input"]))
        elif text := (delta.get("reasoningContent") or {}).get("text"):
            yield self.told.chunk({"reasoning_content": text})


def _thought(block: Json) -> str:
    return str((block.get("reasoningText") or {}).get("text") or "")


def _finish(reason: str) -> str:
    return _FINISH.get(reason, "stop")


def _usage(told: Json) -> Json:
    """Bedrock counts what it read from and wrote to its cache beside the rest of the input."""
    cached = told.get("cacheReadInputTokens") or 0
    read = told["inputTokens"] + (told.get("cacheWriteInputTokens") or 0) + cached
    return wire.usage(read=read, written=told["outputTokens"], cached=cached)


def _fault(kind: str, told: Json) -> Refusal:
    return of_status(_STATUS.get(kind, 500), str(told.get("message") or "the model failed")[:2000])
