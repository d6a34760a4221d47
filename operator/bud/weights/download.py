"""One download from its configuration to its result."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bud.weights.complete import check_complete
from bud.weights.config import Config
from bud.weights.detect import Adapter, Format, detect
from bud.weights.errors import Permanent
from bud.weights.hashing import FileHash
from bud.weights.plan import Action, Entry, RemoteFile, Step, checked, decide, digest, with_demands
from bud.weights.report import Report
from bud.weights.sources import Source, local
from bud.weights.transfer import Patience, Transfer, in_parallel
from bud.weights.volume import Volume, disk_failure

GIB = 1 << 30


@dataclass(frozen=True, kw_only=True)
class Result:
    """The termination message of a success. `file` is relative to the target."""

    digest: str
    bytes: int
    files: int
    revision: str | None
    verification: str
    format: Format
    task: str | None
    file: str | None
    architecture: str
    adapter: Adapter | None


def download(config: Config, report: Report) -> Result:
    """Does all of it. Raises `Permanent` or `Transient`."""
    try:
        if config.source.local:
            try:
                return _hash_in_place(config, report, path=config.source.local.path)
            except PermissionError as error:
                raise _unreadable(error) from None
        return bring(config, report)
    except OSError as error:
        raise disk_failure(error) from None


def require_space(steps: Sequence[Step], volume: Volume) -> None:
    """Raises `Permanent` (InsufficientSpace) before the first byte rather than in the middle of the night."""
    missing, free = sum(step.missing for step in steps), volume.free_bytes()
    if missing <= free:
        return
    whole = sum(step.file.size or 0 for step in steps)
    raise Permanent(
        "InsufficientSpace",
        f"{_gib(missing)} are still to be written but only {_gib(free)} are free: raise spec.storage.size to at least "
        f"{math.ceil(whole * 1.05 / GIB)}Gi, or narrow the source to fewer files",
    )


def bring(config: Config, report: Report, *, room: Callable[[Sequence[Step], Volume], None] = require_space) -> Result:
    """Fetches what the target lacks. `room` is called before the first byte; see `require_space`.

    Raises `OSError` besides the failures of a download.
    """
    stop = threading.Event()
    source = _source(config)
    volume = Volume(config.target)
    with volume.claimed():
        listing = Patience(config.settings, report, stop).insist(source.list_files)
        files = with_demands(checked(listing.files), config.sha256)
        if gone := volume.prune(file.path for file in files):
            report.say(f"removed {len(gone)} file(s) that the source has no more: {', '.join(gone[:5])}")
        steps = [decide(file, volume.seen(file.path)) for file in files]
        for step in steps:
            if step.action is Action.FETCH:
                volume.discard(step.file.path)
        room(steps, volume)
        report.progress.expect(files=len(files), size=_total(files))
        report.tick()
        transfer = Transfer(source=source, volume=volume, settings=config.settings, report=report, stop=stop)
        entries = transfer.run(steps)
        result = _conclude(entries, config.target, report, revision=listing.revision, task=listing.task)
        volume.conclude(entries, digest=result.digest, revision=listing.revision)
    return result


def _hash_in_place(config: Config, report: Report, *, path: str | None) -> Result:
    stop = threading.Event()
    found = local.find(config.target, path)
    files = with_demands(found.files, config.sha256)
    report.progress.expect(files=len(files), size=_total(files))
    report.tick()

    def entry(file: RemoteFile) -> Entry:
        with FileHash(file) as seen:
            seen.feed_file(found.root / file.path, seen=report.progress.moved)
            judged = seen.judge(file)
        report.progress.file_done()
        return judged

    entries = in_parallel(entry, files, workers=config.settings.parallel, stop=stop)
    return _conclude(entries, found.root, report, prefix=found.prefix)


def _unreadable(error: PermissionError) -> Permanent:
    name = os.path.basename(str(error.filename))
    return Permanent(
        "Forbidden",
        f"{name} cannot be read by user {os.getuid()}: give others, or the pod's fsGroup, the right to read it",
    )


def _conclude(
    entries: Sequence[Entry],
    root: Path,
    report: Report,
    *,
    revision: str | None = None,
    task: str | None = None,
    prefix: str = "",
) -> Result:
    check_complete(root, [entry.path for entry in entries])
    detected = detect(root, sorted(entry.path for entry in entries), published_task=task)
    if detected.remark:
        report.say(detected.remark)
    main = f"{prefix}/{detected.file}" if prefix and detected.file else detected.file
    return Result(
        digest=digest(entries),
        bytes=sum(entry.size for entry in entries),
        files=len(entries),
        revision=revision,
        verification="verified" if all(entry.verified for entry in entries) else "recorded",
        format=detected.format,
        task=detected.task,
        file=main,
        architecture=detected.architecture,
        adapter=detected.adapter,
    )


def _source(config: Config) -> Source:
    """The library behind a source is loaded only where it is needed: it is most of the program's memory."""
    wanted = config.source
    if wanted.hugging_face:
        from bud.weights.sources.hub import HubFiles  # noqa: PLC0415

        return HubFiles(wanted.hugging_face, credentials=config.credentials, settings=config.settings)
    if wanted.cloud:
        from bud.weights.sources.cloud import CloudFiles  # noqa: PLC0415

        return CloudFiles(wanted.cloud, credentials=config.credentials, settings=config.settings)
    if wanted.url:
        from bud.weights.sources.http import UrlFiles  # noqa: PLC0415

        return UrlFiles(wanted.url.addresses, credentials=config.credentials, settings=config.settings)
    raise AssertionError("a source is one of the four")


def _total(files: Sequence[RemoteFile]) -> int | None:
    sizes = [file.size for file in files]
    return None if None in sizes else sum(size for size in sizes if size is not None)


def _gib(count: int) -> str:
    return f"{count / GIB:.2f} GiB"
