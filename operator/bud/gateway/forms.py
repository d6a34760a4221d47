"""Uploads: forms with a file, passed on as they come, with another value of `model`.

A form is sent on as soon as its `model` is known: it goes first, the other parts follow in their order, byte by byte.
What comes before `model` is kept until then, the first mebibyte in memory and more in a file without a name. A form
that was kept as a whole can be sent again; once more has passed through, a failure is the caller's to try again.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from bud.gateway.asks import FORMS, check_form
from bud.gateway.catalog import Catalog, Key, Target
from bud.gateway.inference import Call, Inference, deadline
from bud.gateway.limits import Counters
from bud.gateway.models import find
from bud.gateway.multipart import Part, Scanner, boundary, content_type
from bud.gateway.paths import Place
from bud.gateway.refusal import Invalid, Unavailable
from bud.gateway.relay import Errand
from bud.gateway.request import Gone, Message, Request, too_large
from bud.gateway.translate.wire import Sent
from bud.gateway.usage import Usage

UPLOAD_BYTES = 200 * 1024 * 1024
"""The most that an upload may have."""
KEPT_BYTES = 1024 * 1024
"""How much of a form is kept in memory; more than this goes to disk, and only if it comes before `model`."""
_FIELD_BYTES = 64 * 1024
_PIECE_BYTES = 64 * 1024
_BEGIN_SECONDS = 600.0


class Form:
    """One form of a caller.

    `model` is None until it has come; `ended` is whether all has. `fields` are those that are known, read. `again` is
    whether everything that came can still be sent.
    """

    def __init__(self, receive: Callable[[], Awaitable[Message]], mark: bytes, endpoint: str) -> None:
        self.model: str | None = None
        self.fields: dict[str, Any] = {}
        self.again = True
        self.ended = False
        self._receive = receive
        self._mark = mark
        self._scanner = Scanner(mark)
        self._endpoint = endpoint
        self._has_file = False
        self._part: Part | None = None
        self._text: bytearray | None = None
        """Of the field that is being read."""
        self._size = 0
        self._left_out = 0
        """Bytes of the caller's own `model`, with all that belongs to it."""
        self._kept = tempfile.SpooledTemporaryFile(max_size=KEPT_BYTES)  # noqa: SIM115  `close` ends it
        self._kept_size = 0
        self._over = asyncio.Event()
        self._fault: Exception | None = None

    def close(self) -> None:
        """Forgets what was kept."""
        self._kept.close()

    async def begin(self, *, seconds: float) -> None:
        """Reads until `model` is known or nothing more comes. Raises `Invalid`, `Unavailable` and `Gone`."""
        try:
            async with asyncio.timeout(seconds):
                while self.model is None and not self.ended:
                    piece = await self._next()
                    await asyncio.to_thread(self._keep, piece) if self._on_disk(piece) else self._keep(piece)
        except TimeoutError:
            raise Invalid("the form came too slowly", code="timeout", status=408) from None
        except OSError:
            raise Unavailable("the upload cannot be kept now: send `model` before the file", code="no_space") from None

    def length(self, target: Target, *, told: bytes) -> dict[str, str]:
        """`content-length` of what goes to a target, by that of the caller, if there was one."""
        if not told.isdigit():
            return {}
        return {"content-length": str(int(told) - self._left_out + len(self._own(target)))}

    async def sent(self, target: Target) -> AsyncIterator[bytes]:
        """The form for a target. A fault of the form is not raised here: `gone` tells of it."""
        yield self._own(target)
        at = 0
        while at < self._kept_size:
            self._kept.seek(at)
            piece = self._kept.read(min(_PIECE_BYTES, self._kept_size - at))
            at += len(piece)
            yield piece
        while not self.ended:
            try:
                piece = await self._next()
                self.again = self.again and not self._on_disk(piece)
                if self.again:
                    self._keep(piece)
            except Exception as fault:
                self._fault = fault
                self._over.set()
                await asyncio.Event().wait()
            if piece:
                yield piece

    async def gone(self, request: Request) -> None:
        """Returns when the caller has hung up, and raises what is wrong with the form."""
        if not self.ended:
            await self._over.wait()
        if self._fault is not None and not isinstance(self._fault, Gone):
            raise self._fault
        if self._fault is None:
            await request.gone()

    async def _next(self) -> bytes:
        """More of the form, without `model`."""
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise Gone
        data = message.get("body", b"")
        self._size += len(data)
        if self._size > UPLOAD_BYTES:
            raise too_large(UPLOAD_BYTES)
        out = bytearray()
        for one in self._scanner.feed(data):
            self._take(one, out)
        if not message.get("more_body"):
            self._end(out)
        return bytes(out)

    def _take(self, one: Part | bytes | None, out: bytearray) -> None:
        if isinstance(one, Part):
            self._part = one
            name = one.name.removesuffix("[]")
            self._text = bytearray() if name == "model" or name in FORMS[self._endpoint].model_fields else None
            self._has_file = self._has_file or name == "file"
            if name == "model":
                self._left_out = len(self._mark) + len(one.head) + 10
            else:
                out += b"--" + self._mark + b"\r\n" + one.head + b"\r\n\r\n"
            return
        assert self._part is not None
        if self._text is not None:
            self._text += one or b""
            if len(self._text) > _FIELD_BYTES:
                raise Invalid(f"{self._part.name}: longer than any that is meant", param=self._part.name)
        if self._part.name.removesuffix("[]") != "model":
            out += b"\r\n" if one is None else one
        if one is None and self._text is not None:
            self._field(self._part.name, bytes(self._text))

    def _field(self, name: str, raw: bytes) -> None:
        try:
            value = raw.decode()
        except UnicodeDecodeError:
            raise Invalid(f"{name}: not UTF-8", param=name) from None
        plain = name.removesuffix("[]")
        if plain == "model":
            self._left_out += len(raw)
            if self.model is not None:
                raise Invalid("model: it stands in the form twice", param="model")
            check_form(self._endpoint, {"model": value})
            self.model = value
            return
        is_list = plain == "timestamp_granularities"
        if plain in self.fields and not is_list:
            raise Invalid(f"{plain}: it stands in the form twice", param=plain)
        sent = [*self.fields.get(plain, ()), value] if is_list else value
        self.fields |= check_form(self._endpoint, {plain: sent})

    def _end(self, out: bytearray) -> None:
        if not self._scanner.ended:
            raise Invalid("the form cannot be read: it ends before its last boundary", code="invalid_form")
        if not self._has_file:
            raise Invalid("file is required", param="file", code="missing_required_parameter")
        out += b"--" + self._mark + b"--" + self._scanner.rest
        self.ended = True
        self._over.set()

    def _on_disk(self, piece: bytes) -> bool:
        return self._kept_size + len(piece) > KEPT_BYTES

    def _keep(self, piece: bytes) -> None:
        self._kept.seek(self._kept_size)
        self._kept.write(piece)
        self._kept_size += len(piece)

    def _own(self, target: Target) -> bytes:
        """The part with the model's name, as the target calls it."""
        head = b'Content-Disposition: form-data; name="model"'
        return b"--" + self._mark + b"\r\n" + head + b"\r\n\r\n" + target.model.encode() + b"\r\n"


class Uploads:
    """Serves requests that come as forms."""

    def __init__(self, counters: Counters, inference: Inference) -> None:
        self._counters = counters
        self._inference = inference

    async def serve(self, catalog: Catalog, request: Request, key: Key, where: Place) -> None:
        """Answers the request. Raises `Refusal` while nothing was answered yet, and `Gone`."""
        mark = boundary(request.headers.get(b"content-type", b""))
        told = request.headers.get(b"content-length", b"")
        if told.isdigit() and int(told) > UPLOAD_BYTES:
            raise too_large(UPLOAD_BYTES)
        # Counted before its body is read: who may send nothing more shall not fill a disk either.
        grant = self._counters.take(key.meters, tokens=0, now=request.began)
        request.states = grant.states
        form = Form(request.receive, mark, where.endpoint)
        try:
            await form.begin(seconds=min(_BEGIN_SECONDS, deadline(request.headers)))
            name = form.model or where.deployment
            if not name:
                raise Invalid("model is required", param="model", code="missing_required_parameter")
            served = find(catalog, key, where, name)
            call = Call(request, key, served, where.endpoint, form.fields, b"", grant, Usage())
            request.facts.model = served.name
            headers = {
                "content-type": content_type(mark),
                "accept": "*/*",
                "accept-encoding": "identity",
                "x-request-id": request.id,
            }
            errand = Errand(
                lambda target: Sent(where.endpoint, form.sent(target), form.length(target, told=told)),
                headers,
                again=lambda: form.again,
                trace=request.trace,
            )
            await self._inference.relay(call, errand, form.gone(request))
        finally:
            form.close()
