"""The process that brings one cluster up, keeps it, and takes it down again: `python -m tests.cluster.keeper`.

It says on its output how it gets on, and `ready` at the end. Its input is the lifeline: when that closes, because the
tool or the test run that wanted the cluster ended in whatever way, the cluster is taken down; a line `keep` on it
cuts the cluster loose, until SIGTERM.
"""

import argparse
import os
import signal
import sys
import threading
import time
import traceback
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import FrameType

from tests.cluster import layout, sources
from tests.cluster.failure import Failed
from tests.cluster.isolation import run
from tests.cluster.tools import path

READY = "ready"
KEEP = b"keep\n"


class _Ended(BaseException):
    """Someone wants the cluster gone."""


class _Speaker:
    """Says how it gets on to whoever still listens, and always to a log."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._start = time.monotonic()

    def __call__(self, line: str) -> None:
        timed = f"{time.monotonic() - self._start:6.1f}s  {line}"
        with self._log.open("a") as log:
            log.write(timed + "\n")
        self.bare(timed)

    def bare(self, line: str) -> None:
        """A line as it is, to the listener alone."""
        with suppress(BrokenPipeError):
            os.write(sys.stdout.fileno(), (line + "\n").encode())


def _watch_lifeline() -> None:
    if os.read(sys.stdin.fileno(), len(KEEP)) != KEEP:
        os.kill(os.getpid(), signal.SIGTERM)


def _end(_signal: int, _frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise _Ended


def keep(name: str, tier: layout.Tier, *, audit: bool) -> int:
    """Bring the cluster up, keep it until told otherwise, take it down; the exit status."""
    folder = layout.home() / name
    say = _Speaker(folder / "keeper.log")
    source: sources.Source | None = None
    try:
        # Not before: whatever ends this process must come through here.
        signal.signal(signal.SIGTERM, _end)
        threading.Thread(target=_watch_lifeline, daemon=True).start()
        source = sources.choose(name, tier, folder, audit=audit, say=say)
        audited = audit and source.kind == "local"
        record = layout.Record(name=name, tier=tier, source=source.kind, keeper=os.getpid(), audit=audited)
        layout.write(folder, record)
        source.start()
        _mark(folder)
        here = replace(record, ready=True, host_address=source.host_address, holder=source.holder)
        layout.write(folder, here)
        say(f"{tier} cluster {name} is up")
        say.bare(READY)
        while True:
            # Not signal.pause(): a signal that comes just before it would be slept through.
            time.sleep(0.5)
    except _Ended:
        return 0
    except Failed as failure:
        say(f"cannot bring up {name}: {failure}")
        return 1
    except Exception:
        say(f"cannot bring up {name}: {traceback.format_exc()}")
        return 1
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if source:
            source.stop()
        with layout.lock():
            layout.remove(folder)


def _mark(folder: Path) -> None:
    kubectl = [str(path("kubectl")), "--kubeconfig", str(folder / "admin.kubeconfig")]
    run(*kubectl, "label", "--overwrite", "namespace", "kube-system", f"{layout.TEST_LABEL}=true")


def main() -> int:
    """Read the command line and keep."""
    parser = argparse.ArgumentParser(prog="python -m tests.cluster.keeper", description=__doc__)
    parser.add_argument("name")
    parser.add_argument("tier", choices=("control", "node"))
    parser.add_argument("--audit", action="store_true")
    arguments = parser.parse_args()
    return keep(arguments.name, arguments.tier, audit=arguments.audit)


if __name__ == "__main__":
    sys.exit(main())
