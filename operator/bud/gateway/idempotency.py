"""`Idempotency-Key`: a request that comes twice is served once, and answered twice with the same bytes.

Answers are kept for a day, within bounds. What failed, or was never finished, is not: it may be tried again. One
process keeps them in memory; several share what Redis keeps (`bud.gateway.shared_answers`).
"""

from __future__ import annotations

import hashlib
import re
from collections import OrderedDict
from collections.abc import MutableMapping
from dataclasses import dataclass, field
from typing import Any

from bud.gateway.refusal import Invalid

Message = MutableMapping[str, Any]

MOST_BYTES = 1024 * 1024
"""The longest answer that is kept."""
KEPT_BYTES = 64 * 1024 * 1024
KEPT_SECONDS = 86400.0
_OVERHEAD = 1024
"""Bytes that an answer takes beside its own."""
_KEY = re.compile(rb"[!-~]{1,255}")


@dataclass(slots=True)
class Kept:
    """One request by its key, and its answer: `body` is None when it was too long to be kept.

    `digest` is empty while nobody knows yet which request it is: an upload that is still coming.
    """

    digest: bytes
    began: float
    status: int = 0
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytearray | None = field(default_factory=bytearray)
    done: bool = False

    def check(self, digest: bytes) -> None:
        """Raises `Invalid` (422) when this is the answer to another request."""
        if self.digest and digest and self.digest != digest:
            raise Invalid(
                "this Idempotency-Key was used for another request: use a new one",
                code="idempotency_key_reused",
                status=422,
            )

    def whole(self) -> bytes:
        """The body of the answer. Raises `Invalid` (409) while there is none."""
        if not self.is_whole:
            raise _conflict("a request with this Idempotency-Key is being served: wait for its answer", "in_flight")
        if self.body is None:
            raise _conflict("the answer to this Idempotency-Key was too long to be kept: use another", "too_long")
        return bytes(self.body)

    @property
    def size(self) -> int:
        """Bytes that it takes, about."""
        return len(self.body or b"") + sum(len(name) + len(value) for name, value in self.headers) + _OVERHEAD

    @property
    def is_whole(self) -> bool:
        """Whether it can be told again."""
        return self.done and self.digest != b""

    def take(self, message: Message) -> None:
        """A part of the answer, as ASGI sends it."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = [
                one for one in message["headers"] if not one[0].startswith((b"x-ratelimit-", b"x-request-id"))
            ]
            return
        if self.body is not None:
            self.body += message.get("body", b"")
            if len(self.body) > MOST_BYTES:
                self.body = None
        self.done = not message.get("more_body")


class Answers:
    """Answers of one process, the oldest forgotten first."""

    def __init__(self, *, most: int = KEPT_BYTES) -> None:
        self._kept: OrderedDict[tuple[str, bytes], Kept] = OrderedDict()
        self._most = most
        self._size = 0

    def find(self, owner: str, key: bytes, *, now: float) -> Kept | None:
        """What is kept under a key."""
        kept = self._kept.get((owner, key))
        return None if kept is None or kept.began + KEPT_SECONDS <= now else kept

    def begin(self, owner: str, key: bytes, digest: bytes, *, now: float) -> Kept:
        """A request that is now being served."""
        self._forget((owner, key))
        kept = self._kept[owner, key] = Kept(digest, now)
        return kept

    def end(self, owner: str, key: bytes, kept: Kept) -> None:
        """Keeps an answer that is whole, and forgets the oldest that are too many; a failure is forgotten itself."""
        if not kept.is_whole:
            self.forget(owner, key)
            return
        self._size += kept.size
        while self._size > self._most:
            oldest = next((at for at, one in self._kept.items() if one.is_whole and one is not kept), None)
            if oldest is None:
                return
            self._forget(oldest)

    def forget(self, owner: str, key: bytes) -> None:
        """Forgets a request that was begun and has not been kept."""
        self._kept.pop((owner, key), None)

    def _forget(self, at: tuple[str, bytes]) -> None:
        kept = self._kept.pop(at, None)
        if kept is not None and kept.is_whole:
            self._size -= kept.size


def check_key(key: bytes) -> None:
    """Raises `Invalid` (400) for a key that is none."""
    if not _KEY.fullmatch(key):
        raise Invalid("Idempotency-Key: 1 to 255 printable characters of ASCII", code="invalid_idempotency_key")


def digest_of(path: str, body: bytes) -> bytes:
    """What makes two requests the same."""
    return hashlib.sha256(path.encode() + b"\0" + body).digest()


def _conflict(text: str, code: str) -> Invalid:
    return Invalid(text, code=f"idempotency_{code}", status=409, headers={"x-should-retry": "false"})
