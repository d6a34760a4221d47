"""Requests with an `Idempotency-Key` are served once: by this process, and by all of them while Redis is there."""

from __future__ import annotations

from bud.gateway.idempotency import Answers, Kept, check_key
from bud.gateway.shared import Away
from bud.gateway.shared_answers import SharedAnswers


class Once:
    """What was begun and answered, by the caller's key and its Idempotency-Key."""

    def __init__(self, shared: SharedAnswers | None = None) -> None:
        self._answers = Answers()
        self._shared = shared

    async def begin(self, owner: str, key: bytes, digest: bytes = b"", *, now: float) -> tuple[Kept, bool]:
        """What is kept under the key, and whether it is new: then it is to be served, and ended with `end`.

        `digest` may be empty while it is not known. Raises `Invalid`: 400 for a key that is none, 422 for one of
        another request, 409 for one that is being served.
        """
        check_key(key)
        kept = self._answers.find(owner, key, now=now)
        if kept is None and self._shared is not None:
            try:
                kept = await self._shared.claim(owner, key, digest, now=now)
            except Away:
                # Another may have begun in the meantime.
                kept = self._answers.find(owner, key, now=now)
        if kept is None:
            return self._answers.begin(owner, key, digest, now=now), True
        kept.check(digest)
        kept.whole()
        return kept, False

    async def end(self, owner: str, key: bytes, kept: Kept) -> None:
        """Keeps the answer, if it is whole; a failure may be tried again."""
        if self._shared is not None and await self._shared.end(owner, key, kept):
            self._answers.forget(owner, key)
        else:
            self._answers.end(owner, key, kept)
