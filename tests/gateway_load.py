"""What puts a gateway under load: callers, some of whom hang up in the middle, and models that die; both count."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import orjson
from aiohttp import web

KEYS = {"alice": ("whole", "stream"), "bob": ("hangs-up", "shaky"), "few": ("few",), "poor": ("poor",)}
"""The models that the holder of each key asks for: nobody else does."""
MODELS = {model: key for key, models in KEYS.items() for model in models}
MOST_WRITTEN = 30
"""Tokens of an answer of those that always end well."""
_WHOLE = ("whole", "few", "poor")
_CHUNK_SECONDS = 0.005
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
        read, written = self._random.randint(1, 50), self._random.randint(2, 100 if name == "shaky" else MOST_WRITTEN)
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
        """Of those that were admitted."""
        self.outcomes = Counter[tuple[str, str]]()
        self.refused = Counter[tuple[str, str]]()
        """By model and code, for limits and budgets."""
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
                asked.add(asyncio.create_task(self._ask(session, self._random.choice(list(MODELS)))))
            await asyncio.gather(*asked)

    async def fastest(self) -> float:
        """Requests a second of a few callers who ask as soon as they are answered."""
        begun, done = time.monotonic(), 0

        async def go_on(session: aiohttp.ClientSession) -> None:
            nonlocal done
            while time.monotonic() < begun + _FASTEST_SECONDS:
                await self._ask(session, self._random.choice(list(MODELS)))
                done += 1

        async with self._session() as session:
            await asyncio.gather(*(go_on(session) for _ in range(_FASTEST_CALLERS)))
        return done / (time.monotonic() - begun)

    def _session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))

    async def _ask(self, session: aiohttp.ClientSession, name: str) -> None:
        body: dict[str, Any] = {"model": name, "messages": [{"role": "user", "content": "hi"}]}
        body |= {"max_tokens": 100 if name == "shaky" else MOST_WRITTEN}
        if name not in _WHOLE:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        headers = {"Authorization": f"Bearer bud_{MODELS[name]}"}
        async with session.post(self._url, json=body, headers=headers) as response:
            if response.status == 429:
                self.refused[name, (await response.json())["error"]["code"]] += 1
                return
            self.heard.requests[name] += 1
            if response.status != 200:
                self.outcomes[name, str(response.status)] += 1
            elif name in _WHOLE:
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
