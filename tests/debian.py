"""Programs out of Debian's packages, unpacked into the user's cache: nothing is installed, and no service starts."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from tests.cluster import cache


def program(name: str, *, package: str) -> Path:
    """Where a program is: on the machine, or out of its package.

    The lists of packages are fetched where there are none yet, which takes root. Fails with what was missing.
    """
    if found := shutil.which(name):
        return Path(found)
    place = cache.root() / "debian" / package
    return cache.entry(place, lambda folder: _unpack(package, folder), say=print) / name


def _unpack(package: str, folder: Path) -> None:
    if _run(package, "apt-get", "download", package, cwd=folder, check=False):
        _run(package, "apt-get", "update", cwd=folder)
        _run(package, "apt-get", "download", package, cwd=folder)
    (archive,), whole = folder.glob("*.deb"), folder / "whole"
    _run(package, "dpkg-deb", "--extract", str(archive), str(whole), cwd=folder)
    for file in (whole / "usr/bin").iterdir():
        file.rename(folder / file.name)
    archive.unlink()
    shutil.rmtree(whole)


def _run(package: str, *command: str, cwd: Path, check: bool = True) -> int:
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, "LC_ALL": "C"}, capture_output=True, text=True, check=False
    )
    assert not check or done.returncode == 0, f"{package} is needed: {' '.join(command)} failed: {done.stderr.strip()}"
    return done.returncode
