"""Programs of Debian that tests use for what they are: real ones, which are installed where they are missing.

Or unpacked into the user's cache, where an installation would start a service.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.cluster import cache
from tests.fetched import not_tested

_LOCK = Path(tempfile.gettempdir()) / "bud-tests-apt.lock"


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
        _run(packages, "apt-get", "update")
        _run(packages, "apt-get", "install", "-y", "--no-install-recommends", *packages)


def unpacked(program: str, package: str) -> Path:
    """Where a program is: on the machine, or out of its package, which takes no root where apt has its lists."""
    if found := shutil.which(program):
        return Path(found)
    place = cache.root() / "debian" / package
    return cache.entry(place, lambda folder: _unpack(package, folder), say=print) / program


def _unpack(package: str, folder: Path) -> None:
    whole = folder / "whole"
    with cache.locked(_LOCK):
        if _run([package], "apt-get", "download", package, cwd=folder, check=False):
            _run([package], "apt-get", "update")
            _run([package], "apt-get", "download", package, cwd=folder)
    (archive,) = folder.glob("*.deb")
    _run([package], "dpkg-deb", "--extract", str(archive), str(whole))
    for file in (whole / "usr/bin").iterdir():
        file.rename(folder / file.name)
    archive.unlink()
    shutil.rmtree(whole)


def _run(packages: Sequence[str], *argv: str, cwd: Path | None = None, check: bool = True) -> int:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(argv, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    failed = f"install {' '.join(packages)}: {' '.join(argv)} failed: {done.stderr.strip()}"
    assert not check or done.returncode == 0, failed
    return done.returncode
