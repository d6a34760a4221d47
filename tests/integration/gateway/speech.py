"""A small runtime of the audio endpoints on Debian's programs: espeak-ng speaks, pocketsphinx listens."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import orjson
from aiohttp import web

from tests import fetched
from tests.integration.gateway.forms import parts

_PACKAGES = ("espeak-ng", "pocketsphinx", "pocketsphinx-en-us")
_RATE = ("-samprate", "22050", "-nfft", "1024")
"""What espeak-ng writes."""
_GRAMMAR = """#JSGF V1.0;
grammar words;
public <said> = ( go forward | turn left | stop here | good morning | one two three | ten meters )*;
"""


def require() -> None:
    """Sees to it that the programs are there."""
    fetched.require(("espeak-ng", "pocketsphinx_continuous"), _PACKAGES)


class Speech:
    """Speaks and listens; `folder` is for what is heard."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def __call__(self, request: web.Request, _: dict[str, Any]) -> web.StreamResponse:
        if request.path == "/v1/audio/speech":
            return await self._speak(request, orjson.loads(await request.read()))
        return await self._listen(request)

    async def _speak(self, request: web.Request, asked: dict[str, Any]) -> web.StreamResponse:
        assert (asked["model"], asked["response_format"]) == ("espeak", "wav")
        response = web.StreamResponse(headers={"content-type": "audio/wav"})
        await response.prepare(request)
        speed = str(round(130 * asked.get("speed", 1)))
        program = await asyncio.create_subprocess_exec(
            "espeak-ng", "-v", asked["voice"], "-s", speed, "--stdout", "--", asked["input"],
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert program.stdout is not None
        while chunk := await program.stdout.read(8192):
            await response.write(chunk)
        assert await program.wait() == 0
        return response

    async def _listen(self, request: web.Request) -> web.StreamResponse:
        sound, grammar, fields = self._folder / "heard.wav", self._folder / "words.jsgf", dict[str, bytes]()
        grammar.write_text(_GRAMMAR)
        with sound.open("wb") as file:
            async for name, _, data in parts(request):
                if name == "file":
                    file.write(data or b"")
                else:
                    fields[name] = fields.get(name, b"") + (data or b"")
        assert fields.pop("model") == b"pocketsphinx"
        program = await asyncio.create_subprocess_exec(
            "pocketsphinx_continuous", "-infile", sound, "-jsgf", grammar, *_RATE, "-logfn", os.devnull,
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        text, _ = await program.communicate()
        assert program.returncode == 0
        return web.json_response({"text": text.decode().strip()})
