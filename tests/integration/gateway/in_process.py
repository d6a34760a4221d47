"""A gateway in a thread of the tests' own process, so that they can change its constants."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn
import uvloop

from bud.gateway.app import Gateway
from bud.gateway.files import Folder
from bud.gateway.protocol import Patience
from bud.gateway.reach import Reach
from bud.gateway.server import Server
from bud.gateway.settings import Settings
from tests.gateway_process import GatewayProcess, key, project, provider
from tests.integration.gateway.upstream import Upstream
from tests.tiny_engine import free_port
from tests.waiting import eventually, is_so


@contextmanager
def serving(folder: Path, upstream: Upstream, *, patience: Patience, most: int = 100) -> Iterator[int]:
    """Its port, while it serves a project, a key of it, and the model `m`; it takes so many connections at most."""
    GatewayProcess(folder).write(project(), key(), provider("p", upstream.url, "m"))
    settings = Settings(folder=folder, port=free_port(), reach=Reach.of(["loopback"], {}), max_connections=most)
    built = Folder(folder, settings.reach).look()
    assert built is not None
    with started(Gateway(built.catalog, settings), settings, patience=patience):
        yield settings.port


@contextmanager
def started(gateway: Gateway, settings: Settings, *, patience: Patience) -> Iterator[None]:
    """It serves while the block runs."""
    server = Server(gateway, settings, patience=patience)
    thread = threading.Thread(target=lambda: _run(server))
    thread.start()
    eventually(lambda: is_so(server.started), within=20)
    try:
        yield
    finally:
        server.should_exit = True
        thread.join()


def _run(server: uvicorn.Server) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(server.serve())
