"""How fast `bud-weights` downloads, and in how much memory: `python -m tests.bench.weights [FOLDER]`.

Whole processes are timed, start-up included, in turn, against the same local server: `bud-weights` (which hashes, and
makes the file durable), `curl`, and `curl` followed by `sync` or by `sha256sum`. The ratio is taken pair by pair and its median
told, so that a machine whose speed drifts does not decide. Needs `curl`; FOLDER (default: a temporary one) needs 14 GB.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

MB = 1_000_000
ROUNDS = 3
COMPARED_SIZES = (1_000 * MB, 4_000 * MB)
MEMORY_SIZES = (64 * MB, *COMPARED_SIZES)

Row = dict[str, Any]
"""`what`, `bytes`, `seconds` (median), `mb_per_second` (median), `cpu_seconds`, `peak_mb`, `ratio_to_curl`."""


def measure(folder: Path) -> list[Row]:
    """Rows for the comparison on files of 1 and 4 GB, then one for each of `MEMORY_SIZES` with the peak memory."""
    for size in MEMORY_SIZES:
        _make(folder / f"{size}.bin", size)
    with _server(folder) as address:
        rows = [row for size in COMPARED_SIZES for row in _compare(folder, f"{address}/{size}.bin", size=size)]
        for size in MEMORY_SIZES:
            shutil.rmtree(folder / "target", ignore_errors=True)
            seconds, cpu, peak = _timed(*_weights(folder, f"{address}/{size}.bin"))
            rows.append(_row("bud-weights, memory", size, [seconds], [cpu], [peak]))
    return rows


def table(rows: Sequence[Row]) -> str:
    """The rows for people."""
    lines = [f"{'what':<22} {'MB':>6} {'seconds':>8} {'MB/s':>6} {'CPU s':>6} {'peak MB':>8} {'x curl':>7}"]
    for row in rows:
        ratio = f"{row['ratio_to_curl']:.2f}" if row["ratio_to_curl"] is not None else ""
        lines.append(
            f"{row['what']:<22} {row['bytes'] // MB:>6} {row['seconds']:>8.2f} {row['mb_per_second']:>6.0f} "
            f"{row['cpu_seconds']:>6.2f} {row['peak_mb']:>8.0f} {ratio:>7}"
        )
    return "\n".join(lines)


def _compare(folder: Path, url: str, *, size: int) -> list[Row]:
    file = folder / "by-curl"
    curl = ["curl", "--silent", "--fail", "--output", str(file), url]
    commands: dict[str, tuple[list[str], Mapping[str, str]]] = {
        "bud-weights": _weights(folder, url),
        "curl": (curl, {}),
        "curl, then sync": (["sh", "-c", '"$@" && sync --data "$0"', str(file), *curl], {}),
        "curl, then sha256sum": (["sh", "-c", '"$@" && sha256sum "$0" >/dev/null', str(file), *curl], {}),
    }
    runs: dict[str, list[tuple[float, float, float]]] = {name: [] for name in commands}
    for turn in range(ROUNDS + 1):
        for name, (command, environment) in commands.items():
            file.unlink(missing_ok=True)
            shutil.rmtree(folder / "target", ignore_errors=True)
            os.sync()
            run = _timed(command, environment)
            if turn:  # the first round warms the page cache
                runs[name].append(run)
    file.unlink(missing_ok=True)
    base = [seconds for seconds, _, _ in runs["curl"]]
    rows = []
    for name, found in runs.items():
        seconds, cpu, peak = (list(column) for column in zip(*found, strict=True))
        ratio = statistics.median(theirs / ours for theirs, ours in zip(base, seconds, strict=True))
        rows.append(_row(name, size, seconds, cpu, peak) | {"ratio_to_curl": ratio})
    return rows


def _row(what: str, size: int, seconds: Sequence[float], cpu: Sequence[float], peak: Sequence[float]) -> Row:
    middle = statistics.median(seconds)
    return {
        "what": what,
        "bytes": size,
        "seconds": middle,
        "mb_per_second": size / MB / middle,
        "cpu_seconds": statistics.median(cpu),
        "peak_mb": max(peak),
        "ratio_to_curl": None,
    }


def _weights(folder: Path, url: str) -> tuple[list[str], Mapping[str, str]]:
    config = {"source": {"url": {"url": url}}, "target": str(folder / "target")}
    environment = {
        "BUD_WEIGHTS_CONFIG": json.dumps(config),
        "BUD_WEIGHTS_ALLOWED_NETWORKS": "127.0.0.0/8",
        # As in the image, where the modules are compiled beforehand.
        "PYTHONDONTWRITEBYTECODE": "",
        "PYTHONPYCACHEPREFIX": str(folder / "compiled"),
    }
    return [sys.executable, "-m", "bud.weights"], environment


def _timed(command: Sequence[str], environment: Mapping[str, str]) -> tuple[float, float, float]:
    """Seconds, seconds of CPU and peak resident MB of a whole process, its children included in CPU.

    Raises `RuntimeError` if it fails.
    """
    start = time.monotonic()
    process = subprocess.Popen(command, env={**os.environ, **environment}, stdout=subprocess.PIPE)
    with process:
        assert process.stdout
        said = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - start
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{command[0]} ended with {process.returncode}: {said.decode(errors='replace')[-2000:]}")
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / MB


def _make(file: Path, size: int) -> None:
    """A file of bytes that do not compress."""
    if file.exists() and file.stat().st_size == size:
        return
    block = random.Random(size).randbytes(8 * MB)
    with file.open("wb") as out:
        for _ in range(size // len(block)):
            out.write(block)


@contextlib.contextmanager
def _server(folder: Path) -> Iterator[str]:
    command = [sys.executable, "-m", "tests.bench.file_server", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.terminate()


def main() -> None:
    with contextlib.ExitStack() as stack:
        given = sys.argv[1] if len(sys.argv) > 1 else stack.enter_context(tempfile.TemporaryDirectory())
        print(table(measure(Path(given))))


if __name__ == "__main__":
    main()
