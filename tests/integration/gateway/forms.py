"""Reads forms by a reader that has nothing to do with the gateway's."""

from __future__ import annotations

from collections.abc import AsyncIterator

from aiohttp import web
from werkzeug.http import parse_options_header
from werkzeug.sansio.multipart import Data, Epilogue, Field, File, MultipartDecoder, NeedData


async def parts(request: web.Request) -> AsyncIterator[tuple[str, str | None, bytes | None]]:
    """Names, files' names, and bytes as they come; None before the bytes of each part. Fails for what is no form."""
    _, options = parse_options_header(request.headers["content-type"])
    decoder = MultipartDecoder(options["boundary"].encode())
    name, file = "", None
    while not isinstance(event := decoder.next_event(), Epilogue):
        if isinstance(event, NeedData):
            decoder.receive_data(await request.content.readany() or None)
        elif isinstance(event, Field | File):
            name, file = event.name, event.filename if isinstance(event, File) else None
            yield name, file, None
        elif isinstance(event, Data):
            yield name, file, event.data
