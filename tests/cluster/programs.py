"""The long-running programs of one cluster: started with a log each, watched while waiting, killed by process id."""

import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tests.cluster.failure import Failed

# The kernel kills what this starts when the process that started it is gone, however it went.
DIES_WITH_PARENT = ("setpriv", "--pdeathsig", "KILL", "--")
_POLL_SECONDS = 0.1
_LOG_LINES = 15


def flags(options: Mapping[str, object]) -> list[str]:
    """`--key=value` for each option; booleans in Go's spelling."""
    return [f"--{key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in options.items()]


class Programs:
    """`prefix` stands before every command line; `logs` gets `<name>.log` for each program."""

    def __init__(self, *, logs: Path, cwd: Path, prefix: Sequence[str] = DIES_WITH_PARENT) -> None:
        self._logs = logs
        self._cwd = cwd
        self._prefix = list(prefix)
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        logs.mkdir(exist_ok=True)

    def start(self, name: str, argv: Sequence[str]) -> None:
        """Start a program and return at once."""
        with self._log(name).open("ab") as log:
            self._running[name] = subprocess.Popen(
                [*self._prefix, *argv],
                cwd=self._cwd,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def until(self, ready: Callable[[], bool], *, what: str, seconds: float) -> None:
        """Wait until `ready`; Failed when it takes longer than `seconds` or one of the programs ends."""
        deadline = time.monotonic() + seconds
        while not ready():
            for name in self.ended():
                raise Failed(f"{name} ended with {self._running[name].returncode}:\n{self.tail(name)}")
            if time.monotonic() > deadline:
                logs = "\n".join(f"--- {name}\n{self.tail(name)}" for name in self._running)
                raise Failed(f"waited {seconds:.0f} s for {what} in vain:\n{logs}")
            time.sleep(_POLL_SECONDS)

    def ended(self) -> list[str]:
        """The programs that are no longer running."""
        return [name for name, process in self._running.items() if process.poll() is not None]

    def tail(self, name: str) -> str:
        """The last lines of a program's log."""
        return "\n".join(self._log(name).read_text(errors="replace").splitlines()[-_LOG_LINES:])

    def kill(self, name: str) -> None:
        """Kill one program and wait until it is gone; it may be started again."""
        process = self._running.pop(name)
        process.kill()
        process.wait()

    def pid(self, name: str) -> int:
        """The process id of a program that was started."""
        return self._running[name].pid

    def stop(self) -> None:
        """Kill every program and wait until the last is gone."""
        for process in self._running.values():
            process.kill()
        for process in self._running.values():
            process.wait()
        self._running.clear()

    def _log(self, name: str) -> Path:
        return self._logs / f"{name}.log"
