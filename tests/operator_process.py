"""The operator as a process of its own, beside a test cluster."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.cluster.programs import DIES_WITH_PARENT
from tests.waiting import eventually

IMAGE = "bud.test/bud:1"


class OperatorProcess:
    """`bud-operator run` with a kubeconfig; its log is kept in a file."""

    def __init__(self, kubeconfig: Path, log: Path, *options: str) -> None:
        self._kubeconfig = kubeconfig
        self._log = log
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self.port = _free_port()

    def start(self) -> None:
        """Starts it and waits until it is ready."""
        self.launch()
        eventually(self._ready)

    def launch(self) -> None:
        """Starts it and goes on."""
        command = [str(Path(sys.executable).parent / "bud-operator"), "run", "--kubeconfig", str(self._kubeconfig)]
        command += ["--image", IMAGE, "--http-port", str(self.port), "--log-format", "text", *self._options]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen([*DIES_WITH_PARENT, *command], stdout=log, stderr=log)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ends it by a signal; gives the exit status."""
        assert self._process is not None
        self.send(number)
        status = self._process.wait(timeout=30)
        self._process = None
        return status

    def send(self, number: int) -> None:
        """Sends it a signal and goes on."""
        assert self._process is not None
        self._process.send_signal(number)

    def poll(self) -> int | None:
        """The exit status of a process that ended by itself, None while it runs."""
        assert self._process is not None
        return self._process.poll()

    def restart(self, number: int = signal.SIGTERM) -> None:
        self.stop(number)
        self.start()

    @property
    def running(self) -> bool:
        return self._process is not None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> str:
        return self._log.read_text()

    def metrics(self) -> str:
        return httpx.get(f"http://127.0.0.1:{self.port}/metrics", timeout=30).text

    def says(self, word: str) -> bool:
        """Whether it answers, and its readiness page holds a word: `leading` or `standing by`."""
        try:
            return word in httpx.get(f"http://127.0.0.1:{self.port}/readyz").text
        except httpx.TransportError:
            return False

    def _ready(self) -> None:
        assert self._process is not None
        assert self._process.poll() is None, f"the operator ended: {self.log[-2000:]}"
        try:
            assert httpx.get(f"http://127.0.0.1:{self.port}/readyz").status_code == 200
        except httpx.TransportError as error:
            raise AssertionError(str(error)) from error


@contextmanager
def operator_process(kubeconfig: Path, log: Path, *options: str) -> Iterator[OperatorProcess]:
    """An operator that runs for the length of a `with` block."""
    process = OperatorProcess(kubeconfig, log, *options)
    process.start()
    try:
        yield process
    finally:
        if process.running and process.poll() is None:
            process.stop()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
