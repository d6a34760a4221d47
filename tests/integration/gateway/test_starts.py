"""How a gateway fails to start, and how it ends when it is told to more than once."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web

from tests.gateway_process import KEY, GatewayProcess, key, project, provider, running_gateway
from tests.integration.gateway.upstream import Upstream, running
from tests.tiny_engine import free_port
from tests.waiting import contains, eventually, is_equal

STREAM = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True}


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    async def endless(request: web.Request, _: dict[str, Any]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b'data: {"choices":[]}\n\n')
        await asyncio.sleep(3600)
        return response

    with running(endless) as made:
        yield made


@pytest.mark.parametrize("option", ["--port", "--metrics-port"])
def test_a_port_that_is_taken_is_one_line_and_no_traceback(tmp_path: Path, option: str) -> None:
    folder = tmp_path / "objects"
    folder.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        gateway = GatewayProcess(folder, options=() if option == "--port" else (f"{option}={taken}",))
        gateway.port = taken if option == "--port" else gateway.port
        gateway.launch()
        assert gateway.wait() == 1
    last = gateway.log.splitlines()[-1]
    assert last.startswith(f"bud-gateway: {option} {taken}: 127.0.0.1: another program listens there")
    assert "Traceback" not in gateway.log


@pytest.mark.parametrize("delay", [0, 3600], ids=["at once", "after a delay"])
def test_each_further_ctrl_c_ends_what_is_waited_for(tmp_path: Path, upstream: Upstream, delay: int) -> None:
    options = (f"--drain-delay={delay}", f"--metrics-port={free_port()}")
    objects = (project(), key(), provider("p", upstream.url, "m"))
    with running_gateway(tmp_path / "objects", *objects, options=options) as gateway:
        told, begun = list[bytes](), threading.Event()

        def ask() -> None:
            headers, at = {"Authorization": f"Bearer {KEY}"}, f"{gateway.url}/v1/chat/completions"
            with httpx.stream("POST", at, json=STREAM, headers=headers, timeout=60) as found:
                for piece in found.iter_raw():
                    told.append(piece)
                    begun.set()

        caller = threading.Thread(target=ask)
        caller.start()
        assert begun.wait(20)
        gateway.signal(signal.SIGINT)
        if delay:
            eventually(lambda: is_equal(httpx.get(f"{gateway.url}/readyz").status_code, 503), within=20)
            gateway.signal(signal.SIGINT)
        eventually(lambda: contains(gateway.log, "Waiting for connections to close"), within=20)
        gateway.signal(signal.SIGINT)
        assert gateway.wait() == 0
        caller.join()
    assert b"the gateway stops before this is answered" in told[-1]
    assert "told again to stop: 1 requests are cut" in gateway.log
    assert "Application shutdown complete" in gateway.log and "Traceback" not in gateway.log
