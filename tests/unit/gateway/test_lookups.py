"""Names of upstreams, some of whose servers are silent or fail."""

import asyncio
import socket
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field

import aiohttp
import pytest
from aiohappyeyeballs import AddrInfoType

from bud.gateway import lookups as lookups_module
from bud.gateway.connections import Connections
from bud.gateway.lookups import Lookups
from bud.gateway.reach import Reach
from tests.unit.gateway.scripted import SECONDS, run, until

SILENT = [f"silent-{number}.test" for number in range(lookups_module._MOST_AT_ONCE)]
GOOD = "good.test"


@dataclass
class Resolver:
    """The system's: it has an address for each name, unless the name is silent, or `fault` is set."""

    asked: Counter[str] = field(default_factory=Counter)
    fault: OSError | None = None
    is_silent: bool = False
    address: str = "192.0.2.1"
    ends: threading.Event = field(default_factory=threading.Event)

    def __call__(self, host: bytes, port: int, *, flags: int, **_: object) -> list[AddrInfoType]:
        if flags & socket.AI_NUMERICHOST:
            raise socket.gaierror(socket.EAI_NONAME, "no number")
        name = host.decode()
        self.asked[name] += 1
        if self.is_silent or name.startswith("silent"):
            self.ends.wait()
        if self.fault is not None:
            raise self.fault
        return [
            (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (self.address, port)),
            (socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("2001:db8::1", port, 0, 3)),
        ]


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Resolver]:
    made = Resolver()
    monkeypatch.setattr(socket, "getaddrinfo", made)
    yield made
    made.ends.set()


async def found(lookups: Lookups, host: str = GOOD, port: int = 80) -> list[object]:
    return [where for *_, where in await lookups.find(host, port)]


def bounded(test: Callable[[], Coroutine[None, None, None]]) -> None:
    async def timed() -> None:
        async with asyncio.timeout(SECONDS):
            await test()

    run(timed)


def test_silent_names_hold_nobody_up_but_as_many_as_may_be_at_once_and_known_names_not_even_then(
    resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookups_module, "_SLOW_SECONDS", SECONDS)

    async def test() -> None:
        lookups = Lookups()
        waiting = [asyncio.create_task(found(lookups, name)) for name in SILENT[1:]]
        await until(lambda: resolver.asked.total() == len(SILENT) - 1)
        assert await found(lookups) == [("192.0.2.1", 80), ("2001:db8::1", 80, 0, 3)]
        waiting.append(asyncio.create_task(found(lookups, SILENT[0])))
        await until(lambda: resolver.asked.total() == len(SILENT) + 1)
        waiting.append(asyncio.create_task(found(lookups, "other.test")))
        lookups._latest.pop(GOOD)
        assert len(await found(lookups)) == 2
        assert resolver.asked.total() == len(SILENT) + 1
        resolver.ends.set()
        await asyncio.gather(*waiting)
        assert resolver.asked["other.test"] == 1

    bounded(test)


def test_names_that_are_silent_for_long_make_room(resolver: Resolver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookups_module, "_SLOW_SECONDS", 0.01)

    async def test() -> None:
        lookups = Lookups()
        waiting = [asyncio.create_task(found(lookups, name)) for name in SILENT]
        assert len(await found(lookups)) == 2
        resolver.ends.set()
        assert [len(one) for one in await asyncio.gather(*waiting)] == [2] * len(SILENT)

    bounded(test)


def living() -> int:
    return sum(thread.name == "lookup" for thread in threading.enumerate())


def test_however_many_names_are_silent_their_threads_are_bounded(
    resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookups_module, "_SLOW_SECONDS", 0.01)
    monkeypatch.setattr(lookups_module, "_FAILED_SECONDS", 0.01)
    most = lookups_module._MOST_THREADS

    async def test() -> None:
        await until(lambda: not living())
        lookups = Lookups()
        waiting = [asyncio.create_task(found(lookups, f"silent-{number}.test")) for number in range(2 * most)]
        await until(lambda: sum(task.done() for task in waiting) == most)
        assert (living(), resolver.asked.total()) == (most, most)
        with pytest.raises(OSError, match=f"good.test is not looked up: the servers of {most} other names are silent"):
            await found(lookups)
        resolver.ends.set()
        ended = await asyncio.gather(*waiting, return_exceptions=True)
        assert sum(isinstance(one, OSError) for one in ended) == most
        await until(lambda: not living() and GOOD not in lookups._latest)
        assert await found(lookups)

    bounded(test)


def test_one_silent_name_holds_one_thread_whoever_asks_on_whatever_port(resolver: Resolver) -> None:
    async def test() -> None:
        lookups = Lookups()
        waiting = [asyncio.create_task(lookups.find("silent.test", port)) for port in range(200)]
        await until(lambda: bool(resolver.asked))
        waiting.pop().cancel()
        assert await found(lookups)
        resolver.ends.set()
        assert [told[0][4][1] for told in await asyncio.gather(*waiting)] == list(range(199))
        assert resolver.asked["silent.test"] == 1

    bounded(test)


AGAIN = socket.gaierror(socket.EAI_AGAIN, "no server answers")
NOBODY = socket.gaierror(socket.EAI_NONAME, "nobody has this name")


def test_what_was_found_is_used_until_something_else_is_or_it_is_too_old(
    resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, seconds in {"_FRESH_SECONDS": 0.01, "_FAILED_SECONDS": 0.01, "_PATIENCE_SECONDS": SECONDS}.items():
        monkeypatch.setattr(lookups_module, name, seconds)

    async def test() -> None:
        lookups = Lookups()

        async def looked_up_again() -> list[object]:
            await until(lambda: not lookups._latest)
            before = resolver.asked[GOOD]
            where = await found(lookups)
            await until(lambda: resolver.asked[GOOD] == before + 1)
            return where

        first = await looked_up_again()
        resolver.fault = AGAIN
        assert await looked_up_again() == first
        resolver.fault, resolver.is_silent, resolver.address = None, True, "192.0.2.2"
        monkeypatch.setattr(lookups_module, "_PATIENCE_SECONDS", 0.01)
        assert await looked_up_again() == first
        monkeypatch.setattr(lookups_module, "_PATIENCE_SECONDS", SECONDS)
        resolver.is_silent = False
        resolver.ends.set()
        await until(lambda: not lookups._latest)
        assert await found(lookups) != first
        resolver.fault = NOBODY
        for _ in range(2):
            with pytest.raises(socket.gaierror, match="nobody has this name"):
                await looked_up_again()
        resolver.fault = None
        monkeypatch.setattr(lookups_module, "_STALE_SECONDS", 0.01)
        await looked_up_again()
        await until(lambda: not lookups._known)
        resolver.fault = AGAIN
        with pytest.raises(socket.gaierror, match="no server answers"):
            await looked_up_again()

    bounded(test)


def test_a_name_is_looked_up_once_for_many_and_a_fault_is_remembered_for_a_while(
    resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookups_module, "_FAILED_SECONDS", 10 * SECONDS)
    monkeypatch.setattr(lookups_module, "_FRESH_SECONDS", 10 * SECONDS)

    async def test() -> None:
        lookups = Lookups()
        await asyncio.gather(*(found(lookups) for _ in range(10)))
        resolver.fault = AGAIN
        for _ in range(3):
            with pytest.raises(socket.gaierror, match="no server answers"):
                await found(lookups, "other.test")
            assert await found(lookups)
        assert resolver.asked == {GOOD: 1, "other.test": 1}

    bounded(test)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1", "0x7f000001", "::1", "fe80::1%1"])
def test_an_address_is_not_looked_up(host: str) -> None:
    async def test() -> None:
        lookups = Lookups()
        ((*_, where),) = await lookups.find(host, 81)
        assert (str(where[0]).partition("%")[0] in ("127.0.0.1", "::1", "fe80::1"), where[1]) == (True, 81)
        assert not lookups._latest

    bounded(test)


def test_websockets_find_their_names_by_the_same_lookups(resolver: Resolver) -> None:
    async def test() -> None:
        connections = Connections.open(Reach.of([], {}))
        connector = connections.sockets.connector
        assert isinstance(connector, aiohttp.TCPConnector)
        await connections.client.lookups.find(GOOD, 80)
        told = await connector._resolve_host(GOOD, 443)
        assert [(one["host"], one["port"]) for one in told] == [("192.0.2.1", 443), ("2001:db8::1%3", 443)]
        assert resolver.asked == {GOOD: 1}
        await connections.close()

    bounded(test)
