"""Answers that come packed though nobody asked for that: unpacked as they come, in pieces of bounded size.

The gateway accepts `identity` only; an upstream that packs all the same is to be understood, if it can be, since what
the gateway has to read, count and change is what is within. Codings: RFC 9110, section 8.4.1.
"""

from __future__ import annotations

import asyncio
import zlib

from bud.gateway.reply import Broken, Reply

_PIECE_BYTES = 256 * 1024
_CODINGS = ("gzip", "x-gzip", "deflate")


class Packed(Broken):
    """An answer in a coding that the gateway cannot read."""


def unpacked(reply: Reply) -> Reply:
    """The answer without the coding that its head tells of. Raises `Packed` for one that is needed and unknown."""
    coding = reply.headers.get("content-encoding", "").strip().lower()
    if coding in ("", "identity"):
        return reply
    if coding in _CODINGS:
        return Unpacked(reply, coding)
    if reply.status >= 300:
        return reply  # its status says enough
    raise Packed(f"it answers in Content-Encoding {coding[:40]!r}, which was not asked for and cannot be read")


class Unpacked(Reply):
    """Stands in for a packed answer: the same, without what was said of the packed bytes."""

    __slots__ = ("_back", "_coding", "_is_full", "_packed", "_rest", "_unpacker")

    def __init__(self, packed: Reply, coding: str) -> None:
        self.status = packed.status
        self.headers = {k: v for k, v in packed.headers.items() if k not in ("content-encoding", "content-length")}
        self.length = None
        self._packed = packed
        self._coding = coding
        self._rest = self._back = b""
        self._unpacker: zlib._Decompress | None = None
        self._is_full = False

    async def read(self, most: int) -> bytes:
        pieces, size = list[bytes](), 0
        async for piece in self:
            pieces.append(piece)
            size += len(piece)
            if size > most:
                break
        return b"".join(pieces)

    async def some(self) -> None:
        if not (self._back or self._rest or self._is_full):
            await self._packed.some()

    async def __anext__(self) -> bytes:
        if self._back:
            piece, self._back = self._back, b""
            return piece
        while True:
            piece = self._piece()
            if piece:
                # Others have their turn, however much there is in what came.
                await asyncio.sleep(0)
                return piece
            try:
                self._rest = await anext(self._packed)
            except StopAsyncIteration:
                if self._unpacker is not None and not self._unpacker.eof:
                    raise Broken(f"the {self._coding} of its answer breaks off") from None
                raise

    def put_back(self, data: bytes) -> None:
        self._back = data + self._back

    def close(self) -> None:
        self._packed.close()

    def leave(self) -> None:
        self._packed.leave()

    def _piece(self) -> bytes:
        """The next of what is within what came; empty where more must come."""
        while self._rest or self._is_full:
            if self._unpacker is None or self._unpacker.eof:
                # Several members one after the other are one body: RFC 1952, section 2.2.
                self._unpacker = zlib.decompressobj(_format(self._coding, self._rest[0]))
            try:
                piece = self._unpacker.decompress(self._rest, _PIECE_BYTES)
            except zlib.error as error:
                raise Broken(f"its answer is no {self._coding} ({error})") from None
            self._rest = self._unpacker.unconsumed_tail or self._unpacker.unused_data
            self._is_full = len(piece) == _PIECE_BYTES and not self._unpacker.eof
            if piece:
                return piece
        return b""


def _format(coding: str, first: int) -> int:
    """What zlib calls the format of what begins with this byte.

    `deflate` is zlib's format, but some leave its head out, as the RFC notes: that ends in 8, as no bare block begins.
    """
    if coding != "deflate":
        return 16 + zlib.MAX_WBITS
    return zlib.MAX_WBITS if first & 15 == 8 else -zlib.MAX_WBITS
