"""The tiny engine as a process on loopback, for tests."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

START_SECONDS = 60.0
MODULE = [sys.executable, "-m", "bud.engines.tiny"]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def is_healthy(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def start_tiny(model: Path, port: int, *flags: str, wait: bool = True) -> subprocess.Popen[str]:
    """Run the engine; with `wait`, until it is healthy."""
    command = [*MODULE, "--model", str(model), "--port", str(port), "--threads", "1", *flags]
    engine = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    end = time.monotonic() + START_SECONDS
    while wait and not is_healthy(port):
        if engine.poll() is not None or time.monotonic() > end:
            engine.kill()
            raise AssertionError(f"the engine did not start: {engine.communicate()[0]}")
        time.sleep(0.05)
    return engine


@contextmanager
def running_tiny(model: Path, *flags: str) -> Iterator[tuple[subprocess.Popen[str], httpx.Client]]:
    port = free_port()
    engine = start_tiny(model, port, *flags)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            yield engine, client
    finally:
        engine.kill()
        engine.communicate()
