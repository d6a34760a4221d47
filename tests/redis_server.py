"""A Redis of one's own on loopback, as a process that tests may end, hang and start again."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from redis import Redis
from redis.exceptions import ConnectionError as NotThere

from tests import fetched
from tests.cluster import pki
from tests.tiny_engine import free_port

PASSWORD = "s3cret-of-redis"
_START_SECONDS = 20.0


class RedisServer:
    """Keeps everything in memory: what is stopped has forgotten all. With an `authority` it speaks TLS alone."""

    def __init__(self, folder: Path, authority: pki.Authority | None = None) -> None:
        self.port = free_port()
        self.url = f"redis://:{PASSWORD}@127.0.0.1:{self.port}/0"
        self._folder = folder
        self._listen = ["--port", str(self.port)] if authority is None else self._with_tls(authority)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = ["redis-server", *self._listen, "--bind", "127.0.0.1", "--requirepass", PASSWORD]
        with (self._folder / "redis.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "--save", "", "--appendonly", "no"], stdout=log, stderr=log, cwd=self._folder
            )
        deadline = time.monotonic() + _START_SECONDS
        while not self._answers():
            assert self._process.poll() is None and time.monotonic() < deadline, "Redis did not start"
            time.sleep(0.02)

    def client(self) -> Redis:
        """To look inside; the caller closes it."""
        return Redis.from_url(self.url)

    def hang(self) -> None:
        """It takes connections and answers nothing, until `wake`."""
        self._signal(signal.SIGSTOP)

    def wake(self) -> None:
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """Ends it at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(timeout=30)

    def _with_tls(self, authority: pki.Authority) -> list[str]:
        pair = authority.server(["127.0.0.1"])
        files = {"cert": pair.certificate, "key": pair.key, "ca-cert": authority.certificate}
        options = ["--port", "0", "--tls-port", str(self.port), "--tls-auth-clients", "no"]
        for name, content in files.items():
            file = self._folder / f"{name}.pem"
            pki.write_private(file, content)
            options += [f"--tls-{name}-file", str(file)]
        self.url = f"{self.url.replace('redis', 'rediss', 1)}?ssl_ca_certs={self._folder / 'ca-cert.pem'}"
        return options

    def _signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def _answers(self) -> bool:
        with self.client() as client:
            try:
                return bool(client.ping())
            except NotThere:
                return False


@contextmanager
def running_redis(folder: Path, authority: pki.Authority | None = None) -> Iterator[RedisServer]:
    fetched.require(("redis-server",), ("redis-server",))
    folder.mkdir(exist_ok=True)
    server = RedisServer(folder, authority)
    server.start()
    try:
        yield server
    finally:
        server.kill()
