"""A gateway under load while callers hang up, upstreams die and objects change; and what must hold all the same."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import orjson
from aiohttp import web
from prometheus_client.parser import text_string_to_metric_families

from tests.gateway_process import KEY, GatewayProcess, key, made, project, provider, running_gateway
from tests.integration.gateway.upstream import Upstream, running
from tests.waiting import eventually

GROWTH = 1.05
"""How much larger than after the beginning the gateway may be at the end."""
_MODELS = ("whole", "stream", "hangs-up", "shaky")
_FINISHED = ("whole", "stream")
"""Whose answers always end well."""
_CHUNK_SECONDS = 0.005
_CHANGE_SECONDS = 1.0
_DEATH_SECONDS = 2.0
_FASTEST_SECONDS, _FASTEST_CALLERS = 5.0, 64


@dataclass
class Tokens:
    """What one side knows, by model."""

    read: Counter[str] = field(default_factory=Counter)
    written: Counter[str] = field(default_factory=Counter)
    requests: Counter[str] = field(default_factory=Counter)


class Model:
    """Answers with as many tokens as it likes and remembers how many those were.

    While it is `dying` it breaks off what it says; `broken` counts that.
    """

    def __init__(self, given: Tokens, seed: int) -> None:
        self.dying = False
        self.broken = 0
        self._given = given
        self._random = random.Random(seed)

    async def __call__(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        if request.method == "GET" and not self.dying:
            return web.json_response({"object": "list", "data": []})
        if self.dying:
            return self._break(request, web.Response(status=500))
        name: str = body["model"]
        read, written = self._random.randint(1, 50), self._random.randint(2, 100 if name == "shaky" else 30)
        self._given.requests[name] += 1
        self._given.read[name] += read
        usage = {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
        if body.get("stream"):
            return await self._stream(request, name, usage)
        self._given.written[name] += written
        choice = {"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}
        return web.json_response({"id": "c", "model": name, "choices": [choice], "usage": usage})

    async def _stream(self, request: web.Request, name: str, usage: dict[str, int]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        word = {"model": name, "choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": None}]}
        ends = name != "hangs-up"
        for _ in range(usage["completion_tokens"]) if ends else itertools.count():
            if self.dying:
                return self._break(request, response)
            # Counted first: whoever is called off in the middle of writing may have been heard.
            self._given.written[name] += 1
            await response.write(b"data: " + orjson.dumps(word) + b"\n\n")
            await asyncio.sleep(_CHUNK_SECONDS)
        last = {"model": name, "choices": [], "usage": usage}
        await response.write(b"data: " + orjson.dumps(last) + b"\n\ndata: [DONE]\n\n")
        return response

    def _break(self, request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
        self.broken += 1
        assert request.transport is not None
        request.transport.abort()
        return response


class Callers:
    """Ask, and remember what they heard; some hang up in the middle."""

    def __init__(self, url: str, seed: int) -> None:
        self.heard = Tokens()
        self.outcomes = Counter[tuple[str, str]]()
        self._url = f"{url}/v1/chat/completions"
        self._random = random.Random(seed)

    async def load(self, *, seconds: float, rate: float) -> None:
        """So many requests a second, whatever becomes of them."""
        async with self._session() as session:
            begun, asked = time.monotonic(), set[asyncio.Task[None]]()
            for number in itertools.count():
                due = begun + number / rate
                if due > begun + seconds:
                    break
                await asyncio.sleep(due - time.monotonic())
                asked = {task for task in asked if not task.done()}
                asked.add(asyncio.create_task(self._ask(session, self._random.choice(_MODELS))))
            await asyncio.gather(*asked)

    async def fastest(self) -> float:
        """Requests a second of a few callers who ask as soon as they are answered."""
        begun, done = time.monotonic(), 0

        async def go_on(session: aiohttp.ClientSession) -> None:
            nonlocal done
            while time.monotonic() < begun + _FASTEST_SECONDS:
                await self._ask(session, self._random.choice(_MODELS))
                done += 1

        async with self._session() as session:
            await asyncio.gather(*(go_on(session) for _ in range(_FASTEST_CALLERS)))
        return done / (time.monotonic() - begun)

    def _session(self) -> aiohttp.ClientSession:
        headers = {"Authorization": f"Bearer {KEY}"}
        return aiohttp.ClientSession(headers=headers, connector=aiohttp.TCPConnector(limit=0))

    async def _ask(self, session: aiohttp.ClientSession, name: str) -> None:
        body: dict[str, Any] = {"model": name, "messages": [{"role": "user", "content": "hi"}]}
        if name != "whole":
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        self.heard.requests[name] += 1
        async with session.post(self._url, json=body) as response:
            if response.status != 200:
                self.outcomes[name, str(response.status)] += 1
            elif name == "whole":
                self._hear(name, orjson.loads(await response.read()).get("usage"), 0)
            else:
                await self._listen(name, response)

    async def _listen(self, name: str, response: aiohttp.ClientResponse) -> None:
        chunks, usage, until = 0, None, self._random.randint(1, 30)
        async for raw in response.content:
            if raw.startswith(b'data: {"error"'):
                self.outcomes[name, "broken"] += 1
            elif raw.startswith(b"data: {"):
                chunks, usage = chunks + 1, orjson.loads(raw[6:]).get("usage")
            if name == "hangs-up" and chunks >= until:
                response.close()
                break
        self._hear(name, usage, chunks)

    def _hear(self, name: str, usage: dict[str, int] | None, chunks: int) -> None:
        self.heard.read[name] += usage["prompt_tokens"] if usage else 0
        self.heard.written[name] += usage["completion_tokens"] if usage else chunks


@dataclass(frozen=True)
class Figures:
    """Of one run: requests and tokens heard in all, faults, and bytes of memory."""

    requests: int
    written: int
    broken: int
    early: int
    late: int

    @property
    def growth(self) -> float:
        """How much larger the gateway was in the end than after the beginning."""
        return self.late / self.early

    def __str__(self) -> str:
        return (
            f"{self.requests} requests, {self.written} tokens heard, {self.broken} faults seen by callers; "
            f"{self.early / 2**20:.1f} MiB after the beginning, {self.late / 2**20:.1f} MiB in the end"
        )


@dataclass
class Scene:
    """A gateway, an upstream that stays, and one that dies."""

    gateway: GatewayProcess
    steady: Upstream
    shaky: Upstream
    mortal: Model
    callers: Callers
    given: Tokens

    def objects(self, turn: int) -> list[dict[str, Any]]:
        """What the gateway reads: other things at each turn, and always the same models."""
        targets = [
            {"providerRef": {"name": "steady", "model": "shaky"}, "weight": 1 + turn % 3},
            {"providerRef": {"name": "mortal", "model": "shaky"}, "weight": 1},
        ]
        return [
            project(),
            key(),
            key(f"passing-{turn}", f"bud_{turn}"),
            provider("steady", self.steady.url, *_MODELS),
            provider("mortal", self.shaky.url, "shaky"),
            provider(f"passing-{turn}", f"http://127.0.0.1:9/{turn}/v1", f"m{turn}"),
            made("Route", "shaky", {"targets": targets, "strategy": "Weighted"}),
        ]

    async def run(self, *, seconds: float, rate: float, early: float) -> Figures:
        """Puts it under load; `early` is how many seconds its beginning takes. Fails on what must not be."""
        measured = asyncio.create_task(self._measure(early))
        others = [asyncio.create_task(one) for one in (self._change(), self._die())]
        await self.callers.load(seconds=seconds, rate=rate)
        size = await measured
        for other in others:
            other.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        self.mortal.dying = False
        samples = await asyncio.to_thread(eventually, self._settled, within=20)
        late = self._size()
        self._check(samples)
        broken = self.callers.outcomes.total()
        heard = self.callers.heard
        return Figures(heard.requests.total(), heard.written.total(), broken, size, late)

    async def half_load(self) -> float:
        """Half of the requests a second that this machine can do, all of its callers and upstreams included."""
        return 0.5 * await self.callers.fastest()

    async def _change(self) -> None:
        for turn in itertools.count():
            self.gateway.write(*self.objects(turn))
            await asyncio.sleep(_CHANGE_SECONDS)

    async def _die(self) -> None:
        while True:
            await asyncio.sleep(_DEATH_SECONDS)
            self.mortal.dying = not self.mortal.dying

    async def _measure(self, seconds: float) -> int:
        await asyncio.sleep(seconds)
        return self._size()

    def _settled(self) -> dict[tuple[str, str, str, str], float]:
        """The gateway's own counts, by name, model, kind of token and kind of error, once nothing is under way."""
        text = httpx.get(f"{self.gateway.url}/metrics").text
        samples = [one for family in text_string_to_metric_families(text) for one in family.samples]
        assert [one.value for one in samples if one.name == "bud_gateway_requests_in_flight"] == [0]
        found = Counter[tuple[str, str, str, str]]()
        for one in samples:
            labels = [one.labels.get(name, "") for name in ("gen_ai_request_model", "gen_ai_token_type", "error_type")]
            found[one.name, labels[0], labels[1], labels[2]] += one.value  # type: ignore[assignment]
        return dict(found)

    def _check(self, samples: dict[tuple[str, str, str, str], float]) -> None:
        def counted(name: str, model: str, kind: str = "") -> float:
            return sum(value for (n, m, k, _), value in samples.items() if (n, m, k) == (name, model, kind))

        heard, outcomes = self.callers.heard, self.callers.outcomes
        assert self.mortal.broken > 0
        assert not [what for what in outcomes if what[0] != "shaky"], outcomes
        for model in _MODELS:
            assert counted("bud_gateway_requests_total", model) == heard.requests[model] > 0
            read = counted("gen_ai_client_token_usage_sum", model, "input")
            written = counted("gen_ai_client_token_usage_sum", model, "output")
            assert heard.read[model] <= read <= self.given.read[model], model
            assert heard.written[model] <= written <= self.given.written[model], model
            if model in _FINISHED:
                assert (read, written) == (self.given.read[model], self.given.written[model]), model
        hung_up = "gen_ai_server_request_duration_seconds_count", "hangs-up", "", "499"
        assert samples[hung_up] == heard.requests["hangs-up"]

    def _size(self) -> int:
        """Of the memory that the gateway has, in bytes."""
        status = Path(f"/proc/{self.gateway.pid}/status")
        (line,) = [one for one in status.read_text().splitlines() if one.startswith("VmRSS")]
        return int(line.split()[1]) * 1024


@contextmanager
def scene(folder: Path) -> Iterator[Scene]:
    """Starts everything; in the end, with both upstreams gone, the gateway must hold no more open than it did before."""
    given = Tokens()
    mortal = Model(given, seed=2)
    with running_gateway(folder / "objects", project(), key()) as gateway:
        files = _files(gateway)
        with running(Model(given, seed=3)) as steady, running(mortal) as shaky:
            made_scene = Scene(gateway, steady, shaky, mortal, Callers(gateway.url, seed=1), given)
            gateway.write(*made_scene.objects(0))
            eventually(lambda: _serves(gateway), within=20)
            yield made_scene
        eventually(lambda: _holds(gateway, files), within=20)


def _serves(gateway: GatewayProcess) -> None:
    listed = httpx.get(f"{gateway.url}/v1/models", headers={"Authorization": f"Bearer {KEY}"}).json()
    assert set(_MODELS) <= {model["id"] for model in listed["data"]}


def _holds(gateway: GatewayProcess, files: int) -> None:
    assert _files(gateway) <= files


def _files(gateway: GatewayProcess) -> int:
    return len(list(Path(f"/proc/{gateway.pid}/fd").iterdir()))
