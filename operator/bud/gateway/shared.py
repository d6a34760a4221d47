"""The Redis (or Valkey, https://valkey.io) that replicas of the gateway share, and whether it is there.

Nothing waits long for it: an answer that takes longer than it may means that it is away, and until a probe in the
background finds it again nobody asks. Everything asked of it is a script, so that it happens as a whole and in one
round trip: https://redis.io/docs/latest/develop/programmability/eval-intro/.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import secrets
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from bud.gateway.background import Background

log = logging.getLogger("bud.gateway")

ANSWER_SECONDS = 0.1
"""How long a request waits for an answer at most, if nothing else is said."""
SLOW_SECONDS = 5.0
"""How long anything else does."""
_SOCKET_SECONDS = 1.0
_STALL_SECONDS = 0.03
"""When a timer rings so much too late, this process was busy, and the answer may lie unread."""
_BEAT_SECONDS, _PROBE_SECONDS = 5.0, 0.5
_MEMBER_SECONDS = 15
_FLIGHTS = 4
_BATCH = 100
_MEMBERS = "bud:gateways"
_FILES = frozenset({"ssl_ca_certs", "ssl_certfile", "ssl_keyfile"})

Key = str | bytes
Word = str | bytes | int


@dataclass(frozen=True)
class Script:
    """A program in Lua, and its SHA-1, by which Redis knows it."""

    text: str
    sha: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sha", hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest())


_HERE = Script("""
local now = tonumber(redis.call('TIME')[1])
redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
redis.call('EXPIRE', KEYS[1], ARGV[2])
return redis.call('ZCARD', KEYS[1])
""")
_GONE = Script("return redis.call('ZREM', KEYS[1], ARGV[1])")


class Away(Exception):
    """Redis cannot be asked now."""


@dataclass(slots=True)
class _Ask:
    script: Script
    keys: Sequence[Key]
    words: Sequence[Word]
    answer: asyncio.Future[Any]


class Shared:
    """One connection to Redis, `present` or away; `replicas` are those that were last known to share it.

    It is away when it has not answered a request in so many `seconds`.
    `on_return` is done when it is found again, before anyone else asks it, and `on_beat` every few seconds; both may
    raise `Away`. `told` hears whether it is there. Raises `ValueError` for a URL that is none.
    """

    def __init__(
        self, url: str, *, replicas: int, told: Callable[[bool], None], seconds: float = ANSWER_SECONDS
    ) -> None:
        # Most gateways have none, and the library takes as much memory as half of the rest.
        from redis.asyncio import Redis  # noqa: PLC0415
        from redis.asyncio.retry import Retry  # noqa: PLC0415
        from redis.backoff import NoBackoff  # noqa: PLC0415
        from redis.exceptions import NoScriptError, RedisError  # noqa: PLC0415

        self._unknown = NoScriptError
        self._faults = (RedisError, OSError)  # a timeout is an OSError, too
        _check(url)
        self._redis = Redis.from_url(
            url,
            protocol=2,
            socket_timeout=max(_SOCKET_SECONDS, 2 * seconds),
            socket_connect_timeout=max(_SOCKET_SECONDS, 2 * seconds),
            retry=Retry(NoBackoff(), 0),
            max_connections=2 * _FLIGHTS,
        )
        try:
            self._redis.connection_pool.make_connection()  # type: ignore[no-untyped-call]  # it has no types
        except TypeError as error:
            raise ValueError(f"--redis-url has an option that there is not: {str(error).rpartition(' ')[2]}") from None
        self.id = secrets.token_hex(8)
        self.replicas = replicas
        self.present = False
        self.on_return: list[Callable[[], Awaitable[None]]] = []
        self.on_beat: list[Callable[[], Awaitable[None]]] = []
        self._told = told
        self._seconds = seconds
        self._said_away = False
        self._present_since = 0.0
        self._queue: list[_Ask] = []
        self._flights = Background()
        self._beside = Background()
        self._gone = asyncio.Event()

    async def open(self) -> None:
        """Looks for Redis, which may be away, and goes on looking."""
        await self._look()
        self._beside.loop("the watch over Redis", self._beat)

    async def close(self) -> None:
        """Leaves the others; best effort."""
        await self._beside.close()
        with suppress(Away):
            await self.call(_GONE, [_MEMBERS], [self.id])
        self.present = False
        await self._flights.close()
        with suppress(*self._faults):
            await self._redis.aclose()

    async def call(
        self, script: Script, keys: Sequence[Key], words: Sequence[Word], *, seconds: float | None = None
    ) -> Any:
        """What the script gives. Raises `Away`; it may have run nevertheless."""
        if not self.present:
            raise Away
        return await self.probe(script, keys, words, seconds=seconds)

    async def probe(
        self, script: Script, keys: Sequence[Key], words: Sequence[Word], *, seconds: float | None = None
    ) -> Any:
        """The same, also when it was away when it was last asked."""
        loop, seconds = asyncio.get_running_loop(), seconds or self._seconds
        answer: asyncio.Future[Any] = loop.create_future()
        self._queue.append(_Ask(script, keys, words, answer))
        if len(self._flights) < _FLIGHTS:
            self._flights.once(self._fly())
        timer = loop.call_later(seconds, self._late, answer, loop.time() + seconds)
        try:
            return await answer
        finally:
            timer.cancel()

    def _late(self, answer: asyncio.Future[Any], due: float) -> None:
        loop = asyncio.get_running_loop()
        if answer.done():
            return
        if loop.time() - due > _STALL_SECONDS:
            loop.call_later(self._seconds, self._late, answer, loop.time() + self._seconds)
            return
        answer.set_exception(Away())
        self._lost("it does not answer in time")

    async def _fly(self) -> None:
        while self._queue:
            batch = [one for one in self._queue[:_BATCH] if not one.answer.done()]
            del self._queue[:_BATCH]
            try:
                found = await self._send(batch)
            except self._faults as error:
                found = [error] * len(batch)
            for one, answer in zip(batch, found, strict=True):
                self._give(one, answer)

    async def _send(self, batch: list[_Ask]) -> list[Any]:
        found = await self._run(batch, by_name=True)
        unknown = [at for at, answer in enumerate(found) if isinstance(answer, self._unknown)]
        if unknown:
            for at, answer in zip(unknown, await self._run([batch[at] for at in unknown], by_name=False), strict=True):
                found[at] = answer
        return found

    async def _run(self, batch: list[_Ask], *, by_name: bool) -> list[Any]:
        async with self._redis.pipeline(transaction=False) as pipe:
            for one in batch:
                run, what = (pipe.evalsha, one.script.sha) if by_name else (pipe.eval, one.script.text)
                run(what, len(one.keys), *one.keys, *one.words)
            found: list[Any] = await pipe.execute(raise_on_error=False)
            return found

    def _give(self, one: _Ask, answer: Any) -> None:
        if one.answer.done():
            # Nobody waits for it any more, and whoever did has told that Redis is away.
            return
        if isinstance(answer, Exception):
            self._lost(str(answer) or type(answer).__name__)
            one.answer.set_exception(Away())
        else:
            one.answer.set_result(answer)

    def _lost(self, why: str) -> None:
        self.present = False
        self._gone.set()
        if not self._said_away:
            self._said_away = True
            self._told(False)
            log.warning(
                "Redis is away (%s): until it is back, this gateway keeps its share of all limits, 1 of %d",
                why,
                self.replicas,
            )

    async def _beat(self) -> None:
        while True:
            if self.present:
                with suppress(TimeoutError):
                    async with asyncio.timeout(_BEAT_SECONDS):
                        await self._gone.wait()
            else:
                await asyncio.sleep(_PROBE_SECONDS)
            self._gone.clear()
            await self._look()

    async def _look(self) -> None:
        """Says that this replica is there, and hears how many are."""
        now = asyncio.get_running_loop().time()
        try:
            count = int(await self.probe(_HERE, [_MEMBERS], [self.id, _MEMBER_SECONDS]))
            for work in self.on_beat if self.present else self.on_return:
                await work()
        except Away:
            return
        if not self.present:
            self.present, self._present_since = True, now
            self._told(True)
            log.info("Redis is %s", "back: limits are exact again" if self._said_away else "there")
            self._said_away = False
        # The others need as long to be known where everything was lost.
        known = now - self._present_since > _MEMBER_SECONDS
        self.replicas = count if known else max(count, self.replicas)


def _check(url: str) -> None:
    """Raises `ValueError`, which does not tell the URL: it may hold a password, anywhere if that is not escaped."""
    try:
        parts = urlsplit(url)
        is_one = parts.scheme in ("redis", "rediss") and parts.hostname and parts.port != 0
        is_one = is_one and (parts.path in ("", "/") or parts.path[1:].isdigit())
    except ValueError:
        is_one = False
    if not is_one:
        raise ValueError("--redis-url must read redis://HOST:PORT/NUMBER, or rediss:// for TLS")
    for option, file in parse_qsl(parts.query):
        if option in _FILES and not os.access(file, os.R_OK):
            raise ValueError(f"--redis-url names a file that cannot be read: {option}={file}")
