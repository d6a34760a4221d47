"""One request for inference, from its body to the last byte of the answer and what it cost."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import orjson

from bud.gateway.admission import Admission
from bud.gateway.asks import check, checked
from bud.gateway.auth import known
from bud.gateway.bodies import Room, read
from bud.gateway.call import Call
from bud.gateway.catalog import Catalog, Key, Served, Target
from bud.gateway.cut import Cut
from bud.gateway.estimate import Usual, estimate
from bud.gateway.events import Typed
from bud.gateway.glance import glance, is_json, plain
from bud.gateway.idempotency import digest_of
from bud.gateway.mask import masked
from bud.gateway.metadata import in_headers
from bud.gateway.models import find
from bud.gateway.naming import Naming
from bud.gateway.naps import Naps, Pick
from bud.gateway.opening import is_stream
from bud.gateway.passed import passed_on
from bud.gateway.paths import Place
from bud.gateway.protocol import watch
from bud.gateway.refusal import Invalid, Unavailable, timed_out
from bud.gateway.relay import Answer, Errand, Relay, fault_of
from bud.gateway.reply import Reply
from bud.gateway.request import Gone, Request
from bud.gateway.splice import add_member, unambiguous
from bud.gateway.stream import Rewriter
from bud.gateway.translate.answer import Translated, read_whole
from bud.gateway.usage import Usage
from bud.gateway.whole import ENDPOINTS, Whole

_PREFIX_BYTES = 1024
_WAKES = b": the model is being woken\n\n"
_WORKS = b": the model is at work\n\n"
_COMMENT_SECONDS = 10.0
"""Until the first comment to a caller who waits, and between two."""
_DEADLINES = (b"x-request-timeout", b"x-stainless-timeout", b"x-stainless-read-timeout")


class Inference:
    """Serves requests for inference."""

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
        self.catalog = catalog
        self.usual = Usual()
        self._room = Room()

    async def serve(self, request: Request, key: Key, where: Place) -> None:
        """Answers the request. Raises `Refusal` while nothing was answered yet, and `Gone`."""
        with self._room.share(key.project.name) as share:
            text = await request.body(share)
            await self._once(request, self.still(key), where, text=text)

    async def _once(self, request: Request, key: Key, where: Place, *, text: bytes) -> None:
        once = request.headers.get(b"idempotency-key")
        if once is None:
            await self._serve(request, key, where, text=text)
            return
        kept, is_new = await self._admission.once.begin(
            key.uid, once, digest_of(where.endpoint, text), now=request.began
        )
        if not is_new:
            await self._admission.look_again(request)
            await request.replay(kept)
            return
        request.kept = kept
        try:
            await self._serve(request, key, where, text=text)
        finally:
            await self._admission.once.end(key.uid, once, kept)

    def still(self, key: Key) -> Key:
        """The key as it is after a wait. Raises as `known` does."""
        return known(self.catalog(), key.hash, now=self._clock())

    async def _serve(self, request: Request, key: Key, where: Place, *, text: bytes) -> None:
        body = read(text)
        if where.deployment and isinstance(body, dict) and "model" not in body:
            body["model"] = where.deployment
            text = orjson.dumps(body)
        check(where.endpoint, body)
        text = unambiguous(text, body)
        served = find(self.catalog(), key, where, body["model"])
        told = checked(where.endpoint, body)
        _bound(told, served)
        usual = self.usual.of((key.project.name, served.name, where.endpoint))
        thought = estimate(where.endpoint, told, text, usual=usual)
        admitted = await self._admission.admit(request, key, served, thought)
        call = Call(request, key, served, where.endpoint, body, text, admitted, Usage())
        request.facts.model = served.name
        errand = Errand(
            call.sent,
            _headers(call),
            prefix=call.text[:_PREFIX_BYTES],
            trace=request.trace,
            whole=where.endpoint in ENDPOINTS,
            streams=call.streams,
            is_at=call.is_at,
        )
        await self.relay(call, errand)

    async def relay(self, call: Call, errand: Errand) -> None:
        """Sends what is to be sent, answers with the answer, and settles what it took.

        It ends when `call.cut` says so, when the caller hangs up or when its deadline is over.
        """
        cut, callers = call.cut, deadline(call.request.headers)
        seconds = min(call.served.timeout, callers)
        # The caller's own began with the request, however long its body and its limits took.
        left = min(call.served.timeout, callers - (self._clock() - call.request.began))
        loop = asyncio.get_running_loop()
        errand.until = loop.time() + left
        timer = loop.call_at(errand.until, _over, cut, seconds)
        if call.streams:
            errand.alive = self._alive(call)
        if left <= 0:
            _over(cut, seconds)
        try:
            watch(call.request.scope, partial(cut.off, Gone()))
            await cut.run(self._relayed(call, errand))
        finally:
            timer.cancel()
            self._settle(call)

    async def _relayed(self, call: Call, errand: Errand) -> None:
        served = call.served
        if all(target.nap is None for target in (*served.targets, *served.fallbacks)):
            await self._answered(call, errand)
            return

        async def ask(pick: Pick) -> None:
            await self._held(call, pick)
            await self._answered(call, errand)

        await self._naps.ask(call, ask, again=errand.again)

    async def _held(self, call: Call, pick: Pick) -> None:
        """Waits for what sleeps; to callers of streams it sends comments meanwhile, lest they take it for dead."""
        waking = asyncio.ensure_future(self._naps.awake(call.served, call.key.project.namespace, pick))
        try:
            while not (await asyncio.wait({waking}, timeout=_COMMENT_SECONDS))[0]:
                if call.streams:
                    await self._comment(call, _WAKES)
            call.served = waking.result()
            self.still(call.key)
        finally:
            waking.cancel()

    def _alive(self, call: Call) -> Callable[[], Awaitable[None]]:
        """Keeps the caller's connection alive while an upstream sends comments before its first event."""
        now = asyncio.get_running_loop().time
        last = now()

        async def alive() -> None:
            nonlocal last
            if now() - last >= _COMMENT_SECONDS:
                last = now()
                await self._comment(call, _WORKS)

        return alive

    async def _comment(self, call: Call, words: bytes) -> None:
        if not call.request.begun:
            await self._begin(call, 200, [(b"content-type", b"text/event-stream")])
            call.request.streams = True
        await call.request.tell({"type": "http.response.body", "body": words, "more_body": True})

    async def _answered(self, call: Call, errand: Errand) -> None:
        with await self._relay.ask(call.served, errand) as given:
            call.target = target = given.target
            call.request.facts.provider, call.request.facts.usage = target.provider, call.usage
            if target.nap is None:
                await self._told(call, target, given.answer)
                return
            with self._naps.use((target,)):
                await self._told(call, target, given.answer)

    async def _told(self, call: Call, target: Target, response: Answer) -> None:
        if isinstance(response, Whole):
            await self._whole(call, target, response)
        elif is_stream(response):
            await self._stream(call, target, response)
        elif response.headers.get("content-type", "").startswith("application/json"):
            await self._whole(call, target, await _read_whole(response))
        else:
            await self._binary(call, response)

    async def _whole(self, call: Call, target: Target, answer: Whole) -> None:
        text, seen, metadata = answer.text, answer.seen, None
        if seen is not None:
            call.usage.read(plain(seen.usage))
            naming = call.naming = Naming(call.served.name)
            text = naming.whole(text, seen)
        text = masked(text, target.secrets)
        if call.tells_metadata:
            metadata = call.metadata(call.used(), now=self._clock())
            if seen is not None:
                text = add_member(text, "conduit_metadata", metadata)
        await self._pass_on(call, answer, length=len(text), metadata=metadata)
        await call.request.tell({"type": "http.response.body", "body": text})

    async def _binary(self, call: Call, response: Reply | Translated) -> None:
        """An answer that nobody reads on the way. Of one that breaks off, the caller sees that its end is missing."""
        await self._pass_on(call, response, length=response.length)
        try:
            async for chunk in response:
                if call.request.facts.first_at is None:
                    call.request.facts.first_at = self._clock()
                await call.request.tell({"type": "http.response.body", "body": chunk, "more_body": True})
        except OSError as error:
            raise Unavailable("the model broke off its answer") from error
        await call.request.tell({"type": "http.response.body", "body": b""})

    async def _stream(self, call: Call, target: Target, response: Reply | Translated) -> None:
        metadata = (lambda _: call.metadata(call.used(), now=self._clock())) if call.tells_metadata else None
        naming = call.naming = Naming(call.served.name)
        rewriter: Rewriter | Typed
        if call.asks_usage:
            rewriter = Rewriter(naming, call.shows_usage, metadata, call.usage, call.body)
        else:
            rewriter = Typed(naming, metadata, call.usage)
        send = call.request.tell
        call.request.facts.first_at = self._clock()
        await self._pass_on(call, response)
        call.request.streams = True
        try:
            async for chunk in response:
                out = masked(rewriter.feed(chunk), target.secrets)
                if rewriter.is_ending:
                    response.leave()
                    if rewriter.is_over:
                        break
                if out:
                    await send({"type": "http.response.body", "body": out, "more_body": True})
            else:
                out = masked(rewriter.end(), target.secrets)
            if rewriter.fault is not None and (fault := fault_of(rewriter.fault, target)) is not None:
                # The end is not told by `tell`, so that nothing is kept.
                call.request.streams = rewriter.tells_fault
                await call.request.send({"type": "http.response.body", "body": out, "more_body": rewriter.tells_fault})
                raise fault
            await send({"type": "http.response.body", "body": out})
        except OSError:
            raise Unavailable("the model broke off its answer", code="stream_broken") from None
        finally:
            if call.usage.output is None:
                call.usage.output = rewriter.chunks

    async def _pass_on(
        self, call: Call, response: Answer, *, length: int | None = None, metadata: Mapping[str, Any] | None = None
    ) -> None:
        if not call.request.begun:
            headers = passed_on(response.headers.items())
            if length is not None:
                headers.append((b"content-length", b"%d" % length))
            await self._begin(call, response.status, headers, metadata=metadata)
        elif isinstance(response, Whole) or not is_stream(response):
            # Comments went out, and what was to follow them are events.
            words = "the model answered with something that is no stream of events; try again"
            raise Unavailable(words, code="upstream_invalid")

    async def _begin(
        self,
        call: Call,
        status: int,
        headers: list[tuple[bytes, bytes]],
        *,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        request = call.request
        headers += request.own_headers()
        if call.tells_metadata and call.target is not None:
            headers += in_headers(metadata or call.metadata(call.usage, now=self._clock()))
        request.begun = True
        request.facts.status = status
        await request.tell({"type": "http.response.start", "status": status, "headers": headers})

    def _settle(self, call: Call) -> None:
        """What was used takes the place of what was reserved.

        A request that nothing answered used nothing; one that was cut off before its answer, at least what it asked.
        """
        target = call.target or (call.asked if call.cut.why is not None else None)
        if target is None:
            self._admission.release(call.admitted)
            return
        call.request.facts.provider, call.request.facts.usage = target.provider, call.usage
        call.request.facts.cost = self._admission.settle(call.key, call.admitted, call.used(), call.price(target))
        self.usual.add((call.key.project.name, call.served.name, call.endpoint), call.usage)


async def _read_whole(response: Reply | Translated) -> Whole:
    """An answer that need be no object. Raises `Unavailable` for what is no JSON."""
    try:
        text = await read_whole(response)
    except OSError as error:
        raise Unavailable("the model broke off its answer; try again") from error
    if not is_json(text):
        raise Unavailable("the model answered with something that is no JSON; try again")
    return Whole(response.status, response.headers, text, glance(text))


def _over(cut: Cut, seconds: float) -> None:
    cut.off(timed_out(f"no answer within {seconds:g} s"))


def _bound(body: Mapping[str, Any], served: Served) -> None:
    """Raises `Invalid` for more tokens than any target can write."""
    for name in ("max_completion_tokens", "max_tokens", "max_output_tokens"):
        asked = body.get(name)
        for target in served.targets:
            if asked is not None and target.max_output_tokens is not None and asked > target.max_output_tokens:
                raise Invalid(f"{name}: {served.name} writes at most {target.max_output_tokens} tokens", param=name)


def deadline(headers: Mapping[bytes, bytes]) -> float:
    """The caller's, in seconds; infinite where there is none."""
    least = float("inf")
    for name in _DEADLINES:
        if name in headers:
            with suppress(ValueError):
                seconds = float(headers[name])
                least = min(least, seconds) if seconds > 0 else least
    return least


def _headers(call: Call) -> dict[str, str]:
    return {
        "content-type": "application/json",
        "accept": "text/event-stream" if call.streams else "application/json",
        "accept-encoding": "identity",
        "x-request-id": call.request.id,
    }
