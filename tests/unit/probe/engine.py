"""A scripted engine on loopback: a real HTTP server whose answers and restarts a test commands."""

from collections.abc import Callable
from typing import Any

from aiohttp import web

from tests.tiny_engine import free_port

Reply = tuple[int, Any]
"""A status and a JSON value, or a text."""


class ScriptedEngine:
    """Answers `/health` with `health`, and a POST as `replies` says for its path; records each POST."""

    def __init__(self, replies: dict[str, Reply]) -> None:
        self.port = free_port()
        self.health = 200
        self.replies = replies
        self.asked: list[str] = []
        self.bodies: list[bytes] = []
        self.while_asked: Callable[[], Any] | None = None
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get("/health", self._answer_health)
        app.router.add_post("/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, shutdown_timeout=0)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True).start()

    async def stop(self) -> None:
        if self._runner:
            await self._runner.cleanup()
            self._runner = None

    async def restart(self) -> None:
        await self.stop()
        await self.start()

    async def _answer_health(self, request: web.Request) -> web.Response:
        return web.Response(status=self.health, text="loading the model" if self.health != 200 else "ok")

    async def _answer(self, request: web.Request) -> web.Response:
        self.asked.append(request.path)
        self.bodies.append(await request.read())
        if self.while_asked:
            await self.while_asked()
        status, value = self.replies.get(request.path, (404, {"error": "no such path"}))
        if isinstance(value, bytes):
            return web.Response(status=status, body=value, content_type="audio/wav")
        return web.json_response(value, status=status)
