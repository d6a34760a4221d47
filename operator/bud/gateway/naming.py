"""What an upstream calls its model, and the name that the caller used in its place. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

import orjson

from bud.gateway.glance import Seen, glance

MOST_CHARACTERS = 512
"""What is longer is no name of a model."""
_MODEL = b'"model"'
_COLON = re.compile(rb'"model"\s*:\s*')
_MOST_MEMBERS = 1000
"""How many members of this name are looked at to find the one that is meant."""


@dataclass(slots=True)
class Naming:
    """Of one answer. `name` is what the caller calls the model."""

    name: str
    version: str | None = None
    """The upstream's first name for it that is one; None as long as it told none."""
    _before: bytes = b""
    """The last member that was renamed, as it was written and as it became."""
    _after: bytes = b""

    def chunk(self, text: bytes) -> bytes:
        """One event's data with the caller's name: in the object itself, or else in its `response`."""
        if self._before and self._before in text:
            return text if self._before == self._after else text.replace(self._before, self._after, 1)
        if _MODEL not in text:
            return text
        seen = glance(text)
        return text if seen is None else self.whole(text, seen)

    def whole(self, text: bytes, seen: Seen) -> bytes:
        """An object's text with the caller's name. `seen` is what it holds."""
        written = bytes(seen.model)
        if not written and (within := glance(seen.response)) is not None:
            written = bytes(within.model)
        if not written.startswith(b'"') or not self._find(text, written):
            return text
        if self.version is None:
            self.version = _meant(written)
        return text if self._before == self._after else text.replace(self._before, self._after, 1)

    def _find(self, text: bytes, written: bytes) -> bool:
        """Whether there is a member with a value that was written so; it is the one to be renamed then."""
        after = orjson.dumps(self.name)
        self._before, self._after = b'"model":' + written, b'"model":' + after
        if self._before in text:
            return True
        at = -1
        for _ in range(_MOST_MEMBERS):
            if (at := text.find(_MODEL, at + 1)) < 0:
                break
            colon = _COLON.match(text, at)
            if colon is not None and text.startswith(written, colon.end()):
                self._before, self._after = colon[0] + written, colon[0] + after
                return True
        return False


def _meant(written: bytes) -> str | None:
    """The name that a JSON string is, if it is one."""
    try:
        said: str = orjson.loads(written)
    except orjson.JSONDecodeError:
        return None
    return said if 0 < len(said) <= MOST_CHARACTERS else None
