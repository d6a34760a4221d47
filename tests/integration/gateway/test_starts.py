"""How a gateway fails to start, and how it ends when it is told to more than once."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web

from tests.gateway_process import KEY, GatewayProcess, key, project, provider, running_gateway
from tests.integration.gateway.raw import connected
from tests.integration.gateway.upstream import Upstream, running
from tests.tiny_engine import free_port
from tests.waiting import contains, eventually, is_equal

STREAM = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True}


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    async def endless(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b'data: {"choices":[]}\n\n')
        while body["model"] == "flood":
            await response.write(b'data: {"choices":[],"x":"%s"}\n\n' % (b"x" * 1_000_000))
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


def test_a_caller_that_does_not_read_ends_with_the_time_to_stop_and_is_no_fault(
    tmp_path: Path, upstream: Upstream
) -> None:
    body = b'{"model":"flood","messages":[{"role":"user","content":"hi"}],"stream":true}'
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n".encode()
    objects, before = (project(), key(), provider("p", upstream.url, "flood")), upstream.hung_up
    with (
        running_gateway(tmp_path / "objects", *objects, options=("--drain-limit=1", "--access-log")) as gateway,
        connected(gateway.port) as caller,
    ):
        caller.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        assert caller.recv(12) == b"HTTP/1.1 200"
        gateway.signal(signal.SIGTERM)
        assert gateway.wait() == 0
        eventually(lambda: is_equal(upstream.hung_up, before + 1), within=20)
    log = gateway.log
    assert "1 s are over: 1 requests are cut" in log
    assert "Traceback" not in log and "ERROR" not in log
    # It is told of while spans and ledgers can still be written.
    assert log.index("bud.gateway.access") < log.index("Waiting for application shutdown")


def test_ctrl_c_while_it_loads_is_no_traceback(tmp_path: Path) -> None:
    """A library in the place of one that it loads first says when."""
    (tmp_path / "typer.py").write_text("import time\nprint('loads', flush=True)\ntime.sleep(60)\n")
    paths = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    # Where the tests run in a shell's background, SIGINT is ignored unless asked for.
    command = ["env", "--default-signal=INT", sys.executable, "-m", "bud.gateway", "--from", str(tmp_path)]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": paths}, **pipes) as process:
        assert process.stdout is not None and process.stdout.readline() == b"loads\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
        assert (process.returncode, errors) == (-signal.SIGINT, b"")


SCRIPT = """
import os, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
import bud.gateway.__main__ as program
from bud.gateway import {module} as module

def late(*told, known=module.{name}, **more):
    module.{name} = known
    os.kill(os.getpid(), signal.{number})
    return known(*told, **more)

module.{name} = late
program.main()
"""
"""Sends itself a signal when it first calls a function of a module."""


@pytest.mark.parametrize(
    ("module", "name", "number", "status"),
    [
        ("__main__", "_taker", "SIGINT", -signal.SIGINT),
        ("server", "listen", "SIGINT", 0),
        ("server", "listen", "SIGTERM", 0),
    ],
)
def test_a_signal_before_it_listens_ends_it_in_peace(
    tmp_path: Path, module: str, name: str, number: str, status: int
) -> None:
    (tmp_path / "objects").mkdir()
    script = tmp_path / "bud-gateway"
    script.write_text(SCRIPT.format(module=module, name=name, number=number))
    gateway = GatewayProcess(tmp_path / "objects", program=(str(script),))
    gateway.launch()
    try:
        assert gateway.wait() == status
    finally:
        gateway.stop()
    assert "Traceback" not in gateway.log
