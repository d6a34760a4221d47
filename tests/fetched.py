"""What tests need of npm and PyPI beyond the development environment: had once, by locks with hashes.

Libraries lie in the user's cache, under the hash of their lock. What cannot be had here is said aloud: the tests that
need it are skipped with a line that begins with `NOT TESTED`, which continuous integration takes for a failure.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import pytest

from tests.cluster import cache

_SECONDS = 300


def node_modules(folder: Path) -> Path:
    """`node_modules` of the package.json and package-lock.json in a folder."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        not_tested("JavaScript clients", "install Node.js >= 20 with npm")
    files = [folder / "package.json", folder / "package-lock.json"]

    def install(out: Path) -> None:
        for file in files:
            shutil.copyfile(file, out / file.name)
        _run([npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"], cwd=out)

    return _kept("node", files, install) / "node_modules"


def libraries(lock: Path) -> Path:
    """A folder for PYTHONPATH with what a lock of pip names; they stand on the development environment's own."""

    def install(out: Path) -> None:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
        _run([*pip, "--no-deps", "--require-hashes", "--requirement", str(lock), "--target", str(out / "lib")], cwd=out)

    return _kept(lock.stem, [lock], install, also=f"{sys.version_info[:2]}") / "lib"


def not_tested(what: str, remedy: str) -> NoReturn:
    """Skips the test that calls this, aloud."""
    pytest.skip(f"NOT TESTED: {what}; {remedy}")


def _kept(name: str, files: Sequence[Path], install: Callable[[Path], None], *, also: str = "") -> Path:
    digest = hashlib.sha256(also.encode())
    for file in files:
        digest.update(file.read_bytes())
    place = cache.root() / "libraries" / f"{name}-{digest.hexdigest()[:12]}"
    return cache.entry(place, install, say=lambda line: print(line, file=sys.stderr, flush=True))


def _run(argv: Sequence[str], *, cwd: Path) -> None:
    done = subprocess.run(argv, cwd=cwd, capture_output=True, text=True, check=False, timeout=_SECONDS)
    assert done.returncode == 0, f"{' '.join(argv)} failed:\n{(done.stdout + done.stderr)[-2000:]}"
