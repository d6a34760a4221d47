"""HTTP/1.1 as the gateway takes it: in bounded time, with bounded heads, and with the API's error object for all else.

uvicorn bounds the time between two requests only, and that not once a byte has come; its parser keeps whatever is sent
as a head; and it answers in plain text. All of this is known only where bytes are parsed, so its protocol is extended
here, by the methods that asyncio and the parser call. A timer of each connection looks now and then whether a moment
has passed that the newest event has set: a request costs no timer of its own.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.datastructures import Headers
from websockets.exceptions import InvalidHandshake
from websockets.frames import CloseCode
from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol

from bud.gateway.auth import request_id
from bud.gateway.refusal import Invalid, Refusal, Unavailable

HEAD_BYTES = 32 * 1024
"""The most that the request line and the headers may have together."""
_LINE_BYTES = 8000
_HEADERS = 100
_ONCE = frozenset(
    {
        b"host",
        b"authorization",
        b"content-type",
        b"content-length",
        b"transfer-encoding",
        b"idempotency-key",
        b"upgrade",
    }
)
"""Headers of which two readers could take different ones."""
_PIPELINED = 16
_LINGER_SECONDS = 2.0
_LATE, _GONE, _WATCHES = "bud.late", "bud.gone", "bud.watches"
_NEVER = float("inf")

_sessions = logging.getLogger("bud.gateway.sessions")
# uvicorn tells at INFO what was called, with all that a caller wrote into the query: keys, too.
_sessions.setLevel(logging.WARNING)


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a caller may take, in seconds.

    `head`: from the first byte of a request to the end of its headers. `body`: without more of a body that is wanted,
    which has to come at `rate` bytes a second on average, too. `read`: without reading any of an answer. `idle`:
    between two requests. `ping`: between two looks whether a WebSocket's caller is there, and until it answers.
    """

    head: float = 15.0
    body: float = 30.0
    rate: float = 1024.0
    read: float = 60.0
    idle: int = 75
    ping: float = 20.0


def was_late(scope: Any) -> bool:
    """Whether a request was answered with 408, since its body came too slowly."""
    return _LATE in scope


def watch(scope: MutableMapping[str, Any], hung_up: Callable[[], None]) -> None:
    """Has this called when the caller of a request hangs up before its answer is out, or at once if it has."""
    if _GONE in scope:
        hung_up()
    scope[_WATCHES] = hung_up


class Protocol(HttpToolsProtocol):
    """One connection; `bounded` sets what it allows."""

    patience = Patience()
    most = 10_000

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._in_head = self._in_body = self._lingers = False
        self._upgrades: bool | None = None
        self._head_size = 0
        self._ends_at = self.loop.time() + self.patience.head
        self._unread, self._reads_until = 0, _NEVER
        self._before: list[RequestResponseCycle] = []
        self._every = min(self.patience.head, self.patience.body, self.patience.read) / 5
        self._timer = self.loop.call_later(self._every, self._look)
        if len(self.connections) > self.most:
            self._refuse(Unavailable("the gateway has as many connections as it takes; try again", code="overloaded"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        for cycle in (*self._before, self.cycle):
            if cycle is not None:
                _end(cycle)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._lingers:
            return
        if not (self._in_head or self._in_body):
            self._begin_head()
        if self._in_head:
            self._head_size += len(data)
        super().data_received(data)
        if self._in_head and self._head_size > HEAD_BYTES and not self._lingers:
            self._refuse(_too_large())

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._upgrades = None
        if not self._in_head:
            self._begin_head()
        self._head_size = max(self._head_size, 1)

    def _begin_head(self) -> None:
        self._in_head, self._head_size = True, 0
        self._ends_at = self.loop.time() + self.patience.head

    def on_headers_complete(self) -> None:
        self._in_head, self._in_body = False, True
        self._ends_at = self.loop.time() + self.patience.body
        before, fault = self.cycle, self._fault()
        self.app = self.config.loaded_app if fault is None else partial(_refuse_with, fault)
        super().on_headers_complete()
        if self.parser.should_upgrade() and not self._should_upgrade() and self.cycle is not before:
            # What follows the request would be in another protocol, which nobody speaks here.
            self.cycle.keep_alive = False
        if self.pipeline:
            self._before = [*(cycle for cycle in self._before if not cycle.response_complete), before]
            if len(self.pipeline) > _PIPELINED:
                self.transport.abort()

    def on_body(self, body: bytes) -> None:
        self._ends_at = min(self._ends_at + len(body) / self.patience.rate, self.loop.time() + self.patience.body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_body, self._ends_at = False, _NEVER
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._in_body:
            # The rest of a body that nobody wants.
            self._ends_at = min(self._ends_at, self.loop.time() + self.patience.body / 6)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._reads_until = self.loop.time() + self.patience.read

    def _fault(self) -> Refusal | None:
        """What is wrong with a head that the parser takes."""
        told, length = dict(self.headers), len(self.headers)
        sizes = [len(self.url), *(len(name) + len(value) for name, value in self.headers)]
        if length > _HEADERS or max(sizes) > _LINE_BYTES or sum(sizes) > HEAD_BYTES:
            return _too_large()
        if len(told) < length:
            names = [name for name, _ in self.headers]
            if any(names.count(name) > 1 for name in _ONCE):
                return _unclear()
        version, coding = self.parser.get_http_version(), told.get(b"transfer-encoding")
        if version != "1.1":
            return _unclear() if version != "1.0" or coding is not None else None
        if b"host" not in told or (coding is not None and coding.lower() != b"chunked"):
            return _unclear()
        if b"upgrade" in told and self.parser.should_upgrade() and _has_body(told):
            # The parser gives no body then.
            return Invalid("leave out Upgrade: a request with a body is not upgraded", code="invalid_upgrade")
        return None

    def on_header(self, name: bytes, value: bytes) -> None:
        # What follows a body in chunks is no header of it.
        if self._in_head:
            super().on_header(name, value)

    def _should_upgrade(self) -> bool:
        """What is no proper handshake of a WebSocket is a request like any other."""
        if self._upgrades is None:
            self._upgrades = super()._should_upgrade() and self._fault() is None and self._is_handshake()
        return self._upgrades

    def _is_handshake(self) -> bool:
        if self.parser.get_method() != b"GET" or self.parser.get_http_version() != "1.1":
            return False
        told = [(name.decode(), value.decode("latin-1")) for name, value in self.headers]
        try:
            ServerProtocol().process_request(Request(self.url.decode("ascii"), Headers(told)))
        except (InvalidHandshake, UnicodeDecodeError):
            return False
        return True

    def _unsupported_upgrade_warning(self) -> None:
        self.logger.debug("an upgrade to another protocol is not made")

    def handle_websocket_upgrade(self) -> None:
        self._timer.cancel()
        super().handle_websocket_upgrade()

    def send_400_response(self, msg: str) -> None:
        self._refuse(_unclear())

    def _look(self) -> None:
        now = self.loop.time()
        self._timer = self.loop.call_later(self._every, self._look)
        unread = self.transport.get_write_buffer_size()
        if unread < self._unread or not self._unread:
            self._reads_until = now + self.patience.read
        self._unread = unread
        if unread and now >= self._reads_until:
            self.transport.abort()
        elif self._in_body and self.flow.read_paused:
            # Its body is not wanted yet, so that is not the caller's fault.
            self._ends_at = now + self.patience.body
        elif now >= self._ends_at:
            self._end_late()

    def _end_late(self) -> None:
        if self._lingers or (self._in_head and not self._head_size) or (self._in_body and self.cycle.response_complete):
            self.transport.close()
            return
        if not self._in_head and not self._in_body:
            self.transport.close()
            return
        if self._in_body:
            cast(dict[str, Any], self.cycle.scope)[_LATE] = True
        self._refuse(Invalid("the request came too slowly", code="request_timeout", status=408))

    def _refuse(self, refusal: Refusal) -> None:
        """Answers in the place of the application, and ends the connection once the caller had time to read that."""
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is not None and cycle.response_complete:
            cycle = None
        if self.pipeline or (cycle is not None and cycle.response_started):
            # Another answer is under way: its end is missing, and that says enough.
            self.transport.abort()
            return
        self.transport.write(_written(refusal, {"headers": []} if cycle is None else cycle.scope))
        if cycle is not None:
            _end(cycle)
        self._lingers, self._in_head, self._in_body = True, False, False
        self._ends_at = self.loop.time() + _LINGER_SECONDS
        if self.transport.can_write_eof():
            # A connection that is closed while more comes is reset, and the answer with it.
            self.transport.write_eof()
        else:
            self.transport.close()


class Socket(WebSocketsSansIOProtocol):
    """A WebSocket whose caller is gone when it answers no ping, whatever it has not read yet."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.logger = self.conn.logger = _sessions

    async def send(self, message: Any) -> None:
        await super().send(message)
        if self.initial_response is not None and self.close_sent:
            # A handshake that was refused is complete as well, and no error of the gateway's.
            self.handshake_complete = True

    def send_receive_event_to_app(self) -> None:
        if self.curr_msg_data_type == "text" and not _is_utf8(b"".join(self.frames)):
            if self.conn.state is State.OPEN:
                self.conn.send_close(CloseCode.INVALID_DATA)
            self.handle_parser_exception()
            return
        super().send_receive_event_to_app()

    def keepalive_timeout(self) -> None:
        super().keepalive_timeout()
        if self.transport.get_write_buffer_size():
            self.transport.abort()

    def send_500_response(self) -> None:
        if not (self.handshake_complete or self.initial_response or self.transport.is_closing()):
            refusal = Unavailable("the gateway stops or has a fault; try again", code="unavailable")
            self.transport.write(_written(refusal, self.scope))
            self.transport.close()


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def bounded(patience: Patience, most: int) -> type[Protocol]:
    """The protocol, with this patience, for so many connections."""
    return type("BoundedProtocol", (Protocol,), {"patience": patience, "most": most})


def _end(cycle: RequestResponseCycle) -> None:
    """Tells an application that its caller is gone."""
    if not cycle.response_complete:
        cycle.disconnected = True
        cycle.message_event.set()
        scope = cast(dict[str, Any], cycle.scope)
        scope[_GONE] = True
        if _WATCHES in scope:
            scope[_WATCHES]()


def _too_large() -> Invalid:
    words = f"the headers are too large: at most {_HEADERS}, each of {_LINE_BYTES} bytes, {HEAD_BYTES} in all"
    return Invalid(words, code="headers_too_large", status=431)


def _unclear() -> Invalid:
    return Invalid("the request is no HTTP/1.1 that can be read in one way only", code="invalid_http")


def _has_body(headers: Mapping[bytes, bytes]) -> bool:
    return headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in headers


async def _refuse_with(refusal: Refusal, scope: Any, receive: Any, send: Any) -> None:
    headers = [(name.encode(), value.encode()) for name, value in _headers(refusal, scope)]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": refusal.body()})


def _written(refusal: Refusal, scope: Any) -> bytes:
    head = [f"HTTP/1.1 {refusal.status} {HTTPStatus(refusal.status).phrase}"]
    head += [f"{name}: {value}" for name, value in _headers(refusal, scope)]
    return "\r\n".join([*head, "", ""]).encode() + refusal.body()


def _headers(refusal: Refusal, scope: Any) -> list[tuple[str, str]]:
    return [
        ("content-type", "application/json"),
        ("content-length", str(len(refusal.body()))),
        ("connection", "close"),
        ("x-request-id", request_id(scope)),
    ]
