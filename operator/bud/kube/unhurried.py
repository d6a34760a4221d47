"""Reading a stream from time to time, so that one wake-up of the process serves many events."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp

_MOST = 256 * 1024
"""Bytes that wake the reader early."""


@asynccontextmanager
async def unhurried(response: aiohttp.ClientResponse, seconds: float) -> AsyncIterator[None]:
    """While the block runs, what comes waits in the socket for up to so many seconds; 0: not at all.

    Waking up for an event takes ten times the CPU of reading it. Linux and macOS have SO_RCVLOWAT for this (socket(7)).
    """
    transport = response.connection.transport if response.connection is not None else None
    peer: socket.socket | None = transport.get_extra_info("socket") if transport is not None else None
    if not seconds or peer is None:
        yield
        return
    task = asyncio.create_task(_open_from_time_to_time(peer, seconds))
    try:
        yield
    finally:
        task.cancel()
        # The connection is used again, for answers of a few bytes.
        with contextlib.suppress(OSError):
            _wake_at(peer, 1)


async def _open_from_time_to_time(peer: socket.socket, seconds: float) -> None:
    with contextlib.suppress(OSError):
        while True:
            _wake_at(peer, _MOST)
            await asyncio.sleep(seconds)
            _wake_at(peer, 1)
            await asyncio.sleep(0)


def _wake_at(peer: socket.socket, number: int) -> None:
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, number)
