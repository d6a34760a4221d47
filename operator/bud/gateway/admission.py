"""Whether a request may be served, by limits and budgets of its key and its project, and what it took in the end.

Without Redis nothing here waits, unless a lease on a budget must be taken.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from functools import partial

from prometheus_client import CollectorRegistry, Gauge

from bud.gateway.budgets import Budgets, Hold
from bud.gateway.catalog import Key, Price, Served
from bud.gateway.desk import Known
from bud.gateway.estimate import Estimate, may_cost
from bud.gateway.ledgers import Ledger
from bud.gateway.limits import Counters, Grant, State
from bud.gateway.once import Once
from bud.gateway.prices import Published
from bud.gateway.refusal import Limited
from bud.gateway.request import Request
from bud.gateway.shared import Shared
from bud.gateway.shared_answers import SharedAnswers
from bud.gateway.shared_limits import SharedCounters
from bud.gateway.usage import Usage, priced
from bud.ledger import Used

_Price = Price | Published | None


@dataclass(frozen=True, slots=True)
class Admitted:
    """What one request was granted; `thought` is what it was thought to take."""

    grant: Grant
    hold: Hold | None
    thought: Estimate


class Admission:
    """Limits and budgets as one replica keeps them; `once` serves requests with an Idempotency-Key once.

    `shared` is the Redis that replicas share, if they do; without, each of the `replicas` has its share of limits.
    `clock` gives epoch seconds; ledgers keep the keys that are `known`.
    """

    def __init__(
        self,
        ledger: Ledger,
        clock: Callable[[], float],
        *,
        shared: Shared | None = None,
        replicas: int = 1,
        known: Known = lambda _: None,
    ) -> None:
        self._times = replicas
        self._clock = clock
        self._shared = shared
        self._counters = Counters()
        self._budgets = Budgets(ledger, clock, known=known)
        self.samples = self._budgets.samples
        self._over_all = SharedCounters(shared, self._counters) if shared is not None else None
        self.once = Once(SharedAnswers(shared) if shared is not None else None)

    async def open(self) -> None:
        """Looks for Redis, and begins to write the ledgers."""
        if self._shared is not None:
            await self._shared.open()
        self._budgets.open()

    async def close(self) -> None:
        """Tells what was not told yet, and gives back what is on lease."""
        await self._budgets.close()
        if self._shared is not None and self._over_all is not None:
            await self._over_all.close()
            await self._shared.close()

    async def admit(self, request: Request, key: Key, served: Served, thought: Estimate) -> Admitted:
        """Counts a request, and reserves what it may take. Raises `Limited`, and `Unavailable` for a budget."""
        hold = await self.reserve(key, served, thought)
        try:
            grant = await self.take(request, key, tokens=thought.input + thought.output)
        except BaseException:
            self._budgets.release(hold)
            raise
        return Admitted(grant, hold, thought)

    async def take(self, request: Request, key: Key, *, tokens: int = 0) -> Grant:
        """A part of `admit`: by limits alone. Raises `Limited`."""
        # By now: a body may have come for hours.
        now, request.untaken = self._clock(), ()
        if self._over_all is None or not key.meters:
            grant = self._counters.take(key.meters, tokens=tokens, now=now, times=self._times)
        else:
            grant = await self._over_all.take(key.meters, tokens=tokens, now=now)
        request.states = grant.states
        return grant

    async def reserve(self, key: Key, served: Served, thought: Estimate) -> Hold | None:
        """A part of `admit`: by budgets alone. Raises `Limited` and `Unavailable`."""
        if key.budget is None and key.project.budget is None:
            return None
        return await self._budgets.reserve(key, may_cost(served, thought), now=self._clock())

    def look(self, request: Request, key: Key) -> None:
        """What the answer may tell of limits until something is taken: as far as is known without asking."""
        request.untaken, request.known = key.meters, partial(self._counters.look, key.meters, now=request.began)

    async def look_again(self, request: Request) -> None:
        """The same for an answer that takes nothing: asked, if what is known is old."""
        if self._over_all is not None and request.untaken:
            request.states = await self._over_all.look(request.untaken, now=request.began)
            request.untaken = ()

    def release(self, admitted: Admitted) -> None:
        """Gives back what was reserved for a request that reached nothing; the request itself counts."""
        self._budgets.release(admitted.hold)
        self._settle(admitted.grant, 0)

    def settle(self, key: Key, admitted: Admitted, usage: Usage, price: _Price) -> float | None:
        """Puts what a request took in the place of what was reserved; gives US dollars, None if no price is known."""
        read = usage.input if usage.input is not None else admitted.thought.input
        written = usage.output or 0
        self._settle(admitted.grant, read + written)
        cost = priced(price, Usage(read, written, usage.cached, usage.seconds))
        used = Used(1, read, written, cost or Decimal(0))
        self._budgets.settle(key, admitted.hold, used, now=self._clock())
        return None if cost is None else float(cost)

    def spend(self, key: Key, usage: Usage, price: _Price) -> None:
        """Counts what a session used of late; what it costs besides was settled when it began."""
        now, read, written = self._clock(), usage.input or 0, usage.output or 0
        self._settle(Grant(key.meters, 0, (), now), read + written)
        fee = price.request if isinstance(price, Price) else Decimal(0)
        cost = (priced(price, usage) or fee) - fee
        self._budgets.spend(key, Used(0, read, written, cost), now=now)

    async def spent(self, key: Key) -> Limited | None:
        """The refusal of a session whose key has nothing left, as far as is known by now."""
        now = self._clock()
        for state in await self._states(key, now):
            if state.meter.unit == "tokens" and state.remaining == 0:
                return Limited(f"{state.meter.whose} may use {state.meter.limit:,} tokens: come again later")
        return self._budgets.spent(key, now=now)

    async def _states(self, key: Key, now: float) -> tuple[State, ...]:
        if self._over_all is None or not key.meters:
            return self._counters.look(key.meters, now=now)
        return await self._over_all.look(key.meters, now=now)

    def _settle(self, grant: Grant, tokens: int) -> None:
        if self._over_all is not None:
            self._over_all.settle(grant, tokens=tokens, now=self._clock())
        else:
            self._counters.settle(grant, tokens=tokens, now=self._clock(), times=self._times)


def shared_over(url: str, replicas: int, seconds: float, registry: CollectorRegistry) -> Shared:
    """The Redis of a URL, which may take so many `seconds` to answer. A metric tells whether it is there.

    Raises `ValueError`.
    """
    up = Gauge(
        "bud_gateway_redis_up", "Whether Redis answers: 1, else each replica keeps its share.", registry=registry
    )
    return Shared(url, replicas=replicas, seconds=seconds, told=lambda is_there: up.set(int(is_there)))
