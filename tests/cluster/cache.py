"""A folder of built things that is either whole or not there.

Each entry is a folder named after everything that went into it. It is built in a folder beside it and renamed
when complete, so an interrupt leaves no half of it, and its files are compared with their checksums at every use.
"""

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

Say = Callable[[str], None]

_SUMS = "SHA256SUMS"
_PART = ".part-"


def root() -> Path:
    """The project's folder in the user's cache directory (`XDG_CACHE_HOME`, else `~/.cache`)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bud-operator"


@contextmanager
def locked(file: Path, *, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold `file` as a lock that the kernel releases when this process ends, however it ends."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def entry(place: Path, build: Callable[[Path], None], *, say: Say) -> Path:
    """`place`, built by `build` (which fills an empty folder) unless it is there and undamaged."""
    if _intact(place):
        return place
    with locked(place.parent / ".lock", waiting=lambda: say("another process is building; waiting for it")):
        if _intact(place):
            return place
        if place.exists():
            say(f"{place.name} does not match its checksums; building it again")
            shutil.rmtree(place)
        for left in place.parent.glob(_PART + "*"):  # of a build that was killed: nobody else builds now
            shutil.rmtree(left)
        part = Path(tempfile.mkdtemp(prefix=_PART, dir=place.parent))
        try:
            build(part)
            (part / _SUMS).write_text(_sums(part))
            part.chmod(0o755)
            part.rename(place)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return place


def _sums(place: Path) -> str:
    """The checksums of the files right in it, as `sha256sum` writes them; folders are what a package manager checked."""
    files = sorted(file for file in place.iterdir() if file.name != _SUMS and file.is_file() and not file.is_symlink())
    return "".join(f"{_sha256(file)}  {file.name}\n" for file in files)


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _intact(place: Path) -> bool:
    try:
        return (place / _SUMS).read_text() == _sums(place)
    except FileNotFoundError:
        return False
