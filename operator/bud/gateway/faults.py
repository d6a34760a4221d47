"""Events that tell of an error. Pure."""

from __future__ import annotations

from typing import Any

import orjson

from bud.gateway.glance import glance, plain
from bud.gateway.sse import data_of

UNKNOWN = 0
"""The status of an error that does not say of which kind it is."""
_STATUS = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "permission_error": 403,
    "not_found_error": 404,
    "rate_limit_error": 429,
    "api_error": 500,
    "overloaded_error": 503,
    # OpenAI's other ones: https://platform.openai.com/docs/guides/error-codes and .../api-reference/responses/object.
    "context_length_exceeded": 400,
    "invalid_prompt": 400,
    "invalid_api_key": 401,
    "model_not_found": 404,
    "insufficient_quota": 429,
    "rate_limit_exceeded": 429,
    "server_error": 500,
}


def status_of(event: bytes) -> int | None:
    """The status that an event's error stands for: None for no error, `UNKNOWN` for one that does not say.

    Errors are told as `{"error": …}`, or with all of it in an event whose name, `type` or `object` is `error`. Their
    `code` may be a status.
    """
    if b"error" not in event:
        return None
    told = _read(event)
    error = told.get("error")
    is_named = "error" in (told.get("type"), told.get("object")) or b"event: error" in event.split(b"\n")
    if not error and not is_named:
        return None
    error = error if isinstance(error, dict) else told
    for value in (error.get("code"), error.get("type")):
        number = int(value) if isinstance(value, str) and len(value) == 3 and value.isdecimal() else value
        if isinstance(number, int) and 400 <= number < 600:
            return number
        if isinstance(value, str) and value in _STATUS:
            return _STATUS[value]
    return UNKNOWN


def failed_of(data: bytes) -> bytes:
    """The error of a `response.failed`, as an event that is nothing else."""
    seen = glance(data)
    within = None if seen is None else glance(seen.response)
    error = None if within is None else plain(within.error, long=True)
    return b"data: " + orjson.dumps({"error": error or "the response failed"})


def _read(event: bytes) -> dict[str, Any]:
    seen = glance(data_of(event) or b"")
    if seen is None:
        return {}
    return {name: plain(getattr(seen, name), long=True) for name in ("error", "type", "object", "code")}
