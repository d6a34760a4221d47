"""Leadership by a Lease, so that of several operators only one writes.

The rules are those of client-go's leader election (https://pkg.go.dev/k8s.io/client-go/tools/leaderelection): a Lease
is free when its holder has not renewed it for the Lease's whole duration, measured by the observer's own clock, so
that clocks need not agree.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import logging
import math
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, NoReturn

from bud.errors import ApiConflict, ApiRefused, BudError, WaitingError
from bud.kube.client import Client, Object
from bud.kube.kinds import LEASES, MANAGER

log = logging.getLogger("bud.lease")

DURATION = 10.0
"""Seconds after its last renewal until a Lease is free for others."""
DEADLINE = 6.0
"""Seconds after the last renewal until its holder writes nothing more and ends."""
RETRY = 2.0
"""Seconds between two renewals, and between two tries to get the Lease."""
_TRY = 2.0
"""Seconds that one try may take: a connection that hangs leaves time for another."""
_AGAIN = 0.2
"""Seconds from a renewal that failed to the next."""


class LeaseLost(WaitingError):
    """This process leads no more, so it must not write, and ends."""

    reason = "LeaseLost"


@dataclass(frozen=True, slots=True)
class _Record:
    holder: str
    renewed: str
    version: str
    transitions: int
    seconds: float


class Leadership:
    """One candidate for a Lease; `identity` must be its own alone."""

    def __init__(self, client: Client, *, namespace: str, name: str, identity: str) -> None:
        self._client = client
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._seen: _Record | None = None
        self._seen_at = 0.0
        self._renewed_at: float | None = None
        self._passing: set[asyncio.Timeout] = set()

    async def acquire(self) -> None:
        """Returns once this process leads; waits for as long as another does."""
        waited_for = ""
        while True:
            pause = RETRY
            try:
                async with asyncio.timeout(_TRY):
                    if await self._take():
                        log.info("leading, by Lease %s/%s", self._namespace, self._name)
                        return
            except (BudError, TimeoutError) as error:
                log.warning("Lease %s/%s: %s", self._namespace, self._name, str(error) or "no answer in time")
            if self._seen is not None:
                if self._seen.holder != waited_for:
                    waited_for = self._seen.holder
                    log.info("standing by: %s leads", waited_for)
                pause = min(RETRY, max(0.1, self._free_at() - _clock()))
            await asyncio.sleep(pause)

    async def hold(self) -> NoReturn:
        """Renews until cancelled. Raises `LeaseLost` when another leads, or when no renewal worked in time."""
        pause = RETRY
        while True:
            await asyncio.sleep(min(pause, max(0.0, self._deadline() - _clock())))
            pause = RETRY
            try:
                async with asyncio.timeout_at(min(self._deadline(), _clock() + _TRY)):
                    if not await self._take():
                        raise LeaseLost("another operator leads")
            except LeaseLost:
                raise
            except (BudError, TimeoutError) as error:
                log.warning("the Lease was not renewed: %s", str(error) or "no answer in time")
                pause = _AGAIN
            if _clock() >= self._deadline():
                raise LeaseLost(f"the Lease could not be renewed for {DEADLINE:.0f} s")

    @contextlib.asynccontextmanager
    async def fence(self) -> AsyncIterator[None]:
        """Lets a write begin while the Lease is renewed, and go on until anybody else can lead.

        Raises `LeaseLost`.
        """
        if self._renewed_at is None or _clock() >= self._deadline():
            raise LeaseLost("the Lease is not renewed, so nothing is written")
        limit = asyncio.timeout_at(self._renewed_at + DURATION)
        try:
            async with limit:
                self._passing.add(limit)
                yield
        except TimeoutError as error:
            raise LeaseLost("a write did not end before the Lease did") from error
        finally:
            self._passing.discard(limit)

    async def release(self) -> None:
        """Frees the Lease at once when this process leads; best effort."""
        if self._renewed_at is None or self._seen is None or self._seen.holder != self._identity:
            return
        self._renewed_at = None
        with contextlib.suppress(BudError, TimeoutError):
            async with asyncio.timeout(RETRY):
                await self._write({"holderIdentity": ""}, self._seen)

    def _deadline(self) -> float:
        return (self._renewed_at or 0.0) + DEADLINE

    def _free_at(self) -> float:
        if self._seen is None or not self._seen.holder:
            return -math.inf
        return self._seen_at + self._seen.seconds

    async def _take(self) -> bool:
        """Gets or renews the Lease; False when another holds it."""
        start = _clock()
        if self._renewed_at is None or self._seen is None:
            await self._look()
        if self._seen is None:
            await self._create()
        else:
            mine = self._seen.holder == self._identity
            if not mine and _clock() < self._free_at():
                return False
            try:
                await self._write(self._spec(self._seen, new=not mine), self._seen)
            except ApiConflict:
                await self._look()
                if self._seen.holder != self._identity:
                    return False
                raise
            except ApiRefused as error:
                if error.status != 404:
                    raise
                await self._create()
        self._renewed_at = start
        for limit in self._passing:
            if not limit.expired():
                limit.reschedule(start + DURATION)
        return True

    async def _look(self) -> None:
        try:
            self._keep(await self._client.get(LEASES, namespace=self._namespace, name=self._name))
        except ApiRefused as error:
            if error.status != 404:
                raise
            self._seen = None

    async def _create(self) -> None:
        document: Object = {
            "apiVersion": LEASES.api_version,
            "kind": LEASES.kind,
            "metadata": {"name": self._name, "namespace": self._namespace},
            "spec": self._spec(None, new=True),
        }
        self._keep(await self._client.create(document, LEASES, namespace=self._namespace))

    async def _write(self, spec: Object, seen: _Record) -> None:
        patch = {"metadata": {"resourceVersion": seen.version}, "spec": spec}
        self._keep(await self._client.merge(patch, LEASES, namespace=self._namespace, name=self._name, manager=MANAGER))

    def _spec(self, seen: _Record | None, *, new: bool) -> Object:
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec: Object = {"holderIdentity": self._identity, "leaseDurationSeconds": int(DURATION), "renewTime": now}
        if new:
            spec |= {"acquireTime": now, "leaseTransitions": seen.transitions + 1 if seen is not None else 0}
        return spec

    def _keep(self, raw: Any) -> None:
        spec = raw.get("spec") or {}
        record = _Record(
            holder=spec.get("holderIdentity") or "",
            renewed=spec.get("renewTime") or "",
            version=raw["metadata"]["resourceVersion"],
            transitions=spec.get("leaseTransitions") or 0,
            seconds=float(spec.get("leaseDurationSeconds") or DURATION),
        )
        if self._seen is None or (record.holder, record.renewed) != (self._seen.holder, self._seen.renewed):
            self._seen_at = _clock()
        self._seen = record


def _clock() -> float:
    return asyncio.get_running_loop().time()
