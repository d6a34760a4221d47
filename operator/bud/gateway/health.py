"""Addresses that rest after faults are asked how they are, so that no caller's request has to find out.

Only those that rest, and only of Deployments and of Providers of kind `OpenAICompatible`; others are tried again after
their pause. While all is well nothing is sent, and nothing wakes up.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping

from bud.gateway.catalog import Catalog, Served, Target
from bud.gateway.client import Client
from bud.gateway.exposition import head, labels, sample
from bud.gateway.route import Board, Key, keys

log = logging.getLogger("bud.gateway")

_SECONDS = 2.0
_AT_ONCE = 16
_ASKED = frozenset({"bud", "openai-compatible"})

Probe = Callable[[Target, str], Awaitable[bool]]


class Health:
    """Brings addresses back. `probe` tells whether an address of a target is well."""

    def __init__(self, board: Board, catalog: Callable[[], Catalog], probe: Probe) -> None:
        self._board = board
        self._catalog = catalog
        self._probe = probe
        self._seen: Catalog | None = None

    async def run(self) -> None:
        """For ever."""
        loop = asyncio.get_running_loop()
        while True:
            # Before the round: what happens in its course is the next one's.
            self._board.fault.clear()
            due = await self._round(self._catalog(), loop.time())
            try:
                async with asyncio.timeout_at(due):
                    await self._board.fault.wait()
            except TimeoutError:
                continue

    async def _round(self, catalog: Catalog, now: float) -> float | None:
        """Asks those whose pause is over; tells when the next one's is, if any rests."""
        if catalog is not self._seen:
            self._seen = catalog
            self._board.keep({key for target in targets(catalog) for key, _ in keys(target)})
        resting = self._board.resting()
        if not resting:
            return None
        known = (target for target in targets(catalog) if target.provider in _ASKED)
        asked = {key: (target, url) for target in known for key, url in keys(target) if key in resting}
        for key in asked:
            self._board.hold(key)
        gate = asyncio.Semaphore(_AT_ONCE)
        await asyncio.gather(*(self._ask(key, *at, gate) for key, at in asked.items() if resting[key] <= now))
        return min((until for key, until in self._board.resting().items() if key in asked), default=None)

    async def _ask(self, key: Key, target: Target, url: str, gate: asyncio.Semaphore) -> None:
        async with gate:
            try:
                well = await self._probe(target, url)
            except Exception:
                # An address that is held must be asked again, whatever happens.
                log.exception("%s cannot be asked how it is", target.id)
                well = False
        if well:
            log.info("%s is well again at one of its addresses", target.id)
            self._board.heal(key)
        else:
            self._board.failed(key, now=asyncio.get_running_loop().time())


def asking(client_to: Callable[[Target], Client]) -> Probe:
    """Asks for the list of models: any answer will do but a fault, a limit, or a redirect, which is not followed."""

    async def probe(target: Target, url: str) -> bool:
        try:
            async with asyncio.timeout(_SECONDS):
                reply = await client_to(target).ask("GET", f"{url}/models{target.query}", headers=target.headers)
        except OSError:  # a timeout is one, too
            return False
        reply.close()
        return not 300 <= reply.status < 400 and reply.status != 429 and reply.status < 500

    return probe


def targets(catalog: Catalog) -> Iterator[Target]:
    """Everything that may be asked, by whichever name."""
    for names in catalog.names.values():
        yield from _of(names)


def _of(names: Mapping[str, Served]) -> Iterator[Target]:
    for served in names.values():
        yield from served.targets
        yield from served.fallbacks


def samples(catalog: Catalog, board: Board, *, now: float) -> Iterator[str]:
    """What metrics tell of everything that may be asked; `now` is the event loop's."""
    resting, busy = "bud_gateway_upstream_circuit_open", "bud_gateway_upstream_requests_in_flight"
    found = {}
    for namespace, names in catalog.names.items():
        for target in _of(names):
            found[labels(("bud_namespace", "bud_target"), (namespace, target.id))] = target
    yield head(resting, "gauge", "Addresses of a target that rest after faults.")
    for given, one in found.items():
        yield sample(resting, given, sum(not board.is_open(one, url, now=now) for url in one.urls))
    yield head(busy, "gauge", "Requests that a target is working on.")
    for given, one in found.items():
        yield sample(busy, given, sum(map(board.under_way, one.urls)))
