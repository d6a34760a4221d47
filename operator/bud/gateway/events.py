"""Streams whose events have types (transcriptions, speech, responses, images), on their way to the caller. Pure.

Events pass as they came, with all their lines, but for the name of the model and for the metadata in the last event. A
stream is over with that event or `[DONE]`, whatever its upstream sends after it. An event `error` need not be the last
(https://platform.openai.com/docs/api-reference/responses-streaming: `response.failed` may follow), nor need a picture
(one of several): such a picture is kept back until the next event tells, and all else goes on at once. What ends
otherwise is `CutShort`. Errors in the API's own form (`error`, `response.failed`) pass as they came, though the request
failed; others end the stream, and are told in that form.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from bud.gateway.faults import failed_of, status_of
from bud.gateway.glance import glance, plain
from bud.gateway.naming import Naming
from bud.gateway.splice import add_member
from bud.gateway.sse import Splitter, data_of, with_data
from bud.gateway.stream import DONE, CutShort, Events
from bud.gateway.usage import Usage

_LAST = frozenset(
    {"response.completed", "response.incomplete", "response.failed", "speech.audio.done", "transcript.text.done"}
)
_PICTURES = frozenset({"image_generation.completed", "image_edit.completed"})
_ERROR, _FAILED = "error", "response.failed"
_ENDS = re.compile(
    rb'"type"\s*:\s*"(?:%b)"' % "|".join(re.escape(kind) for kind in (*_LAST, *_PICTURES, _ERROR)).encode()
)
"""What an event that ends something holds; others may, too, within what they tell."""


@dataclass(slots=True)
class Typed(Events):
    """What the caller gets of each event; see `bud.gateway.stream.Rewriter` for its fields."""

    naming: Naming
    metadata: Callable[[Usage], Mapping[str, Any]] | None
    usage: Usage
    chunks: int = 0
    is_ending: bool = False
    is_over: bool = False
    fault: bytes | None = None
    tells_fault: bool = False
    may_end: bool = False
    """Whether the last event was one that may be the last."""
    _splitter: Splitter = field(default_factory=Splitter)
    _held: bytes | None = None

    def end(self) -> bytes:
        """What is left when nothing more comes though it is not over. Raises `CutShort`."""
        if not self.may_end:
            raise CutShort("the stream ended before its last event")
        return self._told(self._held) if self._held is not None else b""

    def _take(self, event: bytes, out: list[bytes]) -> None:
        data = data_of(event)
        if data is None:
            out.append(event + b"\n\n")
            return
        if data == DONE:
            self.is_ending = self.is_over = True
            if self._held is not None:
                out.append(self._told(self._held))
            out.append(event + b"\n\n")
            return
        if self._held is not None:
            out.append(self._held + b"\n\n")
            self._held = None
        kind = _kind(data) if _ENDS.search(data) else None
        if self._fails(kind, event, data):
            return
        self.chunks += 1
        if (changed := self.naming.chunk(data)) is not data:
            event = with_data(event, data, changed)[:-2]
        if b'"usage"' in data:
            self.usage.read_event(data)
        self.is_over, self.may_end = kind in _LAST, kind in _PICTURES or kind == _ERROR
        self.is_ending = self.is_over or kind == _ERROR
        if kind in _PICTURES and self.metadata is not None:
            self._held = event
        else:
            out.append(self._told(event) if self.is_over else event + b"\n\n")

    def _fails(self, kind: str | None, event: bytes, data: bytes) -> bool:
        """Whether the stream ends with an error that is not in the API's own form."""
        if kind == _FAILED:
            self.fault = self.fault or failed_of(data)
        elif b"error" in event and status_of(event) is not None:
            self.fault = self.fault or event
            if kind != _ERROR:
                self.is_ending = self.is_over = self.tells_fault = True
        return self.tells_fault

    def _told(self, event: bytes) -> bytes:
        """The last event of a stream, with the metadata."""
        data = data_of(event)
        if data is None or self.metadata is None:
            return event + b"\n\n"
        return with_data(event, data, add_member(data, "conduit_metadata", self.metadata(self.usage)))


def _kind(data: bytes) -> str | None:
    """The type of an event."""
    seen = glance(data)
    kind = plain(seen.type) if seen is not None else None
    return kind if isinstance(kind, str) else None
