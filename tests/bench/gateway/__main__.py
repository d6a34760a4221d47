"""`make bench-gateway`: the gateway beside a bare relay and LiteLLM's proxy, on one core, against the same upstream.

The gateway under test has one core; the upstream and the callers share the other. All three are measured in one run.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from tests.bench import report
from tests.bench.gateway.load import load
from tests.bench.stage import usage
from tests.gateway_process import KEY, GatewayProcess, key, project, provider
from tests.tiny_engine import free_port

SECONDS = 8.0
_CORE, _OTHERS = {0}, {1}
_LOADS = ((1, False), (16, False), (64, False), (16, True), (64, True))
"""Connections, and whether streams are asked for."""
_HALVES = ((16, False), (64, True))
_UPSTREAM, _BARE = "the upstream itself", "bare relay"
_LIMITS = {"requestsPerMinute": 10_000_000, "tokensPerMinute": 10_000_000_000, "requestsPerDay": 10_000_000_000}


@dataclass
class Server:
    """One that is measured."""

    name: str
    port: int
    pid: int
    key: str = KEY


def body(*, stream: bool) -> bytes:
    """A question of some 200 bytes."""
    asked = {"model": "bench", "messages": [{"role": "user", "content": "What is AI? " * 12}], "max_tokens": 50}
    return json.dumps(asked | ({"stream": True} if stream else {})).encode()


def request(server: Server, *, stream: bool) -> bytes:
    """The whole request, as bytes."""
    content = body(stream=stream)
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {server.key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


@contextmanager
def _program(command: list[str], *, core: set[int], **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            ["taskset", "--cpu-list", ",".join(map(str, core)), *command],
            env=os.environ | environment,
            stdout=subprocess.PIPE if "upstream" in command[-1] else log,
            stderr=log,
        )
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdout is not None:
                process.stdout.close()


def _await(port: int, path: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        assert process.poll() is None, "it ended"
        try:
            if httpx.get(f"http://127.0.0.1:{port}{path}", timeout=5).status_code < 500:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    raise AssertionError(f"nothing answers on port {port}")


@contextmanager
def _gateway(folder: Path, url: str, *, others: int = 0) -> Iterator[Server]:
    """`others` is the number of models that nobody asks for, each with ten keys."""
    folder.mkdir()
    process = GatewayProcess(folder)
    price = {"inputTokensPer1k": "0.1", "outputTokensPer1k": "0.2"}
    offers = [{"name": name, "pricing": price} for name in ("bench", *(f"other-{n}" for n in range(others)))]
    providers = [provider(f"p-{at}", url, models=offers[at : at + 100]) for at in range(0, len(offers), 100)]
    keys = [key(f"other-{n}", f"bud_other_{n}", limits=_LIMITS) for n in range(10 * others)]
    process.write(project(limits=_LIMITS), key(limits=_LIMITS), *keys, *providers)
    process.start()
    os.sched_setaffinity(process.pid, _CORE)
    name = f"bud-gateway, {len(keys):,} more keys, {others:,} models" if others else "bud-gateway"
    try:
        yield Server(name, process.port, process.pid)
    finally:
        process.stop()


@contextmanager
def _bare(url: str) -> Iterator[Server]:
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "--port", str(port), "--no-access-log", "--lifespan", "on"]
    with _program([*command, "tests.bench.gateway.bare:app"], core=_CORE, BENCH_UPSTREAM=url) as process:
        _await(port, "/", process)
        yield Server(_BARE, port, process.pid)


@contextmanager
def _litellm(folder: Path, url: str) -> Iterator[Server]:
    """LiteLLM's proxy, in an environment of its own in the user's cache."""
    home = Path.home() / ".cache/bud-operator/litellm"
    python = home / "bin/python"
    if not (home / ".ready").exists():
        report.say("installing LiteLLM's proxy into an environment of its own …")
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(home)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", "litellm[proxy]"], check=True)
        (home / ".ready").touch()
    port = free_port()
    model = {"model_name": "bench", "litellm_params": {"model": "openai/bench", "api_base": url, "api_key": "none"}}
    config = folder / "litellm.yaml"
    config.write_text(json.dumps({"model_list": [model], "general_settings": {"master_key": "sk-bench"}}))
    command = [str(home / "bin/litellm"), "--config", str(config), "--port", str(port), "--num_workers", "1"]
    with _program(command, core=_CORE, LITELLM_LOG="ERROR", PATH=f"{home / 'bin'}:{os.environ['PATH']}") as process:
        _await(port, "/health/liveliness", process)
        yield Server("LiteLLM", port, process.pid, key="sk-bench")


@dataclass
class Figures:
    """What was measured of one server: by connections, and whether streams were asked for.

    `busy` is requests a second and the CPU of each in microseconds; `half` the seconds at half of that rate, and those
    of the upstream itself at the same rate; `memory` is in bytes.
    """

    busy: dict[tuple[int, bool], tuple[float, float]] = field(default_factory=dict)
    half: dict[tuple[int, bool], tuple[list[float], list[float]]] = field(default_factory=dict)
    memory: int = 0


async def _busy(server: Server, *, connections: int, stream: bool) -> tuple[float, float]:
    """As fast as it goes: requests a second, and the CPU of each in microseconds."""
    asked = request(server, stream=stream)
    await load(server.port, asked, connections=connections, seconds=1.0)
    before = usage(server.pid).cpu
    run = await load(server.port, asked, connections=connections, seconds=SECONDS)
    assert not run.failed, f"{server.name}: {run.failed} of {len(run.whole)} failed"
    return run.rate, 1e6 * (usage(server.pid).cpu - before) / len(run.whole)


async def _paced(server: Server, *, connections: int, stream: bool, rate: float) -> list[float]:
    """Seconds to the whole answer, or of streams to its first bytes, at a rate."""
    run = await load(server.port, request(server, stream=stream), connections=connections, seconds=SECONDS, rate=rate)
    return run.first if stream else run.whole


async def _measure(server: Server, upstream: Server) -> Figures:
    found = Figures()
    for connections, stream in _LOADS:
        found.busy[connections, stream] = await _busy(server, connections=connections, stream=stream)
        rate, cpu = found.busy[connections, stream]
        report.say(f"{server.name}: {_load(connections, stream)}: {rate:,.0f} requests/s, {cpu:,.0f} us of CPU each")
    for connections, stream in _HALVES:
        rate = found.busy[connections, stream][0] / 2
        both = [await _paced(one, connections=connections, stream=stream, rate=rate) for one in (server, upstream)]
        found.half[connections, stream] = both[0], both[1]
    found.memory = usage(server.pid).memory
    return found


def _load(connections: int, stream: bool) -> str:
    return f"{'streams of 50 chunks' if stream else 'JSON'}, {connections} connection{'s'[: connections > 1]}"


def _ms(values: list[float], part: float) -> float:
    ordered = sorted(values)
    return 1000 * ordered[min(len(ordered) - 1, int(part * len(ordered)))]


def _fastest(found: Mapping[str, Figures]) -> str:
    """Requests a second and CPU, beside the bare relay's."""
    lines = ["| Load | What | requests/s | CPU of each | to the bare relay's |\n|---|---|---|---|---|\n"]
    for at in _LOADS:
        for name, figures in found.items():
            rate, cpu = figures.busy[at]
            ratio = f"{cpu / found[_BARE].busy[at][1]:.2f}x" if name != _UPSTREAM else ""
            lines.append(f"| {_load(*at)} | {name} | {rate:,.0f} | {cpu:,.0f} us | {ratio} |\n")
    return "".join(lines)


def _latency(found: Mapping[str, Figures]) -> str:
    """What each adds to the upstream's own time at half of the rate that it can do."""
    lines = ["| Load | What | requests/s | added p50 | added p99 | memory |\n|---|---|---|---|---|---|\n"]
    for at in _HALVES:
        for name, figures in found.items():
            if name == _UPSTREAM:
                continue
            its, bare = figures.half[at]
            p50, p99 = (_ms(its, part) - _ms(bare, part) for part in (0.5, 0.99))
            rate, memory = figures.busy[at][0] / 2, figures.memory / 1e6
            lines.append(f"| {_load(*at)} | {name} | {rate:,.0f} | {p50:.2f} ms | {p99:.2f} ms | {memory:.0f} MB |\n")
    return "".join(lines)


def main() -> None:
    load_before = report.loads()
    os.sched_setaffinity(0, _OTHERS)
    found = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        model = stack.enter_context(_program([sys.executable, "-m", "tests.bench.gateway.upstream"], core=_OTHERS))
        assert model.stdout is not None
        upstream = Server(_UPSTREAM, int(model.stdout.readline()), model.pid)
        url = f"http://127.0.0.1:{upstream.port}/v1"
        found[_UPSTREAM] = asyncio.run(_measure(upstream, upstream))
        many = _gateway(folder / "many", url, others=1000)
        for made in (_bare(url), _gateway(folder / "objects", url), many, _litellm(folder, url)):
            with made as server:
                found[server.name] = asyncio.run(_measure(server, upstream))
    sections = [
        ("As fast as it goes", _fastest(found)),
        ("At half of that: whole answers, and the first bytes of streams", _latency(found)),
    ]
    report.write("bench-gateway", sections, load=load_before)


if __name__ == "__main__":
    main()
