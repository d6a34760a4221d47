"""What is common to upstreams that speak Anthropic's, Google's and Bedrock's wire formats, and refuse whatever else they are sent.

Each first looks at the request as the provider documents it. Then it plays a small part: it says "hi there" in two
pieces, or, when it is offered tools and no result has come yet, calls `weather` twice; given results, it says what they
were. A model's name may ask for more: `…status-N` fails with that status, `…breaks` breaks off in the middle of a
stream, `…ends` ends there as if all had been said, `…fails` tells of an error, `…endless` goes
on for ever.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any

from aiohttp import web
from pydantic import BaseModel, ConfigDict

Json = dict[str, Any]
CITIES = ("Boston", "Rome")


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Wrong(Exception):
    """The request is none that the provider documents; with the status that it gives."""

    def __init__(self, text: str, status: int = 400) -> None:
        super().__init__(text)
        self.status = status


def demand(holds: bool, text: str, status: int = 400) -> None:
    if not holds:
        raise Wrong(text, status)


async def events(
    request: web.Request, chunks: list[bytes], media: str, *, whole: bool, endless: bytes = b""
) -> web.StreamResponse:
    """A stream, each chunk on its own; one that is not whole ends without its proper end, an endless one never."""
    response = web.StreamResponse(headers={"content-type": media})
    await response.prepare(request)
    for chunk in chunks:
        await response.write(chunk)
    while endless:
        await response.write(endless)
        await asyncio.sleep(0.02)
    if whole:
        await response.write_eof()
    else:
        assert request.transport is not None
        request.transport.abort()
    return response


def told_status(model: str) -> int | None:
    found = re.search(r"status-(\d+)", model)
    return int(found[1]) if found else None


def matched(turns: list[list[tuple[str, str]]]) -> None:
    """Results stand in the turn after their calls; turns alternate."""
    before: set[str] = set()
    for turn in turns:
        given = {id for kind, id in turn if kind in ("AResult", "toolResult")}
        demand(given == before, f"calls {before} were found without results after them: {given}")
        before = {id for kind, id in turn if kind in ("AUse", "toolUse")}


def pieces(text: str) -> tuple[str, str]:
    return text[:3], text[3:]
