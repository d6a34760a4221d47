"""The relay: requests by an adapter's name, for engines that want adapters told in another way.

Whatever it does not have to understand passes through byte by byte. What it changes:

- the body of a POST, a JSON object, gets the fields that its `model` stands for, unless the caller gave them;
- in the answer to a request for an adapter, the engine's own `model` becomes the name that the caller used;
- `GET /v1/models` lists the adapters too.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import ClientError, ClientResponse, ClientSession, ClientTimeout, DummyCookieJar, TCPConnector, web
from multidict import CIMultiDict
from yarl import URL

MAX_BODY = 16 * 1024 * 1024
"""Of a JSON request, in bytes; a longer one is answered 413."""
CONNECT_SECONDS = 10.0
SHUTDOWN_SECONDS = 5.0
# Those of one connection, https://www.rfc-editor.org/rfc/rfc9110#section-7.6.1, and the length, which may change.
_NOT_FORWARDED = frozenset(
    {"connection", "content-length", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"}
)
# A body is unpacked on its way in; and an engine that packed its answer would hide the name in it.
_NOT_ASKED = _NOT_FORWARDED | {"accept-encoding", "content-encoding", "expect", "host"}


_OF_EVERY_MODEL = ("created", "object", "owned_by")


@dataclass(frozen=True, kw_only=True)
class Routes:
    """`base` is the model's own name; `fields` are added to a request by its `model`, those of the base as a rule."""

    engine: str
    base: str
    fields: Mapping[str, Mapping[str, Any]]

    @property
    def adapters(self) -> tuple[str, ...]:
        return tuple(name for name in self.fields if name != self.base)


def runner(routes: Routes) -> web.AppRunner:
    """The relay, to be set up and given sites to listen at; a caller that hangs up ends the engine's work too."""
    app = web.Application(client_max_size=MAX_BODY)
    relay = _Relay(routes)
    app.cleanup_ctx.append(relay.session)
    app.router.add_route("*", "/{path:.*}", relay.handle)
    return web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=SHUTDOWN_SECONDS)


class _Relay:
    def __init__(self, routes: Routes) -> None:
        self._routes = routes
        self._engine = URL(routes.engine)
        self._client: ClientSession

    async def session(self, _: web.Application) -> Any:
        """The connections to the engine, for as long as the application runs."""
        async with ClientSession(
            auto_decompress=False,
            # A kept connection may be one that the engine is just closing, and a POST must not be sent twice.
            connector=TCPConnector(limit=0, force_close=True),
            cookie_jar=DummyCookieJar(),
            skip_auto_headers=("User-Agent", "Accept", "Content-Type"),
            timeout=ClientTimeout(total=None, connect=CONNECT_SECONDS),
        ) as self._client:
            yield

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body, renamed = await self._body(request)
        headers = _forwarded(request.headers, dropped=_NOT_ASKED)
        headers["Accept-Encoding"] = "identity"
        # Only path and query are taken: whatever else a request line holds must not lead elsewhere.
        asked = request.rel_url
        url = self._engine.with_path(asked.raw_path, encoded=True)
        if asked.raw_query_string:
            url = URL(f"{url}?{asked.raw_query_string}", encoded=True)
        try:
            answer = await self._client.request(request.method, url, headers=headers, data=body, allow_redirects=False)
        except (ClientError, TimeoutError) as error:
            return _unavailable(error)
        async with answer:
            if request.method == "GET" and request.path == "/v1/models" and answer.status == 200:
                return await self._models(answer)
            return await self._pass_on(request, answer, renamed)

    async def _body(self, request: web.Request) -> tuple[Any, str]:
        """What the engine gets, and the adapter's name if the request is for one."""
        if not request.body_exists:
            return None, ""
        if request.method != "POST" or request.content_type.startswith("multipart/"):
            return request.content, ""
        raw = await request.read()
        try:
            found = json.loads(raw.decode())
        except (ValueError, RecursionError):
            return io.BytesIO(raw), ""  # the engine says best what is wrong with it
        if not isinstance(found, dict):
            return io.BytesIO(raw), ""
        name = found.get("model")
        adapter = name if isinstance(name, str) and name in self._routes.adapters else ""
        fields = self._routes.fields[adapter or self._routes.base].items()
        return io.BytesIO(_with(raw, {key: value for key, value in fields if key not in found}, found)), adapter

    async def _pass_on(self, request: web.Request, answer: ClientResponse, renamed: str) -> web.StreamResponse:
        headers = _forwarded(answer.headers, dropped=_NOT_FORWARDED)
        response = web.StreamResponse(status=answer.status, reason=answer.reason, headers=headers)
        if not renamed and answer.content_length is not None:
            response.content_length = answer.content_length
        rename = Rename(self._routes.base, renamed or self._routes.base)
        await response.prepare(request)
        try:
            async for piece in answer.content.iter_any():
                if changed := rename.feed(piece) if renamed else piece:
                    await response.write(changed)
            if rest := rename.rest():
                await response.write(rest)
        except (ClientError, OSError):
            if request.transport is not None:
                request.transport.close()  # the engine broke off: nobody shall take what came for the whole
        return response

    async def _models(self, answer: ClientResponse) -> web.Response:
        raw = await answer.read()
        try:
            listed = json.loads(raw)
            common = {key: value for key, value in listed["data"][0].items() if key in _OF_EVERY_MODEL}
            listed["data"] += [common | {"id": name, "parent": self._routes.base} for name in self._routes.adapters]
        except (ValueError, LookupError, TypeError, AttributeError):
            return web.Response(body=raw, headers=_forwarded(answer.headers, dropped=_NOT_FORWARDED))
        return web.json_response(listed)


def _with(raw: bytes, added: Mapping[str, Any], found: Mapping[str, Any]) -> bytes:
    """A JSON object with fields put first and every other byte as it was."""
    if not added:
        return raw
    start = raw.index(b"{") + 1
    return b"".join((raw[:start], json.dumps(added)[1:-1].encode(), b"," if found else b"", raw[start:]))


class Rename:
    """Puts another name in the place of `"model":"<old>"` in a stream of compact JSON, however it is cut.

    Inside a JSON string every quote stands behind a backslash, so that no generated text can look like it.
    """

    def __init__(self, old: str, new: str) -> None:
        self._old = b'"model":' + json.dumps(old).encode()
        self._new = b'"model":' + json.dumps(new).encode()
        self._held = b""

    def feed(self, piece: bytes) -> bytes:
        """What can be passed on now: all but an end that may be the beginning of the name."""
        text = (self._held + piece).replace(self._old, self._new)
        keep = next((n for n in range(min(len(self._old) - 1, len(text)), 0, -1) if text.endswith(self._old[:n])), 0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def rest(self) -> bytes:
        """What was held back, at the end."""
        held, self._held = self._held, b""
        return held


def _forwarded(headers: Mapping[str, str], *, dropped: frozenset[str]) -> CIMultiDict[str]:
    named = {name.strip().lower() for name in headers.get("Connection", "").split(",")}
    return CIMultiDict((name, value) for name, value in headers.items() if name.lower() not in dropped | named)


def _unavailable(error: Exception) -> web.Response:
    message = f"the engine does not answer: {str(error) or type(error).__name__}"
    return web.json_response({"error": {"message": message, "type": "engine_unavailable", "code": 502}}, status=502)
