"""What a request for a chat says, in parts that every provider knows: who said what, and which tools there are. Pure.

What cannot be told to a provider is refused with the parameter's name; nothing is left out in silence.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from bud.gateway.refusal import Invalid
from bud.gateway.translate.wire import Json

_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "n": (1,),
    "response_format": ({"type": "text"},),
    "seed": (),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "parallel_tool_calls": (True,),
    "user": (),
    "reasoning_effort": (),
    "verbosity": (),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "service_tier": ("auto",),
    "store": (False,),
    "web_search_options": (),
    "safety_identifier": (),
    "prompt_cache_key": (),
}
"""OpenAI's parameters that not every provider has, and the values that mean the same as none."""

SHARED = frozenset(
    {"model", "messages", "max_tokens", "max_completion_tokens", "temperature", "top_p", "stop", "stream"}
    | {"stream_options", "tools", "tool_choice"}
)
"""Parameters that every translator honours."""


@dataclass(frozen=True, slots=True)
class Text:
    """Something said; `raw` is the block as it came, with what a provider may have of its own in it."""

    text: str
    raw: Json


@dataclass(frozen=True, slots=True)
class Media:
    """An image or a file: base64 `data` of the type `media`, or a `url`."""

    kind: Literal["image", "file"]
    media: str
    data: str
    url: str
    name: str = ""


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a tool, by the assistant."""

    id: str
    name: str
    arguments: Json
    raw: Json


@dataclass(frozen=True, slots=True)
class Result:
    """What a call gave."""

    id: str
    name: str
    parts: list[Part]


@dataclass(frozen=True, slots=True)
class Own:
    """A block that only the provider knows, which passes as it is."""

    raw: Json


Part = Text | Media | Call | Result | Own


@dataclass(frozen=True, slots=True)
class Turn:
    """What one side said before the other answered."""

    role: Literal["user", "assistant"]
    parts: list[Part]


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call; `schema` is a JSON schema."""

    name: str
    description: str
    schema: Json
    strict: bool


def check(body: Json, honoured: Collection[str], whose: str) -> Json:
    """What of a body is the provider's own. Raises `Invalid` for OpenAI's parameters that it cannot honour."""
    own = {}
    for name, value in body.items():
        if name in SHARED or name in honoured or value is None:
            continue
        if name not in _NEUTRAL:
            own[name] = value
        elif value not in _NEUTRAL[name]:
            raise cannot(name, f"{whose} has nothing like it; leave it out")
    return own


def cannot(param: str, why: str, *, where: str = "") -> Invalid:
    """The refusal of a parameter."""
    return Invalid(f"{where or param}: {why}", param=param, code="unsupported_parameter")


def member(own: Json, name: str) -> Json:
    """An object among what is the provider's own, taken out of it. Raises `Invalid` for anything else."""
    value = own.pop(name, {})
    if not isinstance(value, dict):
        raise Invalid(f"{name}: must be an object", param=name)
    return value


def bounded(body: Json, name: str, most: float, whose: str) -> Any:
    """The value. Raises `Invalid` for one above what the provider takes."""
    value = body.get(name)
    if value is not None and value > most:
        raise Invalid(f"{name}: {whose} takes at most {most:g}", param=name)
    return value


def max_tokens(body: Json) -> int | None:
    """How many tokens the caller wants at most."""
    found = body.get("max_completion_tokens")
    return found if found is not None else body.get("max_tokens")


def stops(body: Json) -> list[str]:
    """Where to stop: `stop`, and what callers of Anthropic call `stop_sequences`."""
    found: list[str] = []
    for name in ("stop", "stop_sequences"):
        value = body.get(name) or []
        listed = [value] if isinstance(value, str) else value
        if not isinstance(listed, list) or not all(isinstance(one, str) for one in listed):
            raise Invalid(f"{name}: a string, or a list of strings", param=name)
        found += listed
    return found


def tools(body: Json, whose: str) -> list[Tool]:
    """The tools. Raises `Invalid` for those that are no functions."""
    found = []
    for number, tool in enumerate(body.get("tools") or []):
        function = tool.get("function")
        if tool.get("type") != "function" or not isinstance(function, dict) or not function.get("name"):
            raise cannot("tools", f"{whose} has only functions with a name", where=f"tools[{number}]")
        schema = function.get("parameters") or {"type": "object", "properties": {}}
        found.append(Tool(function["name"], function.get("description") or "", schema, bool(function.get("strict"))))
    return found


def choice(body: Json) -> tuple[str | None, str]:
    """`auto`, `none`, `required` or `tool`, and the tool's name. Raises `Invalid`."""
    value = body.get("tool_choice")
    if value is None or isinstance(value, str):
        return value, ""
    function = value.get("function")
    name = function.get("name") if isinstance(function, dict) else None
    if value.get("type") != "function" or not isinstance(name, str):
        raise cannot("tool_choice", "only auto, none, required, or a function with its name")
    return "tool", name


def wanted_schema(body: Json, whose: str) -> Json | None:
    """`json_schema` of `response_format`, {} where any JSON will do, None for text. Raises `Invalid`."""
    wanted = body.get("response_format")
    kind = wanted.get("type") if wanted else "text"
    if kind == "text" or wanted is None:
        return None
    if kind == "json_object":
        return {}
    schema = wanted.get("json_schema")
    if kind != "json_schema" or not isinstance(schema, dict) or not isinstance(schema.get("schema"), dict):
        raise cannot("response_format", f"{whose} has nothing like it")
    return schema


def conversation(body: Json, whose: str) -> tuple[list[Text], list[Turn]]:
    """What the system says, and the turns that follow, each side's in one. Raises `Invalid`."""
    system: list[Text] = []
    turns: list[Turn] = []
    names: dict[str, str] = {}
    for number, said in enumerate(body["messages"]):
        where = f"messages[{number}]"
        if said.get("name") and said["role"] != "tool":  # a tool's name was told by its call
            raise cannot("messages", f"{whose} knows no names of speakers", where=f"{where}.name")
        if said["role"] in ("system", "developer"):
            system += _system(said, where, whose)
            continue
        parts = _said(said, names, where, whose)
        side: Literal["user", "assistant"] = "assistant" if said["role"] == "assistant" else "user"
        if turns and turns[-1].role == side:
            turns[-1].parts.extend(parts)
        elif parts:
            turns.append(Turn(side, parts))
    return system, turns


def _system(said: Json, where: str, whose: str) -> Iterator[Text]:
    for part in _parts(said, where, whose):
        if not isinstance(part, Text):
            raise cannot("messages", "the system says text only", where=where)
        yield part


def _said(said: Json, names: dict[str, str], where: str, whose: str) -> list[Part]:
    """What one message says; `names` are those of the calls so far, by their ids."""
    parts = [*_thoughts(said, where), *_parts(said, where, whose)]
    if said["role"] == "tool":
        id = said.get("tool_call_id") or ""
        if id not in names:
            raise Invalid(f"{where}.tool_call_id: no call before it has this id", param="messages")
        return [Result(id, names[id], parts)]
    for call in _calls(said, where):
        names[call.id] = call.name
        parts.append(call)
    return parts


def _parts(said: Json, where: str, whose: str) -> Iterator[Part]:
    content = said.get("content")
    if isinstance(content, str):
        if content:
            yield Text(content, {"type": "text", "text": content})
        return
    for number, block in enumerate(content or []):
        yield _part(block, f"{where}.content[{number}]", whose)


def _part(block: Json, where: str, whose: str) -> Part:
    kind = block.get("type")
    if kind in ("text", "refusal") and isinstance(block.get(kind), str):
        return Text(block[kind], {**block, "type": "text", "text": block[kind]})
    inner = block.get(kind) if isinstance(kind, str) else None
    if kind == "image_url":
        inner = {"url": inner} if isinstance(inner, str) else inner
        if not isinstance(inner, dict) or not isinstance(inner.get("url"), str):
            raise Invalid(f"{where}.image_url.url is required", param="messages", code="missing_required_parameter")
        if inner.get("detail") == "low":
            raise cannot("messages", f"{whose} reads images in full detail", where=f"{where}.image_url.detail")
        return _media("image", inner["url"], "", where)
    if kind == "file" and isinstance(inner, dict) and isinstance(inner.get("file_data"), str):
        return _media("file", inner["file_data"], inner.get("filename") or "", where)
    if kind in ("input_audio", "file", "image_url", "text", "refusal", None):
        raise cannot("messages", f"{whose} cannot be told this", where=where)
    return Own(block)


def _media(kind: Literal["image", "file"], url: str, name: str, where: str) -> Media:
    if not url.startswith("data:"):
        return Media(kind, "", "", url, name)
    head, comma, data = url.partition(",")
    if not comma or not head.endswith(";base64"):
        raise Invalid(f"{where}: a data URI must hold base64, as in data:image/png;base64,…", param="messages")
    return Media(kind, head[5:].partition(";")[0].lower(), data, "", name)


def _thoughts(said: Json, where: str) -> Iterator[Part]:
    """What Anthropic's models thought before, which they want back as it was."""
    blocks = said.get("thinking_blocks") or []
    if not isinstance(blocks, list) or not all(isinstance(block, dict) for block in blocks):
        raise Invalid(f"{where}.thinking_blocks: a list of objects", param="messages")
    return (Own(block) for block in blocks)


def _calls(said: Json, where: str) -> Iterator[Call]:
    for number, call in enumerate(said.get("tool_calls") or []):
        at = f"{where}.tool_calls[{number}]"
        function = call.get("function")
        named = isinstance(function, dict) and isinstance(function.get("name"), str)
        if not named or not isinstance(call.get("id"), str):
            raise Invalid(f"{at}: id and function.name are required", param="messages")
        try:
            arguments = orjson.loads(function.get("arguments") or "{}")
        except orjson.JSONDecodeError:
            arguments = None
        if not isinstance(arguments, dict):
            raise Invalid(f"{at}.function.arguments: not the text of a JSON object", param="messages")
        yield Call(call["id"], function["name"], arguments, call)
