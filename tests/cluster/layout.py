"""Where clusters keep their state, which of them live, and how what a dead one left is removed.

Each cluster is a folder. The process that keeps the cluster holds a lock on a file in it for as long as it lives;
the kernel drops the lock with the process, so a folder without one is a leftover.
"""

import fcntl
import json
import os
import shutil
import subprocess
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Literal

from tests.cluster import cache, isolation
from tests.cluster.failure import Failed

Tier = Literal["control", "node"]
TEST_LABEL = "bud.studio/test-cluster"
FAKE_NODE_LABEL = "bud.studio/test-fake-node"  # its value is the cluster's name


@dataclass(frozen=True, kw_only=True)
class Record:
    """What is known of a cluster, in `cluster.json` of its folder. `ready` is False until all of it is up."""

    name: str
    tier: Tier
    source: str
    keeper: int
    audit: bool
    ready: bool = False
    # Where pods reach servers that listen on this machine; None where they cannot.
    host_address: str | None = None
    # What runs inside is reached by `nsenter` through this process; None for a cluster that has no namespaces here.
    holder: int | None = None


def kind_name(cluster: str) -> str:
    """What kind calls the cluster, so that it never is one that someone made by hand."""
    return f"bud-test-{cluster}"


def home() -> Path:
    """The folder of all clusters of this user, in the state directory (`XDG_STATE_HOME`, else `~/.local/state`)."""
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    return state / "bud-operator" / "clusters"


def read(folder: Path) -> Record | None:
    """The record of the cluster in `folder`, or None when it has none yet."""
    try:
        return Record(**json.loads((folder / "cluster.json").read_text()))
    except FileNotFoundError:
        return None


def write(folder: Path, record: Record) -> None:
    """Write the record, all at once."""
    part = folder / "cluster.json.part"
    part.write_text(json.dumps(asdict(record), indent=1))
    part.rename(folder / "cluster.json")


def folders() -> list[Path]:
    """The folders of all clusters, dead or alive."""
    return sorted(path for path in home().glob("*/") if not path.name.startswith("."))


def lock() -> AbstractContextManager[None]:
    """Held while a cluster's folder is made or removed."""
    return cache.locked(home() / ".lock")


def claim(name: str) -> tuple[Path, int]:
    """A new folder for the cluster `name` and its lock (a file descriptor); Failed when one of that name lives."""
    with lock():
        folder = home() / name
        if alive(folder):
            raise Failed(f"a cluster called {name} is up already: see `python -m tests.cluster status`")
        if folder.exists():
            remove(folder)
        folder.mkdir(mode=0o700)
        held = os.open(folder / "lock", os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(held, fcntl.LOCK_EX)
        return folder, held


def alive(folder: Path) -> bool:
    """Whether a process keeps the cluster in `folder`."""
    try:
        with (folder / "lock").open() as held:
            return not free(held)
    except FileNotFoundError:
        return False


def free(held: IO[str]) -> bool:
    """Whether nobody holds the open lock file, even one whose name is gone."""
    try:
        fcntl.flock(held, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def reap() -> list[str]:
    """Remove what clusters left whose keeper was killed; their names."""
    with lock():
        dead = [folder for folder in folders() if not alive(folder)]
        for folder in dead:
            remove(folder)
        return [folder.name for folder in dead]


def remove(folder: Path) -> None:
    """Remove all that may be left of a cluster none of whose processes live."""
    record = read(folder)
    if record and record.source == "kind":
        subprocess.run(
            ["kind", "delete", "cluster", "--name", kind_name(folder.name)], capture_output=True, check=False
        )
    if record and record.tier == "node" and record.source == "local":
        isolation.remove_cgroup(folder.name)
    if folder.exists():
        shutil.rmtree(folder)
