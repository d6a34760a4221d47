"""A way to the API server that can be shut: what goes through it loses its connections, everybody else keeps theirs."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import yaml

_BLOCK = 1 << 16


class Gate:
    """Carries bytes between its own port and the API server's, for as long as it is open."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._lock = threading.Lock()
        self._open = True
        self._through: list[socket.socket] = []
        self._threads: list[threading.Thread] = []

    @classmethod
    @contextmanager
    def before(cls, kubeconfig: Path, folder: Path) -> Iterator[tuple[Gate, Path]]:
        """One before the API server of a kubeconfig, with a kubeconfig in `folder` that leads through it."""
        config = yaml.safe_load(kubeconfig.read_text())
        cluster = config["clusters"][0]["cluster"]
        server = urlsplit(cluster["server"])
        assert server.hostname is not None
        assert server.port is not None
        gate = cls((server.hostname, server.port))
        cluster["server"] = f"https://127.0.0.1:{gate._listener.getsockname()[1]}"
        through = folder / "gate.kubeconfig"
        through.write_text(yaml.safe_dump(config))
        through.chmod(0o600)
        accepting = threading.Thread(target=gate._accept, daemon=True)
        accepting.start()
        try:
            yield gate, through
        finally:
            gate.shut()
            gate._listener.shutdown(socket.SHUT_RDWR)
            accepting.join()
            gate._listener.close()
            for carrying in gate._threads:
                carrying.join()

    def open(self) -> None:
        with self._lock:
            self._open = True

    def shut(self) -> None:
        """Breaks every connection, with all that is still on its way, and takes no new one."""
        with self._lock:
            self._open = False
            broken, self._through = self._through, []
        for one in broken:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # shut down
            while True:
                client, _ = self._listener.accept()
                self._connect(client)

    def _connect(self, client: socket.socket) -> None:
        with self._lock:
            try:
                if not self._open:
                    raise ConnectionRefusedError
                server = socket.create_connection(self._target)
            except OSError:
                client.close()
                return
            self._through += (client, server)
        for source, target in ((client, server), (server, client)):
            self._threads.append(threading.Thread(target=_carry, args=(source, target), daemon=True))
            self._threads[-1].start()


def _carry(source: socket.socket, target: socket.socket) -> None:
    """Until either end closes; then the other is told."""
    with source, contextlib.suppress(OSError):
        try:
            while block := source.recv(_BLOCK):
                target.sendall(block)
        finally:
            target.shutdown(socket.SHUT_RDWR)
