"""How one start of an engine is told from the next."""

import socket
from pathlib import Path

import pytest

from bud.probe.sockets import listening

HEADER = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"


def row(address: str, state: str, inode: int) -> str:
    rest = f"00000000:00000000 00:00000000 00000000 65532        0 {inode} 1 0000000000000000 100 0 0 10 0\n"
    return f"   0: {address} 00000000:0000 {state} {rest}"


@pytest.fixture
def tables(tmp_path: Path) -> tuple[Path, Path]:
    four, six = tmp_path / "tcp", tmp_path / "tcp6"
    four.write_text(
        HEADER
        + row("0100007F:1F90", "0A", 11)
        + row("00000000:1F40", "0A", 12)
        + row("0100007F:1F40", "0A", 13)
        + row("0100007F:1F40", "01", 99)
    )
    six.write_text(HEADER + row("00000000000000000000000000000000:1F40", "0A", 14))
    return four, six


@pytest.mark.parametrize(("port", "inodes"), [(8000, {12, 13, 14}), (8080, {11}), (9000, set())])
def test_the_sockets_that_listen_on_a_port_are_found(tables: tuple[Path, Path], port: int, inodes: set[int]) -> None:
    assert listening(port, tables) == inodes


def test_connections_that_follow_are_not_read(tables: tuple[Path, Path]) -> None:
    with tables[0].open("a") as table:
        table.write("what stands here is never looked at\n" * 3)
    assert listening(8000, tables) == {12, 13, 14}


def test_where_there_is_no_table_there_is_no_socket(tmp_path: Path) -> None:
    assert listening(8000, [tmp_path / "none"]) == frozenset()


def test_a_server_that_came_back_on_its_port_is_another() -> None:
    with socket.create_server(("127.0.0.1", 0)) as first:
        port = first.getsockname()[1]
        before = listening(port)
        assert before == listening(port)
    assert listening(port) == frozenset()
    with socket.create_server(("127.0.0.1", port)):
        after = listening(port)
    assert after
    assert before.isdisjoint(after)
