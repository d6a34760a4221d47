"""An operator that serves some namespaces only, with rights in those alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.handle import Cluster
from tests.integration.chart import permitted, rendered
from tests.operator_process import OperatorProcess, operator_process
from tests.waiting import eventually
from tests.world import World, deployment, model


@pytest.fixture
def worlds(kinds: Cluster, shared_operator: OperatorProcess) -> tuple[World, World, World]:
    """Two namespaces that are served and one that is not."""
    if shared_operator.running:
        shared_operator.stop()
    return World.create(kinds), World.create(kinds), World.create(kinds)


def _kubeconfig(cluster: Cluster, worlds: tuple[World, ...], folder: Path) -> Path:
    """The rights that the chart gives to an operator of these namespaces, which is installed in the first."""
    home = worlds[0].namespace
    values = {"namespaces": [world.namespace for world in worlds], "rbac": {"aggregate": False}}
    return permitted(cluster, folder, rendered(values, namespace=home), namespace=home)


def test_the_named_namespaces_are_served_with_no_right_beyond_them(
    worlds: tuple[World, World, World], kinds: Cluster, tmp_path: Path
) -> None:
    first, second, other = worlds
    kubeconfig = _kubeconfig(kinds, (first, second), tmp_path)
    other.apply(model("tiny"))
    options = ("--namespace", first.namespace, "--namespace", second.namespace, "--lease-namespace", first.namespace)
    with operator_process(kubeconfig, tmp_path / "log", *options) as operator:
        for world in (first, second):
            world.serve("chat")
            world.kubectl("delete", "services", "--all")
            world.one("services")
        operator.restart()
        for world in (first, second):
            world.await_phase("mdep", "chat", "Active")
            world.apply(deployment("again", "chat-weights"))
            world.await_phase("mdep", "again", "Active")
        assert "phase" not in other.get("bmodel", "tiny").get("status", {})
        assert "forbidden" not in operator.log.lower()
        first.clear()
        second.clear()
    other.kubectl("delete", "bmodel", "--all")


def test_a_runtime_that_is_added_reaches_them(
    worlds: tuple[World, World, World], kinds: Cluster, tmp_path: Path
) -> None:
    world = worlds[0]
    with operator_process(kinds.kubeconfig, tmp_path / "log", "--namespace", world.namespace):
        world.make_available("tiny")
        world.apply(deployment("chat", "tiny", runtimeRef={"name": "later"}))
        world.await_reason("mdep", "chat", "RuntimeNotFound")
        spec = {"image": "engine:1", "formats": ["gguf"], "tasks": ["text-generation"]}
        kinds.apply(
            {"apiVersion": "bud.studio/v1alpha1", "kind": "Runtime", "metadata": {"name": "later"}, "spec": spec}
        )
        world.await_phase("mdep", "chat", "Active")
        kinds.kubectl("delete", "brt", "later")
        world.clear()


def test_an_operator_without_the_rights_says_which_it_lacks(
    worlds: tuple[World, World, World], kinds: Cluster, tmp_path: Path
) -> None:
    first, second, _ = worlds
    kubeconfig = _kubeconfig(kinds, (first,), tmp_path)
    options = ("--namespace", first.namespace, "--namespace", second.namespace)
    process = OperatorProcess(kubeconfig, tmp_path / "log", *options)
    process.launch()
    eventually(lambda: _logged(process, second.namespace))
    process.stop()


def _logged(process: OperatorProcess, namespace: str) -> None:
    assert "forbidden" in process.log and namespace in process.log
