"""One NetworkPolicy for the engines of a namespace: made with the first Deployment, gone with the last, never left."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.handle import Cluster
from tests.operator_process import OperatorProcess, operator_process
from tests.waiting import eventually, is_equal
from tests.world import World, deployment

ASKED = ("--engine-network-policy", "bud.studio/engine-access=true")


@pytest.fixture
def alone(kinds: Cluster, shared_operator: OperatorProcess) -> World:
    """A namespace for operators of the test's own: the shared one is asked for no policy, and would delete each."""
    if shared_operator.running:
        shared_operator.stop()
    return World.create(kinds)


def names(world: World) -> list[str]:
    return [item["metadata"]["name"] for item in world.find("networkpolicies")]


def test_a_policy_stands_as_long_as_a_deployment_does(alone: World, kinds: Cluster, tmp_path: Path) -> None:
    world = alone
    log = tmp_path / "log"
    with operator_process(kinds.kubeconfig, log, *ASKED) as operator:
        world.make_available("tiny")
        world.apply(deployment("one", "tiny"), deployment("two", "tiny"))
        eventually(lambda: is_equal(names(world), ["bud-engines"]))
        writes = [write for write in world.writes() if write.resource == "networkpolicies"]
        assert len(writes) == 1
        world.kubectl("patch", "netpol", "bud-engines", "--type=merge", '-p={"spec":{"ingress":[]}}')
        eventually(lambda: is_equal(bool(world.one("networkpolicies")["spec"].get("ingress")), True))
        world.kubectl("delete", "mdep", "one")
        assert names(world) == ["bud-engines"]
        world.kubectl("delete", "mdep", "two")
        eventually(lambda: is_equal(names(world), []))
        world.apply(deployment("three", "tiny"))
        eventually(lambda: is_equal(names(world), ["bud-engines"]))
        operator.stop(9)
        world.kubectl("delete", "mdep", "three")
        operator.start()
        eventually(lambda: is_equal(names(world), []))
        world.apply(deployment("four", "tiny"))
        eventually(lambda: is_equal(names(world), ["bud-engines"]))
    with operator_process(kinds.kubeconfig, log):
        eventually(lambda: is_equal(names(world), []))
        world.clear()


def test_a_policy_of_somebody_elses_stays_and_is_told_in_an_event(alone: World, kinds: Cluster, tmp_path: Path) -> None:
    world = alone
    spec = {"podSelector": {"matchLabels": {"app": "mine"}}, "policyTypes": ["Ingress"]}
    mine = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "bud-engines"},
        "spec": spec,
    }
    world.apply(mine)
    with operator_process(kinds.kubeconfig, tmp_path / "log", *ASKED):
        world.make_available("tiny")
        world.apply(deployment("one", "tiny"))
        world.await_phase("mdep", "one", "Active")
        eventually(lambda: is_equal(world.events("one").count(("Warning", "NameConflict")), 1))
        assert world.one("networkpolicies")["spec"]["podSelector"] == spec["podSelector"]
        world.clear()


def test_nothing_stands_between_callers_and_engines_unasked(world: World, shared_operator: OperatorProcess) -> None:
    assert shared_operator.running
    world.serve("chat")
    assert names(world) == []
