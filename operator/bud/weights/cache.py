"""Copies on the node's own disk: `<root>/<namespace>/<copy>/`, within a quota, the least recently used going first.

Three locks (flock, so each ends with its process, however that ends):

- of a copy's use, `.locks/<namespace>/<copy>`: shared by whoever fills or serves it, alone for whoever evicts it. Its
  date of change is when the copy was used last. It is never removed, so nobody waits on one that is gone.
- of a copy's filling, in the copy itself (see `Volume.claimed`): one fills, the others wait.
- of the quota, `.locks/quota`: one makes room at a time.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from bud.weights.config import Cache, Config
from bud.weights.download import GIB, Result, bring
from bud.weights.errors import Permanent, Transient
from bud.weights.plan import RESERVED, Step
from bud.weights.report import Report
from bud.weights.volume import Volume, disk_failure

LOCKS = ".locks"
WAIT_SECONDS = 1.0


def fill(config: Config, cache: Cache, report: Report) -> tuple[Result | None, int]:
    """Makes the copy whole; gives its result (None if it was whole already) and the descriptor of its lock of use.

    Raises `Permanent` or `Transient`: besides those of a download NodeCacheFull, when what is in use leaves no room,
    and ContentChanged, when the source gives other bytes than the Model was made of.
    """
    try:
        node = NodeCache(cache, config.target)
        lock = node.use()
        return _whole(config, node, report), lock
    except OSError as error:
        raise disk_failure(error) from None


def _whole(config: Config, node: NodeCache, report: Report) -> Result | None:
    wanted, told = node.cache.digest, False
    while not (wanted and is_whole(config.target, wanted)):
        try:
            result = bring(config, report, room=node.make_room)
        except Transient as error:
            if error.reason != "Busy":
                raise
            if not told:
                report.say("another pod of this node is fetching the copy: waiting for it")
            told = True
            time.sleep(WAIT_SECONDS)
            continue
        except Permanent as error:
            if error.reason != "InsufficientSpace":
                raise
            raise Transient("NodeCacheFull", "the node's disk is full: free some of it, or use another node") from None
        if wanted and result.digest != wanted:
            raise Permanent(
                "ContentChanged",
                f"the source gives other bytes ({result.digest}) than the Model was made of ({wanted}): name them by "
                "spec.sha256 or a fixed revision, or delete the Model's Job so that it takes the new ones",
            )
        return result
    return None


def is_whole(target: Path, digest: str) -> bool:
    """Whether the copy is the one of that digest, by its manifest and by the size of each file.

    The hashes that were taken when it was brought are not taken again for each pod: only this program is meant to write
    there, in namespaces that trust each other (docs/node-cache.md).
    """
    try:
        known = json.loads((target / RESERVED / "manifest.json").read_text())
        return known["digest"] == digest and all(
            (target / file["path"]).stat(follow_symlinks=False).st_size == file["size"] for file in known["files"]
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


class NodeCache:
    """The cache of this node, as one copy sees it. Every method raises `OSError` for faults of the file system."""

    def __init__(self, cache: Cache, target: Path) -> None:
        self.cache = cache
        self._target = target
        self._locks = cache.root / LOCKS

    def use(self) -> int:
        """Holds the copy, so that nobody evicts it, until the descriptor is closed; it outlives an exec."""
        lock = self._open_lock(self._target)
        fcntl.flock(lock, fcntl.LOCK_SH)
        os.utime(lock)
        os.set_inheritable(lock, True)
        return lock

    def make_room(self, steps: Sequence[Step], volume: Volume) -> None:
        """Evicts what is not in use, the least recently used first, until the copy fits the quota and the disk.

        A copy that is being filled counts as what it will be. A source that tells no sizes is taken to be as large as
        the Model was. Raises `Transient` or, when it could never fit, `Permanent`, both with reason NodeCacheFull.
        """
        sizes = [step.file.size for step in steps]
        whole = sum(size or 0 for size in sizes) if None not in sizes else self.cache.bytes or 0
        if whole > self.cache.size_bytes:
            raise Permanent(
                "NodeCacheFull",
                f"the weights are {_gib(whole)}, the node's cache is {_gib(self.cache.size_bytes)}: ask the "
                "administrator for a larger --node-cache-size, or set spec.storage.mode to Shared",
            )
        missing = sum(step.missing for step in steps)
        with self._alone():
            others = [copy for copy in self._copies() if copy != self._target]
            sized = {copy: self._size(copy) for copy in sorted(others, key=self._last_used)}
            for copy in list(sized):
                if self._fits(whole, missing, sum(sized.values()), volume):
                    break
                if self._evict(copy):
                    del sized[copy]
            used = sum(sized.values())
            if not self._fits(whole, missing, used, volume):
                raise self._full(whole, used, len(sized), volume)
            (self._target / RESERVED / "expected").write_text(str(whole))

    def _fits(self, whole: int, missing: int, used: int, volume: Volume) -> bool:
        return used + whole <= self.cache.size_bytes and missing <= volume.free_bytes()

    def _full(self, whole: int, used: int, count: int, volume: Volume) -> Transient:
        # Whose copies they are is not told: they may be another namespace's.
        return Transient(
            "NodeCacheFull",
            f"no room for {_gib(whole)} in the node's cache of {_gib(self.cache.size_bytes)}: {_gib(used)} are in use "
            f"by {count} other copies, and the disk has {_gib(volume.free_bytes())} free; stop a Deployment that runs "
            "there, ask the administrator for a larger --node-cache-size, or let it run on another node",
        )

    def _copies(self) -> Iterator[Path]:
        for namespace in self.cache.root.iterdir():
            if namespace.name != LOCKS and namespace.is_dir() and not namespace.is_symlink():
                yield from (copy for copy in namespace.iterdir() if copy.is_dir() and not copy.is_symlink())

    def _size(self, copy: Path) -> int:
        held = 0
        for folder, _, names in os.walk(copy):
            for name in names:
                with contextlib.suppress(FileNotFoundError):  # a part that has just got its name
                    held += os.lstat(os.path.join(folder, name)).st_size
        return max(held, _expected(copy)) if _being_filled(copy) else held

    def _last_used(self, copy: Path) -> float:
        try:
            return self._lock_file(copy).stat().st_mtime
        except FileNotFoundError:
            return 0.0

    def _evict(self, copy: Path) -> bool:
        lock = self._open_lock(copy)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            (copy / RESERVED / "manifest.json").unlink(missing_ok=True)
            shutil.rmtree(copy)
        except BlockingIOError:
            return False
        finally:
            os.close(lock)
        return True

    def _lock_file(self, copy: Path) -> Path:
        return self._locks / copy.parent.name / copy.name

    def _open_lock(self, copy: Path) -> int:
        file = self._lock_file(copy)
        file.parent.mkdir(parents=True, exist_ok=True)
        return os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        lock = os.open(self._locks / "quota", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)


def _being_filled(copy: Path) -> bool:
    try:
        lock = os.open(copy / RESERVED / "lock", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def _expected(copy: Path) -> int:
    try:
        return int((copy / RESERVED / "expected").read_text())
    except (OSError, ValueError):
        return 0


def _gib(count: int) -> str:
    return f"{count / GIB:.2f} GiB"
