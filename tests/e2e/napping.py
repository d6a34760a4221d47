"""A Deployment that sleeps while nobody asks, as callers of the chart's gateway meet it."""

from __future__ import annotations

import base64
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import orjson

from bud.api import DEPLOYMENT
from bud.kube.kinds import child_name
from tests.cluster.handle import Write
from tests.forwarding import port_forward
from tests.waiting import eventually, is_empty
from tests.world import World

SYSTEM = "bud-system"
NAME = "napper"
IDLE_SECONDS = 10
AUTO_SCALING = {"minReplicas": 0, "maxReplicas": 1, "idleSeconds": IDLE_SECONDS}
PATIENCE = 120.0
NODES = ("--selector=kubernetes.io/os",)
_CALLERS = 16
_COMMENT = ": the model is being woken"


def team_key(world: World, name: str) -> str:
    """A key that the operator made, for a Project of the namespace."""
    bud = "bud.studio/v1alpha1"
    world.apply(
        {"apiVersion": bud, "kind": "Project", "metadata": {"name": world.namespace}},
        {"apiVersion": bud, "kind": "APIKey", "metadata": {"name": name}},
    )
    world.kubectl("wait", f"bkey/{name}", "--for=jsonpath={.status.phase}=Active", "--timeout=30s")
    return base64.b64decode(world.get("secret", name)["data"]["key"]).decode()


class Napper:
    """One that is alone in its namespace, and callers with a key of its project."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._headers = {"Authorization": f"Bearer {team_key(world, 'caller')}"}
        self._child = child_name(DEPLOYMENT.kind, world.namespace, NAME)

    def await_asleep(self) -> None:
        """Until no pod is left."""
        self._world.await_reason("mdep", NAME, "Asleep", within=PATIENCE)
        eventually(lambda: is_empty(self._world.find_by("bud.studio/owner-kind=Deployment")))

    def wake(self) -> None:
        """Many ask at once, while no pod can start; all are held and answered by the engine, for one patch."""
        before, cluster, began = self._writes("bud-operator/"), self._world.cluster, time.monotonic()
        noted = self._writes("bud-gateway/")
        cluster.kubectl("cordon", *NODES)
        with port_forward(cluster, "bud-operator-gateway", namespace=SYSTEM) as base:
            try:
                with ThreadPoolExecutor(_CALLERS) as pool, httpx.Client(timeout=PATIENCE, trust_env=False) as client:
                    waiting = [pool.submit(self._ask, client, base) for _ in range(_CALLERS - 1)]
                    with client.stream("POST", **self._question(base, stream=True)) as stream:
                        lines = stream.iter_lines()
                        assert (stream.status_code, next(lines)) == (200, _COMMENT)
                        assert not any(one.done() for one in waiting)
                        cluster.kubectl("uncordon", *NODES)
                        _check_stream(list(lines))
                    assert {one.result()["usage"]["completion_tokens"] for one in waiting} == {5}
            finally:
                cluster.kubectl("uncordon", *NODES)
        assert len(self._writes("bud-operator/")) - len(before) == 1
        most = 1 + (time.monotonic() - began) / (IDLE_SECONDS / 4)
        assert 1 <= len(self._writes("bud-gateway/")) - len(noted) <= most

    def _question(self, base: str, **more: Any) -> dict[str, Any]:
        words = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 5, "ignore_eos": True}
        body = {"model": NAME, **words, **more}
        return {"url": f"{base}/v1/chat/completions", "json": body, "headers": self._headers}

    def _ask(self, client: httpx.Client, base: str) -> dict[str, Any]:
        answer = client.post(**self._question(base))
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def _writes(self, who: str) -> list[Write]:
        """Of its apps/v1 Deployment, or of the Lease of its use, which have one name."""
        found = self._world.cluster.writes(who)
        kinds = ("deployments", "deployments/scale", "leases")
        return [one for one in found if one.name == self._child and one.resource in kinds and one.code < 400]


def _check_stream(rest: list[str]) -> None:
    """What comes after the first comment: perhaps more of them, then the engine's answer."""
    told = [line for line in rest if line and line != _COMMENT]
    assert told[-1] == "data: [DONE]"
    chunks = [orjson.loads(line.removeprefix("data: ")) for line in told[:-1]]
    assert {chunk["model"] for chunk in chunks} == {NAME}
    assert "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])
