"""What is done to the operator and to the API server while many objects are in flight, and what must hold afterwards."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bud.api import KINDS
from bud.api.crd import crd
from bud.kube.kinds import DEPLOYMENTS, MODELS
from tests.audit import Call
from tests.cluster.own import Own, control_plane
from tests.fleet import Fleet, Wanted, client_of, each
from tests.gate import Gate
from tests.operator_process import OperatorProcess
from tests.waiting import eventually
from tests.world import RUNTIME

MODEL_COUNT = 20
WITHIN = 240.0
"""Seconds within which everything must be right: a last resort, not a goal."""

_STARTER = ThreadPoolExecutor(1)
_NODES = 8
_OPTIONS: Mapping[str, Mapping[str, object]] = {
    "controller-manager": {
        "horizontal-pod-autoscaler-sync-period": "15s",
        # KWOK does not make a pod Ready again that was called unready because its node could not be heard, as a kubelet does.
        "node-monitor-grace-period": "1h",
    },
}


@contextmanager
def plane(name: str) -> Iterator[Own]:
    """A control plane that may be killed, with our kinds, a Runtime and room for 2,000 pods."""
    with control_plane(f"{name}-{os.getpid()}", say=lambda line: None, options=_OPTIONS) as own:
        own.cluster.apply(*(crd(kind) for kind in KINDS))
        names = [f"crd/{kind.plural}.bud.studio" for kind in KINDS]
        own.cluster.kubectl("wait", "--for=condition=Established", *names)
        own.cluster.apply(RUNTIME)
        for number in range(_NODES):
            own.cluster.add_fake_node(f"node-{number}")
        yield own


@asynccontextmanager
async def fleet(own: Own, namespace: str, *, models: int = MODEL_COUNT) -> AsyncIterator[Fleet]:
    """A namespace with Models, whose downloads end well."""
    async with client_of(own.cluster.kubeconfig) as client:
        made = await Fleet.create(client, namespace)
        kubelet = asyncio.create_task(made.play_kubelet())
        try:
            for number in range(models):
                await made.add_model(f"model-{number}")
            yield made
        finally:
            kubelet.cancel()


@dataclass(frozen=True)
class Scene:
    """One cluster, one operator, one namespace full of objects."""

    own: Own
    operator: OperatorProcess
    fleet: Fleet

    async def kills(self, number: int, *, times: int, seed: int) -> float:
        """SIGKILLs the operator while Deployments are created, edited and deleted; gives seconds until all is right."""
        churning = asyncio.create_task(self.churn(number, seed=seed))
        for kill in range(1, times + 1):
            # Of those that are created, one in ten is deleted again.
            await self.fleet.await_apps(0.85 * number * kill / (times + 1))
            await _lasting(self.operator.restart, signal.SIGKILL)
        await churning
        return await self._right()

    async def outage(self, number: int, *, seconds: float, seed: int) -> float:
        """Kills the API server in the middle of it, and has Models deleted meanwhile; gives seconds until all is right."""
        spare = [f"spare-{n}" for n in range(MODEL_COUNT)]
        await each(spare, self.fleet.add_model)
        churning = asyncio.create_task(self.churn(number, seed=seed))
        await self.fleet.await_apps(number / 2)
        await asyncio.to_thread(self.own.control.kill_apiserver)
        deleting = asyncio.create_task(each(spare, lambda name: self.fleet.remove(MODELS, name)))
        await asyncio.sleep(seconds)
        await _lasting(self.own.control.start_apiserver)
        await asyncio.gather(churning, deleting)
        return await self._right()

    async def broken_watch(self, number: int, gate: Gate) -> None:
        """Deletes behind the operator's back, and restarts the API server, which knows none of the versions of before.

        The operator's way there is through the gate. Raises AssertionError when it still counts what is gone, or
        wrote for it.
        """
        names = [f"d-{n}" for n in range(number)]
        await each(names, lambda name: self.fleet.set(name, Wanted(model="model-0", replicas=0)))
        await self.fleet.await_right(within=WITHIN)
        known = await asyncio.to_thread(objects, self.operator)
        await asyncio.to_thread(gate.shut)
        gone = names[::2]
        await each(gone, lambda name: self.fleet.remove(DEPLOYMENTS, name))
        await self.fleet.await_apps_at_most(number - len(gone))
        await asyncio.to_thread(self.own.control.kill_apiserver)
        await _lasting(self.own.control.start_apiserver)
        mark = self.own.audit.mark()
        gate.open()
        wanted = known | {"Deployment": known["Deployment"] - len(gone)}

        def counted() -> None:
            assert objects(self.operator) == wanted

        await asyncio.to_thread(eventually, counted)
        calls = [call for call in self.own.audit.calls(mark) if call.namespace == self.fleet.namespace]
        written = [f"{call.verb} {call.resource} {call.name}" for call in calls if _is_work(call)]
        assert not written, f"the operator wrote for what is gone: {written[:10]}"
        await self._right()

    async def churn(self, number: int, *, seed: int) -> None:
        """Creates Deployments of all sorts, edits every fourth and deletes every tenth, all at once."""
        chance = random.Random(seed)

        async def live(name: str) -> None:
            wanted = Wanted(
                model=f"model-{chance.randrange(MODEL_COUNT)}",
                replicas=int(chance.random() < 0.15),
                scaling=chance.random() < 0.02,
            )
            await self.fleet.set(name, wanted)
            if chance.random() < 0.25:
                await self.fleet.edit(name, mark=chance.randrange(1, 100), replicas=int(chance.random() < 0.3))
            if chance.random() < 0.1:
                await self.fleet.remove(DEPLOYMENTS, name)

        await each([f"d-{seed}-{n}" for n in range(number)], live)

    async def _right(self) -> float:
        """Nothing is wrong, by what was asked and by what a fresh operator computes."""
        seconds = await self.fleet.await_right(within=WITHIN)
        await asyncio.to_thread(self.operator.stop)
        mark = self.own.audit.mark()
        await _lasting(self.operator.start)
        await asyncio.to_thread(eventually, lambda: _has_looked_at_all(self.operator))
        calls = self.own.audit.calls(mark)
        written = [f"{call.verb} {call.resource} {call.namespace}/{call.name}" for call in calls if _is_work(call)]
        assert not written, f"a fresh operator finds {len(written)} things to write: {written[:10]}"
        return seconds


@contextmanager
def scene_operator(kubeconfig: Path, folder: Path, *options: str) -> Iterator[OperatorProcess]:
    """An operator that is ended however it stands."""
    process = OperatorProcess(kubeconfig, folder / "operator.log", *options)
    process.start()
    try:
        yield process
    finally:
        if process.running:
            process.stop(signal.SIGKILL)


def metric(operator: OperatorProcess, name: str) -> float:
    """The sum over all labels of a metric."""
    lines = operator.metrics().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((f"{name}{{", f"{name} ")))


def objects(operator: OperatorProcess) -> dict[str, float]:
    """How many objects of each kind the operator knows."""
    return {
        kind: sum(
            float(line.rpartition(" ")[2])
            for line in operator.metrics().splitlines()
            if line.startswith(f'bud_objects{{kind="{kind}"')
        )
        for kind in ("Deployment", "Model")
    }


def _has_looked_at_all(operator: OperatorProcess) -> None:
    assert metric(operator, "bud_reconciles_total") >= metric(operator, "bud_objects") > 0
    assert metric(operator, "bud_queue_depth") == 0


@dataclass(frozen=True)
class Pair:
    """Two operators of one Lease."""

    own: Own
    operators: tuple[OperatorProcess, OperatorProcess]

    @classmethod
    @contextmanager
    def start(cls, own: Own, folder: Path) -> Iterator[Pair]:
        with ExitStack() as stack:
            found = []
            for name in ("first", "second"):
                (folder / name).mkdir()
                options = ("--lease-namespace", "default")
                found.append(stack.enter_context(scene_operator(own.cluster.kubeconfig, folder / name, *options)))
                eventually(lambda: _leads(found[0]))
            yield cls(own, (found[0], found[1]))

    async def kill_leader(self, fleet: Fleet, number: int, *, seed: int) -> float:
        """SIGKILLs the leader while Deployments are created, edited and deleted.

        Gives the seconds until the other's first write. The killed one is started again, to stand by.
        """
        first, second = self.operators
        leader, standby = (first, second) if first.says("leading") else (second, first)
        churning = asyncio.create_task(Scene(self.own, standby, fleet).churn(number, seed=seed))
        await fleet.await_apps(number / 4)
        await asyncio.to_thread(leader.stop, signal.SIGKILL)
        killed, mark = time.time(), self.own.audit.mark()
        await asyncio.to_thread(eventually, lambda: _leads(standby))
        await churning
        await fleet.await_right(within=WITHIN)
        await _lasting(leader.start)
        # A request of the killed one may still have been on its way.
        writes = (call.start for call in self.own.audit.calls(mark) if _is_work(call) and call.start > killed + 0.5)
        return min(writes) - killed


async def _lasting(start: Callable[..., object], *arguments: object) -> None:
    """In a thread that outlives the test: what is started dies with the thread that started it."""
    await asyncio.get_running_loop().run_in_executor(_STARTER, start, *arguments)


def _is_work(call: Call) -> bool:
    return call.agent.startswith("bud-operator/") and call.writes and call.resource != "leases"


def _leads(operator: OperatorProcess) -> None:
    assert operator.says("leading")
