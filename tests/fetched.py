"""What tests need of npm, PyPI and Debian beyond the development environment: had once.

Libraries lie in the user's cache, under the hash of their lock. Programs of Debian are installed where they are missing,
or unpacked into the cache, where an installation would start a service. What cannot be had here is said aloud: the tests
that need it are skipped with a line that begins with `NOT TESTED`, which continuous integration takes for a failure.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

import pytest

from tests.cluster import cache

_SECONDS = 300
_LOCK = Path(tempfile.gettempdir()) / "bud-tests-apt.lock"


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


def require(programs: Sequence[str], packages: Sequence[str]) -> None:
    """Sees to it that the programs are there: missing Debian packages are installed, which takes root.

    Without it the test that calls this is skipped, aloud.
    """
    # Processes that test at the same time install one after another.
    with cache.locked(_LOCK):
        if all(map(shutil.which, programs)):
            return
        if os.geteuid():
            not_tested(", ".join(programs), f"install {' '.join(packages)}")
        _apt(packages, "apt-get", "update")
        _apt(packages, "apt-get", "install", "-y", "--no-install-recommends", *packages)


def unpacked(program: str, package: str) -> Path:
    """Where a program is: on the machine, or out of its package, which takes no root where apt has its lists."""
    if found := shutil.which(program):
        return Path(found)
    place = cache.root() / "debian" / package
    return cache.entry(place, lambda folder: _unpack(package, folder), say=print) / program


def not_tested(what: str, remedy: str) -> NoReturn:
    """Skips the test that calls this, aloud."""
    pytest.skip(f"NOT TESTED: {what}; {remedy}")


def _kept(name: str, files: Sequence[Path], install: Callable[[Path], None], *, also: str = "") -> Path:
    digest = hashlib.sha256(also.encode())
    for file in files:
        digest.update(file.read_bytes())
    place = cache.root() / "libraries" / f"{name}-{digest.hexdigest()[:12]}"
    return cache.entry(place, install, say=lambda line: print(line, file=sys.stderr, flush=True))


def _unpack(package: str, folder: Path) -> None:
    whole = folder / "whole"
    with cache.locked(_LOCK):
        if _apt([package], "apt-get", "download", package, cwd=folder, check=False):
            _apt([package], "apt-get", "update")
            _apt([package], "apt-get", "download", package, cwd=folder)
    (archive,) = folder.glob("*.deb")
    _apt([package], "dpkg-deb", "--extract", str(archive), str(whole))
    for file in (whole / "usr/bin").iterdir():
        file.rename(folder / file.name)
    archive.unlink()
    shutil.rmtree(whole)


def _apt(packages: Sequence[str], *argv: str, cwd: Path | None = None, check: bool = True) -> int:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    return _run(argv, cwd=cwd, environment=environment, check=check, what=f"install {' '.join(packages)}: ")


def _run(
    argv: Sequence[str],
    *,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
    check: bool = True,
    what: str = "",
) -> int:
    done = subprocess.run(argv, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=_SECONDS)
    said = (done.stdout + done.stderr)[-2000:]
    assert not check or done.returncode == 0, f"{what}{' '.join(argv)} failed:\n{said}"
    return done.returncode
