"""Many Deployments created at once: by the operator, and by a bare client that applies the very same children."""

from __future__ import annotations

import asyncio
import copy
import re
import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from bud.kube.kinds import (
    APPS,
    AUTOSCALERS,
    CHILD_SELECTOR,
    DEPLOYMENTS,
    DISRUPTION_BUDGETS,
    FULL_NAME,
    MANAGER,
    SERVICES,
    STATUS_MANAGER,
    Resource,
)
from bud.kube.owned import owned_fields
from tests.audit import Call
from tests.bench.stage import CONCURRENCY, MODEL, NAMESPACE, Stage, usage
from tests.fleet import Object, Wanted, each, listed

CHILDREN = (APPS, SERVICES, AUTOSCALERS, DISRUPTION_BUDGETS)
_WANTED = Wanted(model=MODEL, replicas=1, scaling=True)
_LIMIT_SECONDS = 3600


@dataclass(frozen=True)
class Burst:
    """What one run took: seconds until the last child and first status stood, and until the last was Active or Ready.

    `settled` is 0 where that was not waited for.
    """

    objects: int
    children: float
    settled: float
    calls: Mapping[str, float]
    cpu: float = 0.0


@dataclass(frozen=True)
class Recipe:
    """What was applied for one Deployment: documents as the operator sent them."""

    name: str
    children: tuple[tuple[Resource, Object], ...]
    status: Object


async def by_operator(stage: Stage, number: int, *, serving: bool = True) -> Burst:
    """Owners made by one program, all else by the operator, which runs already; until all serve, or all have begun."""
    before, mark, start = usage(stage.operator.pid), stage.audit.mark(), time.time()
    await _own(stage, number)
    await _until(stage, number, ("Active",) if serving else ("Active", "Scaling", "Deploying"))
    settled = time.time() - start if serving else 0.0
    after = usage(stage.operator.pid)
    calls = [call for call in stage.audit.calls(mark) if call.namespace == NAMESPACE]
    mine = [call for call in calls if call.agent.startswith("bud-operator/")]
    return Burst(number, _children_stood(calls) - start, settled, _per_object(mine, number), after.cpu - before.cpu)


async def recipes(stage: Stage) -> list[Recipe]:
    """What the operator applied, from what it owns of each object."""
    children: dict[str, list[tuple[Resource, Object]]] = {}
    for resource in CHILDREN:
        for live in await listed(stage.client, resource, namespace=NAMESPACE, selector=CHILD_SELECTOR):
            children.setdefault(live["metadata"]["annotations"][FULL_NAME], []).append(
                (resource, _sent(resource, live))
            )
    owners = await listed(stage.client, DEPLOYMENTS, namespace=NAMESPACE)
    return [
        Recipe(owner["metadata"]["name"], tuple(children[owner["metadata"]["name"]]), owner["status"])
        for owner in owners
    ]


async def by_bare_client(stage: Stage, made: Iterable[Recipe], *, serving: bool = True) -> Burst:
    """Owners by as many writers as for the operator, children and one status for each by as many as it has workers."""
    todo = list(made)
    ready = asyncio.create_task(_until_ready(stage, len(todo) if serving else 0))
    mark, start = stage.audit.mark(), time.time()
    owned: asyncio.Queue[tuple[Recipe, Object]] = asyncio.Queue()

    async def own(recipe: Recipe) -> None:
        owner = await stage.client.create(_owner(recipe.name), DEPLOYMENTS, namespace=NAMESPACE)
        owned.put_nowait((recipe, owner))

    async def furnish(_: Recipe) -> None:
        recipe, owner = await owned.get()
        uid = owner["metadata"]["uid"]
        for resource, sent in recipe.children:
            document = copy.copy(sent)
            references = [sent["metadata"]["ownerReferences"][0] | {"uid": uid}]
            document["metadata"] = sent["metadata"] | {"ownerReferences": references}
            await stage.client.apply(document, resource, manager=MANAGER, force=True)
        about = {"name": recipe.name, "namespace": NAMESPACE, "uid": uid}
        status = {key: owner[key] for key in ("apiVersion", "kind")} | {"metadata": about, "status": recipe.status}
        await stage.client.apply(status, DEPLOYMENTS, manager=STATUS_MANAGER, force=True, subresource="status")

    async with asyncio.TaskGroup() as group:
        group.create_task(each(todo, own, at_once=CONCURRENCY))
        group.create_task(each(todo, furnish, at_once=CONCURRENCY))
    await ready
    settled = time.time() - start if serving else 0.0
    calls = [call for call in stage.audit.calls(mark) if call.namespace == NAMESPACE]
    mine = [call for call in calls if call.agent == "bud-bench"]
    return Burst(len(todo), _children_stood(calls) - start, settled, _per_object(mine, len(todo)))


async def _own(stage: Stage, number: int) -> None:
    async def make(n: int) -> None:
        await stage.client.create(_owner(f"d-{n}"), DEPLOYMENTS, namespace=NAMESPACE)

    await each(range(number), make, at_once=CONCURRENCY)


def _owner(name: str) -> Object:
    document = _WANTED.document(name)
    document["metadata"]["namespace"] = NAMESPACE
    return document


def _sent(resource: Resource, live: Mapping[str, Any]) -> Object:
    document = {"apiVersion": resource.api_version, "kind": resource.kind, **owned_fields(live)}
    metadata = {key: live["metadata"][key] for key in ("name", "namespace")}
    document["metadata"] = document["metadata"] | metadata
    return document


async def _until(stage: Stage, number: int, phases: Collection[str]) -> None:
    deadline = time.monotonic() + _LIMIT_SECONDS
    while True:
        told = re.findall(
            r'bud_objects{kind="Deployment",phase="(\w+)"} (\d+)', await asyncio.to_thread(stage.operator.metrics)
        )
        if sum(int(count) for phase, count in told if phase in phases) == number:
            return
        assert time.monotonic() < deadline
        await asyncio.sleep(0.25)


async def _until_ready(stage: Stage, number: int) -> None:
    """By a watch, as the operator sees it."""
    page = await stage.client.list_page(APPS, namespace=NAMESPACE, selector="")
    version, ready = page["metadata"]["resourceVersion"], set[str]()
    while len(ready) < number:
        async for event in stage.client.watch(APPS, namespace=NAMESPACE, selector=CHILD_SELECTOR, version=version):
            item = event["object"]
            version = item["metadata"]["resourceVersion"]
            if (item.get("status") or {}).get("availableReplicas"):
                ready.add(item["metadata"]["name"])
                if len(ready) == number:
                    return


def _children_stood(calls: Iterable[Call]) -> float:
    """When the last child was created and the last Deployment had its first status."""
    plurals = {resource.plural for resource in CHILDREN}
    done: dict[tuple[str, str], float] = {}
    for call in calls:
        ours = call.agent.startswith(("bud-operator/", "bud-bench"))
        if ours and call.verb == "patch" and call.code == 201 and call.resource in plurals:
            done[call.resource, call.name] = call.end
        elif ours and call.resource == "deployments/status" and call.code == 200:
            done.setdefault((call.resource, call.name), call.end)
    return max(done.values())


def _per_object(calls: Iterable[Call], number: int) -> dict[str, float]:
    counts = Counter(f"{call.verb} {call.resource}" for call in calls)
    return {what: count / number for what, count in sorted(counts.items())}
