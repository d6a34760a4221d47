"""One HTTP/1.1 connection to an upstream, and the answers that come by it.

The parser is the server's own, llhttp by httptools: https://github.com/MagicStack/httptools, RFC 9112.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

HEAD_BYTES = 64 * 1024
"""The most that the head of an answer may have, and what follows its body."""
_HIGH_BYTES, _LOW_BYTES = 256 * 1024, 64 * 1024
"""How much of an answer is held for a caller who reads slowly before the upstream has to wait, and until when."""
_LEAVE_SECONDS = 1.0
"""For how long the end of an answer is waited for that has said all that it has to say."""


class Broken(ConnectionError):
    """An answer that did not come, breaks off, or is no HTTP/1.1."""


class Lost(Broken):
    """The connection ended before any of the answer came."""


Body = bytes | AsyncGenerator[bytes, None]


class Reply:
    """An answer: `headers` by their names in lower case, `length` in bytes where it was told.

    It is an iterator over its body's bytes, as they come. Reading raises `Broken`. What is not read to its end must be
    closed.
    """

    __slots__ = (
        "_chunks",
        "_connection",
        "_fault",
        "_is_left",
        "_over",
        "_size",
        "_waiter",
        "headers",
        "length",
        "status",
    )

    def __init__(self, connection: Connection) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.length: int | None = None
        self._connection = connection
        self._chunks: list[bytes] = []
        self._size = 0
        self._over = self._is_left = False
        self._fault: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None

    @property
    def is_begun(self) -> bool:
        """Whether its head has come."""
        return self.status != 0

    async def begun(self) -> Reply:
        """The reply itself, once its head has come."""
        while not self.status:
            if self._fault is not None:
                raise self._fault
            await self._more()
        return self

    async def read(self, most: int) -> bytes:
        """All of the body; of a longer one some part, which is longer than `most` bytes too."""
        while not self._over and self._size <= most:
            self._connection.resume()
            await self._more()
        if self._fault is not None:
            raise self._fault
        return self._taken()

    async def some(self) -> None:
        """Returns once any of the body has come, or its end."""
        while not self._chunks and not self._over:
            await self._more()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        while not self._chunks:
            if self._fault is not None:
                raise self._fault
            if self._over:
                raise StopAsyncIteration
            await self._more()
        return self._taken()

    def put_back(self, data: bytes) -> None:
        """What was read last is read once more."""
        self._chunks.insert(0, data)
        self._size += len(data)

    def close(self) -> None:
        """Ends the connection unless all of the answer has come, or it was left; what was not read is let go."""
        self._chunks, self._size = [], 0
        if not self._over and not self._is_left:
            self._connection.abort()

    def leave(self) -> None:
        """It has a second to end, so that its connection can be kept; else it is over then, and has no fault."""
        if not self._over and not self._is_left:
            self._is_left = True
            self._connection.loop.call_later(_LEAVE_SECONDS, self._left)

    def take(self, data: bytes) -> int:
        """More of the body has come; how much is held now."""
        self._chunks.append(data)
        self._size += len(data)
        self._wake()
        return self._size

    def begin(self, status: int, headers: dict[str, str]) -> None:
        """The head has come."""
        self.status, self.headers = status, headers
        told = headers.get("content-length", "")
        self.length = int(told) if told.isdigit() and "transfer-encoding" not in headers else None
        self._wake()

    def end(self, fault: Exception | None = None) -> None:
        """Nothing more comes."""
        if not self._over:
            # Who was left has said what there was to say.
            self._over, self._fault = True, None if self._is_left else fault
            self._wake()

    def _left(self) -> None:
        if not self._over:
            self.end()
            self._connection.abort()

    def _taken(self) -> bytes:
        chunks, self._chunks, size, self._size = self._chunks, [], self._size, 0
        if size > _LOW_BYTES:
            self._connection.resume()
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def _more(self) -> None:
        self._waiter = self._connection.loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Connection(asyncio.Protocol):
    """One connection; `free` is called with it when it can be used for another request, and `lost` when it ends."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        free: Callable[[Connection], None],
        lost: Callable[[Connection], None],
    ) -> None:
        self.loop = loop
        self.idle_since = 0.0
        self.is_closed = False
        self._free = free
        self._lost = lost
        self._parser = HttpResponseParser(self)
        self._reply: Reply | None = None
        self._upload: asyncio.Task[None] | None = None
        self._headers: dict[str, str] = {}
        self._bare = 0
        """Bytes since the last of a body."""
        self._status = 0
        self._is_heard = self._whole = self._stays = self._paused = False
        self._writable: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's own are none by class

    def ask(self, head: bytes, body: Body, *, length: int | None = None) -> Reply:
        """Sends a request; its answer is to come. A body that comes in pieces has `length` bytes or is sent in chunks.

        A fault while it is sent is one of the answer.
        """
        reply = self._reply = Reply(self)
        self._bare = self._status = 0
        self._whole = self._is_heard = False
        if isinstance(body, bytes):
            self.transport.write(head + body if len(body) < _LOW_BYTES else head)
            if len(body) >= _LOW_BYTES:
                self.transport.write(body)
        else:
            self.transport.write(head)
            self._upload = self.loop.create_task(self._send(body, length))
        return reply

    def abort(self, fault: Exception | None = None) -> None:
        """Ends the connection, and what is under way on it."""
        self.is_closed = True
        if self._upload is not None:
            self._upload.cancel()
        if self._reply is not None:
            self._reply.end(fault or Broken("it was ended"))
            self._reply = None
        self.transport.abort()

    def resume(self) -> None:
        """Reads on after what was held has been taken."""
        if self._paused and not self.is_closed:
            self._paused = False
            self.transport.resume_reading()

    # What asyncio calls.

    def data_received(self, data: bytes) -> None:
        if self._reply is None:
            self.abort()  # nobody has asked for anything
            return
        self._is_heard = True
        self._bare += len(data)
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            self.abort(Broken(f"the answer is no HTTP/1.1 ({error})"))
            return
        if self._reply is None:
            return
        if self._whole:
            self._end()
        elif self._bare > HEAD_BYTES:
            self.abort(Broken("the answer's head or end is too large"))

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_closed = True
        self.resume_writing()
        if self._upload is not None:
            self._upload.cancel()
        if self._reply is not None:
            self._reply.end(self._loss(self._reply, exc))
            self._reply = None
        # It holds this connection, so that both would stay until garbage is looked for.
        del self._parser
        self._lost(self)

    def pause_writing(self) -> None:
        self._writable = self.loop.create_future()

    def resume_writing(self) -> None:
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        self._writable = None

    def _loss(self, reply: Reply, exc: Exception | None) -> Broken | None:
        words = f"the connection was lost ({exc or 'closed'})"
        if not self._is_heard:
            return Lost(words)
        # Without a length the end of the connection is the end of the answer, unless it is a fault.
        sized = {"content-length", "transfer-encoding"} & reply.headers.keys()
        return None if reply.is_begun and exc is None and not sized else Broken(words)

    # What the parser calls.

    def on_message_begin(self) -> None:
        if self._whole:
            self._status = -1  # a second answer to one question
        self._headers = {}

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._reply is None or self._reply.is_begun:
            return  # what follows a body
        self._headers[name.decode("latin-1").lower()] = value.decode("utf-8", "surrogateescape")

    def on_headers_complete(self) -> None:
        if self._status == -1 or self._reply is None:
            return
        self._status = self._parser.get_status_code()
        if self._status >= 200:
            self._reply.begin(self._status, self._headers)

    def on_body(self, data: bytes) -> None:
        if self._status == -1 or self._reply is None:
            return
        self._bare = 0
        if self._reply.take(data) > _HIGH_BYTES and not self._paused:
            self._paused = True
            self.transport.pause_reading()

    def on_message_complete(self) -> None:
        if self._status >= 200:
            # Only here: the parser forgets it with the next message.
            self._whole, self._stays = True, self._parser.should_keep_alive()

    def _end(self) -> None:
        """The answer has come as a whole."""
        reply, self._reply = self._reply, None
        assert reply is not None
        reply.end()
        is_sent = self._upload is None or self._upload.done()
        if self._status == -1 or not is_sent or not self._stays or self.transport.get_write_buffer_size():
            self.abort()
            return
        self.resume()
        self._upload = None
        self._free(self)

    async def _send(self, body: AsyncGenerator[bytes, None], length: int | None) -> None:
        try:
            async with aclosing(body):
                await self._send_all(body, length)
        except Exception as error:
            self.abort(Broken(f"the body cannot be sent ({error!r})"))

    async def _send_all(self, body: AsyncGenerator[bytes, None], length: int | None) -> None:
        sent = 0
        async for piece in body:
            sent += len(piece)
            if length is not None and sent > length:
                break
            if piece:
                self.transport.write(piece if length is not None else b"%x\r\n%b\r\n" % (len(piece), piece))
            if self._writable is not None:
                await self._writable
        if length is None:
            self.transport.write(b"0\r\n\r\n")
        elif sent != length:
            raise ValueError(f"it has another length than the {length} bytes that were told")
