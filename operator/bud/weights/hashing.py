"""SHA-256 of everything, and beside it the hash that git gives a blob, where that is what a source publishes."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

from bud.weights.errors import Permanent
from bud.weights.plan import Entry, RemoteFile, mismatch

BLOCK = 1 << 20
WAITING = 4
"""Blocks that may wait for their hash: reading and hashing take turns at being the slower one."""


class FileHash:
    """Hashes one file's bytes in order, in a thread of its own: the caller reads on meanwhile.

    At most WAITING blocks wait, so memory stays bounded.
    """

    def __init__(self, file: RemoteFile) -> None:
        self._sha256 = hashlib.sha256()
        # git: SHA-1 over "blob <size>\0" and the bytes. The Hub publishes it for small files; it guards against
        # accidents, not against a publisher who forges collisions.
        self._git = hashlib.sha1(usedforsecurity=False) if file.git_sha1 and not file.sha256 else None
        if self._git:
            self._git.update(f"blob {file.size}\0".encode())
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="hash")
        self._waiting: deque[Future[None]] = deque()
        self.size = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(wait=True)

    def feed(self, block: bytes) -> None:
        self.size += len(block)
        if len(self._waiting) >= WAITING:
            self._waiting.popleft().result()
        self._waiting.append(self._thread.submit(self._update, block))

    def feed_file(self, path: Path, *, seen: Callable[[int], None]) -> None:
        """Hashes a file from its start; `seen` is told the count of each block's bytes."""
        for block in _blocks(path):
            self.feed(block)
            seen(len(block))

    def judge(self, file: RemoteFile) -> Entry:
        """The finished file's entry.

        Raises `Permanent` (HashMismatch) if the hash is not the one that the source or the user gave.
        """
        for waiting in self._waiting:
            waiting.result()
        got = self._sha256.hexdigest()
        if file.sha256 and got != file.sha256:
            raise Permanent("HashMismatch", mismatch(file.path, wanted=file.sha256, got=got))
        if self._git and self._git.hexdigest() != file.git_sha1:
            wanted = f"{file.git_sha1} (git)"
            raise Permanent("HashMismatch", mismatch(file.path, wanted=wanted, got=self._git.hexdigest()))
        return Entry(path=file.path, size=self.size, sha256=got, verified=file.has_hash)

    def _update(self, block: bytes) -> None:
        self._sha256.update(block)
        if self._git:
            self._git.update(block)


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb", buffering=0) as file:
        while block := file.read(BLOCK):
            yield block
