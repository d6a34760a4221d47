"""Sends a request to what answers it, and to the next one when that cannot.

Tried again before the first byte only: on 429, 5xx and faults of the connection. Any other answer is the answer.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp
import orjson
from yarl import URL

from bud.gateway.catalog import Served, Target
from bud.gateway.refusal import Refusal, Unavailable, of_status
from bud.gateway.route import Board, order
from bud.gateway.translate.answer import Translated
from bud.gateway.translate.wire import Sent

log = logging.getLogger("bud.gateway")

_CONNECT_SECONDS = 5.0
_FIRST_BACKOFF, _LONGEST_BACKOFF = 0.1, 2.0
_TOLD_BYTES = 64 * 1024
"""How much of an upstream's error is read."""


Answer = aiohttp.ClientResponse | Translated


@dataclass(frozen=True, slots=True)
class Errand:
    """What is to be sent: `sent` makes it for a target, `prefix` is the beginning of its conversation.

    `sent` may raise `Refusal` for what the target cannot be asked.
    """

    sent: Callable[[Target], Sent]
    headers: Mapping[str, str]
    prefix: bytes = b""


class Relay:
    """The gateway's connections to what answers."""

    def __init__(self, session: aiohttp.ClientSession, board: Board) -> None:
        self._session = session
        self._board = board

    @classmethod
    def open(cls) -> Relay:
        """With connections of its own; `close` ends them."""
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=60, ttl_dns_cache=10)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS)
        return cls(aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False), Board())

    async def close(self) -> None:
        await self._session.close()

    @asynccontextmanager
    async def ask(self, served: Served, errand: Errand) -> AsyncIterator[tuple[Target, Answer]]:
        """An answer below 400 in OpenAI's format, while the block runs.

        Raises `Refusal`: what the last one asked had to say, or `Unavailable` when none could be reached.
        """
        now = asyncio.get_running_loop().time
        refusal: Refusal = Unavailable(f"nothing that answers to model '{served.name}' is ready; try again later")
        backoff = _FIRST_BACKOFF
        for number, (target, url) in enumerate(order(served, self._board, prefix=errand.prefix, now=now())):
            if number:
                await asyncio.sleep(backoff * random.uniform(0.5, 1.0))
                backoff = min(backoff * 2, _LONGEST_BACKOFF)
            self._board.begin(url)
            try:
                sent = errand.sent(target)
                answer = await self._try(served, target, url, sent=sent, headers=errand.headers)
                if isinstance(answer, aiohttp.ClientResponse):
                    self._board.worked(url)
                    try:
                        reader = sent.reader
                        yield target, answer if reader is None else Translated(answer, reader, streams=sent.streams)
                    finally:
                        answer.release() if answer.content.is_eof() else answer.close()
                    return
                refusal = answer
            finally:
                self._board.end(url)
            self._board.failed(url, now=now())
        raise refusal

    async def _try(
        self, served: Served, target: Target, url: str, *, sent: Sent, headers: Mapping[str, str]
    ) -> aiohttp.ClientResponse | Refusal:
        """An answer, or a fault after which the next may be asked. Raises `Refusal` where that cannot help."""
        full = f"{url}/{sent.path}{target.query}"
        headers = {**headers, **target.headers, **sent.headers}
        if target.translator is not None:
            headers |= target.translator.signed(full, sent.body)
        try:
            response = await self._session.post(
                # As it is written: what was signed must be what is sent.
                URL(full, encoded=target.translator is not None),
                data=sent.body,
                headers=headers,
                allow_redirects=False,
            )
            if response.status < 300:
                return response
            async with response:
                status, refusal = await _refusal(response, target)
        except (aiohttp.ClientError, OSError) as error:
            log.warning("%s cannot be reached: %s", target.id, str(error) or repr(error))
            return Unavailable(f"model '{served.name}' cannot be reached now; try again later")
        if status == 429 or (status >= 500 and status != 501):
            return refusal
        raise refusal


async def _refusal(response: aiohttp.ClientResponse, target: Target) -> tuple[int, Refusal]:
    """What an upstream's error is and becomes; its words go on unless they are about its credentials."""
    status = response.status
    text = await response.content.read(_TOLD_BYTES)
    message, param, code = f"the model answered with status {response.status}", None, None
    try:
        told = orjson.loads(text)
        told = told.get("error", told) if isinstance(told, dict) else {}
        if isinstance(told, str):
            message = told
        elif isinstance(told, dict):
            message = str(told.get("message") or message)
            param, code = _text(told.get("param")), _text(told.get("code"))
            if target.translator is not None:
                status = target.translator.status(status, told, response.headers.get("x-amzn-errortype", ""))
    except orjson.JSONDecodeError:
        pass
    if 300 <= status < 400:
        words = f"{target.provider} answers with a redirect, which is not followed"
        return status, Unavailable(words, code="upstream_redirect")
    if status in (401, 403):
        log.error("%s refuses the gateway's credentials: status %d", target.id, response.status)
    return status, of_status(status, message[:2000], param=param, code=code)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def passed_on(headers: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    """Headers of an answer that are the caller's: none of the upstream's limits, cookies or connection."""
    return [(name.lower().encode(), value.encode("latin-1")) for name, value in headers if name.lower() in _PASSED]


_PASSED = frozenset({"content-type", "content-encoding", "content-disposition", "openai-model", "openai-version"})
