"""`bud-gateway`: one OpenAI-compatible address for everything served."""

from __future__ import annotations

import bud.early  # noqa: F401

# isort: split
import asyncio
import gc
import logging
import time
from collections.abc import Callable, Coroutine
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
import uvloop

from bud.errors import BudError
from bud.gateway.admission import shared_over
from bud.gateway.app import Gateway
from bud.gateway.background import lasting
from bud.gateway.build import Built
from bud.gateway.catalog import Catalog
from bud.gateway.cors import origins
from bud.gateway.files import Folder, follow
from bud.gateway.ledgers import Ledger
from bud.gateway.naps import Note
from bud.gateway.observe import Observer
from bud.gateway.reach import Reach
from bud.gateway.server import Server, serve
from bud.gateway.settings import Settings
from bud.gateway.shared import ANSWER_SECONDS
from bud.gateway.tls import Certificate
from bud.gateway.tracing import from_environment
from bud.logs import LogFormat, LogLevel, configure

log = logging.getLogger("bud.gateway")

_API_SECONDS = 10.0
"""How long a call to the API server may take; all are small."""
_LEAST_STALE = 10
"""Seconds for which nothing may be heard while all is well."""
_DAY, _YEAR = 86_400, 31_536_000

_GARBAGE = 3_000, 10, 10
"""How much is made before garbage is looked for: of what a request makes, nearly nothing stands in circles."""


def _folder(text: str) -> Path:
    """Raises `typer.BadParameter` for what is no folder; an empty one, as of a variable that is not set, is not `.`."""
    if not text:
        raise typer.BadParameter("it is empty: name a folder")
    if not (path := Path(text)).is_dir():
        raise typer.BadParameter(f"dir '{text}' {'is a file' if path.exists() else 'does not exist'}")
    return path


app = typer.Typer(
    add_completion=False, context_settings={"help_option_names": ["-h", "--help"]}, pretty_exceptions_enable=False
)


@app.command()
def run(  # noqa: PLR0913  each parameter is one documented option of the command
    *,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--from",
            parser=_folder,
            metavar="DIRECTORY",
            help="Folder of YAML files with the gateway's objects. Default: those of a cluster.",
        ),
    ] = None,
    kubeconfig: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="Kubeconfig file. Default: the pod's service account, else KUBECONFIG or ~/.kube/config.",
        ),
    ] = None,
    context: Annotated[str | None, typer.Option(help="Context of the kubeconfig.")] = None,
    namespace: Annotated[
        list[str] | None,
        typer.Option(
            envvar="BUD_GATEWAY_NAMESPACES", help="Namespace to serve; may be repeated. Default: all namespaces."
        ),
    ] = None,
    home_namespace: Annotated[
        str,
        typer.Option(
            envvar="BUD_GATEWAY_HOME_NAMESPACE",
            help="Namespace of the gateways, where they keep ledgers of budgets and notes of use. "
            "Default: ledgers are in memory, and nothing is woken.",
        ),
    ] = "",
    max_stale_keys: Annotated[
        float,
        typer.Option(
            envvar="BUD_GATEWAY_MAX_STALE_KEYS",
            min=0,
            max=_YEAR,
            help="Seconds, 10 or more, for which keys are accepted while the API server cannot be heard. 0: for ever.",
        ),
    ] = 0,
    host: Annotated[
        str, typer.Option(envvar="BUD_GATEWAY_HOST", help="Address to listen on; empty: all of them.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(envvar="BUD_GATEWAY_PORT", min=0, max=65535, help="Port to listen on.")] = 5000,
    metrics_port: Annotated[
        int,
        typer.Option(
            envvar="BUD_GATEWAY_METRICS_PORT",
            min=0,
            max=65535,
            help="Port of /metrics, /healthz and /readyz, for those who run it; HTTP always. "
            "0: /metrics is on the port of callers.",
        ),
    ] = 0,
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
    drain_delay: Annotated[
        float,
        typer.Option(
            envvar="BUD_GATEWAY_DRAIN_DELAY",
            min=0,
            max=_DAY,
            help="Seconds for which a gateway that was told to stop serves as before, with /readyz at 503.",
        ),
    ] = 0,
    drain_limit: Annotated[
        float,
        typer.Option(
            envvar="BUD_GATEWAY_DRAIN_LIMIT",
            min=1,
            max=_DAY,
            help="Seconds that what is under way then has to end.",
        ),
    ] = 120,
    redis_url: Annotated[
        str,
        typer.Option(
            envvar="BUD_GATEWAY_REDIS_URL",
            show_default=False,
            help="Redis or Valkey that the replicas share: redis://HOST:PORT/NUMBER, or rediss:// for TLS.",
        ),
    ] = "",
    replicas: Annotated[
        int,
        typer.Option(envvar="BUD_GATEWAY_REPLICAS", min=1, help="How many share Redis, until they know each other."),
    ] = 1,
    redis_timeout: Annotated[
        float,
        typer.Option(
            envvar="BUD_GATEWAY_REDIS_TIMEOUT", min=0.01, max=10, help="Seconds that a request waits for Redis at most."
        ),
    ] = ANSWER_SECONDS,
    log_format: Annotated[LogFormat, typer.Option(envvar="BUD_GATEWAY_LOG_FORMAT", help="How it logs.")] = "text",
    log_level: Annotated[LogLevel, typer.Option(envvar="BUD_GATEWAY_LOG_LEVEL", help="What it logs.")] = "info",
) -> None:
    """Serves what the objects of a cluster, or of a folder of YAML files, name."""
    configure(log_format=log_format, level=log_level)
    if 0 < max_stale_keys < _LEAST_STALE:
        raise typer.BadParameter(f"0, or at least {_LEAST_STALE}", param_hint="--max-stale-keys")
    observer = Observer(access_log=access_log, tracing=from_environment())
    try:
        settings = Settings(
            folder=folder,
            kubeconfig=kubeconfig,
            context=context,
            namespaces=tuple(dict.fromkeys(namespace or ())),
            home_namespace=home_namespace,
            max_stale_keys=max_stale_keys,
            host=host,
            port=port,
            metrics_port=metrics_port,
            reach=Reach.of(allow_upstream or ()),
            cors_origins=origins(cors_origin or ()),
            max_connections=max_connections,
            drain_delay=drain_delay,
            drain_limit=drain_limit,
            redis_url=redis_url,
            replicas=replicas,
            redis_timeout=redis_timeout,
        )
        settings.check()
        if tls_key is not None and tls_cert is None:
            raise ValueError("--tls-key needs --tls-cert: name the file of the certificate, too")
        certificate = None if tls_cert is None else Certificate(tls_cert, tls_key or tls_cert)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run((_serve_files if folder is not None else _serve_cluster)(settings, certificate, observer))
    except (BudError, ValueError, OSError) as error:
        typer.echo(f"bud-gateway: {error}", err=True)
        raise typer.Exit(1) from None


async def _serve_files(settings: Settings, certificate: Certificate | None, observer: Observer) -> None:
    assert settings.folder is not None
    gateway = _gateway(settings, observer)
    take = _taker(gateway)
    folder = Folder(settings.folder, settings.reach)
    built = folder.look()
    assert built is not None
    take(built)
    server = Server(gateway, settings, certificate=certificate)
    await serve(server, follow(folder, take), *_beside(certificate))


async def _serve_cluster(settings: Settings, certificate: Certificate | None, observer: Observer) -> None:
    """Raises `BudError` without a way to a cluster."""
    # Only here: who reads files needs none of these libraries.
    from bud.gateway.kube_ledger import KubeLedger  # noqa: PLC0415
    from bud.gateway.kube_notes import noting  # noqa: PLC0415
    from bud.gateway.watch import STARTING, Watch  # noqa: PLC0415
    from bud.kube.client import Client  # noqa: PLC0415
    from bud.kube.connect import connect  # noqa: PLC0415

    kubeconfig = str(settings.kubeconfig) if settings.kubeconfig is not None else None
    connection = await connect(kubeconfig, settings.context)
    agent = f"bud-gateway/{version('bud-operator')}"
    client = Client.over(connection, user_agent=agent, concurrency=0, timeout_seconds=_API_SECONDS)
    try:
        home = settings.home_namespace
        ledger, note = (KubeLedger(client, namespace=home), noting(client, namespace=home)) if home else (None, None)
        gateway = _gateway(settings, observer, ledger=ledger, note=note)
        watch = Watch(client, _taker(gateway), settings)
        watch.heard = lambda age: setattr(observer.metrics, "seen_at", time.time() - age)
        gateway.catalog, gateway.waits_for = Catalog(fault=STARTING), watch.waits_for
        server = Server(gateway, settings, certificate=certificate)
        await serve(server, watch.run(), *_beside(certificate))
    finally:
        await client.close()


def _gateway(
    settings: Settings, observer: Observer, *, ledger: Ledger | None = None, note: Note | None = None
) -> Gateway:
    url = settings.redis_url
    shared = partial(shared_over, url, settings.replicas, settings.redis_timeout) if url else None
    return Gateway(Catalog(), settings, observer=observer, shared=shared, ledger=ledger, note=note)


def _taker(gateway: Gateway) -> Callable[[Built], None]:
    teller = _Teller()

    def take(built: Built) -> None:
        if not gc.get_freeze_count():
            # What is known stays: to look through it for garbage would hold up requests, by 0.2 s for 10,000 keys.
            gc.collect()
            gc.freeze()
            gc.set_threshold(*_GARBAGE)
        gateway.catalog = built.catalog
        gateway.observer.metrics.took(built.catalog, troubles=len(built.troubles))
        teller.tell(built)

    return take


def _beside(certificate: Certificate | None) -> list[Coroutine[Any, Any, None]]:
    return [] if certificate is None else [lasting("the reading of the certificate", certificate.follow)]


class _Teller:
    """Logs what is new of what is known."""

    def __init__(self) -> None:
        self._troubles: set[tuple[str, str]] = set()
        self._counts = ""

    def tell(self, built: Built) -> None:
        for what, trouble in built.troubles:
            if (what, trouble) not in self._troubles:
                log.warning("%s: %s", what, trouble)
        self._troubles = set(built.troubles)
        names = sum(map(len, built.catalog.names.values()))
        counts = f"serving {names} names to {len(built.catalog.keys)} keys"
        if counts != self._counts:
            log.info(counts)
        self._counts = counts


def main() -> None:
    app()


if __name__ == "__main__":
    main()
