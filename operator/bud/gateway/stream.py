"""Server-sent events on their way to the caller: whole events in, what the caller gets out. Pure.

Events pass as they came, but for the name of the model, for usage that only the gateway asked for, and for the
metadata in the last chunk of data. A chunk that ends a choice is kept back until the next event tells whether it was
the last; all others go on at once. A stream is over with `[DONE]`, whatever its upstream sends after it; where the
upstream just ends, it gets one once every choice has ended, else it is `CutShort`.
Format: https://html.spec.whatwg.org/multipage/server-sent-events.html.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from bud.gateway.asks import prompts
from bud.gateway.glance import ended, glance, plain
from bud.gateway.naming import Naming
from bud.gateway.splice import add_member
from bud.gateway.usage import Usage

DONE = b"[DONE]"
_MOST = 16 * 1024 * 1024
_FINISHES = b'"finish_reason":"', b'"finish_reason": "'
"""As JSON is written; a chunk without one of these is not read to see what it ends."""


class TooLong(OSError):
    """An event is longer than any that is meant."""


class CutShort(OSError):
    """A stream ended before it was over, though its connection has no fault."""


class Splitter:
    """Bytes as they come, into whole events."""

    def __init__(self) -> None:
        self._rest = b""
        self._more = list[bytes]()
        self._size = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """Events that are now whole, without the empty line at their end."""
        if self._rest and b"\n" not in chunk:
            # An event that comes in many pieces is put together once.
            self._more.append(chunk)
            self._size += len(chunk)
            if self._size > _MOST:
                raise TooLong
            return []
        text = b"".join((self._rest, *self._more, chunk)) if self._rest else chunk
        self._more, self._size = [], 0
        if b"\r" in text:
            text = text.replace(b"\r\n", b"\n")
        *whole, self._rest = text.split(b"\n\n")
        if len(self._rest) > _MOST:
            raise TooLong
        return whole

    @property
    def rest(self) -> bytes:
        """What has come of an event that is not whole yet."""
        return b"".join((self._rest, *self._more))


def data_of(event: bytes) -> bytes | None:
    """The data of an event; None when it has none, as a comment that keeps the connection alive."""
    if event.startswith(b"data:") and b"\n" not in event:
        return event[5:].strip()
    lines = [line[5:].strip() for line in event.split(b"\n") if line.startswith(b"data:")]
    return b"\n".join(lines) if lines else None


@dataclass(slots=True)
class Rewriter:
    """What the caller gets of each event.

    `naming` puts the caller's name of the model in place of the upstream's. `shows_usage` is whether the caller gets
    usage. `metadata` gives `conduit_metadata` from the usage, once it is known; None: none is wanted. `asked` is the
    request, which tells how many choices there are.
    """

    naming: Naming
    shows_usage: bool
    metadata: Callable[[Usage], Mapping[str, Any]] | None
    usage: Usage
    asked: Mapping[str, Any]
    chunks: int = 0
    is_ending: bool = False
    """Whether its end has come, or what is soon followed by it."""
    is_over: bool = False
    """Whether its end has come: what comes after it is not the caller's."""
    _splitter: Splitter = field(default_factory=Splitter)
    _held: tuple[bytes, bytes] | None = None
    """An event and its data, which may be the last."""
    _ended: set[int] = field(default_factory=set)
    """The choices that have ended."""

    def feed(self, chunk: bytes) -> bytes:
        """What may go to the caller now, of bytes as they come. Raises `TooLong`."""
        out = list[bytes]()
        for event in self._splitter.feed(chunk):
            self._take(event, out)
            if self.is_over:
                break
        return b"".join(out)

    def end(self) -> bytes:
        """What is left when nothing more comes though it is not over. Raises `CutShort`."""
        if len(self._ended) < _choices(self.asked):
            raise CutShort("the stream ended before its choices did")
        return self._last()

    def _take(self, event: bytes, out: list[bytes]) -> None:
        data = data_of(event)
        if data is None:
            out.append(event + b"\n\n")
            return
        if data == DONE:
            self.is_ending = self.is_over = True
            out.append(self._last())
            return
        self.chunks += 1
        changed = self.naming.chunk(data)
        if b'"usage"' in data and self._read_usage(data) and not self.shows_usage:
            return
        if _FINISHES[0] in data or _FINISHES[1] in data:
            self._end(data)
        if self._held is not None:
            (before, known), self._held = self._held, None
            out.append(_with(before, b"", known))
        if self.metadata is not None and _may_be_last(data):
            self._held = event, changed
        else:
            out.append(_with(event, data, changed))

    def _end(self, data: bytes) -> None:
        if (seen := glance(data)) is not None:
            self._ended.update(index for index in ended(seen.choices) if index in range(_choices(self.asked)))

    def _last(self) -> bytes:
        """The end of a stream that has one."""
        done = b"data: [DONE]\n\n"
        if self._held is None or self.metadata is None:
            return done
        event, data = self._held
        return _with(event, b"", add_member(data, "conduit_metadata", self.metadata(self.usage))) + done

    def _read_usage(self, data: bytes) -> bool:
        """Whether the chunk tells usage and nothing else."""
        seen = glance(data)
        if seen is None:
            return False
        told = plain(seen.usage)
        self.usage.read(told)
        return bool(told) and plain(seen.choices) == []


def _choices(body: Mapping[str, Any]) -> int:
    """How many choices a request asks for: `n` for each of its prompts."""
    return prompts(body) * int(body.get("n") or 1)


def _may_be_last(data: bytes) -> bool:
    """Whether a chunk ends a choice, or tells usage alone."""
    at = data.rfind(b'"finish_reason"')
    if at >= 0:
        return not data[at + 15 :].lstrip(b" :").startswith(b"null")
    return b'"usage"' in data


def _with(event: bytes, before: bytes, data: bytes) -> bytes:
    """The event with other data; its name and id stay."""
    if data == before:
        return event + b"\n\n"
    others = [line for line in event.split(b"\n") if not line.startswith(b"data:")]
    return b"\n".join([*others, b"data: " + data, b"", b""])
