"""Notes of use in Leases, one for each Deployment that may sleep, in the namespace of the gateways."""

from __future__ import annotations

import datetime

from bud.errors import ApiRefused
from bud.gateway.naps import Note
from bud.kube.client import Client, Object
from bud.kube.kinds import GATEWAY_MANAGER, LEASES, USE


def noting(client: Client, *, namespace: str) -> Note:
    """What writes a note: one patch, or one creation for a Deployment that was never used before."""

    async def note(id: str) -> None:
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec: Object = {"renewTime": now}
        try:
            await client.merge({"spec": spec}, LEASES, namespace=namespace, name=id, manager=GATEWAY_MANAGER)
        except ApiRefused as error:
            if error.status != 404:
                raise
            lease: Object = {
                "apiVersion": LEASES.api_version,
                "kind": LEASES.kind,
                "metadata": {"name": id, "labels": {USE: "true"}},
                "spec": spec,
            }
            await client.create(lease, LEASES, namespace=namespace)

    return note
