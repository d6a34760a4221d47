"""Limits that hold over all replicas: counted in Redis while it is there, and by each replica's share while it is away.

Taking is one round trip. What a request really used is told afterwards, and nobody waits for it. The time is that of
Redis, so that all replicas agree on when a minute ends. An answer of Redis that is lost on its way may have counted:
such a request counts twice, in doubt against the caller.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from bud.gateway.background import Background
from bud.gateway.catalog import Meter
from bud.gateway.limits import Counters, Grant, State, needed, refused
from bud.gateway.shared import SLOW_SECONDS, Away, Script, Shared, Word

_FRESH_SECONDS = 1.0
"""How old a figure may be that is only shown."""
_BATCH = 200

_COUNT = """
local function text(number) return string.format('%.0f', number) end
local function read(key, span, limit, carries, window)
  local kept = redis.call('GET', key)
  if not kept then return window, 0 end
  local at, used = string.match(kept, '^(%d+) (%d+)$')
  at, used = tonumber(at), tonumber(used)
  if at >= window then return at, used end
  if carries then return window, math.max(0, used - limit * (window - at)) end
  return window, 0
end
local function write(key, span, limit, window, used)
  local seconds = math.min(span * (math.floor(used / limit) + 2), 31536000)
  redis.call('SET', key, text(window) .. ' ' .. text(used), 'EX', text(seconds))
end
local now = tonumber(ARGV[1])
if now == 0 then now = tonumber(redis.call('TIME')[1]) end
"""
"""A meter is `WINDOW USED`. As in `Counters`, tokens that were overdrawn are paid off by the windows that follow."""

_TAKE = Script(
    _COUNT
    + """
local found, refused, windows = {0, now}, 0, {}
for i, key in ipairs(KEYS) do
  local a = 4 * i - 2
  local span, limit, need = tonumber(ARGV[a]), tonumber(ARGV[a + 1]), tonumber(ARGV[a + 2])
  local window, used = read(key, span, limit, ARGV[a + 3] == '1', math.floor(now / span))
  windows[i], found[i + 2] = window, used
  if refused == 0 and used + need > limit then refused = i end
end
found[1] = refused
if refused == 0 then
  for i, key in ipairs(KEYS) do
    local a = 4 * i - 2
    local need = tonumber(ARGV[a + 2])
    found[i + 2] = found[i + 2] + need
    if need > 0 then write(key, tonumber(ARGV[a]), tonumber(ARGV[a + 1]), windows[i], found[i + 2]) end
  end
end
return found
"""
)

_ADD = Script(
    _COUNT
    + """
for i, key in ipairs(KEYS) do
  local a = 5 * i - 3
  local span, limit, carries = tonumber(ARGV[a]), tonumber(ARGV[a + 1]), ARGV[a + 2] == '1'
  local counted_in, amount = tonumber(ARGV[a + 3]), tonumber(ARGV[a + 4])
  local window, used = read(key, span, limit, carries, counted_in)
  if window > counted_in then
    amount = carries and math.max(0, amount - limit * (window - counted_in)) or 0
  end
  if amount ~= 0 then write(key, span, limit, window, math.max(0, used + amount)) end
end
return 1
"""
)


class SharedCounters:
    """Counts of all replicas. `counters` hold what was last told of them, and count on their own while Redis is away.

    Without `clock_of_redis` the time is what the caller says.
    """

    def __init__(self, shared: Shared, counters: Counters, *, clock_of_redis: bool = True) -> None:
        self._shared = shared
        self._counters = counters
        self._clock_of_redis = clock_of_redis
        self._untold: dict[tuple[str, int], tuple[Meter, int]] = {}
        """What Redis has not been told: by meter and window, an amount."""
        self._work = Background()
        self._is_telling = False
        shared.on_return.append(self.tell)
        shared.on_beat.append(self.tell)

    async def take(self, meters: tuple[Meter, ...], *, tokens: int, now: float) -> Grant:
        """As `Counters.take`, over all replicas. Raises `Limited`."""
        needs = needed(meters, tokens)
        try:
            unfit, at, used = await self._ask(meters, needs, now)
        except Away:
            return self._take_alone(meters, tokens=tokens, now=now)
        if unfit:
            raise refused(meters[unfit - 1], needs[unfit - 1], used=used[unfit - 1], now=at)
        return Grant(meters, tokens, self._counters.look(meters, now=at), at)

    async def look(self, meters: tuple[Meter, ...], *, now: float) -> tuple[State, ...]:
        """How far the meters are: asked only when nothing newer than a second is known."""
        if now - self._counters.told_at(meters, now=now) > _FRESH_SECONDS:
            with suppress(Away):
                await self._ask(meters, [0] * len(meters), now)
        return self._counters.look(meters, now=now)

    def settle(self, grant: Grant, *, tokens: int, now: float) -> None:
        """As `Counters.settle`; Redis hears of it soon."""
        alone = not self._shared.present
        self._counters.settle(grant, tokens=tokens, now=now, times=self._shared.replicas if alone else 1)
        self._note(grant.unsettled(tokens, now=now), now=now)

    async def close(self) -> None:
        """Tells Redis what it was not told yet, if it is there."""
        await self._work.settled(seconds=SLOW_SECONDS)
        if self._shared.present:
            with suppress(Away):
                await self.tell()

    async def _ask(self, meters: Sequence[Meter], needs: Sequence[int], now: float) -> tuple[int, float, list[int]]:
        """Which meter has not enough (from 1; 0: none), the time, and what is used of each."""
        words: list[Word] = [self._now(now)]
        for meter, need in zip(meters, needs, strict=True):
            words += [meter.span, meter.limit, need, _carries(meter)]
        unfit, at, *used = await self._shared.call(_TAKE, [_key(meter) for meter in meters], words)
        self._counters.learn(meters, used, at=float(at), now=now)
        return unfit, float(at), used

    def _take_alone(self, meters: tuple[Meter, ...], *, tokens: int, now: float) -> Grant:
        grant = self._counters.take(meters, tokens=tokens, now=now, times=self._shared.replicas)
        self._note(zip(meters, needed(meters, tokens), strict=True), now=now)
        return grant

    def _note(self, counted: Sequence[tuple[Meter, int]] | zip[tuple[Meter, int]], *, now: float) -> None:
        for meter, amount in counted:
            at = meter.id, int(now) // meter.span
            self._untold[at] = meter, self._untold.get(at, (meter, 0))[1] + amount
        if self._untold and self._shared.present and not self._is_telling:
            self._is_telling = True
            self._work.once(self._tell_soon())

    async def _tell_soon(self) -> None:
        try:
            await self.tell()
        except Away:
            pass  # told when Redis is back
        finally:
            self._is_telling = False

    async def tell(self) -> None:
        """Adds to the counts in Redis. Raises `Away`."""
        while self._untold:
            told = {at: self._untold.pop(at) for at in list(self._untold)[:_BATCH]}
            words: list[Word] = [0]
            for (_, window), (meter, amount) in told.items():
                words += [meter.span, meter.limit, _carries(meter), window, amount]
            try:
                await self._shared.probe(_ADD, [_key(meter) for meter, _ in told.values()], words, seconds=SLOW_SECONDS)
            except Away:
                # It may have been heard: what is added twice errs low, what is given back twice would not.
                for at, (meter, amount) in told.items():
                    if amount > 0:
                        self._untold[at] = meter, self._untold.get(at, (meter, 0))[1] + amount
                raise

    def _now(self, now: float) -> int:
        return 0 if self._clock_of_redis else int(now)


def _key(meter: Meter) -> str:
    return f"bud:meter:{meter.id}"


def _carries(meter: Meter) -> int:
    return int(meter.unit == "tokens")
