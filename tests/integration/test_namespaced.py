"""An operator that serves some namespaces only, with rights in those alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.handle import Cluster
from tests.operator_process import OperatorProcess, operator_process
from tests.waiting import eventually
from tests.world import World, deployment, model

ALL = ["get", "list", "watch", "create", "patch", "delete"]
RULES: list[dict[str, Any]] = [
    {"apiGroups": ["bud.studio"], "resources": ["*"], "verbs": ["list", "watch", "patch"]},
    {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ALL},
    {"apiGroups": [""], "resources": ["services", "persistentvolumeclaims"], "verbs": ALL},
    {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ALL},
    {"apiGroups": ["autoscaling"], "resources": ["horizontalpodautoscalers"], "verbs": ALL},
    {"apiGroups": ["policy"], "resources": ["poddisruptionbudgets"], "verbs": ALL},
    {"apiGroups": ["networking.k8s.io"], "resources": ["networkpolicies"], "verbs": ALL},
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]},
    {"apiGroups": [""], "resources": ["pods/log"], "verbs": ["get"]},
    {"apiGroups": [""], "resources": ["events"], "verbs": ["create"]},
]
READ = [{"apiGroups": ["bud.studio"], "resources": ["runtimes"], "verbs": ["list", "watch"]}]


@pytest.fixture
def worlds(kinds: Cluster, shared_operator: OperatorProcess) -> tuple[World, World, World]:
    """Two namespaces that are served and one that is not."""
    if shared_operator.running:
        shared_operator.stop()
    return World.create(kinds), World.create(kinds), World.create(kinds)


def _kubeconfig(cluster: Cluster, worlds: tuple[World, ...], folder: Path) -> Path:
    home = worlds[0].namespace
    rbac = "rbac.authorization.k8s.io"
    subjects = [{"kind": "ServiceAccount", "name": "narrow", "namespace": home}]
    read = {"apiVersion": f"{rbac}/v1", "kind": "ClusterRole", "metadata": {"name": f"read-{home}"}, "rules": READ}
    bound = {
        "apiVersion": f"{rbac}/v1", "kind": "ClusterRoleBinding", "metadata": {"name": f"read-{home}"}, "subjects": subjects,
        "roleRef": {"apiGroup": rbac, "kind": "ClusterRole", "name": f"read-{home}"},
    }  # fmt: skip
    cluster.kubectl("-n", home, "create", "serviceaccount", "narrow")
    cluster.apply(read, bound)
    for world in worlds:
        role = {"apiVersion": f"{rbac}/v1", "kind": "Role", "metadata": {"name": "bud"}, "rules": RULES}
        binding = {
            "apiVersion": f"{rbac}/v1", "kind": "RoleBinding", "metadata": {"name": "bud"}, "subjects": subjects,
            "roleRef": {"apiGroup": rbac, "kind": "Role", "name": "bud"},
        }  # fmt: skip
        world.apply(role, binding)
    config: dict[str, Any] = yaml.safe_load(cluster.kubeconfig.read_text())
    config["users"][0]["user"] = {"token": cluster.kubectl("-n", home, "create", "token", "narrow").strip()}
    path = folder / "kubeconfig"
    path.write_text(json.dumps(config))
    return path


def test_the_named_namespaces_are_served_with_no_right_beyond_them(
    worlds: tuple[World, World, World], kinds: Cluster, tmp_path: Path
) -> None:
    first, second, other = worlds
    kubeconfig = _kubeconfig(kinds, (first, second), tmp_path)
    other.apply(model("tiny"))
    options = ("--namespace", first.namespace, "--namespace", second.namespace)
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
