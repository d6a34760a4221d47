"""What may stand in a request: one model for each endpoint, checked before anything is reached.

Parameters that are known are in range or refused with their name; unknown ones pass on as they are. Sources: the
reference's chat completions and core APIs, and OpenAI's own documents for what those leave open.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from bud.gateway.refusal import Invalid

Name = Annotated[str, Field(min_length=1, max_length=512)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Positive = Annotated[int, Field(ge=1)]
Block = dict[str, Any]

_T = TypeVar("_T")
Several = Annotated[list[_T], Field(fail_fast=True)]
"""Of as many elements as a body may have, one fault is enough."""
Some = Annotated[Several[_T], Field(min_length=1)]
MOST_MESSAGES = 10_000
_MOST_BIASES = 1024


def _few(value: object) -> object:
    if isinstance(value, dict) and len(value) > _MOST_BIASES:
        raise PydanticCustomError("too_many", "at most {most} tokens", {"most": _MOST_BIASES})
    return value


class _Ask(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow", frozen=True)

    model: Name = Field(description="Name of a deployment, an adapter, a route, or a provider's model.")


class Message(BaseModel):
    """One message of a conversation."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True)

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | Several[Block] | None = None
    name: str | None = None
    tool_calls: Several[Block] | None = None
    tool_call_id: str | None = None


class StreamOptions(BaseModel):
    """How a stream ends."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True)

    include_usage: bool | None = None


class _Sampled(_Ask):
    """What chat and text completions share."""

    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    max_tokens: Positive | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    repetition_penalty: Annotated[float, Field(gt=0)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    stop: str | Annotated[Several[str], Field(max_length=4)] | None = None
    seed: int | None = None
    logit_bias: (
        Annotated[
            dict[str, Annotated[float, Field(ge=-100, le=100)]], BeforeValidator(_few), Field(max_length=_MOST_BIASES)
        ]
        | None
    ) = None
    user: str | None = None


class ChatCompletion(_Sampled):
    """`POST /v1/chat/completions`."""

    messages: Annotated[Several[Message], Field(min_length=1, max_length=MOST_MESSAGES)]
    max_completion_tokens: Positive | None = None
    response_format: Block | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    tools: Several[Block] | None = None
    tool_choice: Literal["auto", "none", "required"] | Block | None = None
    parallel_tool_calls: bool | None = None
    functions: Several[Block] | None = None
    function_call: Literal["auto", "none"] | Block | None = None


class Completion(_Sampled):
    """`POST /v1/completions`."""

    prompt: str | Several[str] | Several[int] | Several[Several[int]]
    suffix: str | None = None
    echo: bool | None = None
    best_of: Annotated[int, Field(ge=1, le=20)] | None = None
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None


class Embedding(_Ask):
    """`POST /v1/embeddings`."""

    input: str | Some[str] | Some[int] | Some[Several[int]]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Positive | None = None
    user: str | None = None


class Classification(_Ask):
    """`POST /v1/classify`."""

    input: Some[str]
    raw_scores: bool | None = None
    priority: Literal["high", "normal", "low"] | None = None


class Reranking(_Ask):
    """`POST /v1/rerank`."""

    query: str
    documents: Some[str | Block]
    top_n: Positive | None = None
    return_documents: bool | None = None


class ImageGeneration(_Ask):
    """`POST /v1/images/generations`."""

    prompt: Annotated[str, Field(min_length=1)]
    n: Annotated[int, Field(ge=1, le=10)] | None = None
    size: str | None = None
    response_format: Literal["url", "b64_json"] | None = None


class Speech(_Ask):
    """`POST /v1/audio/speech`."""

    input: Annotated[str, Field(min_length=1)]
    voice: str | Block | None = None
    instructions: str | None = None
    response_format: Literal["mp3", "opus", "aac", "flac", "wav", "pcm"] | None = None
    speed: Annotated[float, Field(ge=0.25, le=4)] | None = None
    stream_format: Literal["sse", "audio"] | None = None


class Original(BaseModel):
    """What a document is made of: an address or a base64 data URI, which passes unread."""

    model_config = ConfigDict(
        strict=True,
        extra="allow",
        frozen=True,
        json_schema_extra={
            "anyOf": [
                {"required": [kind], "properties": {"type": {"const": kind}, kind: {"type": "string"}}}
                for kind in ("document_url", "image_url")
            ]
        },
    )

    type: Literal["document_url", "image_url"]
    document_url: Annotated[str, Field(min_length=1)] | None = None
    image_url: Annotated[str, Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _has_what_it_says(self) -> Original:
        if getattr(self, self.type) is None:
            raise PydanticCustomError("no_original", "a document of type {type} needs {type}", {"type": self.type})
        return self


class DocumentOptions(BaseModel):
    """What is wanted of a document."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True)

    to_formats: Some[Literal["md", "json", "html", "text", "doctags", "csv"]] | None = None


class Document(_Ask):
    """`POST /v1/documents`."""

    document: Original
    task: Literal["extract"] | None = None
    prompt: str | None = None
    options: DocumentOptions | None = None


def _truth(value: object) -> object:
    return {"true": True, "false": False}.get(value.lower(), value) if isinstance(value, str) else value


Truth = Annotated[bool, BeforeValidator(_truth), Field(strict=True)]
"""True or false as text: no number means either."""


class _Spoken(_Ask):
    """Fields of a form beside its file. They come as text, and are taken for what they say."""

    model_config = ConfigDict(strict=False)

    language: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    temperature: Annotated[float, Field(ge=0, le=1)] | None = None


class Transcription(_Spoken):
    """`POST /v1/audio/transcriptions`."""

    response_format: Literal["json", "text", "srt", "verbose_json", "vtt", "diarized_json"] | None = None
    stream: Truth | None = None
    timestamp_granularities: Several[Literal["word", "segment"]] | None = None


class Translation(_Spoken):
    """`POST /v1/audio/translations`."""

    response_format: Literal["json", "text", "srt", "verbose_json", "vtt"] | None = None


class Response(_Ask):
    """`POST /v1/responses`."""

    input: str | Several[Block] | None = None
    stream: bool | None = None
    max_output_tokens: Positive | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None


ASKS: Mapping[str, type[_Ask]] = {
    "chat/completions": ChatCompletion,
    "completions": Completion,
    "embeddings": Embedding,
    "classify": Classification,
    "rerank": Reranking,
    "images/generations": ImageGeneration,
    "audio/speech": Speech,
    "documents": Document,
    "responses": Response,
}
"""By the path below `/v1`."""

FORMS: Mapping[str, type[_Ask]] = {"audio/transcriptions": Transcription, "audio/translations": Translation}
"""What comes as a form: the fields that are read."""


def check(endpoint: str, body: object) -> None:
    """Raises `Invalid` for a body that cannot be meant, with the parameter's name in `param`."""
    if not isinstance(body, dict):
        raise Invalid("the body must be a JSON object", code="invalid_json")
    for name in body:
        # Programs in Go read names whatever their case: it would be another model there.
        if len(name) == len("model") and name != "model" and name.lower() == "model":
            raise Invalid(f"{name}: write it as model", param=name)
    try:
        ASKS[endpoint].__pydantic_validator__.validate_python(body)
    except ValidationError as error:
        raise _told(error, body) from None


def checked(endpoint: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that `check` has looked at; under any other name anything may stand."""
    fields = ASKS[endpoint].model_fields
    return {name: value for name, value in body.items() if name in fields}


def prompts(body: Mapping[str, Any]) -> int:
    """How many prompts a request for completions has; one for any other."""
    found = body.get("prompt")
    are_many = isinstance(found, list) and found and not isinstance(found[0], int)
    return len(found) if found and are_many else 1


def check_form(endpoint: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a form so far, each as what it means. Raises `Invalid`; what is missing may still come."""
    known = FORMS[endpoint]
    try:
        read = known.__pydantic_validator__.validate_python({"model": "?", **fields})
    except ValidationError as error:
        raise _told(error, dict(fields)) from None
    return {name: getattr(read, name) for name in fields if name in known.model_fields}


def _told(error: ValidationError, body: Block) -> Invalid:
    """The first fault, by its parameter; of one that may be several things, the fault of what it looks like."""
    faults = error.errors(include_url=False, include_input=False, include_context=False)
    name = str(faults[0]["loc"][0])
    same = [fault for fault in faults if fault["loc"][0] == name]
    fault = next((fault for fault in same if not fault["type"].endswith("_type")), same[0])
    where = _where(fault["loc"], body)
    if fault["type"] == "missing":
        return Invalid(f"{where} is required", param=name, code="missing_required_parameter")
    return Invalid(f"{where}: {fault['msg']}", param=name)


def _where(path: tuple[int | str, ...], value: Any) -> str:
    """The path as a person would write it, without the marks by which pydantic tells alternatives apart."""
    said = str(path[0])
    value = value.get(path[0])
    for part in path[1:]:
        if isinstance(part, int) and isinstance(value, list):
            said, value = f"{said}[{part}]", value[part]
        elif isinstance(value, dict) and (part in value or part is path[-1]):
            said, value = f"{said}.{part}", value.get(part)
    return said
