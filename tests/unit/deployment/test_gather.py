"""What of the cluster decides about a Deployment."""

from __future__ import annotations

from typing import Any, cast

import pytest

from bud.api import DEPLOYMENT
from bud.context import Context, Settings
from bud.deployment.handlers import gather
from bud.deployment.sharing import any_waits, trouble
from bud.deployment.status import diagnose
from bud.kube.client import Client
from bud.kube.kinds import DEPLOYMENTS, OWNER_KIND, OWNER_NAME, PODS, child_name
from bud.kube.seen import see
from bud.kube.store import Store
from bud.kube.write import Writer
from bud.metrics import Metrics
from bud.triggers import see_linked

OWNER = see_linked(
    DEPLOYMENTS,
    {
        "metadata": {"namespace": "ns", "name": "chat", "uid": "u", "resourceVersion": "1", "generation": 1},
        "spec": {"modelRef": {"name": "m"}},
    },
)


def context(filled: Store) -> Context:
    """One that reads the store and reaches no cluster."""
    return Context(cast(Client, None), filled, cast(Writer, None), Settings(image="bud:1"), Metrics())


def pod(name: str, *, node: str, mounted: str, **status: Any) -> dict[str, Any]:
    labels = {OWNER_KIND: DEPLOYMENT.kind, OWNER_NAME: child_name(DEPLOYMENT.kind, "ns", "chat")}
    conditions = [{"type": "PodReadyToStartContainers", "status": mounted}]
    return {
        "metadata": {
            "namespace": "ns",
            "name": name,
            "uid": name,
            "resourceVersion": "2",
            "labels": labels,
            "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "spec": {"nodeName": node, "containers": [{"name": "engine"}]},
        "status": {"conditions": conditions, **status},
    }


def ended(code: int) -> list[dict[str, Any]]:
    return [{"name": "engine", "ready": False, "state": {"terminated": {"exitCode": code, "reason": "Error"}}}]


EVICTED = pod(
    "evicted", node="a", mounted="False", phase="Failed", reason="Evicted", containerStatuses=ended(137),
    message="The node was low on resource: memory.",
)  # fmt: skip
DONE = pod("done", node="a", mounted="False", phase="Succeeded", containerStatuses=ended(0))
SUCCESSOR = pod("successor", node="b", mounted="True", phase="Pending")
CRASHES = pod("crashes", node="b", mounted="True", phase="Running", containerStatuses=ended(1))


@pytest.mark.parametrize(
    ("pods", "reason"),
    [
        pytest.param((EVICTED, SUCCESSOR), None, id="one was evicted, and its successor starts"),
        pytest.param((DONE, SUCCESSOR), None, id="one has ended well, and its successor starts"),
        pytest.param((EVICTED, CRASHES), "EngineCrashed", id="the successor crashes"),
    ],
)
def test_pods_that_are_over_tell_nothing_of_those_that_follow_them(
    pods: tuple[dict[str, Any], ...], reason: str | None
) -> None:
    filled = Store()
    for raw in pods:
        filled.put(see(PODS, raw))
    seen = gather(context(filled), OWNER)
    found = trouble(seen, seen.pods, now="2026-01-01T01:00:00Z") or diagnose(seen.pods)
    assert (found[0] if found is not None else None) == reason
    assert not any_waits(seen.pods)
