"""`/v1/realtime`: two WebSockets, joined. Messages pass both ways, each side no faster than the other reads.

One message of each direction is held at most, beside what the sockets hold. What passes here:
https://platform.openai.com/docs/guides/realtime-websocket; how: https://asgi.readthedocs.io/en/latest/specs/www.html.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlencode

import aiohttp
import orjson

from bud.gateway.admission import Admission
from bud.gateway.auth import authenticate, known
from bud.gateway.call import Call
from bud.gateway.catalog import Catalog, Key, Price, Served, Target
from bud.gateway.estimate import NOTHING
from bud.gateway.inference import deadline
from bud.gateway.metadata import in_headers
from bud.gateway.models import find
from bud.gateway.naps import Naps, Pick
from bud.gateway.paths import Place
from bud.gateway.prices import Published
from bud.gateway.refusal import Invalid, Refusal, Unauthenticated, Unavailable, timed_out
from bud.gateway.relay import Relay, Visit, hang_up
from bud.gateway.request import Message, Request, Send
from bud.gateway.splice import rename_model
from bud.gateway.usage import Usage, cost

log = logging.getLogger("bud.gateway")

_KEY = "openai-insecure-api-key."
_OPENING_SECONDS = 60.0
"""Until a session has begun, waking included."""
_PAYS_SECONDS = 10.0
"""How much of its address's time a session uses until it pays for it, while messages pass."""
_GOING_AWAY, _NO_STATUS, _ABNORMAL, _POLICY, _INTERNAL, _RESTART = 1001, 1005, 1006, 1008, 1011, 1012
_REASON_BYTES = 120
_CHOOSING = frozenset({"deployment", "deployment_id", "api_version", "api_key", "key", "call_id"})
"""Parameters by which providers choose another model, version or account, or somebody else's session."""
_BETA = re.compile(rb"[!-~ ]{1,256}")


def key_of(request: Request, catalog: Catalog) -> Key:
    """The key of the header, or of the subprotocol that browsers use instead. Raises `Unauthenticated`."""
    headers = request.headers
    if b"authorization" not in headers:
        for offered in request.scope.get("subprotocols", ()):
            if offered.startswith(_KEY):
                headers = {**headers, b"authorization": b"Bearer " + offered.removeprefix(_KEY).encode()}
    return authenticate(headers, catalog, now=request.began)


def denying(send: Send) -> Send:
    """Sends an answer of HTTP in the place of the upgrade."""

    async def denied(message: Message) -> None:
        await send({**message, "type": f"websocket.{message['type']}"})

    return denied


@dataclass(slots=True)
class _Session:
    """One caller, joined with one upstream; `closed` is whether a direction is ending it, which the other waits for.

    The way out hears of every end of the caller's, so it goes on to listen whatever becomes of the rest, and the way
    back may wait for it.
    """

    call: Call
    target: Target
    peer: aiohttp.ClientWebSocketResponse
    send: Send
    may_go_on: Callable[[_Session], Awaitable[Refusal | None]]
    spend: Callable[[_Session, Usage], None]
    closed: bool = False

    @property
    def price(self) -> Price | Published | None:
        """What it costs."""
        return self.call.price(self.target)

    async def run(self) -> None:
        """Until one side ends it."""
        ways = {asyncio.create_task(self._out()), asyncio.create_task(self._back())}
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            results = await asyncio.gather(*ways, return_exceptions=True)
            for result in results:
                if isinstance(result, Exception) and not isinstance(result, OSError | aiohttp.ClientError):
                    log.error("request %s: a session failed", self.call.request.id, exc_info=result)

    async def _out(self) -> None:
        """From the caller to the upstream."""
        while True:
            message = await self.call.request.receive()
            if message["type"] == "websocket.disconnect":
                self.closed = True
                await self._close_peer(message.get("code", _NO_STATUS), message.get("reason") or "")
                return
            if self.closed:
                continue
            if await self._is_over():
                return
            if self.closed:
                continue
            text = message.get("text")
            try:
                if text is None:
                    await self.peer.send_bytes(message["bytes"])
                else:
                    await self.peer.send_str(self._renamed(text, self.call.served.name, self.target.model))
            except (aiohttp.ClientError, OSError):
                log.debug("request %s: the upstream has left; why, the way back hears", self.call.request.id)

    async def _back(self) -> None:
        """From the upstream to the caller."""
        try:
            await self._come_back()
        except OSError:
            # The caller has left: with which code, the way out hears.
            await _forever()

    async def _come_back(self) -> None:
        while True:
            message = await self.peer.receive()
            if self.closed:
                await _forever()
            if message.type is aiohttp.WSMsgType.TEXT:
                self._count(message.data)
                text = self._renamed(message.data, self.target.model, self.call.served.name)
                await self.send({"type": "websocket.send", "text": text})
            elif message.type is aiohttp.WSMsgType.BINARY:
                await self.send({"type": "websocket.send", "bytes": message.data})
            else:
                await self._close_caller(message)
                return
            if self.closed:
                await _forever()
            if await self._is_over():
                return

    def _renamed(self, text: str, before: str, after: str) -> str:
        if before == after or '"model"' not in text:
            return text
        return rename_model(text.encode(), before, after).decode()

    def _count(self, text: str) -> None:
        """What the upstream says that an answer took; it is spent at once, since a session may be long."""
        if '"usage"' not in text or ('.done"' not in text and '.completed"' not in text):
            return
        usage = Usage()
        if usage.read_event(text):
            self.spend(self, usage)

    async def _is_over(self) -> bool:
        """Ends the session if the caller may not go on."""
        refusal = await self.may_go_on(self)
        # Meanwhile the other way may have ended it.
        if refusal is None or self.closed:
            return False
        self.closed = True
        event = {"type": "error", "error": {**orjson.loads(refusal.body())["error"], "event_id": None}}
        await self.send({"type": "websocket.send", "text": orjson.dumps(event).decode()})
        await self.send({"type": "websocket.close", "code": _POLICY, "reason": _short(refusal.message)})
        await self._close_peer(_GOING_AWAY, "")
        return True

    async def _close_peer(self, code: int, reason: str) -> None:
        if code == _NO_STATUS:
            code = 1000
        elif code in (_ABNORMAL, _RESTART):
            # The connection was lost, or the gateway itself stops.
            code, reason = _GOING_AWAY, ""
        await hang_up(self.peer, code, _short(reason).encode())

    async def _close_caller(self, last: aiohttp.WSMessage) -> None:
        self.closed = True
        code, reason = self.peer.close_code, last.extra if last.type is aiohttp.WSMsgType.CLOSE else ""
        if last.type is not aiohttp.WSMsgType.CLOSE or code is None:
            told = code if code not in (None, _ABNORMAL, 1000) else _INTERNAL
            code, reason = told, "the model broke off the session"
        if code in (_NO_STATUS, 0):
            code = 1000
        await self.send({"type": "websocket.close", "code": code, "reason": _short(reason or "")})


class Realtime:
    """Serves sessions."""

    def __init__(
        self,
        admission: Admission,
        relay: Relay,
        naps: Naps,
        *,
        clock: Callable[[], float],
        catalog: Callable[[], Catalog],
    ) -> None:
        self._admission = admission
        self._relay = relay
        self._naps = naps
        self._clock = clock
        self._catalog = catalog

    async def serve(self, request: Request, send: Send, key: Key, where: Place) -> None:
        """Joins the caller with what answers. Raises `Refusal` before the upgrade only."""
        query = parse_qsl(request.scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True)
        for name, _ in query:
            if name.lower().replace("-", "_") in _CHOOSING:
                raise Invalid(f"{name}: it is the gateway's to choose", param=name)
        names = [value for name, value in query if name == "model"] or [where.deployment]
        if len(names) > 1:
            raise Invalid("model: it stands in the address twice", param="model")
        if not names[0]:
            raise Invalid("model is required: ?model=…", param="model", code="missing_required_parameter")
        served = find(self._catalog(), key, where, names[0])
        admitted = await self._admission.admit(request, key, served, NOTHING)
        request.facts.model = served.name
        call = Call(request, key, served, where.endpoint, {}, b"", admitted, Usage())
        others = [pair for pair in query if pair[0] != "model"]
        left = deadline(request.headers) - (self._clock() - request.began)
        now = asyncio.get_running_loop().time
        until = now() + min(served.timeout, _OPENING_SECONDS, left)
        visit = Visit(
            lambda target: f"{where.endpoint}?{urlencode([('model', target.model), *others])}",
            _headers(request),
            _protocols(request),
            until,
            request.trace,
        )

        async def ask(pick: Pick) -> None:
            served = await self._woken(call, until, pick)
            async with self._relay.visit(served, visit) as (target, turn, peer):
                call.is_at(target, turn)
                with self._naps.use((target,)):
                    await self._join(call, send, target, peer)

        try:
            await self._naps.ask(call, ask, again=lambda: now() < until)
        finally:
            if call.target is None:
                self._admission.release(admitted)

    async def _woken(self, call: Call, until: float, pick: Pick) -> Served:
        try:
            async with asyncio.timeout_at(until):
                return await self._naps.awake(call.served, call.key.project.namespace, pick)
        except TimeoutError:
            raise timed_out(f"model '{call.served.name}' is being woken; try again later") from None

    async def _join(self, call: Call, send: Send, target: Target, peer: aiohttp.ClientWebSocketResponse) -> None:
        request = call.request
        call.target = target
        self._admission.settle(call.key, call.admitted, Usage(0), call.price(target))
        headers = request.own_headers()
        if call.tells_metadata:
            headers += in_headers(call.metadata(Usage(), now=self._clock()))
        chosen = peer.protocol or next(iter(_protocols(request)), None)
        request.begun = True
        request.facts.status, request.facts.provider, request.facts.usage = 101, target.provider, call.usage
        await send({"type": "websocket.accept", "subprotocol": chosen, "headers": headers})
        session = _Session(call, target, peer, send, self._may_go_on, self._spend)
        try:
            await session.run()
        finally:
            if _seconds_due(session):
                self._spend(session, Usage())

    async def _may_go_on(self, session: _Session) -> Refusal | None:
        key = session.call.key
        if _seconds_due(session) >= _PAYS_SECONDS:
            self._spend(session, Usage())
        try:
            known(self._catalog(), key.hash, now=self._clock())
        except Unavailable as refusal:
            return refusal
        except Unauthenticated:
            return Unauthenticated("the API key is no longer accepted")
        if session.call.usage.output is None and session.call.usage.seconds is None:
            return None
        return await self._admission.spent(key)

    def _spend(self, session: _Session, usage: Usage) -> None:
        call = session.call
        usage.seconds = _seconds_due(session)
        self._admission.spend(call.key, usage, session.price)
        call.usage.add(usage)
        call.request.facts.cost = cost(session.price, call.usage)


def _seconds_due(session: _Session) -> float:
    """Seconds of its address that it has not paid yet; none where they cost nothing."""
    call, price = session.call, session.price
    if call.turn is None or not isinstance(price, Price) or not price.hour:
        return 0.0
    return call.turn.seconds() - (call.usage.seconds or 0.0)


async def _forever() -> None:
    await asyncio.Event().wait()


def _protocols(request: Request) -> list[str]:
    """What the caller offers to speak, but for its key."""
    return [one for one in request.scope.get("subprotocols", ()) if not one.startswith(_KEY)]


def _headers(request: Request) -> dict[str, str]:
    beta = request.headers.get(b"openai-beta", b"")
    return {"x-request-id": request.id, **({"OpenAI-Beta": beta.decode()} if _BETA.fullmatch(beta) else {})}


def _short(reason: str) -> str:
    """At most as much as a frame that closes may hold."""
    return reason.encode()[:_REASON_BYTES].decode(errors="ignore")
