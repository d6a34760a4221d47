"""`bud-operator`: runs the operator, inside a cluster or beside one."""

from __future__ import annotations

import bud.early  # noqa: F401

# isort: split
import asyncio
import posixpath
import re
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Annotated

import typer

from bud.api import KINDS
from bud.api.crd import crd, to_yaml
from bud.app import Operator
from bud.context import Binding, Settings
from bud.engines.node_cache import NodeStorage
from bud.errors import BudError
from bud.kube.connect import connect
from bud.kube.quantity import canonical, parse
from bud.logs import LogFormat, LogLevel, configure

_LABEL = re.compile(r"[A-Za-z0-9][-A-Za-z0-9_./]*=[-A-Za-z0-9_.]+")
_BINDING = re.compile(r"([^=/]+)=([^=/]+)/([^=/]+)")
VERSION = package_version("bud-operator")
IMAGE = f"ghcr.io/bud-studio/bud-operator:{VERSION}"

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Serve models on Kubernetes. Every option can also be set by the environment variable named beside it.",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


@app.command()
def run(  # noqa: PLR0913  each parameter is one documented option of the command
    *,
    kubeconfig: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="Kubeconfig file. Default: the pod's service account, else KUBECONFIG or ~/.kube/config.",
        ),
    ] = None,
    context: Annotated[str | None, typer.Option(help="Context of the kubeconfig.")] = None,
    image: Annotated[
        str,
        typer.Option(
            envvar="BUD_OPERATOR_IMAGE",
            help="Image of this program: for download Jobs, answer checks, and Runtimes that name no image.",
        ),
    ] = IMAGE,
    allow_host_path: Annotated[
        list[str] | None,
        typer.Option(
            envvar="BUD_OPERATOR_ALLOW_HOST_PATH",
            help="Prefix under which Models may use hostPath; may be repeated. Default: none.",
        ),
    ] = None,
    default_volume_size: Annotated[
        str,
        typer.Option(envvar="BUD_OPERATOR_DEFAULT_VOLUME_SIZE", help="Volume of a Model that sets no storage.size."),
    ] = "20Gi",
    engine_network_policy: Annotated[
        str,
        typer.Option(
            envvar="BUD_OPERATOR_ENGINE_NETWORK_POLICY",
            help="Label, as in bud.studio/engine-access=true: engines are reached only by pods of their namespace and "
            "of namespaces with this label. Default: by all.",
        ),
    ] = "",
    namespace: Annotated[
        list[str] | None,
        typer.Option(
            envvar="BUD_OPERATOR_NAMESPACES",
            help="Namespace to serve; may be repeated. No nodes are read then. Default: all namespaces.",
        ),
    ] = None,
    lease_namespace: Annotated[
        str,
        typer.Option(
            envvar="BUD_OPERATOR_LEASE_NAMESPACE",
            help="Namespace of the Lease by which one of several operators leads. Default: no Lease, for one alone.",
        ),
    ] = "",
    node_cache_path: Annotated[
        str,
        typer.Option(
            envvar="BUD_OPERATOR_NODE_CACHE_PATH",
            help="Folder of every node in which Models with storage.mode PerNode keep copies. Default: none may.",
        ),
    ] = "",
    node_cache_size: Annotated[
        str,
        typer.Option(
            envvar="BUD_OPERATOR_NODE_CACHE_SIZE",
            help="What the copies of one node may take together, as in 200Gi; what was used least recently goes first.",
        ),
    ] = "",
    gateway_namespace: Annotated[
        str,
        typer.Option(
            envvar="BUD_OPERATOR_GATEWAY_NAMESPACE",
            help="Namespace of the gateways, where they note which Deployments are used, so that others may sleep. "
            "Default: there are none, and minReplicas 0 is as 1.",
        ),
    ] = "",
    project_binding: Annotated[
        list[str] | None,
        typer.Option(
            envvar="BUD_OPERATOR_PROJECT_BINDINGS",
            help="CLUSTERROLE=NAMESPACE/SERVICEACCOUNT: who is to have which rights in the namespace of every Project; "
            "may be repeated. Default: none; the rights are then yours to give.",
        ),
    ] = None,
    http_port: Annotated[
        int,
        typer.Option(envvar="BUD_OPERATOR_HTTP_PORT", help="Port of /healthz, /readyz and /metrics.", min=1, max=65535),
    ] = 8080,
    workers: Annotated[
        int, typer.Option(envvar="BUD_OPERATOR_WORKERS", help="Objects worked on at once.", min=1, max=256)
    ] = 16,
    resync_seconds: Annotated[
        float,
        typer.Option(envvar="BUD_OPERATOR_RESYNC_SECONDS", help="How often everything is looked at again.", min=1),
    ] = 600.0,
    log_format: Annotated[
        LogFormat, typer.Option(envvar="BUD_OPERATOR_LOG_FORMAT", help="json for machines, text for people.")
    ] = "json",
    log_level: Annotated[
        LogLevel, typer.Option(envvar="BUD_OPERATOR_LOG_LEVEL", help="The least severe that is logged.")
    ] = "info",
) -> None:
    """Run the operator until SIGTERM or Ctrl-C."""
    configure(log_format=log_format, level=log_level)
    for path in allow_host_path or ():
        if not path.startswith("/"):
            raise typer.BadParameter(f"{path} is not an absolute path", param_hint="--allow-host-path")
    if engine_network_policy and not _LABEL.fullmatch(engine_network_policy):
        raise typer.BadParameter(
            f"{engine_network_policy} is not a label such as bud.studio/engine-access=true",
            param_hint="--engine-network-policy",
        )
    try:
        canonical(default_volume_size)
    except BudError as error:
        raise typer.BadParameter(str(error), param_hint="--default-volume-size") from error
    settings = Settings(
        image=image,
        host_path_prefixes=tuple(allow_host_path or ()),
        node_storage=_node_storage(node_cache_path, node_cache_size),
        default_volume_size=default_volume_size,
        workers=workers,
        resync_seconds=resync_seconds,
        http_port=http_port,
        engine_access=engine_network_policy,
        namespaces=tuple(dict.fromkeys(namespace or ())),
        lease_namespace=lease_namespace,
        gateway_namespace=gateway_namespace,
        project_bindings=tuple(_binding(text) for text in project_binding or ()),
    )
    try:
        asyncio.run(_run(str(kubeconfig) if kubeconfig is not None else None, context, settings))
    except asyncio.CancelledError:
        return  # a signal came before anything had started
    except BudError as error:
        typer.echo(f"bud-operator: {error}", err=True)
        raise typer.Exit(1) from error


def _binding(text: str) -> Binding:
    """Raises `typer.BadParameter`."""
    if (found := _BINDING.fullmatch(text)) is None:
        raise typer.BadParameter(
            f"{text!r} is not CLUSTERROLE=NAMESPACE/SERVICEACCOUNT", param_hint="--project-binding"
        )
    return Binding(*found.groups())


def _node_storage(path: str, size: str) -> NodeStorage | None:
    """Raises `typer.BadParameter` for one without the other, and for what makes no sense."""
    if not path and not size:
        return None
    if not path.startswith("/") or ".." in path.split("/") or posixpath.normpath(path) == "/":
        raise typer.BadParameter(
            f"{path!r} is not an absolute path of a folder below /", param_hint="--node-cache-path"
        )
    try:
        count = int(parse(size))
    except BudError as error:
        raise typer.BadParameter(str(error), param_hint="--node-cache-size") from error
    if count <= 0:
        raise typer.BadParameter(f"{size!r} is no size", param_hint="--node-cache-size")
    return NodeStorage(posixpath.normpath(path), count)


@app.command()
def crds() -> None:
    """Print the CustomResourceDefinitions, for kubectl apply -f -."""
    typer.echo("---\n".join(to_yaml(crd(kind)) for kind in KINDS))


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(VERSION)


async def _run(kubeconfig: str | None, context: str | None, settings: Settings) -> None:
    connection = await connect(kubeconfig, context)
    await Operator(connection, settings, version=VERSION).run()


def main() -> None:
    """Entry point of the program."""
    app()
