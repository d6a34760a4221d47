"""Programs out of Debian's packages: installed, or unpacked into the user's cache where a service would start."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
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


def install(*packages: str) -> None:
    """Takes root. Fails with what could not be done."""
    with cache.locked(cache.root() / "debian" / ".lock"):  # apt refuses to be run twice at once
        _run(*packages, command=("apt-get", "update"))
        _run(*packages, command=("apt-get", "install", "-y", "--no-install-recommends", *packages))


def _unpack(package: str, folder: Path) -> None:
    download = ("apt-get", "download", package)
    if _run(package, command=download, cwd=folder, check=False):
        _run(package, command=("apt-get", "update"))
        _run(package, command=download, cwd=folder)
    (archive,), whole = folder.glob("*.deb"), folder / "whole"
    _run(package, command=("dpkg-deb", "--extract", str(archive), str(whole)))
    for file in (whole / "usr/bin").iterdir():
        file.rename(folder / file.name)
    archive.unlink()
    shutil.rmtree(whole)


def _run(*packages: str, command: Sequence[str], cwd: Path | None = None, check: bool = True) -> int:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    failed = f"{' '.join(packages)} needed: {' '.join(command)} failed: {done.stderr.strip()}"
    assert not check or done.returncode == 0, failed
    return done.returncode
