"""The HTTP server, and how it stops: told to callers first, then to new connections, and last to what is under way."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Coroutine
from contextlib import suppress
from functools import partial
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from bud.gateway.app import Gateway
from bud.gateway.cors import Cors
from bud.gateway.listen import listen
from bud.gateway.protocol import Patience, Socket, bounded
from bud.gateway.relay import MESSAGE_BYTES
from bud.gateway.settings import Settings
from bud.gateway.tls import Certificate

log = logging.getLogger("bud.gateway")

_INSIDE_CONNECTIONS = 100
_CUT_SECONDS = 1.0
"""For how long callers may read that what they asked for was cut."""
_FAULT_SECONDS = 15
"""What is cut and still has not ended by then is left: no caller and no Redis is waited for as long."""


class Server(uvicorn.Server):
    """Serves until SIGTERM or SIGINT. With a certificate it speaks HTTPS.

    Then `/readyz` says so for `drain_delay` seconds, in which endpoints are withdrawn while all is served as before;
    then nothing new is accepted, and what is under way has `drain_limit` seconds to end. A further signal ends each of
    these at once, and the last one the process.
    """

    def __init__(
        self,
        gateway: Gateway,
        settings: Settings,
        *,
        certificate: Certificate | None = None,
        patience: Patience | None = None,
    ) -> None:
        patience = patience or Patience()
        super().__init__(
            _config(
                Cors(gateway, settings.cors_origins) if settings.cors_origins else gateway,
                settings.host,
                settings.port,
                patience=patience,
                connections=settings.max_connections,
                ws=Socket,
                lifespan="on",
                ws_max_size=MESSAGE_BYTES,
                ws_per_message_deflate=False,
                ws_ping_interval=patience.ping,
                ws_ping_timeout=patience.ping,
                timeout_graceful_shutdown=int(settings.drain_limit) + _FAULT_SECONDS,
                ssl_context_factory=None if certificate is None else lambda _, __: certificate.context,
            )
        )
        self._gateway = gateway
        self._settings = settings
        self._inside = _inside(gateway, settings, patience) if settings.metrics_port else None
        self._inside_state = ServerState()
        self._inside_sockets: list[socket.socket] = []
        self._inside_servers: list[asyncio.Server] = []
        self._is_cut = False

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Raises `OSError` where it may not listen, before anything else is done."""
        host, port, inside = self._settings.host, self._settings.port, self._settings.metrics_port
        sockets = sockets or listen("--port", host, port)
        try:
            self._inside_sockets = listen("--metrics-port", host, inside) if inside else []
        except OSError:
            for one in sockets:
                one.close()
            raise
        await super().serve(sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for one in sockets or ():
            log.info("listening on %s", _shown(one, secure=self.config.is_ssl))
        if self._inside is None:
            return
        config, loop = self._inside, asyncio.get_running_loop()
        config.load()
        make = partial(config.http_protocol_class, config, self._inside_state, {}, loop)  # type: ignore[call-arg]
        for one in self._inside_sockets:
            self._inside_servers.append(await loop.create_server(make, sock=one))
            log.info("metrics and health are on %s", _shown(one, secure=False))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """What is inside answers until all that is under way has ended."""
        limit = asyncio.get_running_loop().call_later(self._settings.drain_limit, self._end)
        try:
            await super().shutdown(sockets)
        finally:
            limit.cancel()
        for server in self._inside_servers:
            server.close()
        for connection in list(self._inside_state.connections):
            connection.shutdown()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        loop = asyncio.get_running_loop()
        if self._is_cut:
            signal.signal(sig, signal.SIG_DFL)
            os.kill(os.getpid(), sig)
        elif self.should_exit:
            self._is_cut = True
            loop.call_soon_threadsafe(self._cut, "told again to stop")
        elif self._gateway.is_draining or not self._settings.drain_delay:
            self.should_exit = True
        else:
            self._gateway.is_draining = True
            loop.call_soon_threadsafe(loop.call_later, self._settings.drain_delay, self._drain)

    def _drain(self) -> None:
        self.should_exit = True

    def _end(self) -> None:
        if not self._is_cut and (self.server_state.tasks or self.server_state.connections):
            self._is_cut = True
            self._cut(f"{self._settings.drain_limit:g} s are over")

    def _cut(self, why: str) -> None:
        """Ends what is under way; then what was used is written as ever.

        Callers are told, and whoever does not read is hung up on: nothing else ends a wait for them.
        """
        log.warning("%s: %d requests are cut", why, len(self.server_state.tasks))
        for task in self.server_state.tasks:
            task.cancel()
        asyncio.get_running_loop().call_later(_CUT_SECONDS, self._abort)

    def _abort(self) -> None:
        for connection in list(self.server_state.connections):
            connection.transport.abort()


def _shown(listener: socket.socket, *, secure: bool) -> str:
    host, port = listener.getsockname()[:2]
    return f"{'https' if secure else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"


def _inside(gateway: Gateway, settings: Settings, patience: Patience) -> uvicorn.Config:
    """The port of health and metrics: its own connections are counted, so that callers never take them all."""
    return _config(
        gateway.pages.inside,
        settings.host,
        settings.metrics_port,
        patience=patience,
        connections=_INSIDE_CONNECTIONS,
        interface="asgi3",
        lifespan="off",
    )


def _config(app: Any, host: str, port: int, *, patience: Patience, connections: int, **more: Any) -> uvicorn.Config:
    """What all ports have: a bounded protocol, and headers and logs of the gateway's own alone."""
    return uvicorn.Config(
        app,
        # Without an address, all of both families.
        host=host or None,  # type: ignore[arg-type]
        port=port,
        http=bounded(patience, connections),
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_keep_alive=patience.idle,
        **more,
    )


async def serve(server: Server, *watching: Coroutine[Any, Any, None]) -> None:
    """Serves while objects are watched; raises what ends the watching, since what is known would grow old unseen."""
    # Until the server handles these by itself, and once it has ended.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: setattr(server, "should_exit", True))
    watchers = [asyncio.create_task(one) for one in watching]
    for watcher in watchers:
        watcher.add_done_callback(lambda _: setattr(server, "should_exit", True))
    try:
        await server.serve()
    finally:
        for watcher in watchers:
            if watcher.done():
                watcher.result()
            watcher.cancel()
        for watcher in watchers:
            with suppress(asyncio.CancelledError):
                await watcher
