"""How one file is brought, against a source in memory and a real folder."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bud.weights.config import Settings
from bud.weights.errors import Permanent, Transient
from bud.weights.plan import Entry, Record, RemoteFile, decide
from bud.weights.report import Redactor, Report
from bud.weights.sources import Listing, Opened
from bud.weights.transfer import Patience, Stopped, Transfer, in_parallel
from bud.weights.volume import Volume

OLD, NEW = b"old bytes!", b"the new bytes"
FILE = RemoteFile(path="m", size=len(OLD), version="old")
SETTINGS = Settings(tries=3, backoff_seconds=0)


class Memory:
    """A source of one file, which changed since it was listed."""

    def __init__(self, *, now: RemoteFile, data: bytes) -> None:
        self._now = now
        self._data = data

    def list_files(self) -> Listing:
        return Listing(files=(self._now,))

    @contextlib.contextmanager
    def open(self, file: RemoteFile, offset: int) -> Iterator[Opened]:
        start = offset if file == self._now else 0
        yield Opened(file=self._now, start=start, chunks=iter([self._data[start:]]))


class WatchedVolume(Volume):
    """Remembers how much of a part was there whenever a note about it was written."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.parts_when_noted: list[int | None] = []

    def note(self, record: Record) -> None:
        self.parts_when_noted.append(self.seen(record.path).part)
        super().note(record)


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[WatchedVolume]:
    made = WatchedVolume(tmp_path)
    with made.claimed():
        yield made


def silent() -> Report:
    return Report(Redactor([]), write=lambda _: None)


def bring(volume: Volume, source: Memory, file: RemoteFile = FILE) -> Entry:
    transfer = Transfer(source=source, volume=volume, settings=SETTINGS, report=silent(), stop=threading.Event())
    (entry,) = transfer.run([decide(file, volume.seen(file.path))])
    return entry


def leave_part(volume: WatchedVolume, data: bytes) -> None:
    volume.note(Record(path="m", size=FILE.size, version=FILE.version))
    volume.part("m").write_bytes(data)
    volume.parts_when_noted.clear()


def test_old_bytes_never_stand_under_the_note_of_new_ones(volume: WatchedVolume) -> None:
    leave_part(volume, OLD[:4])
    new = replace(FILE, size=len(NEW), version="new")

    entry = bring(volume, Memory(now=new, data=NEW))

    assert volume.parts_when_noted == [None, len(NEW)]
    assert entry.sha256 == hashlib.sha256(NEW).hexdigest()
    assert (volume.root / "m").read_bytes() == NEW


def test_a_part_is_continued(volume: WatchedVolume) -> None:
    leave_part(volume, OLD[:4])

    bring(volume, Memory(now=FILE, data=OLD))

    assert volume.parts_when_noted == [4, len(OLD)]
    assert (volume.root / "m").read_bytes() == OLD


@pytest.mark.parametrize("data", [OLD + b"more", OLD[:-1]], ids=["more", "less"])
def test_bytes_that_are_not_as_many_as_told_are_not_accepted(volume: WatchedVolume, data: bytes) -> None:
    with pytest.raises(Transient):
        bring(volume, Memory(now=FILE, data=data))

    assert not (volume.root / "m").exists()


class Clockwork:
    """Attempts that fail as told; `reached` is what they have gained."""

    def __init__(self, gains: list[int]) -> None:
        self._gains = gains
        self.calls = 0
        self.bytes = 0

    def __call__(self) -> str:
        if self.calls == len(self._gains):
            return "done"
        self.bytes += self._gains[self.calls]
        self.calls += 1
        raise Transient("R", "m")


@pytest.mark.parametrize(
    ("gains", "calls"),
    [([0, 0, 0, 0], 3), ([1, 0, 0, 0], 3), ([0, 0, 1, 0, 0], 5), ([1, 1, 1, 1, 1, 1], None), ([5, -5, 3, 0], 3)],
)
def test_tries_are_counted_since_the_furthest_byte(gains: list[int], calls: int | None) -> None:
    work = Clockwork(gains)
    patience = Patience(SETTINGS, silent(), threading.Event())

    if calls is None:
        assert patience.insist(work, reached=lambda: work.bytes) == "done"
    else:
        with pytest.raises(Transient):
            patience.insist(work, reached=lambda: work.bytes)
        assert work.calls == calls


def test_the_first_failure_stops_the_rest_and_is_the_one_told() -> None:
    stop = threading.Event()

    def work(item: str) -> None:
        if item == "fails":
            raise Permanent("P", "m")
        assert stop.wait(timeout=10)
        raise Stopped

    with pytest.raises(Permanent):
        in_parallel(work, ["waits", "fails", "waits", "waits"], workers=2, stop=stop)

    assert stop.is_set()
