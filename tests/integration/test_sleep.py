"""Deployments that sleep while nobody asks, and wake when a gateway notes that somebody does."""

from __future__ import annotations

import datetime
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bud.api import DEPLOYMENT
from bud.kube.kinds import USE, child_name, ledger_name
from bud.ledger import DATA, LABEL
from tests.cluster.handle import Cluster
from tests.integration.chart import permitted, rendered
from tests.operator_process import OperatorProcess, operator_process
from tests.waiting import eventually, is_empty
from tests.world import World

GONE = ("gone", ledger_name("gone"), ledger_name("gone", 8))
"""What was written of a Deployment and a Project that are no longer there, and a ledger of which nobody can say when."""


@pytest.fixture(scope="module")
def tmp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sleep")


@pytest.fixture(scope="module")
def sleepy(kinds: Cluster, shared_operator: OperatorProcess, tmp: Path) -> Iterator[World]:
    """A namespace of an operator with the chart's rights, which is told that the gateways are there too.

    When it starts there are notes and ledgers of what is gone.
    """
    if shared_operator.running:
        shared_operator.stop()
    made = World.create(kinds)
    home = made.namespace
    text = rendered({"namespaces": [home], "rbac": {"aggregate": False}}, namespace=home)
    kubeconfig = permitted(kinds, tmp, text, namespace=home)
    made.apply(written("gone", 3601), written("new", 0), ledger(GONE[1]), ledger(GONE[2], "keys"))
    with operator_process(kubeconfig, tmp / "log", f"--namespace={home}", f"--gateway-namespace={home}") as one:
        yield made
        made.clear()
        assert "forbidden" not in one.log.lower()


def note(world: World, name: str) -> None:
    """What a gateway writes of a request."""
    world.apply(written(child_name(DEPLOYMENT.kind, world.namespace, name), 0))


def written(id: str, seconds: float) -> dict[str, Any]:
    """A note of so many seconds ago."""
    then = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=seconds)
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": id, "labels": {USE: "true"}},
        "spec": {"renewTime": then.strftime("%Y-%m-%dT%H:%M:%S.%fZ")},
    }


def ledger(name: str, label: str = "true") -> dict[str, Any]:
    metadata = {"name": name, "labels": {LABEL: label}}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {DATA: "?"}}


def test_it_sleeps_wakes_and_sleeps_again(sleepy: World) -> None:
    sleepy.serve("chat", autoScaling={"minReplicas": 0, "maxReplicas": 2, "idleSeconds": 10})
    child = child_name(DEPLOYMENT.kind, sleepy.namespace, "chat")
    sleepy.await_reason("mdep", "chat", "Asleep")
    assert sleepy.await_phase("mdep", "chat", "Stopped")["ready"] == "0/0"
    assert sleepy.get("deployments.apps", child)["spec"]["replicas"] == 0
    note(sleepy, "chat")
    sleepy.await_phase("mdep", "chat", "Active")
    sleepy.await_reason("mdep", "chat", "Asleep")
    eventually(lambda: is_empty(sleepy.find("pods")))


def test_what_was_written_of_what_is_gone_stays_for_an_hour_and_nothing_else_may_be_deleted(
    sleepy: World, kinds: Cluster, tmp: Path
) -> None:
    def names() -> set[str]:
        return {item["metadata"]["name"] for kind in ("lease", "configmap") for item in sleepy.find(kind)}

    def delete(kind: str, name: str) -> str:
        kubectl = (str(kinds.kubectl_path), f"--kubeconfig={tmp / 'kubeconfig'}", "-n", sleepy.namespace)
        done = subprocess.run([*kubectl, "delete", kind, name], capture_output=True, text=True, check=False)
        return done.stdout + done.stderr

    assert names().issuperset(("new", *GONE))
    assert "the operator deletes ledgers and notes of use alone" in delete("configmap", "kube-root-ca.crt")
    for name in GONE:
        assert "deleted" in delete("lease" if name == "gone" else "configmap", name)
    assert names().isdisjoint(GONE)
