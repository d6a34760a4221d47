"""The folder that is filled: files in their places, and under `.bud/` the notes, the parts and the manifest.

A note (`.bud/partial/<id>.json`) tells which bytes a part or a file is made of, so that a start after a kill knows
what it may continue. Whatever is not proven by a note or by a known hash is fetched anew.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path

from bud.weights.errors import Failure, Permanent, Transient
from bud.weights.plan import RESERVED, Entry, Record, Seen

FULL = (errno.ENOSPC, errno.EDQUOT)
DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)


def disk_failure(error: OSError) -> Failure:
    """What an error of the file system means to the person who wrote the spec."""
    name = os.path.basename(str(error.filename or "the volume"))
    if error.errno in FULL:
        return Permanent(
            "InsufficientSpace",
            f"the volume is full while writing {name}: raise spec.storage.size, or narrow the patterns",
        )
    if error.errno in DENIED:
        return Permanent(
            "VolumeNotWritable", f"{name}: {error.strerror}: the volume must be writable for user {os.getuid()}"
        )
    if error.errno in (errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP):
        return Permanent("InvalidSource", f"{name}: {error.strerror}: what lies in the volume is in the way; clear it")
    return Transient("VolumeFault", f"{name}: {error.strerror or error}")


class Volume:
    """One target folder. Every method raises `OSError` for faults of the file system, see `disk_failure`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._notes = root / RESERVED / "partial"
        self._manifest = root / RESERVED / "manifest.json"

    @contextlib.contextmanager
    def claimed(self) -> Iterator[None]:
        """Holds the folder for this process; the lock ends with the process.

        Raises `Transient` (Busy) while another download fills the same folder.
        """
        self._place(f"{RESERVED}/partial").mkdir(parents=True, exist_ok=True)
        descriptor = os.open(
            self.root / RESERVED / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644
        )
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise Transient("Busy", "another download is filling this volume: it goes on when that one ends") from None
        except OSError:
            pass  # Some network file systems have no locks; the Job's own single pod is then all there is.
        try:
            yield
        finally:
            os.close(descriptor)

    def seen(self, path: str) -> Seen:
        """What is here of one file."""
        return Seen(
            whole=_size(self._place(path)), part=_size(self.part(path)), record=_read_record(self._note(path), path)
        )

    def part(self, path: str) -> Path:
        """Where the unfinished copy grows. Its name is a hash, so no file's name is too long or clashes."""
        return self._notes / f"{_identity(path)}.part"

    def place(self, path: str) -> Path:
        """Where the file belongs, its folders made.

        Raises `Permanent` (InvalidSource) if a symbolic link stands on the way: it could lead out of the volume.
        """
        place = self._place(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        return place

    def _place(self, path: str) -> Path:
        place = self.root
        for name in path.split("/"):
            place = place / name
            if place.is_symlink():
                raise Permanent(
                    "InvalidSource",
                    f"{path}: a symbolic link lies in the volume at {name!r}: remove it, links are refused",
                )
        return place

    def note(self, record: Record) -> None:
        """Writes the note beside a file, whole or not at all.

        It may be lost with the power: then the file is fetched anew unless its hash is known.
        """
        fresh = self._note(record.path).with_suffix(".new")
        fresh.write_text(json.dumps(asdict(record)))
        os.replace(fresh, self._note(record.path))

    def finish(self, record: Record) -> None:
        """Puts a part in its place; after this returns it survives a loss of power."""
        part, place = self.part(record.path), self.place(record.path)
        with part.open("rb") as file:
            os.fdatasync(file.fileno())
        self.note(record)
        os.replace(part, place)
        _sync_folder(place.parent)

    def discard(self, path: str) -> None:
        """Forgets a file: its place, its part and its note."""
        for found in (self._place(path), self.part(path), self._note(path)):
            found.unlink(missing_ok=True)

    def discard_part(self, path: str) -> None:
        self.part(path).unlink(missing_ok=True)

    def prune(self, wanted: Iterable[str]) -> list[str]:
        """Removes what an earlier run put here and nobody wants now; returns the names. Strangers' files stay.

        The manifest goes too: it comes back when the copy is whole again.
        """
        self._manifest.unlink(missing_ok=True)
        keep = set(wanted)
        records = [_read_record(note, None) for note in self._notes.glob("*.json")]
        gone = sorted({record.path for record in records if record} - keep)
        for path in gone:
            self.discard(path)
        known = {self.part(path).name for path in keep}
        for part in self._notes.glob("*.part"):
            if part.name not in known:
                part.unlink(missing_ok=True)
        return gone

    def free_bytes(self) -> int:
        """Bytes that an ordinary user may still write here."""
        state = os.statvfs(self.root)
        return state.f_bavail * state.f_frsize

    def conclude(self, entries: Iterable[Entry], *, digest: str, revision: str | None) -> None:
        """Writes the manifest; it is the last thing to appear."""
        rows = [asdict(entry) for entry in sorted(entries, key=lambda entry: entry.path)]
        text = json.dumps({"digest": digest, "revision": revision, "files": rows}, indent=1)
        fresh = self._manifest.with_suffix(".new")
        with fresh.open("w") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, self._manifest)
        _sync_folder(self._manifest.parent)

    def _note(self, path: str) -> Path:
        return self._notes / f"{_identity(path)}.json"


def _identity(path: str) -> str:
    return hashlib.sha256(path.encode()).hexdigest()[:40]


def _size(path: Path) -> int | None:
    try:
        return path.stat(follow_symlinks=False).st_size
    except FileNotFoundError:
        return None


def _read_record(note: Path, path: str | None) -> Record | None:
    try:
        record = Record(**json.loads(note.read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None
    return record if path in (None, record.path) else None


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
