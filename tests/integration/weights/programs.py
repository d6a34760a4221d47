"""Starts the programs that the tests need, each as a process of its own on a free loopback port."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MEBI = 1 << 20
GCS_SERVER = "github.com/fsouza/fake-gcs-server@v1.56.1"
AZURITE = "azurite@3.35.0"
QUICK = {"BUD_WEIGHTS_BACKOFF_SECONDS": "0.01", "BUD_WEIGHTS_TRIES": "3", "BUD_WEIGHTS_STALL_SECONDS": "20"}


def content(size: int, seed: int = 1) -> bytes:
    """Bytes that no other seed gives."""
    return random.Random(seed).randbytes(size)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def wait_until(true: Callable[[], object], *, seconds: float = 30, what: str = "the condition") -> None:
    """Polls; raises AssertionError when `what` did not come true in time."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"{what} did not come true within {seconds} s"
        time.sleep(0.01)


@contextlib.contextmanager
def running(command: Sequence[str], *, port: int, cwd: Path, env: Mapping[str, str] | None = None) -> Iterator[None]:
    """A server process, ready once its port accepts; ended by its process id."""
    with (cwd / "server.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=cwd, stdout=log, stderr=log, env={**os.environ, **(env or {})})
    try:
        wait_until(lambda: _answers(port) or process.poll() is not None, seconds=60, what=f"{command[0]} answering")
        assert process.poll() is None, (cwd / "server.log").read_text()[-2000:]
        yield
    finally:
        process.terminate()
        process.wait(timeout=20)


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


@dataclass(frozen=True)
class Origin:
    """The strict server's two addresses, and its folder."""

    url: str
    second: str
    root: Path

    def put(self, path: str, data: bytes) -> bytes:
        place = self.root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
        return data

    def faults(self, by_path: Mapping[str, Mapping[str, Any]]) -> None:
        """Sets what goes wrong from now on, and lets go of every connection that is held."""
        body = json.dumps(by_path).encode()
        urllib.request.urlopen(urllib.request.Request(f"{self.url}/_faults", data=body, method="PUT")).close()

    def log(self, path: str | None = None) -> list[dict[str, Any]]:
        """The GETs that came, without the one-byte question for a file's size."""
        with urllib.request.urlopen(f"{self.url}/_log") as answer:
            rows: list[dict[str, Any]] = json.load(answer)
        return [row for row in rows if path in (None, row["path"]) and row["Range"] != "bytes=0-0"]


@contextlib.contextmanager
def origin(root: Path, *, certificate: Path | None = None, address: str = "127.0.0.1") -> Iterator[Origin]:
    command = [sys.executable, "-m", "tests.integration.weights.origin", str(root)]
    process = subprocess.Popen(
        [*command, *([str(certificate)] if certificate else [])],
        stdout=subprocess.PIPE,
        env=os.environ | {"ORIGIN_ADDRESS": address},
    )
    assert process.stdout
    try:
        first, second = json.loads(process.stdout.readline())
        yield Origin(url=first, second=second, root=root)
    finally:
        process.terminate()
        process.wait(timeout=20)
        process.stdout.close()


@dataclass(frozen=True)
class Outcome:
    """What a finished run of the program left."""

    code: int
    said: list[dict[str, Any]]
    output: str
    message: dict[str, Any]

    @property
    def reason(self) -> str:
        return str(self.message["error"]["reason"])

    @property
    def text(self) -> str:
        return str(self.message["error"]["message"])


class Weights:
    """Runs `python -m bud.weights` with nothing in its environment but what is asked for."""

    def __init__(self, folder: Path, *, target: Path | None = None) -> None:
        self.target = target or folder / "weights"
        self.target.mkdir(parents=True)
        self._folder = folder
        self._runs = 0

    @property
    def output(self) -> Path:
        """What the run that was started last has said."""
        return self._folder / f"output-{self._runs}"

    def start(
        self,
        source: Mapping[str, Any],
        *,
        sha256: Mapping[str, str] | None = None,
        cache: Mapping[str, Any] | None = None,
        **environment: str,
    ) -> subprocess.Popen[bytes]:
        config = {"source": source, "sha256": sha256 or {}, "target": str(self.target), "cache": cache}
        self._runs += 1
        env = {
            **{name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ},
            "HOME": "/nonexistent",
            "BUD_WEIGHTS_CONFIG": json.dumps(config),
            "BUD_TERMINATION_LOG": f"{self.output}.termination",
            "BUD_WEIGHTS_ALLOWED_NETWORKS": "127.0.0.0/8",
            **QUICK,
            **environment,
        }
        with self.output.open("wb") as output:
            command = [sys.executable, "-W", "error", "-m", "bud.weights"]
            return subprocess.Popen(command, env=env, stdout=output, stderr=output)

    def finish(self, process: subprocess.Popen[bytes], *, seconds: float = 60) -> Outcome:
        """Waits for the run that was started last."""
        try:
            code = process.wait(timeout=seconds)
        finally:
            process.kill()
            process.wait()
        output = self.output.read_text()
        termination = Path(f"{self.output}.termination")
        message = json.loads(termination.read_text()) if termination.exists() else {}
        lines = [json.loads(line) for line in output.splitlines()]
        return Outcome(code=code, said=lines, output=output, message=message)

    def run(self, source: Mapping[str, Any], *, sha256: Mapping[str, str] | None = None, **environment: str) -> Outcome:
        return self.finish(self.start(source, sha256=sha256, cache=None, **environment))

    def files(self) -> dict[str, bytes]:
        """What an engine would see."""
        found = (path for path in self.target.rglob("*") if path.is_file())
        named = {path.relative_to(self.target).as_posix(): path for path in found}
        return {name: path.read_bytes() for name, path in named.items() if not name.startswith(".bud/")}

    def part_bytes(self) -> int:
        """Bytes of all unfinished files."""
        return sum(part.stat().st_size for part in self.target.glob(".bud/partial/*.part"))

    def manifest(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.target / ".bud" / "manifest.json").read_text())
        return found


def gcs_server() -> Path | None:
    """The emulator of Google Cloud Storage: from PATH, else built once with Go; None without either."""
    return _tool("fake-gcs-server", lambda at: ["go", "install", GCS_SERVER], needs="go")


def azurite() -> Path | None:
    """Microsoft's emulator of Blob Storage: from PATH, else installed once with npm; None without either."""
    return _tool(
        "azurite-blob",
        lambda at: ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(at), AZURITE],
        needs="npm",
        inside="node_modules/.bin",
    )


def _tool(name: str, command: Callable[[Path], list[str]], *, needs: str, inside: str = "") -> Path | None:
    if found := shutil.which(name):
        return Path(found)
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "bud-operator" / "tools" / name
    program = cache / inside / name
    if not program.exists():
        if not shutil.which(needs):
            return None
        fresh = cache.with_name(f"{name}.{os.getpid()}")
        fresh.mkdir(parents=True, exist_ok=True)
        env = {**os.environ, "GOBIN": str(fresh)}
        done = subprocess.run(command(fresh), env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{name} could not be had: {done.stderr[-2000:]}"
        shutil.rmtree(cache, ignore_errors=True)
        fresh.rename(cache)
    return program
