"""Deployments that sleep while nobody asks: requests for them are noted, which wakes them, and held until they serve.

A note is a Lease in the gateways' own namespace, named as the children of the Deployment; the operator scales by it.
However many callers there are, one is written for a wake-up, and one in a quarter of the idle time after that.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Set
from dataclasses import replace
from functools import partial

from bud.errors import BudError
from bud.gateway.call import Call
from bud.gateway.catalog import Catalog, Served, Target
from bud.gateway.refusal import Refusal, Unavailable
from bud.gateway.relay import is_another_asked

log = logging.getLogger("bud.gateway")

MOST_HELD = 1000
"""Requests that may wait at once; a quarter of them for one name."""
_AGAIN_SECONDS = 1.0

Note = Callable[[str], Awaitable[None]]
"""Writes that the Deployment of this id is used now. Raises `BudError`."""


Pick = Callable[[Served], Served]
"""What of a name is waited for, and asked."""


def everything(served: Served) -> Served:
    """The name as it is."""
    return served


def among_fallbacks(served: Served, *, ids: Set[str]) -> Served:
    """The name with these of its fallbacks alone."""
    return replace(served, targets=tuple(one for one in served.fallbacks if one.id in ids), fallbacks=())


class Naps:
    """Which Deployments are used, and callers who wait for one; `note` is None where none can be woken.

    `_used` holds the idle time of those that are used, or were since their last note.
    """

    def __init__(self, catalog: Callable[[], Catalog], note: Note | None, *, most: int = MOST_HELD) -> None:
        self._catalog = catalog
        self._note = note
        self._most = most
        self._held: Counter[tuple[str, str]] = Counter()
        self._using: Counter[str] = Counter()
        self._used: dict[str, float] = {}
        self._noted: dict[str, float] = {}
        self._work = asyncio.Event()
        self._news = asyncio.Event()

    def changed(self) -> None:
        """There is another catalog."""
        self._news.set()
        self._news = asyncio.Event()

    @contextlib.contextmanager
    def use(self, targets: Iterable[Target]) -> Iterator[None]:
        """What may sleep of them is kept awake while the block runs."""
        if self._note is None:
            yield
            return
        ids = {target.nap.id: target.nap.seconds for target in targets if target.nap is not None}
        self._used |= ids
        self._using.update(ids.keys())
        self._work.set()
        try:
            yield
        finally:
            self._using.subtract(ids.keys())

    async def ask(
        self, call: Call, ask: Callable[[Pick], Awaitable[None]], *, again: Callable[[], bool] = lambda: True
    ) -> None:
        """Asks what there is; where nothing of it can answer, what sleeps of the fallbacks is asked alone.

        `again` is whether more can be asked. Raises what `ask` does, which has to wait by `awake`.
        """
        with self.use(call.served.targets):
            try:
                return await ask(everything)
            except Refusal as refusal:
                asleep = self.asleep(call.served.fallbacks)
                if call.target is not None or not asleep or not is_another_asked(refusal) or not again():
                    raise
        with self.use(asleep):
            await ask(partial(among_fallbacks, ids=frozenset(target.id for target in asleep)))

    def asleep(self, targets: Iterable[Target]) -> tuple[Target, ...]:
        """Those that sleep and can be woken."""
        known = () if self._note is None else targets
        return tuple(target for target in known if target.nap is not None and not target.urls)

    async def awake(self, served: Served, namespace: str, pick: Pick = everything) -> Served:
        """What `pick` takes of the name, once something answers to it, or nothing of it sleeps any more.

        What is down and never sleeps is not waited for. Raises `Unavailable` when too many wait.
        """
        served = pick(served)
        if not self._sleeps(served):
            return served
        name = namespace, served.name
        if self._held.total() >= self._most or self._held[name] >= max(1, self._most // 4):
            raise Unavailable(f"model '{served.name}' is being woken, and too many wait for it; try again later")
        self._held[name] += 1
        try:
            while self._sleeps(served):
                await self._news.wait()
                known = self._catalog().served(namespace, served.name)
                served = served if known is None else pick(known)
            return served
        finally:
            self._held[name] -= 1
            if not self._held[name]:
                del self._held[name]

    def _sleeps(self, served: Served) -> bool:
        """Whether none of its targets answers, and one of them would if it were awake."""
        return not any(target.urls for target in served.targets) and bool(self.asleep(served.targets))

    async def run(self) -> None:
        """Writes the notes, for as long as the gateway lives."""
        loop = asyncio.get_running_loop()
        while True:
            due = min((self._due(id) for id in self._used), default=None)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(due):
                    await self._work.wait()
            self._work.clear()
            await asyncio.gather(*(self._write(id) for id in list(self._used) if self._due(id) <= loop.time()))

    def _due(self, id: str) -> float:
        """When the next note about a Deployment may be written."""
        return self._noted.get(id, -math.inf) + self._used[id] / 4

    async def _write(self, id: str) -> None:
        assert self._note is not None
        seconds, now = self._used[id], asyncio.get_running_loop().time()
        self._noted[id] = now
        if not self._using[id]:
            del self._used[id]
        try:
            await self._note(id)
        except BudError as error:
            log.warning("the use of %s cannot be noted, again in %.0f s: %s", id, _AGAIN_SECONDS, error)
            self._noted[id] = now + _AGAIN_SECONDS - seconds / 4
            self._used[id] = seconds
