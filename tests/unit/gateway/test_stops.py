"""What each further signal ends, step by step, without a process."""

from __future__ import annotations

import asyncio
import os
import signal
from functools import partial
from typing import Any
from unittest.mock import Mock

import pytest

from bud.gateway import server as module
from bud.gateway.app import Gateway
from bud.gateway.catalog import Catalog
from bud.gateway.server import Server
from bud.gateway.settings import Settings
from tests.unit.gateway.scripted import SECONDS, run, until


def test_each_signal_ends_one_thing_and_the_last_one_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    killed, aborted = list[Any](), list[Any]()
    monkeypatch.setattr(module, "_CUT_SECONDS", 0)

    async def test() -> None:
        settings = Settings(drain_delay=3600)
        gateway = Gateway(Catalog(), settings)
        server = Server(gateway, settings)
        tell = partial(server.handle_exit, signal.SIGTERM, None)
        one: Any = Mock(**{"transport.abort": lambda: aborted.append(1)})
        work = asyncio.create_task(asyncio.Event().wait())
        server.server_state.connections.add(one)
        server.server_state.tasks.add(work)  # type: ignore[arg-type]
        tell()
        for _ in range(5):
            await asyncio.sleep(0)
        assert (gateway.is_draining, server.should_exit) == (True, False)
        tell()
        assert server.should_exit and not work.cancelling()
        tell()
        async with asyncio.timeout(SECONDS):
            await until(lambda: bool(aborted))
        assert work.cancelled() and not killed
        with monkeypatch.context() as patch:
            patch.setattr(signal, "signal", lambda *told: killed.append(told))
            patch.setattr(os, "kill", lambda *told: killed.append(told))
            tell()
        assert killed == [(signal.SIGTERM, signal.SIG_DFL), (os.getpid(), signal.SIGTERM)]

    run(test)


def test_the_delay_ends_on_its_own() -> None:
    async def test() -> None:
        settings = Settings(drain_delay=0.01)
        server = Server(Gateway(Catalog(), settings), settings)
        server.handle_exit(signal.SIGTERM, None)
        assert not server.should_exit
        async with asyncio.timeout(SECONDS):
            await until(lambda: server.should_exit)

    run(test)
