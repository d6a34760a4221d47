"""An upstream that does what a test says, and remembers what it was asked."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiohttp import web

Answer = Callable[[web.Request, dict[str, Any]], Awaitable[web.StreamResponse]]
Read = Callable[[web.Request], Awaitable[dict[str, Any]]]

USAGE = {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}


@dataclass
class Upstream:
    """`asked` holds the path, the headers and the body of each request; `hung_up` counts callers that left."""

    answer: Answer
    url: str = ""
    asked: list[tuple[str, dict[str, str], dict[str, Any]]] = field(default_factory=list)
    hung_up: int = 0


async def read_json(request: web.Request) -> dict[str, Any]:
    """The whole body; nothing of a request without one."""
    found: dict[str, Any] = orjson.loads(await request.read() or b"{}")
    return found


async def unread(_: web.Request) -> dict[str, Any]:
    """Leaves the body to the answer."""
    return {}


@contextmanager
def running(answer: Answer, *, read: Read = read_json, address: str = "127.0.0.1") -> Iterator[Upstream]:
    """Serves in a thread of its own while the block runs."""
    upstream, loop, ready = Upstream(answer), asyncio.new_event_loop(), threading.Event()

    async def take(request: web.Request) -> web.StreamResponse:
        body = await read(request)
        headers = {name.lower(): value for name, value in request.headers.items()}
        upstream.asked.append((request.path, headers, body))
        try:
            return await upstream.answer(request, body)
        except (asyncio.CancelledError, ConnectionResetError):
            upstream.hung_up += 1
            raise

    async def serve() -> web.AppRunner:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", take)
        runner = web.AppRunner(app, handler_cancellation=True)
        await runner.setup()
        await web.TCPSite(runner, address, 0).start()
        upstream.url = f"http://{f'[{address}]' if ':' in address else address}:{runner.addresses[0][1]}/v1"
        return runner

    def work() -> None:
        asyncio.set_event_loop(loop)
        runners.append(loop.run_until_complete(serve()))
        ready.set()
        loop.run_forever()
        loop.run_until_complete(runners[0].cleanup())
        loop.close()

    runners: list[web.AppRunner] = []
    thread = threading.Thread(target=work)
    thread.start()
    ready.wait()
    try:
        yield upstream
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


def completion(body: dict[str, Any], **more: Any) -> web.Response:
    """A whole chat completion."""
    choice = {"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}
    told = {"id": "c", "object": "chat.completion", "created": 1, "model": body["model"], "choices": [choice]}
    return web.Response(body=orjson.dumps(told | {"usage": USAGE} | more), content_type="application/json")


def failing(status: int, message: str = "no", **headers: str) -> web.Response:
    """An error as OpenAI tells it."""
    body = orjson.dumps({"error": {"message": message, "type": "server_error", "param": None, "code": None}})
    return web.Response(status=status, body=body, content_type="application/json", headers=headers)
