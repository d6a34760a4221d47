"""How an answer begins: until then its caller is told nothing, and another can still be asked.

A stream begins with its first event, which may tell of a fault after a status of 200.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from bud.gateway.reply import Reply
from bud.gateway.sse import Splitter, data_of
from bud.gateway.stream import CutShort
from bud.gateway.translate.answer import Translated


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
