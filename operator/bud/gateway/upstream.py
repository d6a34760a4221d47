"""What one upstream is sent for a request: the caller's own bytes, wherever nothing about them must change. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from bud.gateway.catalog import Target
from bud.gateway.refusal import Refusal
from bud.gateway.translate.wire import Sent, Told

_LIMITS = ("max_completion_tokens", "max_tokens")
"""The caller's bound on an answer, the newer name first: it wins."""


def sent(endpoint: str, body: Mapping[str, Any], text: bytes, *, target: Target, id: str, now: float) -> Sent:
    """The request for a target; `id` is the request's, `now` in epoch seconds.

    Raises `Refusal` for what the target cannot be asked.
    """
    if target.translator is not None:
        return _translated(endpoint, body, target, Told(f"chatcmpl-{id}", target.model, int(now)))
    changed = _changed(endpoint, body, target)
    if endpoint == "chat/completions" and not target.functions and _older(changed):
        return _with_tools(changed)
    return Sent(endpoint, text if changed is body else orjson.dumps(changed))


def _changed(endpoint: str, body: Mapping[str, Any], target: Target) -> Mapping[str, Any]:
    """The body with the target's name for the model and the bound, and the usage that a stream is to end with."""
    wanted: dict[str, Any] = {}
    if target.model != body["model"]:
        wanted["model"] = target.model
    if endpoint in ("chat/completions", "completions") and body.get("stream") is True:
        options = body.get("stream_options") or {}
        if not options.get("include_usage"):
            wanted["stream_options"] = {**options, "include_usage": True}
    if endpoint == "chat/completions" and any(name in body and name != target.most for name in _LIMITS):
        most = next((body[name] for name in _LIMITS if body.get(name) is not None), None)
        body = {name: value for name, value in body.items() if name not in _LIMITS}
        wanted |= {target.most: most} if most is not None else {}
    return {**body, **wanted} if wanted else body


def _older(body: Mapping[str, Any]) -> bool:
    return body.get("functions") is not None or body.get("function_call") is not None


def _with_tools(body: Mapping[str, Any]) -> Sent:
    from bud.gateway.translate import functions  # noqa: PLC0415  few callers use them

    told = orjson.dumps(functions.as_tools(dict(body)))
    reader = functions.FunctionReader(functions.SameReader(dict(body)))
    return Sent("chat/completions", told, {}, reader, streams=body.get("stream") is True)


def _translated(endpoint: str, body: Mapping[str, Any], target: Target, told: Told) -> Sent:
    from bud.gateway.translate import functions  # noqa: PLC0415  few gateways translate

    assert target.translator is not None
    if endpoint != "chat/completions":
        raise Refusal(
            f"{target.translator.label} offers no /v1/{endpoint} here",
            status=501,
            code="not_implemented",
            headers={"x-should-retry": "false"},
        )
    asked = dict(body)
    if not functions.are_used(asked):
        return target.translator.send(asked, told, most=target.max_output_tokens)
    made = target.translator.send(functions.as_tools(asked), told, most=target.max_output_tokens)
    assert made.reader is not None
    return Sent(made.path, made.body, made.headers, functions.FunctionReader(made.reader), made.streams)
