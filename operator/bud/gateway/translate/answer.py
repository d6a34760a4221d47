"""An upstream's answer, read as if the upstream spoke OpenAI's format."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

import orjson

from bud.gateway.refusal import Refusal, Unavailable
from bud.gateway.reply import Reply
from bud.gateway.translate.wire import Reader, events

log = logging.getLogger("bud.gateway")

_STRANGE = (LookupError, TypeError, ValueError, AttributeError)
"""What comes of an answer that is not as the provider documents it."""


MOST_BYTES = 128 * 1024 * 1024
"""The longest answer that is read as a whole: vectors for some thousand inputs."""


async def read_whole(reply: Reply | Translated) -> bytes:
    """The body of an answer. Raises `Unavailable` for one without end, and `Broken`."""
    text = await reply.read(MOST_BYTES)
    if len(text) > MOST_BYTES:
        reply.close()
        raise Unavailable(f"the model's answer is longer than {MOST_BYTES // (1024 * 1024)} MiB")
    return text


class Translated:
    """Stands in for the `Reply` that it reads: the same members, as far as the gateway uses them."""

    def __init__(self, reply: Reply, reader: Reader, *, streams: bool) -> None:
        self._reply = reply
        self._reader = reader
        self.status = reply.status
        self.length: int | None = None
        self.headers = {"content-type": "text/event-stream; charset=utf-8" if streams else "application/json"}
        self.close = reply.close

    async def read(self, most: int) -> bytes:
        """The whole answer. Raises `Unavailable` for one that cannot be understood."""
        text = await self._reply.read(most)
        if len(text) > most:
            return text
        try:
            return orjson.dumps(self._reader.whole(orjson.loads(text)))
        except _STRANGE as error:
            raise _strange() from error

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Events, up to `[DONE]`. Raises `Refusal` for an error that the stream tells of, or that it is."""
        async for chunk in self._reply:
            made = list[bytes]()
            fault = self._understood(chunk, made)
            if made:
                yield b"".join(made)
            if fault is not None:
                raise fault
        yield b"".join(events(self._reader.end())) + b"data: [DONE]\n\n"

    def _understood(self, chunk: bytes, made: list[bytes]) -> Refusal | None:
        """The fault that ends the stream; what came before it is in `made` all the same."""
        try:
            for event in events(self._reader.feed(chunk)):
                made.append(event)
        except Refusal as refusal:
            return refusal
        except _STRANGE as error:
            log.warning("an upstream's stream cannot be read: %r", error)
            return _strange()
        return None


def _strange() -> Unavailable:
    return Unavailable("the model answered with something that cannot be read; try again")
