"""An upstream's answer, read as if the upstream spoke OpenAI's format."""

from __future__ import annotations

import logging

import orjson

from bud.gateway.refusal import Refusal, Unavailable
from bud.gateway.reply import Reply
from bud.gateway.translate.wire import Reader, events

log = logging.getLogger("bud.gateway")

_STRANGE = (LookupError, TypeError, ValueError, AttributeError)
"""What comes of an answer that is not as the provider documents it."""


MOST_BYTES = 128 * 1024 * 1024
"""The longest answer that is read as a whole: vectors for some thousand inputs."""


_TRANSLATED_BYTES = 8 * 1024 * 1024
"""The longest one that is translated, which takes objects of Python: text of one chat."""


async def read_whole(reply: Reply | Translated, most: int = MOST_BYTES) -> bytes:
    """The body of an answer. Raises `Unavailable` for one without end, and `Broken`."""
    text = await reply.read(most)
    if len(text) > most:
        reply.close()
        raise Unavailable(f"the model's answer is longer than {most // (1024 * 1024)} MiB")
    return text


class Translated:
    """Stands in for the `Reply` that it reads: the same members, as far as the gateway uses them."""

    def __init__(self, reply: Reply, reader: Reader, *, streams: bool) -> None:
        self._reply = reply
        self._reader = reader
        self.status = reply.status
        self.length: int | None = None
        self.headers = {"content-type": "text/event-stream; charset=utf-8" if streams else "application/json"}
        self.close, self.leave = reply.close, reply.leave
        self._first = b""
        self._fault: Refusal | None = None
        self._is_over = False

    async def read(self, most: int) -> bytes:
        """The whole answer. Raises `Unavailable` for one that is too long, or cannot be understood."""
        text = await read_whole(self._reply, min(most, _TRANSLATED_BYTES))
        try:
            return orjson.dumps(self._reader.whole(orjson.loads(text)))
        except _STRANGE as error:
            raise _strange() from error

    def put_back(self, data: bytes) -> None:
        """What was read last is read once more."""
        self._first = data

    def __aiter__(self) -> Translated:
        return self

    async def __anext__(self) -> bytes:
        """Events, up to `[DONE]`; nothing for what tells nothing, such as comments, since somebody is there.

        Raises `Refusal` for an error that the stream tells of, or that it is.
        """
        if self._first:
            first, self._first = self._first, b""
            return first
        if self._fault is not None:
            raise self._fault
        if self._is_over:
            raise StopAsyncIteration
        made = list[bytes]()
        chunk = await anext(self._reply, None)
        if chunk is not None:
            self._fault = self._understood(chunk, made)
        if self._fault is None and (chunk is None or self._reader.is_over):
            self._is_over = True
            made += [*events(self._reader.end()), b"data: [DONE]\n\n"]
        return b"".join(made)

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
