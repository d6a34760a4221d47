"""`python -m bud.builtin FOLDER`: installs the Runtimes of a folder; in the operator's pod, before the operator starts.

Neither Helm nor kubectl can create a kind and objects of it in one go, so the chart hands its Runtimes to this program.
What somebody changed in one of them stays as it is: server-side apply without force.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import yaml

from bud.errors import ApiConflict, BudError
from bud.kube.client import Client, Object
from bud.kube.connect import connect
from bud.kube.kinds import DEPLOYMENTS, MODELS, RUNTIMES
from bud.logs import configure

log = logging.getLogger("bud.builtin")

MANAGER = "bud-operator-runtimes"
_PAUSE = 0.5


async def install(client: Client, runtimes: list[Object], *, seconds: float) -> None:
    """Waits until the cluster serves our kinds, then applies the Runtimes.

    What fails is tried again until `seconds` are over, since kinds, their schemas and our own rights reach all parts of
    an API server only some time after they were written; then raises the last `BudError`.
    """
    deadline = time.monotonic() + seconds
    for resource in (MODELS, DEPLOYMENTS, RUNTIMES):
        await _until(deadline, partial(client.list_page, resource, namespace=None, selector="", limit=1))
    for runtime in runtimes:
        await _until(deadline, partial(_apply, client, runtime))


async def _apply(client: Client, runtime: Object) -> None:
    name = runtime["metadata"]["name"]
    try:
        await client.apply(runtime, RUNTIMES, manager=MANAGER, force=False)
    except ApiConflict as error:
        log.warning("Runtime %s was changed by somebody else and is left as it is: %s", name, error)
    else:
        log.info("Runtime %s is installed", name)


async def _until(deadline: float, call: Callable[[], Awaitable[object]]) -> None:
    while True:
        try:
            await call()
            return
        except BudError as error:
            if time.monotonic() > deadline:
                raise
            log.info("not yet: %s", error)
        await asyncio.sleep(_PAUSE)


def read(folder: Path) -> list[Object]:
    """The Runtimes of all YAML files of a folder, by file name."""
    return [yaml.safe_load(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*.yaml"))]


async def _run(folder: Path, *, kubeconfig: str | None, seconds: float) -> None:
    client = Client.over(await connect(kubeconfig), user_agent="bud-operator-runtimes")
    try:
        await install(client, read(folder), seconds=seconds)
    finally:
        await client.close()


def main() -> int:
    """The program; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m bud.builtin", description="Install the Runtimes of a folder.")
    parser.add_argument("folder", type=Path, help="folder of YAML files, one Runtime each")
    parser.add_argument("--kubeconfig", help="default: as for bud-operator run")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long to try (default: %(default)s)")
    options = parser.parse_args()
    configure(log_format="json", level="info")
    try:
        asyncio.run(_run(options.folder, kubeconfig=options.kubeconfig, seconds=options.seconds))
    except BudError as error:
        log.error("Runtimes are missing: %s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
