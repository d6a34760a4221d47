"""What a translator is, and the words in which every answer is told: OpenAI's chat completions.

Format: https://platform.openai.com/docs/api-reference/chat and .../chat-streaming.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import orjson

from bud.gateway.refusal import Unavailable
from bud.gateway.reply import Body
from bud.gateway.sse import Splitter, data_of

Json = dict[str, Any]
_EVENT_BYTES = 2 * 1024 * 1024
"""The longest part of an answer that is sent at once: one call of a tool, with all its arguments."""


class Reader(Protocol):
    """Turns one answer of an upstream into OpenAI's objects."""

    @property
    def is_over(self) -> bool:
        """Whether the last event of a stream has come; False where no event is known to be the last."""

    def whole(self, told: Json) -> Json:
        """A chat completion."""

    def feed(self, chunk: bytes) -> Iterable[Json]:
        """The chunks that the bytes of a stream tell of. Raises `Refusal` for an error in the stream."""

    def end(self) -> Iterable[Json]:
        """The chunks after the last byte. Raises `Unavailable` where the stream broke off."""


@dataclass(frozen=True, slots=True)
class Sent:
    """A request for one target: its path below the base URL, and headers beside the target's own.

    `reader` is None where the answer passes as it comes.
    """

    path: str
    body: Body
    headers: Mapping[str, str] = field(default_factory=dict)
    reader: Reader | None = None
    streams: bool = False


@dataclass(frozen=True, slots=True)
class Told:
    """What all parts of one answer share; `created` is in epoch seconds."""

    id: str
    model: str
    created: int

    def by(self, model: object) -> Told:
        """The same, by the name that the provider itself gives to the model, if that is one."""
        return replace(self, model=model) if isinstance(model, str) and model else self

    def whole(self, choices: list[Json], usage: Json | None) -> Json:
        """A chat completion."""
        return self._object("chat.completion", choices) | {"usage": usage}

    def chunk(self, delta: Json, *, index: int = 0, finish: str | None = None) -> Json:
        """A part of one choice."""
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}
        return self._object("chat.completion.chunk", [choice])

    def used(self, usage: Json) -> Json:
        """The last chunk, that of the usage."""
        return self._object("chat.completion.chunk", []) | {"usage": usage}

    def _object(self, name: str, choices: list[Json]) -> Json:
        return {"id": self.id, "object": name, "created": self.created, "model": self.model, "choices": choices}


class Translator:
    """One provider's way to say it."""

    label: str

    def send(self, body: Json, told: Told, *, most: int | None) -> Sent:
        """The provider's request. `most` is what the model writes at most, in tokens, where that is known.

        Raises `Invalid`, with `param`, for what the provider cannot honour.
        """
        raise NotImplementedError

    def signed(self, url: str, body: bytes) -> Mapping[str, str]:
        """Headers that hold only for this request."""
        return {}

    def status(self, status: int, told: Mapping[str, Any], kind: str) -> int:
        """The status that OpenAI would give to the provider's error; `kind` is its header `x-amzn-errortype`."""
        return status


def usage(*, read: int, written: int, cached: int = 0) -> Json:
    """Tokens; of those that were read, so many came out of the provider's cache."""
    return {
        "prompt_tokens": read,
        "completion_tokens": written,
        "total_tokens": read + written,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def message(text: Iterable[str], calls: list[Json], reasoning: Iterable[str] = ()) -> Json:
    """A whole message of the assistant."""
    said = "".join(text)
    made: Json = {"role": "assistant", "content": said or (None if calls else ""), "refusal": None}
    if calls:
        made["tool_calls"] = calls
    if thought := "".join(reasoning):
        made["reasoning_content"] = thought
    return made


def call(id: str, name: str, arguments: Any, *, index: int | None = None) -> Json:
    """A call of a tool; `arguments` is text, or what is to become JSON; `index` is set in streams."""
    text = arguments if isinstance(arguments, str) else orjson.dumps(arguments).decode()
    made: Json = {"id": id, "type": "function", "function": {"name": name, "arguments": text}}
    return made if index is None else {"index": index} | made


def more_arguments(index: int, text: str) -> Json:
    """The delta of a call's arguments."""
    return {"tool_calls": [{"index": index, "function": {"arguments": text}}]}


def broken() -> Unavailable:
    """A stream that ended before its end."""
    return Unavailable("the model broke off its answer", code="stream_broken")


def data(splitter: Splitter, chunk: bytes) -> Iterator[bytes]:
    """The data of the server-sent events that are now whole. Raises `Unavailable` for one that is too long."""
    for event in splitter.feed(chunk):
        if (found := data_of(event)) is not None:
            yield bounded(found)


def bounded(event: bytes) -> bytes:
    """An event of which objects of Python are to be made. Raises `Unavailable` for one that is too long for that."""
    if len(event) > _EVENT_BYTES:
        raise broken()
    return event


def events(chunks: Iterable[Json]) -> Iterator[bytes]:
    """Server-sent events, as OpenAI's streams have them."""
    for chunk in chunks:
        yield b"data: " + orjson.dumps(chunk) + b"\n\n"
