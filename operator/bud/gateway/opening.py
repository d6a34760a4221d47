"""How an answer begins: until then its caller is told nothing, and another can still be asked.

A stream begins with its first event, which may tell of a fault after a status of 200.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from bud.gateway.glance import glance, plain
from bud.gateway.reply import Reply
from bud.gateway.stream import CutShort, Splitter, data_of
from bud.gateway.translate.answer import Translated

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


def is_stream(answer: Reply | Translated) -> bool:
    """Whether an answer is one of events."""
    return answer.headers.get("content-type", "").startswith("text/event-stream")


async def soon(asked: Awaitable[Reply], until: float) -> Reply | None:
    """An answer of which something has come; None if nothing did until then."""
    reply, limit = None, asyncio.timeout_at(until)
    try:
        async with limit:
            reply = await asked
            await reply.some()
    except BaseException as error:
        if reply is not None:
            reply.close()
        if isinstance(error, TimeoutError) and limit.expired():
            return None
        raise
    return reply


async def first_event(answer: Reply | Translated, alive: Callable[[], Awaitable[None]] | None) -> bytes:
    """The first event that has data. The answer goes on with it, and without the comments before it.

    `alive` is told whenever something came that was none. Raises `Refusal`, and `OSError`: what ends before it is
    `CutShort`.
    """
    splitter = Splitter()
    async for chunk in answer:
        events = splitter.feed(chunk)
        for number, event in enumerate(events):
            if data_of(event):
                answer.put_back(b"\n\n".join((*events[number:], splitter.rest)))
                return event
        if alive is not None:
            await alive()
    raise CutShort("the stream ended before its first event")


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
        number = int(value) if isinstance(value, str) and value.isdecimal() else value
        if isinstance(number, int) and 400 <= number < 600:
            return number
        if isinstance(value, str) and value in _STATUS:
            return _STATUS[value]
    return UNKNOWN


def _read(event: bytes) -> dict[str, Any]:
    seen = glance(data_of(event) or b"")
    if seen is None:
        return {}
    return {name: plain(getattr(seen, name), long=True) for name in ("error", "type", "object", "code")}
