"""Uploads: forms with a file, passed on as they come, with another value of `model`.

A form is sent on as soon as its `model` is known: it goes first, the other parts follow in their order, byte by byte.
What comes before `model` is kept until then, the first mebibyte in memory and more in a file without a name. A form
that was kept as a whole can be sent again; once more has passed through, a failure is the caller's to try again.
"""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

from bud.gateway.admission import Admission, Admitted
from bud.gateway.asks import FORMS, check_form
from bud.gateway.call import Call
from bud.gateway.catalog import Key, Target
from bud.gateway.cut import Cut
from bud.gateway.estimate import NOTHING
from bud.gateway.idempotency import Kept, digest_of
from bud.gateway.inference import Inference, deadline
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
    whether everything that came can still be sent. With `hashed` its `digest` can be told in the end.
    """

    def __init__(
        self, receive: Callable[[], Awaitable[Message]], mark: bytes, endpoint: str, *, hashed: bool = False
    ) -> None:
        self.model: str | None = None
        self.fields: dict[str, Any] = {}
        self.again = True
        self.ended = False
        self._receive = receive
        self.mark = mark
        self._scanner = Scanner(mark)
        self._endpoint = endpoint
        self._hashes = (hashlib.sha256(), hashlib.sha256()) if hashed else None
        """Of all parts that are whole, and of the one that is coming."""
        self._has_file = False
        self._part: Part | None = None
        self._text: bytearray | None = None
        """Of the field that is being read."""
        self._size = 0
        self._left_out = 0
        """Bytes of the caller's own `model`, with all that belongs to it."""
        self._kept = tempfile.SpooledTemporaryFile(max_size=KEPT_BYTES)  # noqa: SIM115  `close` ends it
        self._kept_size = 0
        self.cut = Cut()

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
            raise _slow() from None
        except OSError:
            raise Unavailable("the upload cannot be kept now: send `model` before the file", code="no_space") from None

    async def drain(self, *, seconds: float) -> None:
        """Reads all that comes, and keeps none of it. Raises as `begin` does."""
        try:
            async with asyncio.timeout(seconds):
                while not self.ended:
                    await self._next()
        except TimeoutError:
            raise _slow() from None

    @property
    def digest(self) -> bytes:
        """What makes two forms the same, whatever stands between their parts; empty while not all has come."""
        if self._hashes is None or not self.ended:
            return b""
        return digest_of(self._endpoint, self._hashes[0].digest())

    def length(self, target: Target, *, told: bytes) -> dict[str, str]:
        """`content-length` of what goes to a target, by that of the caller, if there was one."""
        if not told.isdigit():
            return {}
        return {"content-length": str(int(told) - self._left_out + len(self._own(target)))}

    async def sent(self, target: Target) -> AsyncGenerator[bytes, None]:
        """The form for a target. A fault of the form is not raised here: `cut` tells of it."""
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
                self.cut.off(fault)
                await asyncio.Event().wait()
            if piece:
                yield piece

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
            self._hash(one)
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
                self._left_out = len(self.mark) + len(one.head) + 10
            else:
                out += b"--" + self.mark + b"\r\n" + one.head + b"\r\n\r\n"
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

    def _hash(self, one: Part | bytes | None) -> None:
        if self._hashes is None:
            return
        whole, part = self._hashes
        part.update(one.head + bytes(1) if isinstance(one, Part) else one or b"")
        if one is None:
            whole.update(part.digest())
            self._hashes = whole, hashlib.sha256()

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
        out += b"--" + self.mark + b"--" + self._scanner.rest
        self.ended = True

    def _on_disk(self, piece: bytes) -> bool:
        return self._kept_size + len(piece) > KEPT_BYTES

    def _keep(self, piece: bytes) -> None:
        self._kept.seek(self._kept_size)
        self._kept.write(piece)
        self._kept_size += len(piece)

    def _own(self, target: Target) -> bytes:
        """The part with the model's name, as the target calls it."""
        head = b'Content-Disposition: form-data; name="model"'
        return b"--" + self.mark + b"\r\n" + head + b"\r\n\r\n" + target.model.encode() + b"\r\n"


class Uploads:
    """Serves requests that come as forms."""

    def __init__(self, admission: Admission, inference: Inference) -> None:
        self._admission = admission
        self._inference = inference

    async def serve(self, request: Request, key: Key, where: Place) -> None:
        """Answers the request. Raises `Refusal` while nothing was answered yet, and `Gone`."""
        mark = boundary(request.headers.get(b"content-type", b""))
        told = request.headers.get(b"content-length", b"")
        if told.isdigit() and int(told) > UPLOAD_BYTES:
            raise too_large(UPLOAD_BYTES)
        once = request.headers.get(b"idempotency-key")
        form = Form(request.receive, mark, where.endpoint, hashed=once is not None)
        try:
            if once is None:
                await self._serve(request, key, where, form=form)
            else:
                await self._serve_once(request, key, where, form=form, once=once)
        finally:
            form.close()

    async def _serve_once(self, request: Request, key: Key, where: Place, *, form: Form, once: bytes) -> None:
        kept, is_new = await self._admission.once.begin(key.uid, once, now=request.began)
        if not is_new:
            await self._replay(request, form, kept)
            return
        request.kept = kept
        try:
            await self._serve(request, key, where, form=form)
        finally:
            # Of an answer to a form that did not come as a whole, nobody can tell what it is the answer to.
            kept.digest = form.digest
            await self._admission.once.end(key.uid, once, kept)

    async def _replay(self, request: Request, form: Form, kept: Kept) -> None:
        await form.drain(seconds=_seconds(request))
        kept.check(form.digest)
        await self._admission.look_again(request)
        await request.replay(kept)

    async def _serve(self, request: Request, key: Key, where: Place, *, form: Form) -> None:
        # Counted before its body is read: who may send nothing more shall not fill a disk either.
        grant = await self._admission.take(request, key)
        await form.begin(seconds=_seconds(request))
        key = self._inference.still(key)
        name = form.model or where.deployment
        if not name:
            raise Invalid("model is required", param="model", code="missing_required_parameter")
        served = find(self._inference.catalog(), key, where, name)
        usual = self._inference.usual.of((key.project.name, served.name, where.endpoint))
        admitted = Admitted(grant, await self._admission.reserve(key, served, usual), NOTHING)
        call = Call(request, key, served, where.endpoint, form.fields, b"", admitted, Usage(), cut=form.cut)
        request.facts.model = served.name
        headers = {
            "content-type": content_type(form.mark),
            "accept": "*/*",
            "accept-encoding": "identity",
            "x-request-id": request.id,
        }
        told = request.headers.get(b"content-length", b"")
        errand = Errand(
            lambda target: Sent(where.endpoint, form.sent(target), form.length(target, told=told)),
            headers,
            again=lambda: form.again,
            trace=request.trace,
            is_at=call.is_at,
        )
        await self._inference.relay(call, errand)


def _seconds(request: Request) -> float:
    """How long a form may take until its model is known, or all of it, if it need only be read."""
    return min(_BEGIN_SECONDS, deadline(request.headers))


def _slow() -> Invalid:
    return Invalid("the form came too slowly", code="timeout", status=408)
