"""Getting clusters up and down: the tool's and the fixtures' side of the keeper."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.cluster import keeper, layout, sources, tools
from tests.cluster.cache import Say
from tests.cluster.failure import Failed
from tests.cluster.handle import Cluster

_ROOT = Path(__file__).parents[2]
_DOWN_SECONDS = 60
_POLL_SECONDS = 0.05


def needs_no_root() -> bool:
    """Whether a node can be had without root: in a cluster that someone names, or one of kind's."""
    return sources.elsewhere() is not None or sources.kind_works()


@contextmanager
def cluster(name: str, tier: layout.Tier, *, audit: bool = False, kept: bool = False, say: Say) -> Iterator[Cluster]:
    """A cluster for as long as the block runs and this process lives, or until `down` if it is to be `kept`.

    Raises Failed when there is none to be had.
    """
    process = _start(name, tier, audit=audit, say=say)
    try:
        yield attach(name)
    finally:
        if kept:
            _cut_loose(process)
            python = os.path.relpath(sys.executable)
            say(f'kept: eval "$({python} -m tests.cluster env --name {name})"')
        else:
            _end(process)


def up(name: str, tier: layout.Tier, *, audit: bool = False, say: Say) -> None:
    """A cluster that outlives this process, until `down`; Failed when there is none to be had."""
    with cluster(name, tier, audit=audit, kept=True, say=say):
        pass


def _cut_loose(process: subprocess.Popen[bytes]) -> None:
    """Let a keeper's cluster outlive this process."""
    assert process.stdin
    assert process.stdout
    process.stdin.write(keeper.KEEP)
    process.stdin.close()
    process.stdout.close()
    process.returncode = 0  # it runs on, and is not ours to wait for any more


def down(name: str) -> None:
    """Take the cluster down, or remove what was left of it; Failed when there is nothing of that name."""
    folder = layout.home() / name
    if not folder.exists():
        raise Failed(f"there is no cluster called {name}")
    if layout.alive(folder):
        _stop(folder)
    with layout.lock():
        layout.remove(folder)


def _stop(folder: Path) -> None:
    """Tell the keeper to end, and wait until it has."""
    deadline = time.monotonic() + _DOWN_SECONDS
    with (folder / "lock").open() as held:
        while not (record := layout.read(folder)):
            time.sleep(_POLL_SECONDS)
        os.kill(record.keeper, signal.SIGTERM)
        while not layout.free(held):
            if time.monotonic() > deadline:
                raise Failed(f"the cluster {folder.name} does not go down; see {folder / 'keeper.log'}")
            time.sleep(_POLL_SECONDS)


def attach(name: str) -> Cluster:
    """The running cluster of that name; Failed when there is none."""
    folder = layout.home() / name
    record = layout.read(folder)
    if record is None or not record.ready or not layout.alive(folder):
        raise Failed(f"there is no running cluster called {name}: `python -m tests.cluster up --name {name}`")
    return Cluster(record=record, state=folder, kubectl_path=tools.path("kubectl"))


def _start(name: str, tier: layout.Tier, *, audit: bool, say: Say) -> subprocess.Popen[bytes]:
    """The keeper of a new cluster that is up. What dead ones left is removed first."""
    for left in layout.reap():
        say(f"removed what was left of the cluster {left}")
    folder, lock = layout.claim(name)
    with (folder / "keeper.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.cluster.keeper", name, tier, *(["--audit"] if audit else [])],
            cwd=_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            pass_fds=[lock],
            start_new_session=True,  # what a terminal says, such as Ctrl-C, is for this process alone
        )
    os.close(lock)
    try:
        assert process.stdout
        for line in process.stdout:
            text = line.decode().rstrip("\n")
            if text == keeper.READY:
                return process
            say(text)
        raise Failed(f"the {tier} cluster {name} did not come up")
    except BaseException:
        _end(process)
        raise


def _end(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin
    assert process.stdout
    process.stdin.close()
    process.wait()
    process.stdout.close()
