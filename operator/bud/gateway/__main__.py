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
import uvicorn
import uvloop

from bud.gateway.app import Gateway
from bud.gateway.build import Built
from bud.gateway.files import follow, read
from bud.gateway.observe import Observer
from bud.gateway.relay import MESSAGE_BYTES
from bud.gateway.tracing import from_environment
from bud.logs import LogFormat, LogLevel, configure

log = logging.getLogger("bud.gateway")

_DRAIN_SECONDS = 120

app = typer.Typer(
    add_completion=False, context_settings={"help_option_names": ["-h", "--help"]}, pretty_exceptions_enable=False
)


@app.command()
def run(
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
    log_format: Annotated[LogFormat, typer.Option(envvar="BUD_GATEWAY_LOG_FORMAT", help="How it logs.")] = "text",
    log_level: Annotated[LogLevel, typer.Option(envvar="BUD_GATEWAY_LOG_LEVEL", help="What it logs.")] = "info",
) -> None:
    """Serves what the objects in a folder of YAML files name."""
    configure(log_format=log_format, level=log_level)
    try:
        built = read(folder)
    except (ValueError, OSError) as error:
        typer.echo(f"bud-gateway: {error}", err=True)
        raise typer.Exit(1) from None
    observer = Observer(access_log=access_log, tracing=from_environment())
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(built, folder, observer, host=host, port=port))


async def _serve(built: Built, folder: Path, observer: Observer, *, host: str, port: int) -> None:
    gateway = Gateway(built.catalog, observer=observer)

    def take(built: Built) -> None:
        gateway.catalog = built.catalog
        observer.metrics.took(built.catalog, troubles=len(built.troubles))
        _tell(built)

    take(built)
    server = uvicorn.Server(
        uvicorn.Config(
            gateway,
            host=host,
            port=port,
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            date_header=False,
            lifespan="on",
            ws_max_size=MESSAGE_BYTES,
            ws_per_message_deflate=False,
            timeout_graceful_shutdown=_DRAIN_SECONDS,
        )
    )
    # The server ends on these by itself, and then raises them once more: a stop that was asked for is no failure.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    watcher = asyncio.create_task(follow(folder, take))
    try:
        await server.serve()
    finally:
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
