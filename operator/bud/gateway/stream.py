"""Server-sent events on their way to the caller: whole events in, what the caller gets out. Pure.

Events pass as they came, but for the name of the model, for usage that only the gateway asked for, and for the
metadata in the last chunk of data. A chunk that ends a choice, or comes after the end of them all, is kept back until
the next event tells whether it was the last; all others go on at once. A stream is over with `[DONE]` or with an error,
whatever its upstream sends after it; where the upstream just ends, it gets one once every choice has ended, else it is
`CutShort`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from bud.gateway.asks import prompts
from bud.gateway.faults import status_of
from bud.gateway.glance import ended, glance, plain
from bud.gateway.naming import Naming
from bud.gateway.splice import add_member
from bud.gateway.sse import Splitter, data_of, with_data
from bud.gateway.usage import Usage

DONE = b"[DONE]"
_FINISHES = b'"finish_reason":"', b'"finish_reason": "'
"""As JSON is written; a chunk without one of these is not read to see what it ends."""


class CutShort(OSError):
    """A stream ended before it was over, though its connection has no fault."""


class Ends:
    """Which of the choices that a request asks for have ended: `n` for each of its prompts."""

    __slots__ = ("_open", "are_all")

    def __init__(self, asked: Mapping[str, Any]) -> None:
        self._open = set(range(prompts(asked) * int(asked.get("n") or 1)))
        self.are_all = not self._open

    def read(self, data: bytes) -> None:
        """From a chunk; what cannot be meant says nothing."""
        if (seen := glance(data)) is not None:
            self._open.difference_update(index for index in ended(seen.choices) if isinstance(index, int))
        self.are_all = not self._open


class Events:
    """What all kinds of streams share: whole events are taken one by one, up to the last."""

    __slots__ = ()

    is_over: bool
    """Whether its end has come: what comes after it is not the caller's."""
    fault: bytes | None
    """The event of an error with which it failed."""
    tells_fault: bool
    """Whether the caller is to be told of that: it is not yet among what went on."""
    _splitter: Splitter

    def feed(self, chunk: bytes) -> bytes:
        """What may go to the caller now, of bytes as they come. Raises `TooLong`."""
        out = list[bytes]()
        for event in self._splitter.feed(chunk):
            self._take(event, out)
            if self.is_over:
                break
        return b"".join(out)

    def _take(self, event: bytes, out: list[bytes]) -> None:
        raise NotImplementedError


@dataclass(slots=True)
class Rewriter(Events):
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
    fault: bytes | None = None
    tells_fault: bool = True
    _splitter: Splitter = field(default_factory=Splitter)
    _held: tuple[bytes, bytes] | None = None
    """An event and its data, which may be the last."""
    _ends: Ends = field(init=False)

    def __post_init__(self) -> None:
        self._ends = Ends(self.asked)

    def end(self) -> bytes:
        """What is left when nothing more comes though it is not over. Raises `CutShort`."""
        if not self._ends.are_all:
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
        if b"error" in event and status_of(event) is not None:
            self.is_ending = self.is_over = True
            self.fault = event
            self._release(out)
            return
        self.chunks += 1
        changed = self.naming.chunk(data)
        if b'"usage"' in data and self._read_usage(data) and not self.shows_usage:
            return
        if _FINISHES[0] in data or _FINISHES[1] in data:
            self._ends.read(data)
        self._release(out)
        if self.metadata is not None and (self._ends.are_all or _may_be_last(data)):
            self._held = event, changed
        else:
            out.append(with_data(event, data, changed))

    def _release(self, out: list[bytes]) -> None:
        """What was kept back was not the last."""
        if self._held is not None:
            (event, data), self._held = self._held, None
            out.append(with_data(event, b"", data))

    def _last(self) -> bytes:
        """The end of a stream that has one."""
        done = b"data: [DONE]\n\n"
        if self._held is None or self.metadata is None:
            return done
        event, data = self._held
        return with_data(event, b"", add_member(data, "conduit_metadata", self.metadata(self.usage))) + done

    def _read_usage(self, data: bytes) -> bool:
        """Whether the chunk tells usage and nothing else."""
        seen = glance(data)
        if seen is None:
            return False
        told = plain(seen.usage)
        self.usage.read(told)
        return bool(told) and plain(seen.choices) == []


def _may_be_last(data: bytes) -> bool:
    """Whether a chunk ends a choice, or tells usage alone."""
    at = data.rfind(b'"finish_reason"')
    if at >= 0:
        return not data[at + 15 :].lstrip(b" :").startswith(b"null")
    return b'"usage"' in data
