"""Many Models and Deployments at once: made, edited and deleted through any outage, and compared with what was asked."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from bud.errors import ApiConflict, ApiRefused, ApiUnavailable
from bud.kube.client import Client
from bud.kube.connect import connect
from bud.kube.kinds import (
    APPS,
    AUTOSCALERS,
    CHILD_SELECTOR,
    CLAIMS,
    DEPLOYMENTS,
    DISRUPTION_BUDGETS,
    FULL_NAME,
    JOBS,
    MODELS,
    PODS,
    SERVICES,
    WANTED_BY,
    Resource,
)
from bud.model.job import RESULT as RESULT_ANNOTATION
from tests.world import RESULT, deployment, model

T = TypeVar("T")
Object = dict[str, Any]

VOLUMES = Resource("v1", "PersistentVolume", "persistentvolumes", namespaced=False)
NAMESPACES = Resource("v1", "Namespace", "namespaces", namespaced=False)
MANAGER = "bud-test"
_AT_ONCE = 16
_ALL = (APPS, SERVICES, AUTOSCALERS, DISRUPTION_BUDGETS, JOBS, CLAIMS)
_TERMINATED = {"exitCode": 0, "message": json.dumps(RESULT), "reason": "Completed"}
_PAUSE_SECONDS = 0.5


@dataclass(frozen=True)
class Wanted:
    """What was last asked of one Deployment; `mark` is the value of a variable of its engine."""

    model: str
    replicas: int
    mark: int = 0
    scaling: bool = False

    def document(self, name: str) -> Object:
        spec: Object = {
            "replicas": self.replicas,
            "env": [{"name": "MARK", "value": str(self.mark)}],
            "resources": {"cpu": "100m", "memory": "128Mi"},
        }
        if self.scaling:
            spec = {**spec, "replicas": 1, "autoScaling": {"enabled": True, "minReplicas": 1, "maxReplicas": 3}}
        return deployment(name, self.model, **spec)

    @property
    def pods(self) -> int:
        return 1 if self.scaling else self.replicas


@asynccontextmanager
async def client_of(kubeconfig: Path, *, agent: str = MANAGER, concurrency: int = _AT_ONCE) -> AsyncIterator[Client]:
    """The operator's own HTTP client, under another name."""
    client = Client.over(await connect(str(kubeconfig)), user_agent=agent, concurrency=concurrency)
    try:
        yield client
    finally:
        await client.close()


async def each(items: Iterable[T], do: Callable[[T], Awaitable[object]], *, at_once: int = _AT_ONCE) -> None:
    """Does something for every item, in order, some of them at once."""
    todo = iter(items)

    async def work() -> None:
        for item in todo:
            await do(item)

    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(work())


async def persist(call: Callable[[], Awaitable[T]]) -> T:
    """Calls until the API server is there and takes it."""
    while True:
        try:
            return await call()
        except (ApiUnavailable, ApiConflict):
            await asyncio.sleep(_PAUSE_SECONDS)


async def listed(client: Client, resource: Resource, *, namespace: str | None, selector: str = "") -> list[Object]:
    """All objects of a resource."""
    items: list[Object] = []
    token = ""
    while True:
        page = await client.list_page(resource, namespace=namespace, selector=selector, token=token)
        items += page["items"]
        token = page["metadata"].get("continue", "")
        if not token:
            return items


async def count(client: Client, resource: Resource, *, namespace: str) -> int:
    """How many objects of a resource a namespace has, at the price of one."""
    page = await client.list_page(resource, namespace=namespace, selector="", limit=1)
    return len(page["items"]) + int(page["metadata"].get("remainingItemCount", 0))


class Fleet:
    """The Models and Deployments of one namespace, with what was asked of each."""

    def __init__(self, client: Client, namespace: str) -> None:
        self._client = client
        self.namespace = namespace
        self.models: set[str] = set()
        self.wanted: dict[str, Wanted] = {}
        self._uids: dict[tuple[Resource, str], str] = {}

    @classmethod
    async def create(cls, client: Client, namespace: str) -> Fleet:
        document: Object = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
        await persist(lambda: client.apply(document, NAMESPACES, manager=MANAGER, force=True))
        return cls(client, namespace)

    async def add_model(self, name: str) -> None:
        """Asks for a Model."""
        self.models.add(name)
        await self._apply(model(name), MODELS)

    async def set(self, name: str, wanted: Wanted) -> None:
        """Asks for a Deployment, or for another spec of it."""
        self.wanted[name] = wanted
        await self._apply(wanted.document(name), DEPLOYMENTS)

    async def edit(self, name: str, **changes: Any) -> None:
        await self.set(name, replace(self.wanted[name], **changes))

    async def remove(self, resource: Resource, name: str) -> None:
        """Deletes a Model or a Deployment."""
        self.models.discard(name) if resource is MODELS else self.wanted.pop(name)
        uid = self._uids.pop((resource, name))
        await persist(lambda: self._client.delete(resource, namespace=self.namespace, name=name, uid=uid))

    async def play_kubelet(self) -> None:
        """Ends every download well, and gives its claim a volume once the operator knows, until cancelled.

        Not before: KWOK would end the download's pod, and tell nothing of what it found.
        """
        while True:
            for claim in await persist(lambda: self._list(CLAIMS)):
                told = RESULT_ANNOTATION in claim["metadata"].get("annotations", {})
                if told and not claim["spec"].get("volumeName"):
                    await persist(lambda name=claim["metadata"]["name"]: self._bind(name))  # type: ignore[misc]
            for pod in await persist(lambda: self._list(PODS, "job-name")):
                if pod.get("status", {}).get("phase") not in ("Succeeded", "Failed"):
                    await persist(lambda name=pod["metadata"]["name"]: self._end(name))  # type: ignore[misc]
            await asyncio.sleep(_PAUSE_SECONDS)

    async def wrong(self) -> list[str]:
        """What is not as it was asked, in words; nothing when all is well."""
        deployments, models = await self._by_name(DEPLOYMENTS), await self._by_name(MODELS)
        found = [*_different("Deployment", set(self.wanted), set(deployments))]
        found += _different("Model", self.models, set(models))
        found += [f"{name}: {fault}" for name, item in models.items() if (fault := _model_fault(item))]
        if not found:
            faults = {name: _status_fault(item, self.wanted[name]) for name, item in deployments.items()}
            found = [f"{name}: {fault}" for name, fault in faults.items() if fault]
        if found:
            return found
        children = {resource: await self._list(resource, CHILD_SELECTOR) for resource in _ALL}
        uids = {item["metadata"]["uid"] for item in (*deployments.values(), *models.values())}
        found += [
            f"{resource.kind} {item['metadata']['name']} is an orphan"
            for resource, items in children.items()
            for item in items
            if uids.isdisjoint(owner["uid"] for owner in item["metadata"].get("ownerReferences", ()))
            and self.models.isdisjoint(item["metadata"].get("annotations", {}).get(WANTED_BY, "").split(","))
        ]
        found += _miscounted(children, self.wanted)
        for app in children[APPS]:
            name = app["metadata"]["annotations"][FULL_NAME]
            if name in self.wanted and (fault := _app_fault(app, deployments[name], self.wanted[name])):
                found.append(f"{name}: {fault}")
        return found

    async def await_right(self, *, within: float) -> float:
        """Waits until nothing is wrong; gives the seconds that took."""
        loop = asyncio.get_running_loop()
        start = loop.time()
        while found := await persist(self.wrong):
            assert loop.time() - start < within, f"{len(found)} wrong after {within:.0f} s: {found[:10]}"
            await asyncio.sleep(1.0)
        return loop.time() - start

    async def await_apps(self, number: float) -> None:
        """Waits until so many children of kind apps/v1 Deployment are there."""
        while True:
            if await persist(lambda: count(self._client, APPS, namespace=self.namespace)) >= number:
                return
            await asyncio.sleep(0.1)

    async def await_apps_at_most(self, number: int) -> None:
        """Waits until no more children of kind apps/v1 Deployment are there."""
        while True:
            if await persist(lambda: count(self._client, APPS, namespace=self.namespace)) <= number:
                return
            await asyncio.sleep(0.1)

    async def _apply(self, document: Object, resource: Resource) -> None:
        document["metadata"]["namespace"] = self.namespace
        _, answer = await persist(lambda: self._client.apply(document, resource, manager=MANAGER, force=True))
        self._uids[resource, document["metadata"]["name"]] = answer["metadata"]["uid"]

    async def _bind(self, claim: str) -> None:
        document = {
            "apiVersion": VOLUMES.api_version,
            "kind": VOLUMES.kind,
            "metadata": {"name": f"{self.namespace}.{claim}"},
            "spec": {
                "accessModes": ["ReadWriteOnce"],
                "capacity": {"storage": "20Gi"},
                "claimRef": {"namespace": self.namespace, "name": claim},
                "hostPath": {"path": "/nowhere"},
                "persistentVolumeReclaimPolicy": "Retain",
            },
        }
        await self._client.apply(document, VOLUMES, manager=MANAGER, force=True)

    async def _end(self, pod: str) -> None:
        container = {"name": "weights", "image": "x", "imageID": "x", "ready": False, "restartCount": 0}
        status = {
            "phase": "Succeeded",
            "containerStatuses": [{**container, "state": {"terminated": _TERMINATED}}],
        }
        document = {
            "apiVersion": PODS.api_version,
            "kind": PODS.kind,
            "metadata": {"name": pod, "namespace": self.namespace},
            "status": status,
        }
        try:
            await self._client.apply(document, PODS, manager=MANAGER, force=True, subresource="status")
        except ApiRefused as error:
            if error.status != 404:
                raise

    async def _list(self, resource: Resource, selector: str = "") -> list[Object]:
        return await listed(self._client, resource, namespace=self.namespace, selector=selector)

    async def _by_name(self, resource: Resource) -> dict[str, Object]:
        return {item["metadata"]["name"]: item for item in await self._list(resource)}


def _different(kind: str, wanted: set[str], found: set[str]) -> list[str]:
    missing = [f"{kind} {name} is missing" for name in sorted(wanted - found)]
    return missing + [f"{kind} {name} is still there" for name in sorted(found - wanted)]


def _stale(item: Mapping[str, Any]) -> str:
    status, metadata = item.get("status", {}), item["metadata"]
    if "deletionTimestamp" in metadata:
        return f"hangs in deletion on {metadata.get('finalizers')}"
    if status.get("observedGeneration") != metadata["generation"]:
        return f"observedGeneration {status.get('observedGeneration')} of {metadata['generation']}"
    return ""


def _model_fault(item: Mapping[str, Any]) -> str:
    phase = item.get("status", {}).get("phase")
    return _stale(item) or ("" if phase == "Available" else f"phase {phase}")


def _status_fault(item: Mapping[str, Any], wanted: Wanted) -> str:
    if fault := _stale(item):
        return fault
    status, phase = item["status"], "Active" if wanted.pods else "Stopped"
    conditions = {c["type"]: (c["status"], c["observedGeneration"]) for c in status["conditions"]}
    if status["phase"] != phase:
        return f"phase {status['phase']}, not {phase}"
    if conditions["Ready"][0] != "True" or conditions["Reconciling"] != ("False", item["metadata"]["generation"]):
        return f"conditions {conditions}"
    if item["spec"]["env"][0].get("value") != str(wanted.mark):
        return "an edit is lost"
    return ""


def _app_fault(app: Mapping[str, Any], owner: Mapping[str, Any], wanted: Wanted) -> str:
    engine = app["spec"]["template"]["spec"]["containers"][0]
    marks = [variable.get("value") for variable in engine["env"] if variable["name"] == "MARK"]
    if marks != [str(wanted.mark)]:
        return f"the child has the mark {marks}, not {wanted.mark}"
    if app["spec"]["replicas"] != wanted.pods:
        return f"the child wants {app['spec']['replicas']} replicas, not {wanted.pods}"
    told, true = owner["status"].get("readyReplicas", 0), app.get("status", {}).get("availableReplicas", 0)
    return "" if told == true else f"status tells of {told} ready replicas, and there are {true}"


def _miscounted(children: Mapping[Resource, list[Object]], wanted: Mapping[str, Wanted]) -> list[str]:
    scaled = [name for name, asked in wanted.items() if asked.scaling]
    found = []
    for resource, names in ((APPS, wanted), (SERVICES, wanted), (AUTOSCALERS, scaled), (DISRUPTION_BUDGETS, scaled)):
        have = Counter(item["metadata"]["annotations"][FULL_NAME] for item in children[resource])
        expected = Counter(list(names))
        found += [f"{n}: {have[n]} of {resource.kind}" for n in {*expected, *have} if have[n] != expected[n]]
    return found
