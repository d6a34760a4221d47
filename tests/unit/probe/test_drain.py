"""When an engine may end: who waits for an answer, by the kernel's own word."""

from __future__ import annotations

import socket

import pytest

from bud.probe.drain import Connection, connections, drained
from tests.waiting import eventually, is_empty


@pytest.mark.parametrize(
    ("connection", "expected"),
    [
        pytest.param(Connection(sent_ms=60_000, received_ms=59_000), True, id="asked after the last answer"),
        pytest.param(Connection(sent_ms=60_000, received_ms=60_000), False, id="opened long ago and never used"),
        pytest.param(Connection(sent_ms=2_000, received_ms=60_000), True, id="being answered piece by piece"),
        pytest.param(Connection(sent_ms=10_000, received_ms=10_100), False, id="answered, and kept open"),
        pytest.param(Connection(sent_ms=10, received_ms=10), True, id="just opened: the request is on its way"),
    ],
)
def test_who_waits_for_an_answer(connection: Connection, expected: bool) -> None:
    assert connection.waits == expected


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_the_kernel_tells_of_each_connection_to_a_port_and_of_no_other(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with (
        socket.create_server((host, 0), family=family) as server,
        socket.create_server((host, 0), family=family) as other,
    ):
        port = server.getsockname()[1]
        assert connections(port) == []
        with socket.create_connection((host, other.getsockname()[1])), socket.create_connection((host, port)) as client:
            accepted, _ = server.accept()
            with accepted:
                client.sendall(b"a question")
                accepted.recv(100)
                [found] = eventually(lambda: _one(connections(port)))
                assert found.waits
        eventually(lambda: is_empty(connections(port)))


async def test_draining_lasts_until_nobody_waits() -> None:
    looks = [[Connection(9, 1), Connection(60_000, 60_000)], [Connection(60_000, 60_000)]]
    said = await drained(1, seconds=60, heard=0, look=lambda _: looks.pop(0))
    assert said.startswith("nobody waits")
    assert not looks


async def test_draining_ends_when_its_time_is_over() -> None:
    said = await drained(1, seconds=0, look=lambda _: [Connection(9, 1)])
    assert "1 callers still wait" in said


async def test_where_the_kernel_tells_nothing_only_new_connections_are_waited_for() -> None:
    def refuse(_: int) -> list[Connection]:
        raise OSError("no such family")

    assert "cannot be seen (no such family)" in await drained(1, seconds=60, heard=0, look=refuse)


def _one(found: list[Connection]) -> list[Connection]:
    assert len(found) == 1
    return found
