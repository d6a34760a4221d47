"""Deployments that sleep while nobody asks, and wake when a gateway notes that somebody does."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path

import pytest

from bud.api import DEPLOYMENT
from bud.kube.kinds import USE, child_name
from tests.cluster.handle import Cluster
from tests.integration.chart import account, of_kind, rendered
from tests.operator_process import OperatorProcess, operator_process
from tests.waiting import eventually
from tests.world import World

RIGHTS = ("ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding")


@pytest.fixture
def sleepy(kinds: Cluster, shared_operator: OperatorProcess, tmp_path: Path) -> Iterator[World]:
    """A namespace of an operator with the chart's rights, which is told that the gateways are there too."""
    if shared_operator.running:
        shared_operator.stop()
    made = World.create(kinds)
    home = made.namespace
    text = rendered({"namespaces": [home], "rbac": {"aggregate": False}}, namespace=home)
    kinds.apply(*(item for kind in RIGHTS for item in of_kind(kind, text)))
    kubeconfig = account(kinds, tmp_path, namespace=home)
    with operator_process(kubeconfig, tmp_path / "log", f"--namespace={home}", f"--gateway-namespace={home}") as one:
        yield made
        made.clear()
        assert "forbidden" not in one.log.lower()


def note(world: World, name: str) -> None:
    """What a gateway writes of a request."""
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    lease = {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": child_name(DEPLOYMENT.kind, world.namespace, name), "labels": {USE: "true"}},
        "spec": {"renewTime": now},
    }
    world.apply(lease)


def test_it_sleeps_wakes_and_sleeps_again(sleepy: World) -> None:
    sleepy.serve("chat", autoScaling={"minReplicas": 0, "maxReplicas": 2, "idleSeconds": 10})
    child = child_name(DEPLOYMENT.kind, sleepy.namespace, "chat")
    sleepy.await_reason("mdep", "chat", "Asleep")
    assert sleepy.await_phase("mdep", "chat", "Stopped")["ready"] == "0/0"
    assert sleepy.get("deployments.apps", child)["spec"]["replicas"] == 0
    note(sleepy, "chat")
    sleepy.await_phase("mdep", "chat", "Active")
    sleepy.await_reason("mdep", "chat", "Asleep")
    eventually(lambda: _none(sleepy))


def _none(world: World) -> None:
    assert world.find("pods") == []
