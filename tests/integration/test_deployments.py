"""Deployments on a real API server: children, scaling, healing, names and bad input."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from bud.kube.kinds import child_name
from tests.cluster.handle import Cluster
from tests.operator_process import OperatorProcess, operator_process
from tests.waiting import eventually
from tests.world import RUNTIME, World, deployment, model, refused

KUBECTL_SECONDS = 3.0
"""What starting kubectl may take on a busy machine, on top of what is asked of the operator."""
CHILDREN = ("deployments.apps", "services", "hpa")
SCALED = {"autoScaling": {"enabled": True, "minReplicas": 2, "maxReplicas": 4, "targetCPU": 80}}


def test_a_deployment_becomes_active_with_a_service_and_an_autoscaler(world: World) -> None:
    child = world.serve("chat", **SCALED)["metadata"]["name"]
    status = world.get("mdep", "chat")["status"]
    assert (status["replicas"], status["readyReplicas"], status["updatedReplicas"], status["ready"]) == (2, 2, 2, "2/2")
    assert status["endpointURL"] == f"http://{child}.{world.namespace}.svc/v1"
    assert (status["runtime"], status["modelName"]) == ("tiny", "chat")
    assert [item["metadata"]["name"] for kind in CHILDREN for item in world.find(kind)] == [child] * 3
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
    eventually(lambda: _is(world.find("hpa"), []))
    assert world.await_phase("mdep", "chat", "Active")["ready"] == "2/2"


def test_what_the_autoscaler_decides_is_left_alone(world: World) -> None:
    child = world.serve("chat", **SCALED)["metadata"]["name"]
    world.kubectl("scale", f"deployments.apps/{child}", "--replicas=4")
    eventually(lambda: _is(world.get("mdep", "chat")["status"]["ready"], "4/4"))
    world.kubectl("label", "mdep", "chat", "touched=yes")
    world.kubectl("patch", "mdep", "chat", "--type=merge", '-p={"spec":{"args":["--x"]}}')
    eventually(
        lambda: _is(
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
        before, rounds = len(world.writes()), _reconciles(operator)
        eventually(lambda: _at_least(_reconciles(operator), rounds + 10))
        assert world.writes()[before:] == []
        world.clear()


def test_an_object_of_a_childs_name_without_any_conflict_is_left_alone_and_nothing_spins(
    world: World, shared_operator: OperatorProcess
) -> None:
    child = world.serve("chat")["metadata"]["name"]
    world.kubectl("delete", "mdep", "chat")
    eventually(lambda: _is(world.kubectl("get", ",".join(CHILDREN), "-o", "name"), ""))
    mine = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": child},
        "spec": {"ports": [{"name": "mine", "port": 1234}]},
    }
    world.apply(mine)
    uid, version = _identity(world.get("services", child))
    world.apply(deployment("chat", "chat-weights"))
    world.await_reason("mdep", "chat", "NameConflict")
    before, rounds = len(world.writes()), _reconciles(shared_operator)
    eventually(lambda: _at_least(_reconciles(shared_operator), rounds + 1), within=60)
    assert _identity(world.get("services", child)) == (uid, version)
    assert len(world.writes()) - before <= 2


def test_of_two_deployments_with_one_child_name_the_older_has_it_and_nothing_spins(world: World) -> None:
    first, second = _collision(world.namespace)
    world.make_available("tiny")
    world.apply(deployment(first, "tiny"))
    world.await_phase("mdep", first, "Active")
    world.apply(deployment(second, "tiny"))
    assert first in world.await_reason("mdep", second, "NameConflict")["message"]
    assert world.get("mdep", first)["status"]["phase"] == "Active"
    world.kubectl("delete", "mdep", first)
    world.await_phase("mdep", second, "Active")


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
        lambda: _is(
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


def test_deleting_a_deployment_takes_its_children(world: World) -> None:
    world.serve("chat", **SCALED)
    world.kubectl("delete", "mdep", "chat")
    eventually(lambda: _is(world.kubectl("get", ",".join(CHILDREN), "-o", "name"), ""))


@pytest.mark.parametrize("name", ["llama-3.2-1b", "a" * 253, "0.starts-with.a-digit"])
def test_any_valid_name_can_be_served(world: World, name: str) -> None:
    world.make_available("tiny")
    world.apply(deployment(name, "tiny"))
    status = world.await_phase("mdep", name, "Active")
    assert status["modelName"] == name
    service = world.one("services")["metadata"]
    assert re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])", service["name"])
    assert service["annotations"]["bud.studio/name"] == name


def test_an_object_of_a_childs_name_that_is_not_ours_is_left_alone(world: World) -> None:
    child = world.serve("chat")["metadata"]["name"]
    world.kubectl("delete", "mdep", "chat")
    eventually(lambda: _is(world.kubectl("get", ",".join(CHILDREN), "-o", "name"), ""))
    mine = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": child},
        "spec": {"selector": {"app": "mine"}, "ports": [{"port": 1234}]},
    }
    world.apply(mine)
    world.apply(deployment("chat", "chat-weights"))
    ready = world.await_reason("mdep", "chat", "NameConflict")
    assert f"Service {child}" in ready["message"]
    assert world.condition("mdep", "chat", "Stalled")["status"] == "True"
    assert world.get("services", child)["spec"]["selector"] == {"app": "mine"}
    assert "labels" not in world.get("services", child)["metadata"]
    world.kubectl("delete", "service", child)
    world.await_phase("mdep", "chat", "Active", within=60)


def test_an_object_of_another_owner_is_left_alone(world: World) -> None:
    child = world.serve("chat")["metadata"]["name"]
    world.kubectl("delete", "mdep", "chat")
    eventually(lambda: _is(world.kubectl("get", ",".join(CHILDREN), "-o", "name"), ""))
    labels = {
        "app.kubernetes.io/managed-by": "bud-operator",
        "bud.studio/owner-kind": "Deployment",
        "bud.studio/owner-name": "other",
    }
    world.apply(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": child, "labels": labels},
            "spec": {"ports": [{"port": 1234}]},
        }
    )
    world.apply(deployment("chat", "chat-weights"))
    assert "belongs to Deployment other" in world.await_reason("mdep", "chat", "NameConflict")["message"]
    assert world.get("services", child)["spec"]["ports"][0]["port"] == 1234


@pytest.mark.parametrize(
    ("spec", "reason", "message"),
    [
        ({"modelRef": {"name": "nobody"}}, "ModelNotFound", "no Model nobody in namespace"),
        ({"runtimeRef": {"name": "nope"}}, "RuntimeNotFound", "no Runtime nope .Runtimes: tiny.*spec.runtimeRef"),
        (
            {"resources": {"gpu": 1, "gpuType": "B200"}},
            "GPUTypeNotFound",
            "no node has GPU type B200 .nodes have: NVIDIA-L4",
        ),
        ({"resources": {"gpu": 64}}, "Unschedulable", "Insufficient nvidia.com/gpu.*spec.resources"),
        ({"nodeSelector": {"no": "node"}}, "Unschedulable", "didn't match Pod's node affinity"),
        ({"priorityClassName": "nope"}, "ReplicaFailure", "no PriorityClass with name nope"),
    ],
)
def test_what_is_missing_is_told_in_a_condition_and_an_event(
    world: World, spec: dict[str, Any], reason: str, message: str
) -> None:
    world.make_available("tiny")
    world.apply(deployment("chat", "tiny", **spec))

    def told() -> None:
        assert re.search(message, world.await_reason("mdep", "chat", reason)["message"])

    eventually(told)
    assert world.get("mdep", "chat")["status"]["phase"] == "Pending"
    eventually(lambda: _contains(world.events("chat"), ("Normal", reason)))


def test_a_quota_in_the_way_is_told_and_looked_at_again(world: World) -> None:
    world.make_available("tiny")
    world.kubectl("create", "quota", "none", "--hard=services=0")
    world.apply(deployment("chat", "tiny"))
    assert "exceeded quota: none" in world.await_reason("mdep", "chat", "Forbidden")["message"]
    assert world.condition("mdep", "chat", "Stalled")["status"] == "False"
    world.kubectl("delete", "quota", "none")
    world.await_phase("mdep", "chat", "Active", within=60)


def test_a_model_that_failed_is_told_and_a_new_spec_heals(world: World) -> None:
    world.apply(model("tiny"), deployment("chat", "tiny"))
    job = world.one("jobs")["metadata"]["name"]
    world.end_download(
        job, code=10, message={"error": {"reason": "NotFound", "message": "404; correct spec.source.url.url"}}
    )
    assert "kubectl describe bmodel tiny" in world.await_reason("mdep", "chat", "ModelFailed")["message"]
    world.apply(model("tiny", {"source": {"url": {"url": "http://files/right.gguf"}}}))
    eventually(lambda: _differs(world.one("jobs")["metadata"]["name"], job))
    right = world.one("jobs")["metadata"]["name"]
    world.end_download(right)
    world.bind(right)
    world.await_phase("mdep", "chat", "Active")


def test_gpus_are_asked_for_by_resource_and_by_the_label_of_the_product(world: World) -> None:
    pod = world.serve("chat", resources={"gpu": 2, "gpuType": "L4"})["spec"]["template"]["spec"]
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "2"
    term = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"][0]
    assert term["matchExpressions"] == [{"key": "nvidia.com/gpu.product", "operator": "In", "values": ["NVIDIA-L4"]}]


def test_a_runtime_that_comes_later_is_taken(world: World) -> None:
    world.make_available("tiny")
    name = f"late-{world.namespace}"
    world.apply(deployment("chat", "tiny", runtimeRef={"name": name}))
    world.await_reason("mdep", "chat", "RuntimeNotFound")
    world.apply(RUNTIME | {"metadata": {"name": name}})
    try:
        world.await_phase("mdep", "chat", "Active")
    finally:
        world.kubectl("delete", "brt", name)


BASE: dict[str, Any] = {"modelRef": {"name": "m"}}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({}, "spec.modelRef: Required"),
        (
            BASE | {"autoScaling": {"minReplicas": 5, "maxReplicas": 2}},
            "minReplicas must not be greater than maxReplicas",
        ),
        (BASE | {"autoScaling": {"minReplicas": 5}}, "raise maxReplicas"),
        (BASE | {"replicas": -1}, "greater than or equal to 0"),
        (BASE | {"resources": {"cpu": "four"}}, "must be a Kubernetes quantity"),
        (BASE | {"resources": {"memory": "16GiB"}}, "must be a Kubernetes quantity"),
        (BASE | {"resources": {"cpu": "0"}}, "greater than zero"),
        (BASE | {"resources": {"gpuType": "L4"}}, "gpuType needs gpu"),
        (BASE | {"resources": {"gpu": -1}}, "greater than or equal to 0"),
        (BASE | {"env": [{"name": "1x"}]}, "spec.env"),
        (BASE | {"env": [{"name": "A", "valueFrom": {}}]}, "set exactly one of secretKeyRef or configMapKeyRef"),
        (BASE | {"tolerations": [{"operator": "Maybe"}]}, "Unsupported value"),
        (BASE | {"modelRef": {"name": "Not_A_Name"}}, "spec.modelRef.name"),
        (BASE | {"gpus": 1}, r'unknown field "spec.gpus"|\.spec\.gpus: field not declared in schema'),
        (
            BASE | {"resources": {"gpus": 1}},
            r'unknown field "spec.resources.gpus"|\.gpus: field not declared in schema',
        ),
    ],
)
@pytest.mark.parametrize("options", [(), ("--server-side",)], ids=["client-side apply", "server-side apply"])
def test_the_api_server_refuses_a_bad_deployment(
    kinds: Cluster, spec: dict[str, Any], message: str, options: tuple[str, ...]
) -> None:
    refusal = refused(kinds, {**deployment("bad", "m"), "spec": spec}, *options)
    assert re.search(message, refusal)


def test_what_kustomize_adds_is_accepted(world: World) -> None:
    spec = BASE | {
        "replicas": 2,
        "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}, "annotations": {"c": "d"}}},
    }
    world.kubectl(
        "apply", "--server-side", "-f", "-", stdin=json.dumps({**deployment("kustomized", "m"), "spec": spec})
    )


def _await_quiet(world: World, operator: OperatorProcess) -> None:
    """Waits until the operator has nothing left to do."""

    def quiet() -> None:
        text = operator.metrics()
        assert re.search(r"^bud_queue_depth 0.0$", text, re.MULTILINE)
        assert world.get("mdep", "chat")["status"]["phase"] == "Active"

    eventually(quiet)
    eventually(lambda: _is(world.find("jobs"), []))


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


def _reconciles(operator: OperatorProcess) -> float:
    found = re.search(
        r'^bud_reconciles_total{kind="Deployment",result="ok"} ([0-9.]+)$', operator.metrics(), re.MULTILINE
    )
    return float(found[1]) if found else 0.0


def _identity(item: dict[str, Any]) -> tuple[str, str]:
    return item["metadata"]["uid"], item["metadata"]["resourceVersion"]


def _collision(namespace: str) -> tuple[str, str]:
    """Two names whose children would have one name, found by trying: eight hex digits give a pair in some 80,000 tries."""
    seen: dict[str, str] = {}
    for number in range(2_000_000):
        name = f"{'a' * 50}{number}"
        other = seen.setdefault(child_name("Deployment", namespace, name), name)
        if other != name:
            return other, name
    raise AssertionError("no two names collide")


def _at_least(found: float, least: float) -> None:
    assert found >= least


def _is(found: object, expected: object) -> None:
    assert found == expected


def _differs(found: object, other: object) -> None:
    assert found != other


def _contains(found: list[Any], item: object) -> None:
    assert item in found
