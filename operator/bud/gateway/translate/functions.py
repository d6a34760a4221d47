"""The older functions, for upstreams that have tools only: functions go as tools, and their calls come back. Pure.

Format: https://platform.openai.com/docs/api-reference/chat/create, `functions` and `function_call`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import orjson

from bud.gateway.refusal import Invalid
from bud.gateway.sse import Splitter
from bud.gateway.stream import Ends
from bud.gateway.translate import wire
from bud.gateway.translate.wire import Json, Reader


def are_used(body: Json) -> bool:
    """Whether a request speaks of functions in the older way."""
    return any(body.get(name) is not None for name in ("functions", "function_call")) or any(
        said["role"] == "function" or said.get("function_call") for said in body["messages"]
    )


def as_tools(body: Json) -> Json:
    """The same request, with tools. Raises `Invalid` where both are used."""
    if body.get("tools") or body.get("tool_choice") is not None:
        raise Invalid("functions: use tools or functions, not both", param="functions")
    made = {name: value for name, value in body.items() if name not in ("functions", "function_call")}
    if functions := body.get("functions"):
        made["tools"] = [{"type": "function", "function": function} for function in functions]
    chosen = body.get("function_call")
    if isinstance(chosen, dict):
        made["tool_choice"] = {"type": "function", "function": {"name": chosen.get("name")}}
    elif chosen is not None:
        made["tool_choice"] = chosen
    made["messages"] = list(_messages(body["messages"]))
    return made


def _messages(messages: Iterable[Json]) -> Iterator[Json]:
    """A function's answer belongs to the last call of its name."""
    ids: dict[str, str] = {}
    for number, said in enumerate(messages):
        if call := said.get("function_call"):
            if not isinstance(call, dict) or not isinstance(call.get("name"), str):
                raise Invalid(f"messages[{number}].function_call: an object with name and arguments", param="messages")
            ids[call["name"]] = id = f"call_{number}"
            kept = {name: value for name, value in said.items() if name != "function_call"}
            yield kept | {"tool_calls": [{"id": id, "type": "function", "function": call}]}
        elif said["role"] == "function":
            if said.get("name") not in ids:
                raise Invalid(f"messages[{number}].name: no call before it has this name", param="messages")
            yield {"role": "tool", "tool_call_id": ids[said["name"]], "content": said.get("content")}
        else:
            yield said


@dataclass(slots=True)
class FunctionReader:
    """An answer to a caller of functions: of several calls the first, since there was only one in their time."""

    inner: Reader

    @property
    def is_over(self) -> bool:
        return self.inner.is_over

    def whole(self, told: Json) -> Json:
        return _returned(self.inner.whole(told), "message")

    def feed(self, chunk: bytes) -> Iterator[Json]:
        return (_returned(one, "delta") for one in self.inner.feed(chunk))

    def end(self) -> Iterator[Json]:
        return (_returned(one, "delta") for one in self.inner.end())


def _returned(told: Json, part: str) -> Json:
    for choice in told.get("choices") or ():
        said = choice.get(part) or {}
        calls = said.pop("tool_calls", None)
        if calls and not calls[0].get("index"):
            said["function_call"] = calls[0]["function"]
        if choice.get("finish_reason") == "tool_calls":
            choice["finish_reason"] = "function_call"
    return told


@dataclass(slots=True)
class SameReader:
    """An answer to `asked` that is OpenAI's already."""

    asked: Json
    is_over: bool = False
    _splitter: Splitter = field(default_factory=Splitter)
    _ends: Ends = field(init=False)

    def __post_init__(self) -> None:
        self._ends = Ends(self.asked)

    def whole(self, told: Json) -> Json:
        return told

    def feed(self, chunk: bytes) -> Iterator[Json]:
        for data in wire.data(self._splitter, chunk):
            if data == b"[DONE]":
                self.is_over = True
                return
            self._ends.read(data)
            yield orjson.loads(data)

    def end(self) -> Iterator[Json]:
        if not (self.is_over or self._ends.are_all):
            raise wire.broken()
        return iter(())
