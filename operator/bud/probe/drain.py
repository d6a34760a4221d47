"""When the engine may end: no new connection comes any more, and nobody waits for an answer.

A pod that is to end keeps getting connections until every node has heard of it; and engines differ in what they do with
requests under way when they are told to end. So the kubelet asks here before it tells the engine (`preStop`), and the
answer comes when all is done. Who waits is seen in the kernel's own counters of the connections to the engine's port,
which any process of the pod may read; the bytes themselves are not looked at.
"""

import asyncio
import socket
import struct
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

HEARD_SECONDS = 5.0
"""How long nodes may take to hear that a pod ends, and stop sending connections to it."""
QUIET_MS = 10_000
"""A connection on which nothing was sent for so long, since the last thing received was answered, waits for nothing:
what streams may pause between two pieces, as an engine does before the first token of a long prompt."""
POLL_SECONDS = 0.25

# linux/netlink.h, linux/sock_diag.h, linux/inet_diag.h
_AF_NETLINK, _NETLINK_SOCK_DIAG, _SOCK_DIAG_BY_FAMILY = 16, 4, 20
_NLM_F_REQUEST_DUMP, _NLMSG_ERROR, _NLMSG_DONE = 0x301, 2, 3
_INFO = 2
_ESTABLISHED, _CLOSE_WAIT = 1 << 1, 1 << 8
_HEADER, _MESSAGE, _ATTRIBUTE = 16, 72, 4
_LAST_SENT, _LAST_RECEIVED = 44, 52


class Connection(NamedTuple):
    """Milliseconds since a connection's last byte in each direction."""

    sent_ms: int
    received_ms: int

    @property
    def waits(self) -> bool:
        """Whether a caller waits on it: it said something last, or was being answered a moment ago."""
        return self.received_ms < self.sent_ms or self.sent_ms < QUIET_MS


async def drained(
    port: int,
    *,
    seconds: float,
    heard: float = HEARD_SECONDS,
    look: Callable[[int], list[Connection]] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> str:
    """Returns, with what was seen, once nobody waits for an answer of the engine on `port`.

    Not before `heard` seconds, in which new connections may still come, and after `seconds` at the latest.
    """
    begin, look = clock(), look or connections
    await asyncio.sleep(min(heard, seconds))
    while True:
        try:
            waiting = sum(connection.waits for connection in look(port))
        except OSError as error:
            return f"connections cannot be seen ({error}): waited {heard:.0f} s"
        spent = clock() - begin
        if not waiting:
            return f"nobody waits for an answer, after {spent:.1f} s"
        if spent >= seconds:
            return f"{waiting} callers still wait for an answer after {spent:.1f} s"
        await asyncio.sleep(POLL_SECONDS)


def connections(port: int) -> list[Connection]:
    """The connections to a port of this network namespace; raises OSError where the kernel does not tell them."""
    return [found for family in (socket.AF_INET, socket.AF_INET6) for found in _dump(family, port)]


def _dump(family: int, port: int) -> Iterator[Connection]:
    states = _ESTABLISHED | _CLOSE_WAIT
    query = struct.pack("=BBBxI", family, socket.IPPROTO_TCP, 1 << (_INFO - 1), states)
    query += struct.pack("!HH", port, 0) + bytes(44)
    head = struct.pack("=IHHII", _HEADER + len(query), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST_DUMP, 1, 0)
    with socket.socket(_AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as kernel:
        kernel.settimeout(2.0)
        kernel.send(head + query)
        while True:
            data = kernel.recv(1 << 17)
            at = 0
            while at + _HEADER <= len(data):
                size, kind = struct.unpack_from("=IH", data, at)
                if kind == _NLMSG_DONE:
                    return
                if kind == _NLMSG_ERROR:
                    raise OSError("the kernel refuses to tell")
                yield from _connection(data[at + _HEADER + _MESSAGE : at + size])
                at += (size + 3) & ~3


def _connection(attributes: bytes) -> Iterator[Connection]:
    at = 0
    while at + _ATTRIBUTE <= len(attributes):
        size, kind = struct.unpack_from("=HH", attributes, at)
        if kind == _INFO and size >= _ATTRIBUTE + _LAST_RECEIVED + 4:
            info = at + _ATTRIBUTE
            (sent,) = struct.unpack_from("=I", attributes, info + _LAST_SENT)
            (received,) = struct.unpack_from("=I", attributes, info + _LAST_RECEIVED)
            yield Connection(sent, received)
        at += max((size + 3) & ~3, _ATTRIBUTE)
