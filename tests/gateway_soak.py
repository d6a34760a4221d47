"""A gateway under load while callers hang up, upstreams die and objects change; and what must hold all the same."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests import told_ledger
from tests.gateway_books import PRICE, SPECS, Books
from tests.gateway_load import KEYS, MODELS, Callers, Model, Tokens
from tests.gateway_process import GatewayProcess, key, made, project, provider, running_gateway
from tests.integration.gateway.upstream import Upstream, running
from tests.redis_server import running_redis
from tests.waiting import eventually

GROWTH = 1.05
"""How much larger than after the beginning the gateway may be at the end."""
_FINISHED = ("whole", "stream", "few", "poor")
"""Whose answers always end well."""
_CHANGE_SECONDS = 1.0
_DEATH_SECONDS = 2.0


@dataclass(frozen=True)
class Figures:
    """Of one run: requests and tokens heard in all, faults, and bytes of memory."""

    requests: int
    read: int
    written: int
    refused: int
    broken: int
    early: int
    late: int

    @property
    def growth(self) -> float:
        """How much larger the gateway was in the end than after the beginning."""
        return self.late / self.early

    def __str__(self) -> str:
        return (
            f"{self.requests} requests, {self.read} tokens read and {self.written} written as callers heard, "
            f"{self.refused} refused by limits, {self.broken} faults seen by callers; "
            f"{self.early / 2**20:.1f} MiB after the beginning, {self.late / 2**20:.1f} MiB in the end"
        )


@dataclass
class Scene:
    """A gateway with a Redis, an upstream that stays, and one that dies."""

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
            *_keys(),
            key(f"passing-{turn}", f"bud_{turn}"),
            provider("steady", self.steady.url, models=[_priced(name) for name in MODELS]),
            provider("mortal", self.shaky.url, models=[_priced("shaky")]),
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
        callers, heard = self.callers, self.callers.heard
        return Figures(
            requests=heard.requests.total(),
            read=heard.read.total(),
            written=heard.written.total(),
            refused=callers.refused.total(),
            broken=callers.outcomes.total(),
            early=size,
            late=late,
        )

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
        for model in MODELS:
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
    given, ledger = Tokens(), folder / "ledger"
    ledger.mkdir()
    mortal = Model(given, seed=2)
    with running_redis(folder / "redis") as redis:
        # How soon Redis answers is not what is tested here, and the machine may be busy.
        options, program = ("--redis-url", redis.url, "--redis-timeout", "2"), ("-P", told_ledger.__file__, str(ledger))
        with running_gateway(folder / "objects", *_keys(), options=options, program=program) as gateway:
            books = Books(redis, ledger)
            files = _files(gateway, books)
            with running(Model(given, seed=3)) as steady, running(mortal) as shaky:
                callers = Callers(gateway.url, seed=1)
                made_scene = Scene(gateway, steady, shaky, mortal, callers, given)
                gateway.write(*made_scene.objects(0))
                eventually(lambda: _serves(gateway), within=20)
                yield made_scene
            print(f"descriptors: {files} before, {eventually(lambda: _holds(gateway, books, files), within=20)} after")
        # What it has not told by then, it tells when it stops.
        assert "Redis is away" not in gateway.log
        books.check(callers, given)


def _keys() -> list[dict[str, Any]]:
    return [project(), *(key(name, f"bud_{name}", **SPECS[name]) for name in KEYS)]


def _priced(model: str) -> dict[str, Any]:
    return {"name": model, "pricing": {"outputTokensPer1k": str(1000 * PRICE)}}


def _serves(gateway: GatewayProcess) -> None:
    listed = httpx.get(f"{gateway.url}/v1/models", headers={"Authorization": "Bearer bud_alice"}).json()
    assert set(MODELS) <= {model["id"] for model in listed["data"]}


def _holds(gateway: GatewayProcess, books: Books, most: int) -> int:
    files = _files(gateway, books)
    assert files <= most
    return files


def _files(gateway: GatewayProcess, books: Books) -> int:
    """Descriptors that it holds, without the connections to Redis, which are bounded and stay open."""
    return len(list(Path(f"/proc/{gateway.pid}/fd").iterdir())) - books.connections()
