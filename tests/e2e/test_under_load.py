"""What goes on under a steady load of real requests, through the engines' Service and the gateway's: none is lost."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests import load
from tests.cluster.handle import Cluster
from tests.e2e import napping
from tests.e2e.napping import Napper, team_key
from tests.e2e.test_serving import PATIENCE, SMALL, active, from_url
from tests.integration.weights.programs import Origin
from tests.waiting import eventually, is_empty, is_equal
from tests.world import World, deployment, model

SCALED = {"autoScaling": {"enabled": True, "minReplicas": 2, "maxReplicas": 3, "targetCPU": 1000}}
ENGINES = "bud.studio/owner-kind=Deployment"
OPERATOR = ("-n", "bud-system", "deployment/bud-operator")
GATEWAY = ("-n", "bud-system", "deployment/bud-operator-gateway")
GATEWAY_URL = "http://bud-operator-gateway.bud-system/v1"


@pytest.fixture
def napper(installed: Cluster, files: Origin, gguf: bytes) -> Iterator[Napper]:
    """In a namespace of its own, it falls asleep while other things go on."""
    files.put("tiny.gguf", gguf)
    world = World.create(installed)
    world.apply(
        model("tiny", from_url(files)), deployment(napping.NAME, "tiny", **SMALL, autoScaling=napping.AUTO_SCALING)
    )
    yield Napper(world)
    installed.kubectl("delete", "bproj", world.namespace)
    world.clear()


def test_no_request_is_lost_when_scaling_is_handed_over_pods_are_changed_and_operator_and_gateway_are_upgraded(
    world: World, napper: Napper, files: Origin, gguf: bytes
) -> None:
    runtime = f"mine-{world.namespace}"
    builtin = world.get("brt", "tiny")["spec"]
    kind = {"apiVersion": "bud.studio/v1alpha1", "kind": "Runtime", "metadata": {"name": runtime}}
    world.cluster.apply(kind | {"spec": builtin})
    try:
        spec = SMALL | {"runtimeRef": {"name": runtime}}
        world.apply(model("tiny", from_url(files)), deployment("chat", "tiny", **spec, **SCALED))
        active(world, "chat")
        with steady_load(world, "chat") as answered:
            _patch(world, {"autoScaling": None})
            eventually(lambda: is_empty(world.find("hpa")))
            assert answered() and active(world, "chat")["ready"] == "2/2"
            _patch(world, SCALED)
            world.one("hpa")
            assert answered() and active(world, "chat")["ready"] == "2/2"
            before = _pods(world)
            _patch(world, {"env": [{"name": "CHANGED", "value": "yes"}]})
            eventually(lambda: _disjoint(_pods(world), before), within=PATIENCE)
            assert answered() and active(world, "chat")["ready"] == "2/2"
            world.cluster.kubectl("rollout", "restart", *GATEWAY)
            world.cluster.kubectl("rollout", "status", *GATEWAY, "--timeout=90s", timeout=100)
            assert answered()
            napper.await_asleep()
            napper.wake()
            assert answered()
            before = _pods(world)
            world.cluster.apply(kind | {"spec": builtin | {"env": [{"name": "NEWER", "value": "yes"}]}})
            with newer_operator(world):
                world.kubectl("label", "mdep", "chat", "touched=yes")
                assert world.one("netpol")["metadata"]["name"] == "bud-engines"
                assert answered() and _pods(world) == before
            eventually(lambda: is_empty(world.find("netpol")))
            _patch(world, {"replicas": 1, "autoScaling": None})
            eventually(lambda: is_equal(len(_pods(world)), 1), within=PATIENCE)
            assert answered()
        napper.await_asleep()
    finally:
        world.cluster.kubectl("delete", "bproj", world.namespace)
        world.kubectl("delete", "mdep", "chat")
        world.kubectl("delete", "brt", runtime)


@contextmanager
def steady_load(world: World, name: str) -> Iterator[Callable[[], int]]:
    """A load for the length of a block. It gives a function that tells how many requests were answered, once more were
    than at its last call, and that fails when one was lost; so does the end of the block."""
    url, key = world.get("mdep", name)["status"]["endpointURL"], team_key(world, "load")
    image = world.cluster.get(*OPERATOR)["spec"]["template"]["spec"]["containers"][0]["image"]
    security = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    container = {
        "name": "load",
        "image": image,
        "command": ["python", "-c", Path(load.__file__).read_text(), name, url, "", GATEWAY_URL, key],
        "securityContext": security,
    }
    pod_security = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    spec = {"containers": [container], "securityContext": pod_security, "terminationGracePeriodSeconds": 0}
    world.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "load"}, "spec": spec})
    world.kubectl("wait", "pod/load", "--for=condition=Ready", "--timeout=60s")
    last = 0

    def answered() -> int:
        nonlocal last
        last = eventually(lambda: _more(world, last))
        return last

    answered()
    try:
        yield answered
        answered()
        print(f"requests answered: {answered()}, lost: 0")
    finally:
        world.kubectl("delete", "pod", "load")


def _more(world: World, last: int) -> int:
    lines = world.kubectl("logs", "load", "--tail=1").split("\n")
    totals: dict[str, Any] = json.loads(lines[0] or "{}")
    if totals.get("lost"):
        raise ValueError(f"lost requests: {totals}")
    assert totals.get("answered", 0) > last
    found: int = totals["answered"]
    return found


@contextmanager
def newer_operator(world: World) -> Iterator[None]:
    """Another release of the operator for the length of a block: it would start pods with an image of another name, and is
    told to make a NetworkPolicy."""
    container = world.cluster.get(*OPERATOR)["spec"]["template"]["spec"]["containers"][0]
    arguments = [f"{part}-next" if part.startswith("--image=") else part for part in container["args"]]
    arguments.append("--engine-network-policy=bud.studio/engine-access=true")
    _roll_operator(world, container["name"], arguments)
    try:
        yield
    finally:
        _roll_operator(world, container["name"], container["args"])


def _roll_operator(world: World, container: str, arguments: list[str]) -> None:
    patch = {"spec": {"template": {"spec": {"containers": [{"name": container, "args": arguments}]}}}}
    world.cluster.kubectl("patch", *OPERATOR, "--patch", json.dumps(patch))
    world.cluster.kubectl("rollout", "status", *OPERATOR, "--timeout=90s", timeout=100)


def _patch(world: World, spec: dict[str, Any]) -> None:
    world.kubectl("patch", "mdep", "chat", "--type=merge", "-p", json.dumps({"spec": spec}))


def _pods(world: World) -> set[str]:
    """The engines that are not about to end."""
    found = world.find_by(ENGINES)
    return {pod["metadata"]["uid"] for pod in found if "deletionTimestamp" not in pod["metadata"]}


def _disjoint(found: set[str], before: set[str]) -> None:
    assert len(found) == len(before) and not found & before
