"""The command line of the test clusters."""

import argparse
import os
import shlex
import signal
import sys
from pathlib import Path
from types import FrameType

from tests.cluster import isolation, layout, running, tools
from tests.cluster.failure import Failed

_DESCRIPTION = """\
Real Kubernetes clusters for tests.

A cluster comes from the first of: the kubeconfig that BUD_TEST_KUBECONFIG names (its kube-system namespace must
carry the label bud.studio/test-cluster=true), Docker with kind, or Kubernetes built here from source, once.

  control   etcd, API server, controller manager, scheduler, and KWOK for fake nodes; needs no root
  node      the same with a real node: containerd, kubelet, kube-proxy, DNS, metrics, volumes; needs root
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.cluster",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="bring a cluster up; it stays until `down`")
    up.add_argument("--tier", choices=("control", "node"), default="control", help="default: %(default)s")
    up.add_argument("--name", help="default: the tier's name")
    up.add_argument("--audit", action="store_true", help="keep an audit log of all requests (local clusters)")
    down = commands.add_parser("down", help="take a cluster down, or remove what a crash left of it")
    which = down.add_mutually_exclusive_group()
    _which(which)
    which.add_argument("--all", action="store_true", help="every cluster of this user")
    commands.add_parser("status", help="list the clusters of this user")
    _which(commands.add_parser("env", help='print exports, for `eval "$(python -m tests.cluster env)"`'))
    load = commands.add_parser("load", help="put the images of an OCI archive on the nodes")
    load.add_argument("archive", type=Path)
    _which(load)
    build = commands.add_parser("tools", help="build tools that are not in the cache, and print their paths")
    build.add_argument("tool", nargs="*", help=f"default: all of {', '.join(tools.names())}")
    return parser


def _which(parser: "argparse._ActionsContainer") -> None:
    parser.add_argument("--name", help="default: the only cluster there is")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _named(name: str | None) -> str:
    if name:
        return name
    found = [folder.name for folder in layout.folders()]
    if len(found) == 1:
        return found[0]
    raise Failed(f"say which with --name: {', '.join(found)}" if found else "there is no cluster")


def _up(arguments: argparse.Namespace) -> None:
    name = arguments.name or arguments.tier
    running.up(name, arguments.tier, audit=arguments.audit, say=_say)


def _down(arguments: argparse.Namespace) -> None:
    every = [folder.name for folder in layout.folders()]
    for name in every if arguments.all else [_named(arguments.name)]:
        running.down(name)
        _say(f"{name} is gone")


def _status(_: argparse.Namespace) -> None:
    row = "{:<20} {:<8} {:<9} {:<9} {}"
    print(row.format("NAME", "TIER", "SOURCE", "STATE", "KUBECONFIG"))
    for folder in layout.folders():
        record = layout.read(folder)
        state = "dead" if not layout.alive(folder) else "up" if record and record.ready else "starting"
        tier, source = (record.tier, record.source) if record else ("?", "?")
        print(row.format(folder.name, tier, source, state, folder / "admin.kubeconfig"))


def _env(arguments: argparse.Namespace) -> None:
    cluster = running.attach(_named(arguments.name))
    path = ":".join(map(str, tools.cached_directories()))
    print(f"export KUBECONFIG={shlex.quote(str(cluster.kubeconfig))}")
    print(f'export PATH={shlex.quote(path)}:"$PATH"')
    print(f'export NO_PROXY="${{NO_PROXY:+$NO_PROXY,}}{isolation.RANGE}"')


def _load(arguments: argparse.Namespace) -> None:
    running.attach(_named(arguments.name)).load_image(arguments.archive)


def _tools(arguments: argparse.Namespace) -> None:
    for name in arguments.tool or tools.names():
        print(tools.path(name, say=_say), flush=True)


def _terminated(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> int:
    """Read the command line and do as it says; the exit status."""
    for ending in (signal.SIGINT, signal.SIGTERM):  # a shell's background job ignores Ctrl-C unless it asks for it
        signal.signal(ending, _terminated)
    arguments = _parser().parse_args()
    commands = {"up": _up, "down": _down, "status": _status, "env": _env, "load": _load, "tools": _tools}
    try:
        commands[arguments.command](arguments)
    except Failed as failure:
        _say(str(failure))
        return 1
    except KeyboardInterrupt:
        _say("interrupted; everything that was started is gone")
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


if __name__ == "__main__":
    sys.exit(main())
