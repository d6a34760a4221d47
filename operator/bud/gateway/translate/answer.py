"""An upstream's answer, read as if the upstream spoke OpenAI's format."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

import aiohttp
import orjson

from bud.gateway.refusal import Refusal, Unavailable
from bud.gateway.translate.wire import Reader, events

log = logging.getLogger("bud.gateway")

_STRANGE = (LookupError, TypeError, ValueError, AttributeError)
"""What comes of an answer that is not as the provider documents it."""


MOST_BYTES = 128 * 1024 * 1024
"""The longest answer that is read as a whole: vectors for some thousand inputs."""


async def read_whole(response: aiohttp.ClientResponse | Translated) -> bytes:
    """The body of an answer. Raises `Unavailable` for one without end, and what reading raises."""
    if isinstance(response, Translated):
        return await response.read()
    chunks, size = list[bytes](), 0
    async for chunk in response.content.iter_any():
        chunks.append(chunk)
        size += len(chunk)
        if size > MOST_BYTES:
            response.close()
            raise Unavailable(f"the model's answer is longer than {MOST_BYTES // (1024 * 1024)} MiB")
    return b"".join(chunks)


class Translated:
    """Stands in for the `ClientResponse` that it reads: the same members, as far as the gateway uses them."""

    def __init__(self, response: aiohttp.ClientResponse, reader: Reader, *, streams: bool) -> None:
        self.response = response
        self._reader = reader
        self.status = response.status
        self.content_length: int | None = None
        self.headers = {"content-type": "text/event-stream; charset=utf-8" if streams else "application/json"}

    @property
    def content(self) -> Translated:
        return self

    async def read(self) -> bytes:
        """The whole answer. Raises `Unavailable` for one that cannot be understood."""
        text = await read_whole(self.response)
        try:
            return orjson.dumps(self._reader.whole(orjson.loads(text)))
        except _STRANGE as error:
            raise _strange() from error

    async def iter_any(self) -> AsyncIterator[bytes]:
        """Events, up to `[DONE]`. Raises `Refusal` for an error that the stream tells of, or that it is."""
        async for chunk in self.response.content.iter_any():
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
