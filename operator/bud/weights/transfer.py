"""Brings files onto a volume: several at once, hashed on the way, continued where an earlier try or run stopped."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from bud.weights.config import Settings
from bud.weights.errors import Permanent, Transient
from bud.weights.hashing import FileHash
from bud.weights.plan import Action, Entry, Record, RemoteFile, Step, decide
from bud.weights.report import Report
from bud.weights.sources import Opened, Source
from bud.weights.volume import Volume, disk_failure

BATCH = 256 * 1024
LONGEST_PAUSE_SECONDS = 30.0
LONGEST_OBEYED_SECONDS = 300.0

T = TypeVar("T")
R = TypeVar("R")


class Stopped(Exception):
    """Another file failed: this one ends, and keeps its part."""


class Patience:
    """Tries again after transient failures, with exponential backoff and full jitter, or as long as a server asks."""

    def __init__(self, settings: Settings, report: Report, stop: threading.Event) -> None:
        self._settings = settings
        self._report = report
        self._stop = stop

    def insist(self, attempt: Callable[[], T], *, reached: Callable[[], int] = lambda: 0) -> T:
        """Calls `attempt` until it succeeds, fails for good, or fails `tries` times without `reached` growing."""
        best, failures = reached(), 0
        while True:
            try:
                return attempt()
            except Transient as error:
                now = reached()
                failures = 1 if now > best else failures + 1
                best = max(best, now)
                if failures >= self._settings.tries:
                    raise
                self._pause(error, failures)

    def _pause(self, error: Transient, failures: int) -> None:
        longest = min(self._settings.backoff_seconds * 2 ** (failures - 1), LONGEST_PAUSE_SECONDS)
        pause = longest * random.uniform(0.5, 1)
        if error.retry_after is not None:
            pause = min(error.retry_after, LONGEST_OBEYED_SECONDS) + random.uniform(0, self._settings.backoff_seconds)
        self._report.say(f"{error.message}; trying again in {pause:.1f} s")
        if self._stop.wait(pause):
            raise Stopped


def in_parallel(work: Callable[[T], R], items: Sequence[T], *, workers: int, stop: threading.Event) -> list[R]:
    """Runs `work` on all items and gives the results in their order.

    The first failure stops the rest; of several, one that cannot heal is raised, since it decides.
    """
    pool = ThreadPoolExecutor(workers, thread_name_prefix="file")
    try:
        futures = [pool.submit(work, item) for item in items]
        done, _ = wait(futures, return_when=FIRST_EXCEPTION)
        errors = [error for future in done if (error := future.exception())]
        if errors:
            stop.set()
            raise min(errors, key=_weight)
        return [future.result() for future in futures]
    finally:
        # Not waiting: a thread may be listening to a silent server for a minute yet.
        pool.shutdown(wait=False, cancel_futures=True)


def _weight(error: BaseException) -> int:
    return 0 if isinstance(error, Permanent) else 2 if isinstance(error, Stopped) else 1


class Transfer:
    """One source, one volume."""

    def __init__(
        self, *, source: Source, volume: Volume, settings: Settings, report: Report, stop: threading.Event
    ) -> None:
        self._source = source
        self._volume = volume
        self._settings = settings
        self._report = report
        self._stop = stop
        self._patience = Patience(settings, report, stop)

    def run(self, steps: Sequence[Step]) -> list[Entry]:
        """Carries out all steps, the largest first so that none is left alone at the end.

        Raises `Permanent` or `Transient`.
        """
        ordered = sorted(steps, key=lambda step: -(step.file.size or 0))
        for step in steps:
            self._report.progress.hold(step.held)
        return in_parallel(self._obtain, ordered, workers=self._settings.parallel, stop=self._stop)

    def _obtain(self, step: Step) -> Entry:
        try:
            entry = self._confirm(step) if step.action is Action.CHECK else None
            entry = entry or self._fetch(step.file, held=0 if step.action is Action.CHECK else step.held)
        except OSError as error:
            raise disk_failure(error) from None
        self._report.progress.file_done()
        return entry

    def _confirm(self, step: Step) -> Entry | None:
        """Hashes a file that is in its place; None if its bytes are not the right ones any more."""
        file = step.file
        record = self._volume.seen(file.path).record
        try:
            with FileHash(file) as found:
                found.feed_file(self._volume.place(file.path), seen=self._check_stop)
                entry = found.judge(file)
        except Permanent as error:
            if error.reason != "HashMismatch":
                raise
            entry = None
        if entry and (file.has_hash or (record and record.sha256 == entry.sha256)):
            return entry
        self._report.say(f"{file.path} is here but its bytes are not the right ones: fetching it again")
        self._volume.discard(file.path)
        self._report.progress.hold(-step.held)
        return None

    def _fetch(self, file: RemoteFile, *, held: int) -> Entry:
        attempt = _Attempts(self._volume, self._source, self._report, check_stop=self._check_stop, file=file, held=held)
        return self._patience.insist(attempt, reached=attempt.reached)

    def _check_stop(self, _: int = 0) -> None:
        if self._stop.is_set():
            raise Stopped


class _Attempts:
    """The tries for one file; each continues what the one before left."""

    def __init__(
        self,
        volume: Volume,
        source: Source,
        report: Report,
        *,
        check_stop: Callable[[int], None],
        file: RemoteFile,
        held: int,
    ) -> None:
        self._volume = volume
        self._source = source
        self._report = report
        self._check_stop = check_stop
        self._file = file
        self._counted = held

    def reached(self) -> int:
        """Bytes of the part on the volume."""
        return self._volume.seen(self._file.path).part or 0

    def __call__(self) -> Entry:
        step = decide(self._file, replace(self._volume.seen(self._file.path), whole=None))
        if step.action is Action.FETCH:
            self._volume.discard(self._file.path)
        resumed = step.held > 0
        try:
            entry = self._complete(step.held)
        except Permanent as error:
            if error.reason != "HashMismatch":
                raise
            self._volume.discard(self._file.path)
            if resumed:
                # The bytes of an earlier try may be the bad ones: one whole fetch decides.
                raise Transient("HashMismatch", f"{error.message}; it was continued, so it is fetched anew") from None
            raise
        self._volume.finish(self._record(entry.sha256))
        return entry

    def _complete(self, offset: int) -> Entry:
        part = self._volume.part(self._file.path)
        if offset:
            with FileHash(self._file) as found:
                found.feed_file(part, seen=self._check_stop)
                self._count(offset)
                if offset == self._file.size:
                    return found.judge(self._file)
                return self._receive(found, part, offset)
        self._count(0)
        with FileHash(self._file) as found:
            return self._receive(found, part, 0)

    def _receive(self, found: FileHash, part: Path, offset: int) -> Entry:
        with self._source.open(self._file, offset) as opened:
            if opened.file != self._file:
                self._report.say(f"{self._file.path} changed at its source: fetching the new bytes")
            self._file = opened.file
            if opened.start != offset:
                # Before the note: a kill in between must not leave old bytes under the note of new ones.
                self._volume.discard_part(self._file.path)
                self._count(0)
            self._volume.note(self._record(None))
            if opened.start == offset:
                return self._store(found, part, opened)
            with FileHash(self._file) as fresh:
                return self._store(fresh, part, opened)

    def _store(self, found: FileHash, part: Path, opened: Opened) -> Entry:
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        with open(os.open(part, flags, 0o644), "wb", buffering=0) as out:
            out.truncate(opened.start)
            out.seek(opened.start)
            for block in _batched(opened.chunks):
                self._check_stop(len(block))
                if self._file.size is not None and found.size + len(block) > self._file.size:
                    out.truncate(0)
                    raise Transient("Changed", f"{self._file.path}: more bytes came than its size of {self._file.size}")
                _write(out.fileno(), block)
                found.feed(block)
                self._counted += len(block)
                self._report.progress.moved(len(block))
        if self._file.size is not None and found.size < self._file.size:
            raise Transient("Truncated", f"{self._file.path}: {found.size} of {self._file.size} bytes came")
        return found.judge(self._file)

    def _record(self, sha256: str | None) -> Record:
        return Record(path=self._file.path, size=self._file.size, version=self._file.version, sha256=sha256)

    def _count(self, held: int) -> None:
        """Makes the progress speak of `held` bytes for this file."""
        self._report.progress.hold(held - self._counted)
        self._counted = held


def _batched(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Joins small chunks: TLS hands out 16 KiB at a time, and each block costs a system call and a thread switch."""
    held: list[bytes] = []
    size = 0
    try:
        for chunk in chunks:
            held.append(chunk)
            size += len(chunk)
            if size >= BATCH:
                yield held[0] if len(held) == 1 else b"".join(held)
                held, size = [], 0
    except Exception:
        # What came before a connection broke need not be fetched again.
        if held:
            yield b"".join(held)
        raise
    if held:
        yield b"".join(held)


def _write(descriptor: int, block: bytes) -> None:
    view = memoryview(block)
    while view:
        view = view[os.write(descriptor, view) :]
