"""Addresses of the hosts of upstreams, some of whose name servers may be anybody's: also ones that never answer."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Sequence
from contextlib import suppress
from functools import partial

from aiohappyeyeballs import AddrInfoType

_FRESH_SECONDS = 10.0
_FAILED_SECONDS = 2.0
_STALE_SECONDS = 300.0
"""For how long what was found is used where a lookup fails or does not answer, as RFC 8767 has it."""
_PATIENCE_SECONDS = 0.5
"""Until what was found before is used in place of what a lookup is to find."""
_MOST_AT_ONCE = 64
_SLOW_SECONDS = 2.0
"""After which a lookup makes room for another, though its thread lives on."""
_MOST_THREADS = 256
"""That live, of the whole process: beyond it a name is not looked up."""
_THREAD = "lookup"
_NOBODY = frozenset({socket.EAI_NONAME, socket.EAI_NODATA})


class Lookups:
    """Looks names up, each in a thread of its own.

    A lookup cannot be ended: that of a name whose server is silent holds its thread for as long as the system's
    resolver tries, which may be tens of seconds. One of a name is under way at a time, whatever its ports and however
    many ask, and `_MOST_AT_ONCE` in all but for those that take longer than `_SLOW_SECONDS`; the next waits for one of
    them. So fewer silent names than that hold nobody up; more hold up for seconds those that were not found in the
    last `_STALE_SECONDS`, and while `_MOST_THREADS` live, those are not found at all. Addresses are not looked up. The
    threads are no pool's: one that hangs does not hold up the end of the process.
    """

    def __init__(self) -> None:
        self._free = asyncio.Semaphore(_MOST_AT_ONCE)
        self._latest: dict[str, asyncio.Future[Sequence[AddrInfoType]]] = {}
        """Under way, or ended a short while ago."""
        self._known: dict[str, Sequence[AddrInfoType]] = {}
        """What was last found for each name."""

    async def find(self, host: str, port: int) -> Sequence[AddrInfoType]:
        """The addresses of a host. Raises `OSError`."""
        with suppress(socket.gaierror):
            return _at(port, _found(host, socket.AI_NUMERICHOST))
        latest = self._latest.get(host)
        if latest is None:
            latest = self._latest[host] = asyncio.ensure_future(self._look_up(host))
            latest.add_done_callback(partial(self._keep, host))
        if host in self._known:
            await asyncio.wait((latest,), timeout=_PATIENCE_SECONDS)
            known = self._known.get(host)
            if known is not None:
                return _at(port, known)
        return _at(port, await asyncio.shield(latest))

    async def _look_up(self, host: str) -> Sequence[AddrInfoType]:
        async with self._free:
            if sum(thread.name == _THREAD for thread in threading.enumerate()) >= _MOST_THREADS:
                raise OSError(f"{host} is not looked up: the servers of {_MOST_THREADS} other names are silent")
            loop = asyncio.get_running_loop()
            found: asyncio.Future[Sequence[AddrInfoType]] = loop.create_future()
            threading.Thread(target=_work, args=(loop, found, host), name=_THREAD, daemon=True).start()
            await asyncio.wait((found,), timeout=_SLOW_SECONDS)
        return await found

    def _keep(self, host: str, latest: asyncio.Future[Sequence[AddrInfoType]]) -> None:
        later = asyncio.get_running_loop().call_later
        if latest.cancelled():
            self._latest.pop(host, None)
        elif fault := latest.exception():
            # That there is no such name is an answer, too.
            if isinstance(fault, socket.gaierror) and fault.errno in _NOBODY:
                self._known.pop(host, None)
            later(_FAILED_SECONDS, self._latest.pop, host, None)
        else:
            known = self._known[host] = latest.result()
            later(_FRESH_SECONDS, self._latest.pop, host, None)
            later(_STALE_SECONDS, self._forget, host, known)

    def _forget(self, host: str, known: Sequence[AddrInfoType]) -> None:
        if self._known.get(host) is known:
            del self._known[host]


def _work(loop: asyncio.AbstractEventLoop, future: asyncio.Future[Sequence[AddrInfoType]], host: str) -> None:
    found: Sequence[AddrInfoType] | OSError
    try:
        found = _found(host)
    except OSError as error:
        found = error
    # The loop may have ended meanwhile.
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(_tell, future, found)


def _tell(future: asyncio.Future[Sequence[AddrInfoType]], found: Sequence[AddrInfoType] | OSError) -> None:
    if future.done():
        return
    if isinstance(found, OSError):
        future.set_exception(found)
    else:
        future.set_result(found)


def _found(host: str, flags: int = 0) -> Sequence[AddrInfoType]:
    """As bytes, for the name is encoded already, and one that is too long is no name rather than a fault."""
    return socket.getaddrinfo(host.encode(), 0, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP, flags=flags)


def _at(port: int, found: Sequence[AddrInfoType]) -> Sequence[AddrInfoType]:
    return [(family, kind, proto, name, (at[0], port, *at[2:])) for family, kind, proto, name, at in found]
