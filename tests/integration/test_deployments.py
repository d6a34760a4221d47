"""Deployments on a real API server: children, scaling, healing, names and bad input."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from bud.deployment.started import ENGINE_ANNOTATION
from tests.cluster.handle import Cluster
from tests.operator_process import OperatorProcess, operator_process
from tests.waiting import eventually, is_equal
from tests.world import World, deployment

KUBECTL_SECONDS = 3.0
"""What starting kubectl may take on a busy machine, on top of what is asked of the operator."""
CHILDREN = ("deployments.apps", "services", "hpa", "pdb")
SCALED = {"autoScaling": {"enabled": True, "minReplicas": 2, "maxReplicas": 4, "targetCPU": 80}}


def test_nothing_is_kept_on_our_objects_but_what_their_users_wrote(world: World) -> None:
    world.serve("chat")
    for kind, name in (("mdep", "chat"), ("bmodel", "chat-weights")):
        metadata = world.get(kind, name)["metadata"]
        assert set(metadata.get("annotations", {})) <= {"kubectl.kubernetes.io/last-applied-configuration"}
        assert set(metadata.get("finalizers", ())) <= {"bud.studio/model-in-use"}
        assert "labels" not in metadata


def test_a_deployment_becomes_active_with_a_service_and_an_autoscaler(world: World) -> None:
    child = world.serve("chat", **SCALED)["metadata"]["name"]
    status = world.get("mdep", "chat")["status"]
    assert (status["replicas"], status["readyReplicas"], status["updatedReplicas"], status["ready"]) == (2, 2, 2, "2/2")
    assert status["endpointURL"] == f"http://{child}.{world.namespace}.svc/v1"
    assert (status["runtime"], status["modelName"]) == ("tiny", "chat")
    assert [item["metadata"]["name"] for kind in CHILDREN for item in world.find(kind)] == [child] * 4
    assert ("Normal", "Active") in world.events("chat")
    header, row = world.kubectl("get", "mdep", "chat").splitlines()
    assert header.split() == ["NAME", "PHASE", "READY", "MODEL", "RUNTIME", "REASON", "AGE"]
    assert row.split()[:6] == ["chat", "Active", "2/2", "chat-weights", "tiny", "Active"]


def test_kubectl_scale_wait_and_stop(world: World) -> None:
    world.serve("chat")
    world.kubectl("scale", "mdep/chat", "--replicas=3")
    world.kubectl("wait", "mdep/chat", "--for=jsonpath={.status.ready}=3/3", "--timeout=30s")
    world.kubectl("wait", "mdep/chat", "--for=condition=Ready", "--timeout=30s")
    world.kubectl("patch", "mdep", "chat", "--type=merge", '-p={"spec":{"stopped":true}}')
    world.await_phase("mdep", "chat", "Stopped")
    assert world.one("deployments.apps")["spec"]["replicas"] == 0
    world.kubectl("patch", "mdep", "chat", "--type=merge", '-p={"spec":{"stopped":false}}')
    assert world.await_phase("mdep", "chat", "Active")["ready"] == "3/3"


def test_autoscaling_can_be_turned_on_and_off(world: World) -> None:
    world.serve("chat", replicas=2)
    world.kubectl("patch", "mdep", "chat", "--type=merge", "-p", json.dumps({"spec": SCALED}))
    assert world.one("hpa")["spec"]["minReplicas"] == 2
    world.kubectl("patch", "mdep", "chat", "--type=merge", '-p={"spec":{"autoScaling":null}}')
    eventually(lambda: is_equal(world.find("hpa"), []))
    assert world.await_phase("mdep", "chat", "Active")["ready"] == "2/2"


def test_what_the_autoscaler_decides_is_left_alone(world: World) -> None:
    child = world.serve("chat", **SCALED)["metadata"]["name"]
    world.kubectl("scale", f"deployments.apps/{child}", "--replicas=4")
    eventually(lambda: is_equal(world.get("mdep", "chat")["status"]["ready"], "4/4"))
    world.kubectl("label", "mdep", "chat", "touched=yes")
    world.kubectl("patch", "mdep", "chat", "--type=merge", '-p={"spec":{"args":["--x"]}}')
    eventually(
        lambda: is_equal(
            world.get("deployments.apps", child)["spec"]["template"]["spec"]["containers"][0]["args"][-1], "--x"
        )
    )
    assert world.get("deployments.apps", child)["spec"]["replicas"] == 4


@pytest.mark.parametrize("kind", CHILDREN)
def test_a_child_that_is_deleted_comes_back(world: World, kind: str) -> None:
    child = world.serve("chat", **SCALED)["metadata"]["name"]
    before = world.get(kind, child)["metadata"]["uid"]
    world.kubectl("delete", kind, child, "--wait=false")

    def back() -> None:
        found = world.find(kind)
        assert [item["metadata"]["uid"] != before for item in found] == [True]

    eventually(back, within=2 + KUBECTL_SECONDS)


@pytest.mark.parametrize(
    ("kind", "patch", "path", "wanted"),
    [
        ("deployments.apps", {"spec": {"progressDeadlineSeconds": 7}}, ("spec", "progressDeadlineSeconds"), 900),
        (
            "deployments.apps",
            {"metadata": {"labels": {"bud.studio/owner-name": "x"}}},
            ("metadata", "labels", "bud.studio/owner-name"),
            None,
        ),
        (
            "deployments.apps",
            {"metadata": {"labels": {"app.kubernetes.io/managed-by": None}}},
            ("metadata", "labels", "app.kubernetes.io/managed-by"),
            "bud-operator",
        ),
        (
            "services",
            {"spec": {"selector": {"bud.studio/owner-name": "x"}}},
            ("spec", "selector", "bud.studio/owner-name"),
            None,
        ),
        ("pdb", {"spec": {"maxUnavailable": 3}}, ("spec", "maxUnavailable"), 1),
        ("hpa", {"spec": {"maxReplicas": 9}}, ("spec", "maxReplicas"), 4),
        ("hpa", {"spec": {"metrics": None}}, ("spec", "metrics", 0, "type"), "ContainerResource"),
    ],
)
def test_a_child_that_is_edited_is_put_right(
    world: World, kind: str, patch: dict[str, Any], path: tuple[str | int, ...], wanted: object
) -> None:
    child = world.serve("chat", **SCALED)["metadata"]["name"]
    world.kubectl("patch", kind, child, "--type=merge", "-p", json.dumps(patch))

    def right() -> None:
        value: Any = world.get(kind, child)
        for step in path:
            value = value[step]
        assert value == (child if wanted is None else wanted)

    eventually(right, within=2 + KUBECTL_SECONDS)


def test_a_start_note_that_is_edited_is_not_obeyed_and_is_put_right(world: World) -> None:
    child = world.serve("chat")
    name, note = child["metadata"]["name"], child["metadata"]["annotations"][ENGINE_ANNOTATION]
    evil = note.replace("engine:1", "evil:1")
    assert evil != note
    world.kubectl("annotate", "deployments.apps", name, f"{ENGINE_ANNOTATION}={evil}", "--overwrite")
    eventually(lambda: is_equal(("Warning", "StartNoteEdited") in world.events("chat"), True))
    after = world.get("deployments.apps", name)
    assert after["metadata"]["annotations"][ENGINE_ANNOTATION] == note
    assert after["spec"] == child["spec"]


def test_a_settled_cluster_sees_no_write_and_a_restart_writes_nothing(
    world: World, shared_operator: OperatorProcess
) -> None:
    world.serve("chat", **SCALED)
    _await_quiet(world, shared_operator)
    before = len(world.writes())
    shared_operator.restart()
    _await_reconciled(world, shared_operator)
    assert world.writes()[before:] == []


def test_looking_at_everything_again_and_again_writes_nothing(kinds: Cluster, tmp_path: Path) -> None:
    world = World.create(kinds)
    with operator_process(kinds.kubeconfig, tmp_path / "log", "--resync-seconds", "1") as operator:
        world.serve("chat", **SCALED)
        _await_quiet(world, operator)
        before, rounds = len(world.writes()), reconciles(operator)
        eventually(lambda: at_least(reconciles(operator), rounds + 10))
        assert world.writes()[before:] == []
        world.clear()


def test_objects_of_a_user_that_look_like_ours_are_not_deleted(world: World) -> None:
    child = world.serve("chat")["metadata"]["name"]
    labels = world.get("services", child)["metadata"]["labels"]
    copy = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "my-own", "labels": labels},
        "spec": {"ports": [{"port": 80}]},
    }
    owner = {key: world.get("bmodel", "chat-weights")["metadata"][key] for key in ("name", "uid")}
    reference = {"apiVersion": "bud.studio/v1alpha1", "kind": "Model", **owner}
    scratch = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "scratch", "ownerReferences": [reference]},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }
    world.apply(copy, scratch)
    world.kubectl("patch", "mdep", "chat", "--type=merge", '-p={"spec":{"args":["--x"]}}')
    world.kubectl("label", "bmodel", "chat-weights", "touched=yes")
    eventually(
        lambda: is_equal(
            world.get("deployments.apps", child)["spec"]["template"]["spec"]["containers"][0]["args"][-1], "--x"
        )
    )
    world.await_phase("mdep", "chat", "Active")
    assert "deletionTimestamp" not in world.get("services", "my-own")["metadata"]
    assert "deletionTimestamp" not in world.get("pvc", "scratch")["metadata"]


def test_a_node_with_a_thousand_gpus_is_understood(world: World) -> None:
    world.cluster.add_fake_node("thousand", gpu_product="NVIDIA-A10", gpus=1000)
    world.make_available("tiny")
    world.apply(deployment("chat", "tiny", resources={"gpu": 1, "gpuType": "A10"}))
    world.await_phase("mdep", "chat", "Active")
    world.cluster.kubectl("delete", "node", "thousand")


def test_deleting_deployments_takes_their_children_and_none_is_made_again(world: World) -> None:
    world.serve("chat", **SCALED)
    names = [f"more-{number}" for number in range(5)]
    world.apply(*(deployment(name, "chat-weights", **SCALED) for name in names))
    for name in names:
        world.await_phase("mdep", name, "Active")
    before = len(world.writes())
    world.kubectl("delete", "mdep", "--all")
    eventually(lambda: is_equal(world.kubectl("get", ",".join(CHILDREN), "-o", "name"), ""))
    made = [write for write in world.writes()[before:] if write.code == 201 and write.resource != "events"]
    assert made == []


def _await_quiet(world: World, operator: OperatorProcess) -> None:
    """Waits until the operator has nothing left to do."""

    def quiet() -> None:
        text = operator.metrics()
        assert re.search(r"^bud_queue_depth 0.0$", text, re.MULTILINE)
        assert world.get("mdep", "chat")["status"]["phase"] == "Active"

    eventually(quiet)
    eventually(lambda: is_equal(world.find("jobs"), []))


def _await_reconciled(world: World, operator: OperatorProcess) -> None:
    def reconciled() -> None:
        for kind, plural in (("Model", "bmodel"), ("Deployment", "mdep")):
            objects = json.loads(world.cluster.kubectl("get", plural, "-A", "-o", "json"))["items"]
            done = re.search(
                rf'^bud_reconciles_total{{kind="{kind}",result="ok"}} ([0-9.]+)$',
                operator.metrics(),
                re.MULTILINE,
            )
            assert done is not None and float(done[1]) >= len(objects)

    eventually(reconciled)


def reconciles(operator: OperatorProcess) -> float:
    found = re.search(
        r'^bud_reconciles_total{kind="Deployment",result="ok"} ([0-9.]+)$', operator.metrics(), re.MULTILINE
    )
    return float(found[1]) if found else 0.0


def at_least(found: float, least: float) -> None:
    assert found >= least
