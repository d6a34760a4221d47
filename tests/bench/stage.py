"""Where a run takes place: a fresh control plane with fake nodes, one Model whose weights are there, and an operator."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from bud.api import KINDS
from bud.api.crd import crd
from bud.kube.client import Client
from tests.audit import Audit
from tests.cluster.own import Own, control_plane
from tests.fleet import Fleet, client_of
from tests.operator_process import OperatorProcess
from tests.world import RUNTIME

NAMESPACE = "bench"
MODEL = "weights"
CONCURRENCY = 16
QPS, BURST = 500, 1000
"""Of the controller manager and the scheduler: twenty-five times their defaults, else they alone would be measured."""

_PODS_PER_NODE = 250
_TICKS = os.sysconf("SC_CLK_TCK")
_numbers = itertools.count()


@dataclass(frozen=True)
class Stage:
    """One fresh cluster; the operator is stopped when a run begins."""

    own: Own
    client: Client
    fleet: Fleet
    operator: OperatorProcess
    audit: Audit


@asynccontextmanager
async def stage(deployments: int, *, autoscalers_every: str = "15s", qps: int = QPS) -> AsyncIterator[Stage]:
    """A cluster with room for so many pods, and the Model that all Deployments serve.

    `qps` is how many requests a second the controller manager and the scheduler may make.
    """
    throttle: dict[str, object] = {"kube-api-qps": qps, "kube-api-burst": 2 * qps}
    manager = {**throttle, "horizontal-pod-autoscaler-sync-period": autoscalers_every}
    options: dict[str, dict[str, object]] = {"controller-manager": manager, "scheduler": throttle}
    with contextlib.ExitStack() as stack:
        own = stack.enter_context(
            control_plane(f"bench-{os.getpid()}-{next(_numbers)}", say=lambda line: None, options=options)
        )
        await asyncio.to_thread(_prepare, own, nodes=deployments // _PODS_PER_NODE + 1)
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        operator = OperatorProcess(own.cluster.kubeconfig, Path(folder, "log"), "--workers", str(CONCURRENCY))
        try:
            async with client_of(own.cluster.kubeconfig, agent="bud-bench", concurrency=4 * CONCURRENCY) as client:
                fleet = await Fleet.create(client, NAMESPACE)
                made = Stage(own, client, fleet, operator, own.audit)
                await _make_model(made)
                yield made
        finally:
            if operator.running:
                operator.stop()


def _prepare(own: Own, *, nodes: int) -> None:
    cluster = own.cluster
    cluster.apply(*(crd(kind) for kind in KINDS))
    cluster.kubectl("wait", "--for=condition=Established", *(f"crd/{kind.plural}.bud.studio" for kind in KINDS))
    cluster.apply({**RUNTIME, "spec": {**RUNTIME["spec"], "answerCheck": {"enabled": False}}})
    for number in range(nodes):
        cluster.add_fake_node(f"node-{number}")


async def _make_model(made: Stage) -> None:
    await asyncio.to_thread(made.operator.start)
    kubelet = asyncio.create_task(made.fleet.play_kubelet())
    await made.fleet.add_model(MODEL)
    await made.fleet.await_right(within=60)
    await asyncio.to_thread(
        made.own.cluster.kubectl, "-n", NAMESPACE, "wait", "pvc", "--all", "--for=jsonpath={.status.phase}=Bound"
    )
    kubelet.cancel()
    await asyncio.to_thread(made.operator.stop)


@dataclass(frozen=True)
class Usage:
    """Of a process: seconds of CPU so far, and bytes of memory now."""

    cpu: float
    memory: int
    at: float


def usage(pid: int) -> Usage:
    """What a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    status = Path(f"/proc/{pid}/status").read_text()
    resident = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return Usage((int(fields[11]) + int(fields[12])) / _TICKS, int(resident.split()[1]) * 1024, time.monotonic())
