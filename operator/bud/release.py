"""`python -m bud.release`: the operator goes for good, and no object stays stuck on a finalizer of its.

Run by the chart before it is uninstalled. It scales the operator away, waits for its Lease, so that nothing puts a
finalizer back, and takes them off all Models. Nothing else is touched: what is served goes on being served.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from collections.abc import AsyncIterator, Sequence

from bud.api import API_VERSION
from bud.errors import ApiConflict, ApiRefused, BudError, WaitingError
from bud.kube.client import Client, Object
from bud.kube.connect import connect
from bud.kube.kinds import APPS, MANAGER, MODELS
from bud.kube.lease import Leadership
from bud.logs import configure
from bud.model.plan import FINALIZER

log = logging.getLogger("bud.release")

_PAUSE = 0.5


async def release(client: Client, *, operator: str, namespace: str, served: Sequence[str]) -> int:
    """Ends the operator of Deployment `operator`, then frees all Models of the namespaces `served` (none: all).

    Gives how many carried the finalizer. An operator that is gone already, and a cluster without our kinds, are fine.
    Raises what `Client` raises; waits for ever for a Lease that somebody else goes on renewing.
    """
    await _scale_away(client, operator=operator, namespace=namespace)
    lease = Leadership(client, namespace=namespace, name=MANAGER, identity="release")
    await lease.acquire()
    held = asyncio.create_task(lease.hold())
    try:
        return sum([await _free_all(client, each) for each in served or ("",)])
    finally:
        # The Lease is left to end by itself: an operator that still starts up must not get it meanwhile.
        held.cancel()
        await asyncio.gather(held, return_exceptions=True)


async def _scale_away(client: Client, *, operator: str, namespace: str) -> None:
    try:
        await client.merge(
            {"spec": {"replicas": 0}}, APPS, namespace=namespace, name=operator, manager=MANAGER, subresource="scale"
        )
    except ApiRefused as error:
        if error.status != 404:
            raise
        log.info("there is no Deployment %s/%s", namespace, operator)


async def _free_all(client: Client, namespace: str) -> int:
    freed = 0
    async for model in _held(client, namespace):
        metadata = model["metadata"]
        log.info("freeing Model %s/%s", metadata["namespace"], metadata["name"])
        await _free(client, metadata)
        freed += 1
    return freed


async def _held(client: Client, namespace: str) -> AsyncIterator[Object]:
    token = ""
    while True:
        try:
            page = await client.list_page(MODELS, namespace=namespace, selector="", token=token)
        except ApiRefused as error:
            if error.status == 404:
                log.info("the cluster does not know the kinds of %s", API_VERSION)
                return
            raise
        for model in page["items"]:
            if FINALIZER in model["metadata"].get("finalizers", ()):
                yield model
        token = page["metadata"].get("continue") or ""
        if not token:
            return


async def _free(client: Client, metadata: Object) -> None:
    """Takes our finalizer off one Model, and no other."""
    while True:
        others = [name for name in metadata.get("finalizers", ()) if name != FINALIZER]
        patch = {"metadata": {"finalizers": others, "resourceVersion": metadata["resourceVersion"]}}
        where = {"namespace": metadata["namespace"], "name": metadata["name"]}
        try:
            await client.merge(patch, MODELS, **where, manager=MANAGER)
            return
        except ApiConflict:
            metadata = (await client.get(MODELS, **where))["metadata"]
        except ApiRefused as error:
            if error.status == 404:
                return
            raise


async def _run(options: argparse.Namespace) -> int:
    client = Client.over(await connect(options.kubeconfig), user_agent="bud-operator-release")
    trouble = "an operator still holds the Lease"
    where = {"operator": options.operator, "namespace": options.namespace, "served": options.serves}
    try:
        async with asyncio.timeout(options.seconds):
            while True:
                try:
                    return await release(client, **where)
                except BudError as error:
                    trouble = str(error)
                    log.warning("not yet: %s", trouble)
                await asyncio.sleep(_PAUSE)
    except TimeoutError as error:
        raise WaitingError(f"not done within {options.seconds:.0f} s: {trouble}") from error
    finally:
        await client.close()


def main() -> int:
    """The program; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m bud.release", description="Free all Models of the operator.")
    parser.add_argument("operator", help="name of the operator's own apps/v1 Deployment, which is scaled to 0")
    parser.add_argument("--namespace", required=True, help="namespace of that Deployment and of its Lease")
    parser.add_argument("--serves", action="append", default=[], help="namespace it serves; repeated (default: all)")
    parser.add_argument("--kubeconfig", help="default: as for bud-operator run")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long to try (default: %(default)s)")
    options = parser.parse_args()
    configure(log_format="json", level="info")
    try:
        freed = asyncio.run(_run(options))
    except BudError as error:
        log.error("Models may still carry the finalizer %s: %s", FINALIZER, error)
        return 1
    log.info("%d Models are free of the operator", freed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
