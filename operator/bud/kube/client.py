"""The operator's HTTP client for the API server: few calls, orjson both ways, one mapping of answers to exceptions."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Mapping
from typing import Any
from urllib.parse import quote

import aiohttp
import orjson

from bud.errors import ApiConflict, ApiForbidden, ApiRefused, ApiUnavailable, is_quota
from bud.kube.connect import Connection
from bud.kube.kinds import EVENTS, Resource
from bud.kube.unhurried import unhurried

Object = dict[str, Any]

_JSON = "application/json"
_APPLY = "application/apply-patch+yaml"  # JSON is YAML; the API server takes it as such
_MERGE = "application/merge-patch+json"
_CONNECT_SECONDS = 5
WATCH_SECONDS = 120
_PATIENCE = 1.25
"""How many times as long as a watch was to last it may take until it is called dead."""
_MAX_LINE = 8 * 1024 * 1024


class Client:
    """Calls to one API server.

    Every method raises `ApiUnavailable` when the server cannot be reached or is overloaded, `ApiConflict` on 409,
    `ApiForbidden` on 403 and for an admission webhook that does not answer, and `ApiRefused` on any other refusal.
    """

    def __init__(self, connection: Connection, session: aiohttp.ClientSession) -> None:
        self._connection = connection
        self._session = session

    @classmethod
    def over(
        cls, connection: Connection, *, user_agent: str, concurrency: int = 64, timeout_seconds: float = 30
    ) -> Client:
        """A client with a session of its own; `close` ends it."""
        connector = aiohttp.TCPConnector(ssl=connection.ssl_context(), limit=concurrency)
        session = aiohttp.ClientSession(
            base_url=connection.server + "/",
            connector=connector,
            headers={"User-Agent": user_agent},
            timeout=aiohttp.ClientTimeout(total=timeout_seconds, sock_connect=_CONNECT_SECONDS),
        )
        return cls(connection, session)

    async def close(self) -> None:
        await self._session.close()

    async def list_page(
        self, resource: Resource, *, namespace: str | None, selector: str, token: str = "", limit: int = 500
    ) -> Object:
        """One page of a list; `metadata.continue` of the answer is the next `token`."""
        params = {"limit": str(limit), "labelSelector": selector, "continue": token}
        return (await self._call("GET", resource.path(namespace), params=params))[1]

    async def watch(
        self,
        resource: Resource,
        *,
        namespace: str | None,
        selector: str,
        version: str,
        every: float = 0.0,
        seconds: float = WATCH_SECONDS,
    ) -> AsyncIterator[Object]:
        """Events since `version` until the server ends the watch, bookmarks included; read every so many seconds.

        The server is to end it after `seconds`. One that has not after a quarter more is dead: `ApiUnavailable`.
        """
        params = {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "labelSelector": selector,
            "timeoutSeconds": str(math.ceil(seconds)),
        }
        try:
            async with self._session.get(
                resource.path(namespace),
                params=_present(params),
                headers=await self._headers({}),
                timeout=aiohttp.ClientTimeout(total=seconds * _PATIENCE, sock_connect=_CONNECT_SECONDS),
            ) as response:
                if response.status >= 400:
                    _refuse(response.status, await response.read())
                async with unhurried(response, every):
                    async for line in _lines(response.content):
                        yield orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise ApiUnavailable(f"watch of {resource.plural}: a line is not JSON") from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ApiUnavailable(f"watch of {resource.plural} broke: {_words(error)}") from error

    async def get(self, resource: Resource, *, namespace: str | None, name: str) -> Object:
        return (await self._call("GET", resource.path(namespace, name)))[1]

    async def apply(
        self, document: Object, resource: Resource, *, manager: str, force: bool, subresource: str = ""
    ) -> tuple[int, Object]:
        """Server-side apply; the status is 201 when the object was created by it."""
        metadata = document["metadata"]
        path = resource.path(metadata.get("namespace"), metadata["name"], subresource)
        # A field that the schema does not know must be an error here, never a silent loss.
        params = {"fieldManager": manager, "force": str(force).lower(), "fieldValidation": "Strict"}
        return await self._call("PATCH", path, params=params, body=document, content_type=_APPLY)

    async def merge(
        self,
        patch: Object,
        resource: Resource,
        *,
        namespace: str | None,
        name: str,
        manager: str,
        subresource: str = "",
    ) -> Object:
        """JSON merge patch (RFC 7386)."""
        path, params = resource.path(namespace, name, subresource), {"fieldManager": manager}
        return (await self._call("PATCH", path, params=params, body=patch, content_type=_MERGE))[1]

    async def create(self, document: Object, resource: Resource, *, namespace: str | None) -> Object:
        return (await self._call("POST", resource.path(namespace), body=document))[1]

    async def delete(self, resource: Resource, *, namespace: str | None, name: str, uid: str = "") -> None:
        """Deletes an object, of this very uid if it is given, its dependents in the background.

        One already gone is fine.
        """
        body: Object = {"propagationPolicy": "Background"} | ({"preconditions": {"uid": uid}} if uid else {})
        try:
            await self._call("DELETE", resource.path(namespace, name), body=body)
        except ApiRefused as error:
            if error.status != 404:
                raise

    async def warnings(self, *, namespace: str, uid: str) -> list[Object]:
        """The Events of type Warning about one object."""
        params = {"fieldSelector": f"involvedObject.uid={uid},type=Warning"}
        items: list[Object] = (await self._call("GET", EVENTS.path(namespace), params=params))[1]["items"]
        return items

    async def log_tail(self, *, namespace: str, pod: str, container: str, lines: int) -> str:
        """The last lines of a container's log."""
        path = f"api/v1/namespaces/{namespace}/pods/{quote(pod)}/log"
        params = {"container": container, "tailLines": str(lines), "limitBytes": "65536"}
        _, body = await self._send("GET", path, params=params)
        return body.decode(errors="replace")

    async def _call(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Object | None = None,
        content_type: str = _JSON,
    ) -> tuple[int, Object]:
        data = None if body is None else orjson.dumps(body)
        status, answer = await self._send(method, path, params=params, data=data, content_type=content_type)
        try:
            return status, orjson.loads(answer)
        except orjson.JSONDecodeError as error:
            raise ApiUnavailable(f"{method} {path}: the answer is not JSON") from error

    async def _send(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        data: bytes | None = None,
        content_type: str = _JSON,
    ) -> tuple[int, bytes]:
        headers = await self._headers({"Content-Type": content_type} if data is not None else {})
        try:
            async with self._session.request(
                method, path, params=_present(params or {}), data=data, headers=headers
            ) as response:
                answer = await response.read()
        except (aiohttp.ClientError, TimeoutError, asyncio.IncompleteReadError, OSError) as error:
            raise ApiUnavailable(f"{method} {path}: {_words(error)}") from error
        if response.status >= 400:
            _refuse(response.status, answer)
        return response.status, answer

    async def _headers(self, headers: dict[str, str]) -> dict[str, str]:
        try:
            authorization = await self._connection.authorization()
        except Exception as error:  # an exec plugin or an identity provider may fail in any way, and recover
            raise ApiUnavailable(f"no credentials: {_words(error)}") from error
        return headers | {"Authorization": authorization} if authorization else headers


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__


def _present(params: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in params.items() if value}


def _refuse(status: int, body: bytes) -> None:
    try:
        message = str(orjson.loads(body).get("message") or "")
    except (orjson.JSONDecodeError, AttributeError):
        message = ""
    message = message or body[:300].decode(errors="replace") or f"HTTP {status}"
    if status == 409:
        raise ApiConflict(message)
    if status == 500 and "failed calling webhook" in message:
        raise ApiForbidden(
            f"{message}; see to that webhook, or to the failurePolicy of its configuration", reason="WebhookFailed"
        )
    if status == 429 or status >= 500 or status == 401:
        raise ApiUnavailable(f"{status}: {message}")
    if status == 403:
        raise ApiForbidden(message, reason="QuotaExceeded" if is_quota(message) else None)
    raise ApiRefused(message, status=status)


async def _lines(stream: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Lines of a watch; aiohttp's own readline refuses lines as long as a large object."""
    pending = bytearray()
    async for chunk in stream.iter_any():
        pending += chunk
        if b"\n" not in chunk:
            if len(pending) > _MAX_LINE:
                raise ApiUnavailable("a watch event is larger than 8 MiB")
            continue
        *whole, rest = pending.split(b"\n")
        pending = bytearray(rest)
        for line in whole:
            if line:
                yield bytes(line)
