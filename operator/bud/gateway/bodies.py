"""Bodies of requests in JSON: how much of them is held at a time, and what of one is read."""

from __future__ import annotations

from collections import Counter
from types import TracebackType
from typing import Any

import orjson

from bud.gateway.refusal import Invalid, Unavailable

MOST_VALUES = 500_000
"""Members and elements of one body: each is an object of Python, of a hundred bytes or more."""
ROOM_BYTES = 256 * 1024 * 1024
_FREE_BYTES = 16 * 1024


class Room:
    """How much may be held of all bodies together, beyond what each may have anyway; a project has half of it."""

    def __init__(self, most: int = ROOM_BYTES) -> None:
        self._most = most
        self._held: Counter[str] = Counter()

    def share(self, project: str) -> Share:
        """For one body of a project, for as long as its block runs."""
        return Share(self, project)

    def take(self, project: str, size: int) -> None:
        """Raises `Unavailable` where there is no room for more."""
        whose = self._held[project] + size
        if whose > self._most // 2 or self._held.total() + size > self._most:
            raise Unavailable("the gateway holds as many large bodies as it may; try again later", code="overloaded")
        self._held[project] = whose

    def give_back(self, project: str, size: int) -> None:
        self._held[project] -= size
        if not self._held[project]:
            del self._held[project]


class Share:
    """What one body has of the room."""

    __slots__ = ("_project", "_room", "_size")

    def __init__(self, room: Room, project: str) -> None:
        self._room = room
        self._project = project
        self._size = 0

    def __enter__(self) -> Share:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._size:
            self._room.give_back(self._project, self._size)

    def grow(self, size: int) -> None:
        """The body has so many bytes by now. Raises `Unavailable`."""
        more = size - _FREE_BYTES - self._size
        if more > 0:
            self._room.take(self._project, more)
            self._size += more


def read(text: bytes) -> Any:
    """What a body says. Raises `Invalid`."""
    if _count(text) > MOST_VALUES and not _is_mostly_words(text):
        words = f"the body has more than {MOST_VALUES:,} members and elements: send fewer in one request"
        raise Invalid(words, code="request_too_large", status=413)
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise Invalid(f"the body is not JSON: {error}", code="invalid_json") from None


def _count(text: bytes) -> int:
    return sum(map(text.count, (b",", b"[", b"{")))


def _is_mostly_words(text: bytes) -> bool:
    """Whether what stands between values does so within strings, nearly always."""
    bare = text.replace(rb"\\", b"").replace(rb"\"", b"")
    return bare.count(b'"') <= 2 * MOST_VALUES and _count(b"".join(bare.split(b'"')[::2])) <= MOST_VALUES
