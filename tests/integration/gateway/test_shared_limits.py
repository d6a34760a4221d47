"""Limits and answers that replicas share through a real Redis, and what becomes of them when it is away."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from redis import Redis

from bud.api.limits import Limits
from bud.gateway.catalog import Meter, meters
from bud.gateway.idempotency import Kept, digest_of
from bud.gateway.limits import Counters, Grant
from bud.gateway.once import Once
from bud.gateway.refusal import Invalid, Limited
from bud.gateway.shared import Shared
from bud.gateway.shared_answers import SharedAnswers
from bud.gateway.shared_limits import SharedCounters
from tests.redis_server import PASSWORD, RedisServer, running_redis

SAME = digest_of("chat/completions", b"{}")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with running_redis(tmp_path_factory.mktemp("redis")) as started:
        yield started


@pytest.fixture
def redis(server: RedisServer) -> Iterator[Redis]:
    with server.client() as client:
        client.flushall()
        yield client


class Replica:
    """One of those that share; `told` is what was heard of Redis."""

    def __init__(self, url: str, *, replicas: int = 2, clock_of_redis: bool = True) -> None:
        self.told = list[bool]()
        self._heard = asyncio.Event()
        self.shared = Shared(url, replicas=replicas, told=self._hear, seconds=1.0)
        self.counters = SharedCounters(self.shared, Counters(), clock_of_redis=clock_of_redis)
        self.answers = SharedAnswers(self.shared, most=250)
        self.once = Once(self.answers)

    async def take(self, meters: tuple[Meter, ...], *, tokens: int = 0, now: float | None = None) -> bool:
        try:
            await self.counters.take(meters, tokens=tokens, now=time.time() if now is None else now)
        except Limited:
            return False
        return True

    async def until(self, present: bool) -> None:
        async with asyncio.timeout(20):
            while self.shared.present is not present:
                self._heard.clear()
                await self._heard.wait()

    def _hear(self, is_there: bool) -> None:
        self.told.append(is_there)
        self._heard.set()

    async def used(self, meters: tuple[Meter, ...], redis: Redis) -> list[int]:
        """What Redis knows, once it was told everything."""
        await self.counters.tell()
        return [int((redis.get(f"bud:meter:{meter.id}") or b"0 0").split()[1]) for meter in meters]


@asynccontextmanager
async def joined(server: RedisServer, count: int = 1, **options: int | bool) -> AsyncIterator[list[Replica]]:
    async with AsyncExitStack() as stack:
        replicas = []
        for _ in range(count):
            replica = Replica(server.url, **options)  # type: ignore[arg-type]
            await replica.shared.open()
            stack.push_async_callback(replica.shared.close)
            stack.push_async_callback(replica.counters.close)
            replicas.append(replica)
        yield replicas


def key(**limits: int) -> tuple[Meter, ...]:
    return meters("key/a", "this key", Limits(**limits))


async def outcome(taking: Awaitable[Grant]) -> tuple[Grant | None, object]:
    """What was granted, and what the caller hears of it."""
    try:
        grant = await taking
    except Limited as refusal:
        return None, (refusal.message, refusal.headers)
    return grant, grant.states


@pytest.mark.parametrize("seed", range(4))
async def test_redis_counts_as_one_process_does(server: RedisServer, redis: Redis, seed: int) -> None:
    chance, alone, now = random.Random(seed), Counters(), 600.0
    both = key(requests_per_minute=5, tokens_per_minute=100, tokens_per_day=900)
    open_grants = list[tuple[Grant, Grant]]()

    async def take_alone(tokens: int) -> Grant:
        return alone.take(both, tokens=tokens, now=now)

    async with joined(server, clock_of_redis=False) as (replica,):
        for _ in range(250):
            now += chance.choice((0, 0, 1, 7, 61, 200))
            if open_grants and chance.random() < 0.5:
                (mine, shared), used = open_grants.pop(), chance.randrange(250)
                alone.settle(mine, tokens=used, now=now)
                replica.counters.settle(shared, tokens=used, now=now)
                await replica.counters.tell()
                continue
            tokens = chance.randrange(110)
            one, wanted = await outcome(take_alone(tokens))
            other, found = await outcome(replica.counters.take(both, tokens=tokens, now=now))
            assert found == wanted
            if one is not None and other is not None:
                open_grants.append((one, other))


async def test_a_limit_is_exact_over_replicas_that_race(server: RedisServer, redis: Redis) -> None:
    async with joined(server, 3) as replicas:
        day = key(requests_per_day=50)
        served = await asyncio.gather(*(replicas[n % 3].take(day) for n in range(120)))
        assert sum(served) == 50


async def test_a_look_costs_nothing_where_something_new_is_known(server: RedisServer, redis: Redis) -> None:
    day = key(requests_per_day=50)
    async with joined(server, 2, clock_of_redis=False) as (one, other):
        await one.take(day, now=10.0)
        before = redis.info("commandstats")["cmdstat_evalsha"]["calls"]
        assert [state.remaining for state in await one.counters.look(day, now=10.5)] == [49]
        assert redis.info("commandstats")["cmdstat_evalsha"]["calls"] == before
        await other.take(day, now=10.6)
        assert [state.remaining for state in await one.counters.look(day, now=11.2)] == [48]


async def test_without_redis_each_keeps_its_share_and_what_it_counted_is_added(
    server: RedisServer, redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    day = key(requests_per_day=20, tokens_per_day=20_000)
    async with joined(server, 2) as (one, other):
        assert [await one.take(day, tokens=100) for _ in range(4)] == [True] * 4
        server.kill()
        await one.take(day, tokens=100)
        assert [await one.take(day, tokens=100) for _ in range(9)] == [True] * 7 + [False] * 2
        assert [await other.take(day) for _ in range(11)] == [True] * 10 + [False]
        grant = await one.counters.take(key(tokens_per_day=20_000), tokens=100, now=time.time())
        one.counters.settle(grant, tokens=7, now=time.time())
        server.start()
        await asyncio.gather(one.until(True), other.until(True))
        with server.client() as fresh:
            assert await one.used(day, fresh) == [18, 807]
        assert (one.told, other.told) == ([True, False, True], [True, False, True])
        assert one.shared.replicas == 2
    away = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(away) == 2 and all("1 of 2" in one for one in away)


async def test_what_was_used_last_is_told_before_the_end(server: RedisServer, redis: Redis) -> None:
    day = key(tokens_per_day=1000)
    async with joined(server) as (one,):
        for number in range(5):
            grant = await one.counters.take(day, tokens=100, now=time.time())
            one.counters.settle(grant, tokens=number, now=time.time())
    kept = redis.get(f"bud:meter:{day[0].id}")
    assert isinstance(kept, bytes) and kept.split()[1] == b"10"


@pytest.mark.parametrize(("tokens", "used"), [(80, 10), (350, 160)], ids=["paid off", "a debt"])
async def test_what_was_counted_in_a_minute_that_is_over_counts_as_far_as_it_is_not_paid_off(
    server: RedisServer, redis: Redis, tokens: int, used: int
) -> None:
    minute = key(requests_per_minute=9, tokens_per_minute=100)
    async with joined(server, 2, clock_of_redis=False) as (late, early):
        late.shared.present = False
        grant = await late.counters.take(minute, tokens=0, now=10.0)
        late.counters.settle(grant, tokens=tokens, now=10.0)
        assert await early.take(minute, tokens=10, now=130.0)
        assert await late.used(minute, redis) == [1, used]


async def test_a_redis_that_hangs_is_waited_for_once(server: RedisServer, redis: Redis) -> None:
    day = key(requests_per_day=1000)
    async with joined(server) as (one,):
        assert await one.take(day)
        server.hang()
        try:
            assert await asyncio.gather(*(one.take(day) for _ in range(20))) == [True] * 20
            assert one.shared.present is False
            assert await one.take(day)
        finally:
            server.wake()
        await one.until(True)
        assert await one.take(day)
        (used,) = await one.used(day, redis)
        # Requests that hung may have been counted by both.
        assert 23 <= used <= 43


async def test_a_limit_of_one_lets_one_pass_although_it_is_shared(server: RedisServer, redis: Redis) -> None:
    async with joined(server, 2) as (one, _):
        server.kill()
        assert [await one.take(key(requests_per_day=1)) for _ in range(2)] == [True, False]
        server.start()


async def test_those_that_leave_are_counted_no_more(server: RedisServer, redis: Redis) -> None:
    async with joined(server, 3, replicas=1):
        assert redis.zcard("bud:gateways") == 3
    assert redis.zcard("bud:gateways") == 0


def kept(once: Kept, body: bytes = b"hello") -> Kept:
    once.take({"type": "http.response.start", "status": 200, "headers": [(b"x-request-id", b"1"), (b"a", b"\xe9")]})
    once.take({"type": "http.response.body", "body": body})
    return once


async def test_an_answer_of_one_replica_is_that_of_all(server: RedisServer, redis: Redis) -> None:
    async with joined(server, 2) as (one, other):
        begun, is_new = await one.once.begin("alice", b"k", SAME, now=0.0)
        assert is_new
        with pytest.raises(Invalid, match="being served"):
            await other.once.begin("alice", b"k", SAME, now=0.0)
        await one.once.end("alice", b"k", kept(begun))
        for replica in (one, other):
            found, is_new = await replica.once.begin("alice", b"k", SAME, now=0.0)
            assert (found.status, found.headers, found.whole(), is_new) == (200, [(b"a", b"\xe9")], b"hello", False)
            with pytest.raises(Invalid, match="used for another request"):
                await replica.once.begin("alice", b"k", digest_of("completions", b"{}"), now=0.0)
        assert (await other.once.begin("bob", b"k", SAME, now=0.0))[1]


async def test_what_failed_or_is_too_long_is_not_told_again(server: RedisServer, redis: Redis) -> None:
    async with joined(server, 2) as (one, other):
        begun, _ = await one.once.begin("alice", b"k", SAME, now=0.0)
        await one.once.end("alice", b"k", begun)
        begun, is_new = await other.once.begin("alice", b"k", SAME, now=0.0)
        assert is_new
        await other.once.end("alice", b"k", kept(begun, bytes(1024 * 1024 + 1)))
        with pytest.raises(Invalid, match="too long"):
            await one.once.begin("alice", b"k", SAME, now=0.0)


async def test_the_oldest_answers_go_first(server: RedisServer, redis: Redis) -> None:
    async with joined(server) as (one,):
        for number in range(4):
            begun, _ = await one.once.begin("alice", b"%d" % number, SAME, now=0.0)
            await one.once.end("alice", b"%d" % number, kept(begun, b"x" * 100))
        found = [(await one.once.begin("alice", b"%d" % number, SAME, now=0.0))[1] for number in range(4)]
        assert found == [True, True, False, False]
        assert redis.get("bud:answers:bytes") == b"200"


async def test_a_mark_ends_with_the_replica_that_does_not_renew_it(server: RedisServer, redis: Redis) -> None:
    async with joined(server) as (one,):
        await one.once.begin("alice", b"k", SAME, now=0.0)
        (mark,) = redis.keys("bud:answer:*")
        assert 0 < redis.ttl(mark) <= 20
        redis.expire(mark, 5)
        for work in one.shared.on_beat:
            await work()
        assert redis.ttl(mark) > 5


async def test_an_answer_is_kept_here_while_redis_is_away(server: RedisServer, redis: Redis) -> None:
    async with joined(server) as (one,):
        begun, _ = await one.once.begin("alice", b"k", SAME, now=0.0)
        server.kill()
        await one.once.end("alice", b"k", kept(begun))
        assert (await one.once.begin("alice", b"k", SAME, now=0.0))[0].whole() == b"hello"
        server.start()
        await one.until(True)
        assert (await one.once.begin("alice", b"k", SAME, now=0.0))[0].whole() == b"hello"


async def test_a_password_that_is_wrong_is_not_told(server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    one = Replica(server.url.replace(PASSWORD, f"{PASSWORD}x"))
    await one.shared.open()
    await one.shared.close()
    assert "Redis is away (invalid username-password pair or user is disabled.)" in caplog.text
    assert PASSWORD not in caplog.text


@pytest.mark.parametrize("url", ["", "http://x", "redis://:p@ss/word@x:y/0", "redis://localhost:port", "redis://x/z"])
def test_an_address_that_is_none_is_not_repeated(url: str) -> None:
    with pytest.raises(ValueError, match=r"^--redis-url must read redis://HOST:PORT/NUMBER, or rediss:// for TLS$"):
        Shared(url, replicas=1, told=lambda _: None)


def test_an_option_of_a_redis_url_that_there_is_not_is_told_at_the_start() -> None:
    with pytest.raises(ValueError, match=r"^--redis-url has an option that there is not: 'bogus'$"):
        Shared("redis://:word@127.0.0.1:1/0?bogus=1", replicas=1, seconds=0.1, told=lambda _: None)
