"""Streams whose events have types (transcriptions, speech, responses, images), on their way to the caller. Pure.

Events pass as they came, with all their lines, but for the name of the model and for the metadata in the last event
that ends something. Such an event is kept back until the next one tells whether it was the last; all others go on at
once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from bud.gateway.splice import add_member, rename_model
from bud.gateway.stream import DONE, Splitter, data_of
from bud.gateway.usage import Usage

_ENDS = re.compile(rb'"type"\s*:\s*"[a-z._]+\.(?:done|completed|incomplete|failed)"')


@dataclass(slots=True)
class Typed:
    """What the caller gets of each event; see `bud.gateway.stream.Rewriter` for its fields."""

    upstream: str
    name: str
    metadata: Callable[[Usage], Mapping[str, Any]] | None
    usage: Usage
    chunks: int = 0
    _splitter: Splitter = field(default_factory=Splitter)
    _held: bytes | None = None

    def feed(self, chunk: bytes) -> bytes:
        """What may go to the caller now. Raises `TooLong`."""
        return b"".join(out for event in self._splitter.feed(chunk) for out in self._take(event))

    def end(self) -> bytes:
        """What is left when nothing more comes."""
        return b"".join(self._last())

    def _take(self, event: bytes) -> Iterator[bytes]:
        data = data_of(event)
        if data == DONE:
            yield from self._last()
        if data is None or data == DONE:
            yield event + b"\n\n"
            return
        if self._held is not None:
            yield self._held + b"\n\n"
            self._held = None
        self.chunks += 1
        if self.upstream != self.name:
            event = event.replace(data, rename_model(data, self.upstream, self.name), 1)
        if b'"usage"' in data:
            self.usage.read_event(data)
        if self.metadata is not None and _ENDS.search(data):
            self._held = event
        else:
            yield event + b"\n\n"

    def _last(self) -> Iterator[bytes]:
        held, self._held = self._held, None
        if held is not None and self.metadata is not None:
            data = data_of(held) or b""
            yield held.replace(data, add_member(data, "conduit_metadata", self.metadata(self.usage)), 1) + b"\n\n"
