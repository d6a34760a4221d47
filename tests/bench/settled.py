"""An operator with nothing left to do: what it writes, uses and keeps, and how soon a new one is at work."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from bud.kube.kinds import AUTOSCALERS, DEPLOYMENTS
from tests.audit import Call
from tests.bench.metrics_api import metrics_api
from tests.bench.stage import MODEL, NAMESPACE, Stage, usage
from tests.fleet import Wanted

_WARM_UP_SECONDS = 45.0
_WINDOW_SECONDS = 60.0


@dataclass(frozen=True)
class Settled:
    """`cpu` is the share of one core, `autoscaler_writes` those by the autoscalers' own controller, both per window."""

    seconds: float
    writes: Mapping[str, int]
    autoscaler_writes: int
    cpu: float
    memory: int


async def settled(stage: Stage) -> Settled:
    """Over a minute in which every autoscaler gets new figures and writes them down."""
    async with metrics_api(stage):
        await asyncio.sleep(_WARM_UP_SECONDS)
        before, mark = usage(stage.operator.pid), stage.audit.mark()
        await asyncio.sleep(_WINDOW_SECONDS)
        after = usage(stage.operator.pid)
        calls = list(stage.audit.calls(mark))
    lively = [call for call in calls if call.writes and call.resource == f"{AUTOSCALERS.plural}/status"]
    return Settled(
        seconds=after.at - before.at,
        writes=Counter(f"{call.verb} {call.resource}" for call in calls if _by_operator(call) and call.writes),
        autoscaler_writes=len(lively),
        cpu=(after.cpu - before.cpu) / (after.at - before.at),
        memory=after.memory,
    )


@dataclass(frozen=True)
class Start:
    """Seconds from the start of the process until it was ready, and until its first write for a waiting object."""

    ready: float
    first_write: float


async def cold_start(stage: Stage) -> Start:
    """A new process finds one Deployment that nobody has looked at."""
    name = "cold"
    if stage.operator.running:
        await asyncio.to_thread(stage.operator.stop, signal.SIGKILL)
    await stage.fleet.set(name, Wanted(model=MODEL, replicas=0))
    mark, start = stage.audit.mark(), time.time()
    await asyncio.to_thread(stage.operator.start)
    ready = time.time() - start
    await stage.fleet.await_right(within=60)
    await stage.fleet.remove(DEPLOYMENTS, name)
    await stage.fleet.await_right(within=60)
    calls = stage.audit.calls(mark)
    writes = [call.start for call in calls if _by_operator(call) and call.writes and call.namespace == NAMESPACE]
    return Start(ready, min(writes) - start)


def _by_operator(call: Call) -> bool:
    return call.agent.startswith("bud-operator/")
