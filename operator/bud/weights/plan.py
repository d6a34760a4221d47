"""Pure decisions: which files are wanted, which names are acceptable, and what of them a volume holds already."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from bud.weights.errors import Permanent

RESERVED = ".bud"


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """A file as its source describes it.

    `size` in bytes, None where the source does not tell. `version` is whatever changes when the bytes change (an
    ETag, a blob id), None where nothing does. `sha256` and `git_sha1` are hashes that the bytes must have.
    """

    path: str
    size: int | None
    version: str | None
    sha256: str | None = None
    git_sha1: str | None = None

    @property
    def has_hash(self) -> bool:
        return bool(self.sha256 or self.git_sha1)


@dataclass(frozen=True, kw_only=True)
class Record:
    """What was noted beside a file: which bytes they are, and once it is whole, their hash."""

    path: str
    size: int | None
    version: str | None
    sha256: str | None = None


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a volume holds of one file: bytes in its place, bytes of its unfinished copy, and the note."""

    whole: int | None = None
    part: int | None = None
    record: Record | None = None


class Action(Enum):
    CHECK = "check"  # it is in its place: hash it
    RESUME = "resume"  # a part is there: hash that and fetch the rest
    FETCH = "fetch"  # nothing there is of use


@dataclass(frozen=True, kw_only=True)
class Step:
    """What to do for one file. `held`: bytes on the volume that need not be fetched."""

    file: RemoteFile
    action: Action
    held: int = 0

    @property
    def missing(self) -> int:
        """Bytes still to be written, as far as the source tells sizes."""
        return max((self.file.size or 0) - self.held, 0)


def decide(file: RemoteFile, seen: Seen) -> Step:
    """Keeps what can be proven to be these bytes: by a hash that is known, or by the source's version of them."""
    record = seen.record
    same = (
        record is not None
        and record.version == file.version
        and record.size == file.size
        and (file.version is not None or file.has_hash)
    )
    if seen.whole is not None and file.size in (None, seen.whole):
        noted = record is not None and same and record.sha256 is not None
        if file.has_hash or noted:
            return Step(file=file, action=Action.CHECK, held=seen.whole)
    if seen.part and same and (file.size is None or seen.part <= file.size):
        return Step(file=file, action=Action.RESUME, held=seen.part)
    return Step(file=file, action=Action.FETCH)


def checked(files: Iterable[RemoteFile]) -> list[RemoteFile]:
    """The same files, when their names can stand below one folder without leaving it or hiding one another.

    Raises `Permanent` (InvalidSource) naming the file.
    """
    kept = sorted(files, key=lambda file: file.path)
    names: set[str] = set()
    for file in kept:
        if fault := _name_fault(file.path):
            raise Permanent("InvalidSource", f"the source names a file {file.path!r}, which {fault}: refused")
        if file.path in names:
            raise Permanent("InvalidSource", f"two files of the source are called {file.path!r}: name each once")
        names.add(file.path)
    for name in names:
        parts = name.split("/")
        for depth in range(1, len(parts)):
            if (folder := "/".join(parts[:depth])) in names:
                raise Permanent("InvalidSource", f"the source has {folder!r} both as a file and as a folder")
    return kept


def _name_fault(path: str) -> str | None:
    parts = path.split("/")
    if path.startswith("/"):
        return "is an absolute path"
    if any(part in ("", ".", "..") for part in parts):
        return "leaves the folder or has an empty part"
    if parts[0] == RESERVED:
        return f"lies in {RESERVED}/, where the download keeps its own notes"
    if not path.isprintable() or "\\" in path:
        return "has characters that a file name should not have"
    if any(len(part.encode()) > 255 for part in parts) or len(path.encode()) > 2048:
        return "is too long"
    return None


def with_demands(files: Sequence[RemoteFile], demands: Mapping[str, str]) -> list[RemoteFile]:
    """Adds the hashes that the user demands.

    Raises `Permanent`: UnknownFile for a demand on a file that is not there, HashMismatch where the source itself
    publishes another hash (no byte needs to be fetched to know that it cannot match).
    """
    names = {file.path for file in files}
    for name in sorted(demands.keys() - names):
        there = ", ".join(sorted(names)[:5])
        raise Permanent(
            "UnknownFile",
            f"spec.sha256 names {name!r}, which is not among the files of the source ({there}"
            f"{', …' if len(names) > 5 else ''}): correct the name, or the patterns that leave it out",
        )
    for file in files:
        wanted = demands.get(file.path)
        if wanted and file.sha256 and wanted != file.sha256:
            raise Permanent(
                "HashMismatch", mismatch(file.path, wanted=wanted, got=file.sha256, by="the source publishes")
            )
    return [replace(file, sha256=demands.get(file.path, file.sha256)) for file in files]


def mismatch(path: str, *, wanted: str, got: str, by: str = "its bytes have") -> str:
    """The sentence that tells two hashes apart."""
    return (
        f"{path}: the hash must be {wanted}, {by} {got}: the file was changed or replaced; correct spec.sha256 if "
        "the new one is meant, else the source"
    )


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One file of the finished copy. `verified`: its hash was known beforehand, and matched."""

    path: str
    size: int
    sha256: str
    verified: bool


def digest(entries: Iterable[Entry]) -> str:
    """Names the content: SHA-256 of the canonical JSON (sorted by path and key, no blanks) of path, size, sha256."""
    rows = [
        {"path": entry.path, "sha256": entry.sha256, "size": entry.size}
        for entry in sorted(entries, key=lambda entry: entry.path)
    ]
    text = json.dumps(rows, separators=(",", ":"), sort_keys=True, ensure_ascii=False)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()
