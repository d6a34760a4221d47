"""Where weights come from. A source lists its files, and streams one from any byte on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from bud.weights.plan import RemoteFile


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What a source has. `revision`: the commit, where there are commits. `task`: the task its publisher names."""

    files: tuple[RemoteFile, ...]
    revision: str | None = None
    task: str | None = None


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A stream of one file's bytes from `start` on.

    `start` is 0 instead of the offset asked for where the source cannot continue, or where the bytes changed since
    they were listed; `file` describes them as they are now.
    """

    file: RemoteFile
    start: int
    chunks: Iterator[bytes]


class Source(Protocol):
    """Both methods raise `Permanent` or `Transient`, and say in the message what to do."""

    def list_files(self) -> Listing: ...

    def open(self, file: RemoteFile, offset: int) -> AbstractContextManager[Opened]: ...
