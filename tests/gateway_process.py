"""`bud-gateway` as a process on loopback, with objects from a folder or a cluster, for tests."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.tiny_engine import free_port

KEY = "bud_alice"
START_SECONDS = 30.0
PROGRAM = ("-m", "bud.gateway")


def made(kind: str, name: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    """One of our objects, in the namespace `default`."""
    return {"apiVersion": "bud.studio/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": dict(spec)}


def project(**spec: Any) -> dict[str, Any]:
    return made("Project", "team", {"namespace": "default", **spec})


def key(name: str = "alice", secret: str = KEY, **spec: Any) -> dict[str, Any]:
    return made("APIKey", name, {"hash": hashlib.sha256(secret.encode()).hexdigest(), **spec})


def provider(name: str, url: str, *models: str, **spec: Any) -> dict[str, Any]:
    offers = [{"name": model} for model in models]
    return made("Provider", name, {"kind": "OpenAICompatible", "baseURL": url, "models": offers, **spec})


class GatewayProcess:
    """One gateway; `write` changes what it reads. `options` stand beside those that every test needs, and `source` names
    another place than the folder. `program` is what Python runs."""

    def __init__(
        self,
        folder: Path,
        *,
        source: Sequence[str] = (),
        options: Sequence[str] = (),
        allow: Sequence[str] = ("loopback",),
        environment: Mapping[str, str] | None = None,
        program: Sequence[str] = PROGRAM,
    ) -> None:
        self.folder = folder
        self._program = program
        allowed = (f"--allow-upstream={one}" for one in allow)
        self._options = [*(source or ("--from", str(folder))), *allowed, *options]
        self._environment = {**os.environ, **(environment or {})}
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = folder.parent / f"{folder.name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def write(self, *objects: Mapping[str, Any], file: str = "objects.yaml") -> None:
        """Replaces a file as a whole, as tools that write configuration do."""
        fresh = self.folder / f"{file}.new"
        fresh.write_text(yaml.safe_dump_all(objects))
        os.replace(fresh, self.folder / file)

    def start(self) -> None:
        self.launch()
        deadline = time.monotonic() + START_SECONDS
        while not self._healthy():
            if self.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"the gateway did not start: {self.log}")
            time.sleep(0.05)

    def launch(self) -> None:
        """Starts it and goes on."""
        command = [sys.executable, *self._program, *self._options, "--port", str(self.port)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env=self._environment)

    def poll(self) -> int | None:
        """The exit status of a process that ended, None while it runs."""
        assert self._process is not None
        return self._process.poll()

    @property
    def log(self) -> str:
        return self._log.read_text()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def memory(self) -> int:
        """Bytes that it holds now."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        (line,) = [one for one in status.splitlines() if one.startswith("VmRSS")]
        return int(line.split()[1]) * 1024

    def signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def wait(self) -> int:
        assert self._process is not None
        return self._process.wait(timeout=60)

    def kill(self) -> None:
        """Ends it at once."""
        self.signal(signal.SIGKILL)
        self.wait()

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(timeout=60)

    def _healthy(self) -> bool:
        try:
            return httpx.get(f"{self.url}/readyz", timeout=5).status_code == 200
        except httpx.TransportError:
            return False


@contextmanager
def running_gateway(
    folder: Path,
    *objects: Mapping[str, Any],
    options: Sequence[str] = (),
    allow: Sequence[str] = ("loopback",),
    environment: Mapping[str, str] | None = None,
    program: Sequence[str] = PROGRAM,
) -> Iterator[GatewayProcess]:
    folder.mkdir(exist_ok=True)
    gateway = GatewayProcess(folder, options=options, allow=allow, environment=environment, program=program)
    gateway.write(*objects)
    gateway.start()
    try:
        yield gateway
    finally:
        gateway.stop()
