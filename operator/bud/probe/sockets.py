"""Which sockets listen on a port: how one start of an engine is told from the next.

All containers of a pod share one network namespace, so the engine's listening socket is seen here, and the
kernel gives every socket an inode number of its own. A new process has a new socket, however quickly it came
back, while load, slow answers and closed connections change nothing. A connection held open would tell less
(servers close idle ones) and cost more (it keeps a thread of a server that has one per connection).
"""

from collections.abc import Iterable
from pathlib import Path

TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
LISTEN = "0A"


def listening(port: int, tables: Iterable[Path] = TABLES) -> frozenset[int]:
    """The inodes of the sockets that listen on `port`; empty where none do or no table can be read."""
    return frozenset(inode for table in tables for inode in _read(table, port))


def _read(table: Path, port: int) -> Iterable[int]:
    try:
        with table.open() as lines:
            next(lines, "")
            for line in lines:
                _, local, _, state, _, _, _, _, _, inode, *_ = line.split()
                # The kernel lists the listening sockets first, so a busy engine's connections cost nothing.
                if state != LISTEN:
                    return
                if int(local.rpartition(":")[2], 16) == port:
                    yield int(inode)
    except OSError:
        return
