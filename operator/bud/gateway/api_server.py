"""Where the API server itself is, beside the address that pods are told: Providers lead to no such place."""

from __future__ import annotations

import asyncio

from bud.errors import ApiUnavailable, BudError
from bud.gateway.reach import FLAG, Reach
from bud.kube.client import Client
from bud.kube.kinds import ENDPOINT_SLICES

_EVERY = 60.0
_FIRST_PAUSE = 0.5
"""Seconds until it is asked again; the longer one for what was answered."""
_NAMESPACE, _NAME = "default", "kubernetes"
"""The EndpointSlice that every API server keeps of itself and its like, as of Kubernetes 1.21."""


class ApiServer:
    """Tells `reach` the addresses of the API server's machines, again and again: they come and go."""

    def __init__(self, client: Client, reach: Reach) -> None:
        self._client = client
        self._reach = reach
        self._trouble = ""
        self.tried = asyncio.Event()
        """Set once the API server has answered."""

    def troubles(self) -> list[tuple[str, str]]:
        """Why they are not known."""
        return [(f"EndpointSlice {_NAMESPACE}/{_NAME}", self._trouble)] if self._trouble else []

    async def run(self) -> None:
        """For as long as the gateway lives."""
        pause = _FIRST_PAUSE
        while True:
            try:
                found = await self._client.get(ENDPOINT_SLICES, namespace=_NAMESPACE, name=_NAME)
            except ApiUnavailable:
                # What is known stays.
                pause = min(pause * 2, _EVERY)
            except BudError as error:
                self._trouble = f"{FLAG} may open the machines of the API server: it cannot be read: {error}"
                pause = _EVERY
                self.tried.set()
            else:
                ends = found.get("endpoints") or ()
                self._reach.guard(address for end in ends for address in end.get("addresses") or ())
                self._trouble, pause = "", _EVERY
                self.tried.set()
            await asyncio.sleep(pause)
