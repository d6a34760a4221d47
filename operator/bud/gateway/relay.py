"""Sends a request to what answers it, and to the next one when that cannot.

Tried again before the first byte only: on 429, 5xx and faults of the connection. Where the gateway's own credentials
or the address are refused, the next target is asked and this one is not. Any other answer is the answer.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType, TracebackType
from typing import Generic, TypeVar

import aiohttp
import orjson

from bud.gateway.catalog import Served, Target
from bud.gateway.coding import Packed
from bud.gateway.connections import Connections
from bud.gateway.faults import UNKNOWN, status_of
from bud.gateway.health import asking
from bud.gateway.mask import mask
from bud.gateway.opening import first_event, is_stream, soon
from bud.gateway.reach import Reach
from bud.gateway.refusal import Refusal, Unavailable, of_status, timed_out
from bud.gateway.reply import Broken, Reply
from bud.gateway.route import Board, Turn
from bud.gateway.sse import data_of
from bud.gateway.tracing import UNTOLD, Attempt, Trace
from bud.gateway.translate.answer import Translated
from bud.gateway.translate.wire import Sent
from bud.gateway.tries import NOT_ALLOWED, Hung, Tries, Unreached, pause
from bud.gateway.whole import Whole, read

log = logging.getLogger("bud.gateway")

MESSAGE_BYTES = 16 * 1024 * 1024
"""The longest message of a WebSocket."""
_A = TypeVar("_A")
_HEARTBEAT_SECONDS = 30.0
_TOLD_BYTES = 64 * 1024
"""How much of an upstream's error is read."""
_CLOSING_SECONDS = 3.0
_TOLD_CHARACTERS = 2000
_REDIRECT = "upstream_redirect"
_UNCLEAR = "upstream_unclear"
"""The code of a fault in a stream that may be the caller's own as well as the upstream's."""

Answer = Reply | Translated | Whole


@dataclass(slots=True)
class Errand:
    """What is to be sent: `sent` makes it for a target, `prefix` is the beginning of its conversation.

    `sent` may raise `Refusal` for what the target cannot be asked. `again` tells whether it can be made once more, and
    `whole` whether its answer is one JSON object, or events if it `streams`. It has time `until` then, as the event
    loop counts it. `is_at` is told of each target that is asked, and of none when it could not answer; `alive` is told
    while one that answers with events has not sent the first.
    """

    sent: Callable[[Target], Sent]
    headers: Mapping[str, str]
    prefix: bytes = b""
    again: Callable[[], bool] = lambda: True
    trace: Trace = UNTOLD
    whole: bool = False
    streams: bool = False
    until: float = math.inf
    is_at: Callable[[Target | None, Turn | None], None] = lambda _, __: None
    alive: Callable[[], Awaitable[None]] | None = None


class Given(Generic[_A]):
    """What a target gives, while the block runs. `close` is called at its end."""

    def __init__(self, at: Attempt, answer: _A, board: Board) -> None:
        self.target = at.target
        self.url = at.url
        self.answer = answer
        self.close: Callable[[], None] | None = None
        self._at = at
        self._board = board

    def __enter__(self) -> Given[_A]:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._board.end(self.url)
        if isinstance(error, Refusal):
            mask(error, self.target.secrets)
        if self.close is not None:
            self.close()
        self._at.ended(error)


@dataclass(frozen=True, slots=True)
class Visit:
    """A WebSocket that is wanted: `path` with its query gives the address at a target, `protocols` what is offered.

    It has time `until` then, as the event loop counts it.
    """

    path: Callable[[Target], str]
    headers: Mapping[str, str]
    protocols: Sequence[str] = ()
    until: float = math.inf
    trace: Trace = UNTOLD


_Ask = Callable[[Attempt], Awaitable[_A | Refusal]]


class Relay:
    """What the gateway asks, by `own` connections to what the operator runs, and by `others` to all else."""

    def __init__(self, own: Connections, others: Connections, board: Board) -> None:
        self._own = own
        self._others = others
        self.board = board
        self.probe = asking(lambda target: self._to(target).client)

    @classmethod
    def open(cls, reach: Reach) -> Relay:
        """With connections of its own; `close` ends them."""
        return cls(Connections.open(None), Connections.open(reach), Board())

    async def close(self) -> None:
        await self._own.close()
        await self._others.close()

    def _to(self, target: Target) -> Connections:
        return self._own if target.own else self._others

    async def ask(self, served: Served, errand: Errand) -> Given[Answer]:
        """An answer below 400 in OpenAI's format.

        Raises `Refusal`: what the last one asked had to say, or `Unavailable` when none could be reached.
        """
        tries = Tries(served, self.board, prefix=errand.prefix, until=errand.until)

        async def ask(at: Attempt) -> Answer | Refusal:
            errand.is_at(at.target, self.board.turn(at.url))
            answer = await self._try(served, errand, tries, at)
            if isinstance(answer, Refusal):
                errand.is_at(None, None)
            return answer

        given: Given[Answer] = await self._first(tries, ask, again=errand.again, trace=errand.trace)
        given.close = given.answer.close
        return given

    @asynccontextmanager
    async def visit(
        self, served: Served, visit: Visit
    ) -> AsyncIterator[tuple[Target, Turn, aiohttp.ClientWebSocketResponse]]:
        """A WebSocket, while the block runs, and what it had of its address so far. Raises `Refusal`."""
        tries = Tries(served, self.board, prefix=b"", until=visit.until)
        with await self._first(tries, partial(self._open, served, visit, tries), trace=visit.trace) as given:
            try:
                yield given.target, self.board.turn(given.url), given.answer
            finally:
                await hang_up(given.answer, aiohttp.WSCloseCode.GOING_AWAY)

    async def _first(
        self,
        tries: Tries,
        attempt: _Ask[_A],
        *,
        again: Callable[[], bool] = lambda: True,
        trace: Trace = UNTOLD,
    ) -> Given[_A]:
        """What the first target that answers gives."""
        answer: Given[_A] | Refusal | None = None
        refusal: Refusal | None = None
        try:
            while (not tries.number or again()) and (at := await tries.next()) is not None:
                answer = await self._asked(trace.attempt(*at), attempt)
                if isinstance(answer, Given):
                    return answer
                refusal = answer
                refusal.forget()
                tries.failed(*at, refusal)
            raise refusal or tries.nobody
        finally:
            # A fault and a frame that hold each other keep the whole of a long body until garbage is looked for.
            answer = refusal = None

    async def _asked(self, at: Attempt, attempt: _Ask[_A]) -> Given[_A] | Refusal:
        self.board.begin(at.url)
        try:
            answer = await attempt(at)
        except BaseException as error:
            self.board.end(at.url)
            at.ended(error)
            raise
        if not isinstance(answer, Refusal):
            self.board.worked(at.target, at.url)
            return Given(at, answer, self.board)
        self.board.end(at.url)
        at.refused(answer)
        at.ended()
        return answer

    async def _open(
        self, served: Served, visit: Visit, tries: Tries, at: Attempt
    ) -> aiohttp.ClientWebSocketResponse | Refusal:
        target = at.target
        since, seconds = tries.now(), tries.seconds(target, at.url)
        hung = math.inf if seconds is None else since + seconds
        try:
            async with asyncio.timeout_at(min(hung, visit.until)):
                return await self._to(target).sockets.ws_connect(
                    f"{at.url}/{visit.path(target)}",
                    headers={**visit.headers, **at.headers, **target.headers},
                    protocols=visit.protocols,
                    heartbeat=_HEARTBEAT_SECONDS,
                    max_msg_size=MESSAGE_BYTES,
                )
        except aiohttp.WSServerHandshakeError as error:
            if error.status < 300:
                return Unavailable(f"model '{served.name}' does not speak WebSocket there", code="upstream_unavailable")
            return self._refused(at, _told(error.status, b"", target, headers=error.headers or {}))
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            return _unreached(served, target, error)
        except TimeoutError:
            if hung < visit.until:
                return _hung(served, target)
            tries.cut(target, at.url, since=since)
            raise timed_out(f"model '{served.name}' has not taken the session in time") from None
        except (aiohttp.ClientError, OSError) as error:
            return _unreached(served, target, Broken(str(error) or repr(error)))

    async def _try(self, served: Served, errand: Errand, tries: Tries, at: Attempt) -> Answer | Refusal:
        """An answer, or a fault after which the next may be asked. Raises `Refusal` where that cannot help."""
        target = at.target
        since, seconds = tries.now(), tries.seconds(target, at.url)
        sent = errand.sent(target)
        # Of what is sent while it comes, nobody knows when it was heard.
        until = None if seconds is None or not isinstance(sent.body, bytes) else since + seconds
        full = f"{at.url}/{sent.path}{target.query}"
        headers = {**errand.headers, **at.headers, **target.headers, **sent.headers}
        if target.translator is not None and isinstance(sent.body, bytes):
            headers |= target.translator.signed(full, sent.body)
        # What was signed must be what is sent.
        as_written = target.translator is not None
        ask = self._to(target).client.ask("POST", full, headers=headers, body=sent.body, as_written=as_written)
        try:
            reply = await ask if until is None else await soon(ask, until)
            if reply is None:
                return _hung(served, target)
            if reply.status < 300:
                answer = reply if sent.reader is None else Translated(reply, sent.reader, streams=sent.streams)
                if errand.whole and not (errand.streams and is_stream(answer)):
                    return await read(answer, target)
                if not is_stream(answer):
                    return answer
                return await self._opened(served, errand, answer, at, until=until)
            told = await _words(reply)
        except asyncio.CancelledError:
            if isinstance(sent.body, bytes):
                tries.cut(target, at.url, since=since)
            raise
        except OSError as error:
            return _unreached(served, target, error)
        return self._refused(at, _told(reply.status, told, target, headers=reply.headers, path=sent.path))

    async def _opened(
        self, served: Served, errand: Errand, answer: Reply | Translated, at: Attempt, *, until: float | None
    ) -> Answer | Refusal:
        """A stream whose first event has come, or a fault as of `_try`."""
        target, limit = at.target, asyncio.timeout_at(until)
        try:
            async with limit:
                event = await first_event(answer, errand.alive)
            fault = fault_of(event, target)
        except BaseException as error:
            answer.close()
            if isinstance(error, Refusal):
                mask(error, target.secrets)
                return self._refused(at, error)
            if limit.expired() and isinstance(error, TimeoutError):
                return _hung(served, target)
            if not isinstance(error, OSError):
                raise
            log.warning("%s broke off its answer: %s", target.id, error)
            return Unavailable("the model broke off its answer; try again")
        if fault is None:
            return answer
        answer.close()
        return self._refused(at, fault)

    def _refused(self, at: Attempt, refusal: Refusal) -> Refusal:
        """A fault after which the next may be asked. Raises any other."""
        if is_another_asked(refusal):
            return refusal
        self.board.worked(at.target, at.url)
        raise refusal


async def _words(reply: Reply) -> bytes:
    """The words of an error, as far as they come: its status is the answer all the same."""
    try:
        return (await reply.read(_TOLD_BYTES))[:_TOLD_BYTES]
    except OSError:
        return b""
    finally:
        reply.close()


async def hang_up(peer: aiohttp.ClientWebSocketResponse, code: int, reason: bytes = b"") -> None:
    """Ends a WebSocket, if need be without the other side, which could go on to talk for ever."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_CLOSING_SECONDS):
            await peer.close(code=code, message=reason)


def is_another_asked(refusal: Refusal) -> bool:
    """Faults that may heal, and those of the gateway's account there, which another provider does not share."""
    return refusal.status == 429 or (
        refusal.status >= 500 and refusal.status != 501 and refusal.code not in (_REDIRECT, _UNCLEAR)
    )


def _hung(served: Served, target: Target) -> Hung:
    log.warning("%s gave no answer in time", target.id)
    return Hung(f"model '{served.name}' has not answered in time; try again later")


def _unreached(served: Served, target: Target, error: Exception) -> Refusal:
    log.warning("%s cannot be reached: %s", target.id, str(error) or repr(error))
    if isinstance(getattr(error, "os_error", error), PermissionError):  # aiohttp tells of it in its own
        words = f"model '{served.name}' has an address that this gateway may not reach; ask who runs it"
        return Unavailable(words, code=NOT_ALLOWED)
    if isinstance(error, Packed):
        return Unavailable(f"model '{served.name}' cannot be understood: {error}", code="upstream_invalid")
    words = f"model '{served.name}' cannot be reached now; try again later"
    # Who was connected may have a fault with this model alone.
    return Unavailable(words) if isinstance(error, Broken) else Unreached(words)


def fault_of(event: bytes, target: Target) -> Refusal | None:
    """The error that an event of a stream tells of, if it does, as it would be had it come as a status."""
    status = status_of(event)
    if status is None:
        return None
    refusal = _told(status or 502, (data_of(event) or b"")[:_TOLD_BYTES], target)
    if status == UNKNOWN:
        refusal.code = _UNCLEAR
    return refusal


def _told(
    status: int, text: bytes, target: Target, *, headers: Mapping[str, str] = MappingProxyType({}), path: str = ""
) -> Refusal:
    """What an upstream's error becomes; its words go on unless they are about its credentials."""
    first = status
    message, param, code = f"the model answered with status {status}", None, None
    try:
        told = orjson.loads(text)
        told = told.get("error", told) if isinstance(told, dict) else {}
        if isinstance(told, str):
            message = told
        elif isinstance(told, dict):
            said = told.get("message") or told.get("detail") or message
            message = said if isinstance(said, str) else orjson.dumps(said).decode()
            param, code = _text(told.get("param")), _text(told.get("code"))
            if target.translator is not None:
                status = target.translator.status(status, told, headers.get("x-amzn-errortype", ""))
    except orjson.JSONDecodeError:
        pass
    if 300 <= status < 400:
        words = f"{target.provider} answers with a redirect, which is not followed"
        return Unavailable(words, code=_REDIRECT)
    if path == "completions" and status in (404, 405) and code != "model_not_found":
        status = 501  # many servers have no such path by now
    if status in (401, 403):
        log.error("%s refuses the gateway's credentials: status %d", target.id, first)
    refusal = of_status(status, message, param=param, code=code)
    if status in (429, 503):
        refusal.headers |= pause(headers, now=time.time())
    mask(refusal, target.secrets)
    refusal.message = refusal.message[:_TOLD_CHARACTERS]
    return refusal


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
