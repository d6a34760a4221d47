"""Callers: so many connections, each asking again as soon as it is answered, or all together at a given rate."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

_END = b"0\r\n\r\n"
_LONGEST_SECONDS = 30.0


@dataclass
class Run:
    """What callers saw: seconds for each request, and to the first bytes of its body."""

    seconds: float = 0.0
    whole: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    failed: int = 0

    @property
    def rate(self) -> float:
        """Requests in a second."""
        return len(self.whole) / self.seconds


class _Caller(asyncio.Protocol):
    """One connection: `ask` sends a request and gives the moments of its first bytes and of its end."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._waiting: asyncio.Future[tuple[bool, float, float]] | None = None

    @property
    def is_closed(self) -> bool:
        return self._transport.is_closing()

    def ask(self, request: bytes) -> asyncio.Future[tuple[bool, float, float]]:
        self._seen, self._tail, self._first, self._length = 0, b"", 0.0, -1
        self._ok = False
        self._waiting = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._waiting

    def data_received(self, data: bytes) -> None:
        if self._waiting is None:
            return
        if self._length == -1:
            self._tail += data
            end = self._tail.find(b"\r\n\r\n")
            if end < 0:
                return
            head, data = self._tail[:end].lower(), self._tail[end + 4 :]
            self._ok, self._tail = head.startswith(b"http/1.1 200"), b""
            at = head.find(b"content-length:")
            self._length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else -2
        if data and not self._first:
            self._first = time.perf_counter()
        self._seen += len(data)
        if self._length == -2:
            self._tail = (self._tail + data)[-len(_END) :]
        if self._seen >= self._length >= 0 or (self._length == -2 and self._tail == _END):
            self._waiting.set_result((self._ok, self._first, time.perf_counter()))
            self._waiting = None

    def connection_lost(self, error: Exception | None) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result((False, 0.0, time.perf_counter()))


async def _connected(port: int) -> _Caller:
    return (await asyncio.get_running_loop().create_connection(_Caller, "127.0.0.1", port))[1]


async def load(port: int, request: bytes, *, connections: int, seconds: float, rate: float = 0.0) -> Run:
    """Runs callers for a while; with `rate`, requests begin at fixed moments whatever became of those before."""
    run = Run()
    free = asyncio.Queue[_Caller]()

    for _ in range(connections):
        free.put_nowait(await _connected(port))
    start = time.perf_counter()

    async def one(caller: _Caller, begun: float) -> None:
        if caller.is_closed:  # some servers end a connection after a while
            caller = await _connected(port)
        async with asyncio.timeout(_LONGEST_SECONDS):
            ok, first, end = await caller.ask(request)
        run.failed += not ok
        run.whole.append(end - begun)
        run.first.append(first - begun)
        free.put_nowait(caller)

    async def busy() -> None:
        caller = await free.get()
        while (begun := time.perf_counter()) - start < seconds:
            await one(caller, begun)
            caller = await free.get()

    async def paced() -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(int(seconds * rate)):
                due = start + number / rate
                if (wait := due - time.perf_counter()) > 0:
                    await asyncio.sleep(wait)
                group.create_task(one(await free.get(), due))

    if rate:
        await paced()
    else:
        await asyncio.gather(*(busy() for _ in range(connections)))
    run.seconds = time.perf_counter() - start
    return run
