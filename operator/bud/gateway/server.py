"""The HTTP server in front of the gateway."""

from __future__ import annotations

import uvicorn

from bud.gateway.app import Gateway
from bud.gateway.cors import Cors
from bud.gateway.protocol import Patience, Socket, bounded
from bud.gateway.relay import MESSAGE_BYTES
from bud.gateway.settings import Settings
from bud.gateway.tls import Certificate

_DRAIN_SECONDS = 120


def server_of(
    gateway: Gateway, settings: Settings, certificate: Certificate | None = None, patience: Patience | None = None
) -> uvicorn.Server:
    """A server that is not yet running. With a certificate it speaks HTTPS."""
    patience = patience or Patience()
    config = uvicorn.Config(
        Cors(gateway, settings.cors_origins) if settings.cors_origins else gateway,
        host=settings.host,
        port=settings.port,
        http=bounded(patience, settings.max_connections),
        ws=Socket,
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        lifespan="on",
        ws_max_size=MESSAGE_BYTES,
        ws_per_message_deflate=False,
        ws_ping_interval=patience.ping,
        ws_ping_timeout=patience.ping,
        timeout_keep_alive=patience.idle,
        timeout_graceful_shutdown=_DRAIN_SECONDS,
        ssl_context_factory=None if certificate is None else lambda _, __: certificate.context,
    )
    return uvicorn.Server(config)
