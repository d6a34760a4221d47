"""`bud-gateway`: one OpenAI-compatible address for everything served."""

from __future__ import annotations

import bud.early  # noqa: F401

# isort: split
import asyncio
import logging
import signal
from pathlib import Path
from typing import Annotated

import typer
import uvloop

from bud.gateway.app import Gateway
from bud.gateway.build import Built
from bud.gateway.cors import origins
from bud.gateway.files import follow, read
from bud.gateway.observe import Observer
from bud.gateway.reach import Reach
from bud.gateway.server import server_of
from bud.gateway.settings import Settings
from bud.gateway.tls import Certificate
from bud.gateway.tracing import from_environment
from bud.logs import LogFormat, LogLevel, configure

log = logging.getLogger("bud.gateway")

app = typer.Typer(
    add_completion=False, context_settings={"help_option_names": ["-h", "--help"]}, pretty_exceptions_enable=False
)


@app.command()
def run(  # noqa: PLR0913  each parameter is one documented option of the command
    *,
    folder: Annotated[
        Path,
        typer.Option("--from", exists=True, file_okay=False, help="Folder of YAML files with the gateway's objects."),
    ],
    host: Annotated[str, typer.Option(envvar="BUD_GATEWAY_HOST", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(envvar="BUD_GATEWAY_PORT", min=0, max=65535, help="Port to listen on.")] = 5000,
    access_log: Annotated[
        bool, typer.Option(envvar="BUD_GATEWAY_ACCESS_LOG", help="Log a line for each request.")
    ] = False,
    allow_upstream: Annotated[
        list[str] | None,
        typer.Option(
            envvar="BUD_GATEWAY_ALLOW_UPSTREAM",
            help="Where Providers may lead beside the internet: loopback, private, a network, an address, or a host; "
            "may be repeated. Default: nowhere.",
        ),
    ] = None,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(
            envvar="BUD_GATEWAY_CORS_ORIGIN",
            help="Origin whose pages may call, as in https://app.example.com, or *; may be repeated. Default: none.",
        ),
    ] = None,
    tls_cert: Annotated[
        Path | None,
        typer.Option(
            envvar="BUD_GATEWAY_TLS_CERT",
            exists=True,
            dir_okay=False,
            help="Certificate chain, in PEM: HTTPS is spoken. It is read again when it changes. Default: HTTP.",
        ),
    ] = None,
    tls_key: Annotated[
        Path | None,
        typer.Option(
            envvar="BUD_GATEWAY_TLS_KEY",
            exists=True,
            dir_okay=False,
            help="Key of the certificate. Default: in the same file.",
        ),
    ] = None,
    max_connections: Annotated[
        int, typer.Option(envvar="BUD_GATEWAY_MAX_CONNECTIONS", min=1, help="Connections at a time; beyond it 503.")
    ] = 10_000,
    log_format: Annotated[LogFormat, typer.Option(envvar="BUD_GATEWAY_LOG_FORMAT", help="How it logs.")] = "text",
    log_level: Annotated[LogLevel, typer.Option(envvar="BUD_GATEWAY_LOG_LEVEL", help="What it logs.")] = "info",
) -> None:
    """Serves what the objects in a folder of YAML files name."""
    configure(log_format=log_format, level=log_level)
    try:
        settings = Settings(
            folder=folder,
            host=host,
            port=port,
            reach=Reach.of(allow_upstream or ()),
            cors_origins=origins(cors_origin or ()),
            max_connections=max_connections,
        )
        built = read(folder, settings.reach)
        certificate = None if tls_cert is None else Certificate(tls_cert, tls_key or tls_cert)
    except (ValueError, OSError) as error:
        typer.echo(f"bud-gateway: {error}", err=True)
        raise typer.Exit(1) from None
    observer = Observer(access_log=access_log, tracing=from_environment())
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(built, settings, certificate, observer))


async def _serve(built: Built, settings: Settings, certificate: Certificate | None, observer: Observer) -> None:
    gateway = Gateway(built.catalog, settings, observer=observer)

    def take(built: Built) -> None:
        gateway.catalog = built.catalog
        observer.metrics.took(built.catalog, troubles=len(built.troubles))
        _tell(built)

    take(built)
    # The server ends on these by itself, and then raises them once more: a stop that was asked for is no failure.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    watchers = [asyncio.create_task(follow(settings.folder, settings.reach, take))]
    if certificate is not None:
        watchers.append(asyncio.create_task(certificate.follow()))
    try:
        await server_of(gateway, settings, certificate).serve()
    finally:
        for watcher in watchers:
            watcher.cancel()


def _tell(built: Built) -> None:
    for what, trouble in built.troubles:
        log.warning("%s: %s", what, trouble)
    names = sum(map(len, built.catalog.names.values()))
    log.info("serving %d names to %d keys", names, len(built.catalog.keys))


def main() -> None:
    app()


if __name__ == "__main__":
    main()
