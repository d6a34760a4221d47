"""Files that are on the volume already: found and hashed where they are; nothing is written."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from bud.weights.errors import Permanent
from bud.weights.plan import RESERVED, RemoteFile

# An ext4 volume's own folder, which an ordinary user cannot read.
SKIPPED = frozenset({RESERVED, "lost+found"})


@dataclass(frozen=True, kw_only=True)
class LocalFiles:
    """`root` is the folder that `files` are named relative to; `prefix` leads from the target to it ('' or 'a/b')."""

    root: Path
    prefix: str
    files: tuple[RemoteFile, ...]


def find(target: Path, path: str | None) -> LocalFiles:
    """The file or folder `path` (relative to `target`; empty: the target itself).

    Raises `Permanent`: NotFound, NoFiles, Forbidden, or InvalidSource for links and what is no regular file.
    """
    parts = [part for part in (path or "").split("/") if part not in ("", ".")]
    if ".." in parts:
        raise Permanent("InvalidSource", f"spec.source.local.path {path!r} leaves the volume: refused")
    place = target
    for part in parts:
        place = place / part
        if place.is_symlink():
            raise Permanent("InvalidSource", _link(path or ""))
    try:
        mode = place.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise Permanent("NotFound", f"the volume has no {path!r}: correct spec.source.local.path") from None
    if stat.S_ISDIR(mode):
        files = tuple(_walk(place))
        if not files:
            raise Permanent("NoFiles", f"{path or 'the volume'} holds no file: correct spec.source.local.path")
        return LocalFiles(root=place, prefix="/".join(parts), files=files)
    return LocalFiles(root=place.parent, prefix="/".join(parts[:-1]), files=(_described(place, parts[-1]),))


def _walk(root: Path) -> list[RemoteFile]:
    found = []
    for folder, folders, names in os.walk(root, onerror=_unreadable):
        here = Path(folder)
        if here == root:
            folders[:] = [name for name in folders if name not in SKIPPED]
        for name in folders:
            if (here / name).is_symlink():
                raise Permanent("InvalidSource", _link((here / name).relative_to(root).as_posix()))
        found += [_described(here / name, (here / name).relative_to(root).as_posix()) for name in names]
    return sorted(found, key=lambda file: file.path)


def _described(place: Path, name: str) -> RemoteFile:
    state = place.lstat()
    if stat.S_ISLNK(state.st_mode):
        raise Permanent("InvalidSource", _link(name))
    if not stat.S_ISREG(state.st_mode):
        raise Permanent(
            "InvalidSource", f"{name} is not a regular file: remove it, or point spec.source.local.path elsewhere"
        )
    return RemoteFile(path=name, size=state.st_size, version=None)


def _link(name: str) -> str:
    return f"{name} is a symbolic link, which could lead out of the volume: put the file itself there"


def _unreadable(error: OSError) -> None:
    raise error
