"""Answers by their `Idempotency-Key` that all replicas share, kept in Redis; see `bud.gateway.idempotency`.

A request that is being served has a mark, which its replica renews: if it dies, the key is free again in
`_MARK_SECONDS`. Like the answers of one process, all answers together have a bound, and the oldest go first.
"""

from __future__ import annotations

import hashlib

import orjson

from bud.gateway.idempotency import KEPT_BYTES, KEPT_SECONDS, Kept
from bud.gateway.shared import SLOW_SECONDS, Away, Script, Shared, Word

_MARK_SECONDS = 20
_BOOKS = ("bud:answers", "bud:answers:bytes")
"""All answers by their age, and how many bytes they have."""

_CLAIM = Script("""
local kept = redis.call('HMGET', KEYS[1], 'digest', 'status', 'headers', 'body')
if kept[1] then return kept end
redis.call('HSET', KEYS[1], 'digest', ARGV[1], 'by', ARGV[2])
redis.call('EXPIRE', KEYS[1], ARGV[3])
return false
""")
_KEEP = Script("""
local key, books, bytes = KEYS[1], KEYS[2], KEYS[3]
if redis.call('HGET', key, 'by') ~= ARGV[1] then return 0 end
redis.call('HDEL', key, 'by')
redis.call('HSET', key, 'digest', ARGV[2], 'status', ARGV[3], 'headers', ARGV[4])
if ARGV[8] == '1' then redis.call('HSET', key, 'body', ARGV[5]) end
redis.call('EXPIRE', key, ARGV[6])
local time, total = redis.call('TIME'), redis.call('INCRBY', bytes, #ARGV[5])
local now = time[1] + time[2] / 1000000
redis.call('ZADD', books, now, #ARGV[5] .. ' ' .. key)
local first = redis.call('ZRANGE', books, 0, 0, 'WITHSCORES')
while first[1] and (total > tonumber(ARGV[7]) or tonumber(first[2]) <= now - tonumber(ARGV[6])) do
  local size, oldest = string.match(first[1], '^(%d+) (.*)$')
  if oldest == key then break end
  redis.call('ZREM', books, first[1])
  redis.call('DEL', oldest)
  total = redis.call('DECRBY', bytes, size)
  first = redis.call('ZRANGE', books, 0, 0, 'WITHSCORES')
end
return 1
""")
_DROP = Script("""
if redis.call('HGET', KEYS[1], 'by') == ARGV[1] then redis.call('DEL', KEYS[1]) end
return 1
""")
_RENEW = Script("""
for _, key in ipairs(KEYS) do
  if redis.call('HGET', key, 'by') == ARGV[1] then redis.call('EXPIRE', key, ARGV[2]) end
end
return 1
""")


class SharedAnswers:
    """Answers of all replicas."""

    def __init__(self, shared: Shared, *, most: int = KEPT_BYTES) -> None:
        self._shared = shared
        self._most = most
        self._marks = set[str]()
        shared.on_beat.append(self._renew)
        shared.on_return.append(self._renew)

    async def claim(self, owner: str, key: bytes, digest: bytes, *, now: float) -> Kept | None:
        """What is kept under a key; None: it is now marked as being served here. Raises `Away`."""
        place = _place(owner, key)
        found = await self._shared.call(_CLAIM, [place], [digest, self._shared.id, _MARK_SECONDS])
        if found is None:
            self._marks.add(place)
            return None
        told, status, headers, body = found
        if status is None:
            return Kept(told, now)
        pairs = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in orjson.loads(headers)]
        return Kept(told, now, int(status), pairs, None if body is None else bytearray(body), done=True)

    async def end(self, owner: str, key: bytes, kept: Kept) -> bool:
        """Keeps an answer that is whole, and forgets a failure; whether Redis has heard of it."""
        place = _place(owner, key)
        if place not in self._marks:
            return False
        self._marks.discard(place)
        try:
            if not kept.is_whole:
                await self._shared.call(_DROP, [place], [self._shared.id], seconds=SLOW_SECONDS)
                return True
            pairs = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in kept.headers]
            words: list[Word] = [
                self._shared.id,
                kept.digest,
                kept.status,
                orjson.dumps(pairs),
                bytes(kept.body or b""),
            ]
            words += [int(KEPT_SECONDS), self._most, int(kept.body is not None)]
            return bool(await self._shared.call(_KEEP, [place, *_BOOKS], words, seconds=SLOW_SECONDS))
        except Away:
            return False

    async def _renew(self) -> None:
        if self._marks:
            await self._shared.probe(_RENEW, sorted(self._marks), [self._shared.id, _MARK_SECONDS])


def _place(owner: str, key: bytes) -> str:
    return f"bud:answer:{hashlib.sha256(owner.encode() + bytes(1) + key).hexdigest()}"
