"""What may be wrong with a Deployment: refused by the API server, or told with its remedy; and names that collide."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from bud.kube.kinds import child_name
from tests.cluster.handle import Cluster
from tests.integration.test_deployments import CHILDREN, at_least, reconciles
from tests.operator_process import OperatorProcess
from tests.waiting import contains, differs, eventually, is_equal
from tests.world import RESULT, RUNTIME, World, deployment, model, refused


def test_an_object_of_a_childs_name_without_any_conflict_is_left_alone_and_nothing_spins(
    world: World, shared_operator: OperatorProcess
) -> None:
    child = world.serve("chat")["metadata"]["name"]
    world.kubectl("delete", "mdep", "chat")
    eventually(lambda: is_equal(world.kubectl("get", ",".join(CHILDREN), "-o", "name"), ""))
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
    before, rounds = len(world.writes()), reconciles(shared_operator)
    eventually(lambda: at_least(reconciles(shared_operator), rounds + 1), within=60)
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
    eventually(lambda: is_equal(world.kubectl("get", ",".join(CHILDREN), "-o", "name"), ""))
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
    eventually(lambda: is_equal(world.kubectl("get", ",".join(CHILDREN), "-o", "name"), ""))
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
        ({"priorityClassName": "nope"}, "ReplicaFailure", "no PriorityClass with name nope.*spec.priorityClassName"),
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
    eventually(lambda: contains(world.events("chat"), ("Normal", reason)))


def test_a_runtime_without_the_models_format_is_told(world: World) -> None:
    world.make_available("tiny", result=RESULT | {"format": "safetensors"})
    world.apply(deployment("chat", "tiny", runtimeRef={"name": "tiny"}))
    ready = world.await_reason("mdep", "chat", "FormatNotSupported")
    assert ready["message"] == "Runtime tiny loads gguf, not safetensors; name another in spec.runtimeRef"
    assert world.condition("mdep", "chat", "Stalled")["status"] == "True"


def test_a_quota_in_the_way_is_told_and_looked_at_again(world: World) -> None:
    world.make_available("tiny")
    world.kubectl("create", "quota", "none", "--hard=services=0")
    world.apply(deployment("chat", "tiny"))
    assert "exceeded quota: none" in world.await_reason("mdep", "chat", "QuotaExceeded")["message"]
    assert world.condition("mdep", "chat", "Stalled")["status"] == "False"
    world.kubectl("delete", "quota", "none")
    world.await_phase("mdep", "chat", "Active", within=60)


def test_a_quota_in_the_way_of_pods_is_told_with_the_remedy(world: World) -> None:
    world.make_available("tiny")
    world.kubectl("create", "quota", "gpus", "--hard=requests.nvidia.com/gpu=1")
    world.apply(deployment("chat", "tiny", resources={"gpu": 2}))
    message = world.await_reason("mdep", "chat", "QuotaExceeded")["message"]
    assert "exceeded quota: gpus" in message and "raise the ResourceQuota" in message


def test_a_model_that_failed_is_told_and_a_new_spec_heals(world: World) -> None:
    world.apply(model("tiny"), deployment("chat", "tiny"))
    job = world.one("jobs")["metadata"]["name"]
    world.end_download(
        job, code=10, message={"error": {"reason": "NotFound", "message": "404; correct spec.source.url.url"}}
    )
    assert "kubectl describe bmodel tiny" in world.await_reason("mdep", "chat", "ModelFailed")["message"]
    world.apply(model("tiny", {"source": {"url": {"url": "http://files/right.gguf"}}}))
    eventually(lambda: differs(world.one("jobs")["metadata"]["name"], job))
    right = world.one("jobs")["metadata"]["name"]
    world.end_download(right)
    world.bind(right)
    world.await_phase("mdep", "chat", "Active")


def test_gpus_are_asked_for_by_resource_and_by_the_label_of_the_product(world: World) -> None:
    pod = world.serve("chat", resources={"gpu": 2, "gpuType": "L4"})["spec"]["template"]["spec"]
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "2"
    term = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"][0]
    assert term["matchExpressions"] == [{"key": "nvidia.com/gpu.product", "operator": "In", "values": ["NVIDIA-L4"]}]


def test_what_is_served_is_stopped_and_healed_while_its_model_fails(world: World) -> None:
    child = world.serve("chat")["metadata"]["name"]
    world.apply(model("chat-weights", {"source": {"url": {"url": "http://files/typo.gguf"}}}))
    job = world.one("jobs")["metadata"]["name"]
    world.end_download(job, code=10, message={"error": {"reason": "NotFound", "message": "404"}})
    world.await_reason("bmodel", "chat-weights", "NotFound")
    eventually(lambda: is_equal("weights of before" in world.condition("mdep", "chat")["message"], True))
    assert world.condition("mdep", "chat")["status"] == "True"
    world.kubectl("delete", "service", child)
    eventually(lambda: is_equal([item["metadata"]["name"] for item in world.find("services")], [child]))
    world.kubectl("patch", "mdep", "chat", "--type=merge", '-p={"spec":{"stopped":true}}')
    world.await_phase("mdep", "chat", "Stopped")


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
        (BASE | {"rollout": {"maxSurge": 0, "maxUnavailable": "0%"}}, "both zero.*raise one of the two"),
        (BASE | {"rollout": {"maxSurge": "half"}}, "must be a number such as 1, or a percentage"),
        (BASE | {"rollout": {"maxUnavailable": "101%"}}, "must be a number such as 1, or a percentage"),
        (BASE | {"resources": {"cpu": "four"}}, "must be a Kubernetes quantity"),
        (BASE | {"resources": {"memory": "16GiB"}}, "must be a Kubernetes quantity"),
        (BASE | {"resources": {"cpu": "0"}}, "greater than zero"),
        (BASE | {"resources": {"gpuType": "L4"}}, "gpuType needs gpu"),
        (BASE | {"pricing": {"perGPUHour": "2.5"}}, "perGPUHour needs resources.gpu"),
        (BASE | {"pricing": {"perGPUHour": 1}, "resources": {"cpu": "1"}}, "perGPUHour needs resources.gpu"),
        (BASE | {"resources": {"memory": "1m"}}, "write 16Gi rather than 16"),
        (BASE | {"resources": {"memory": 16}}, "write 16Gi rather than 16"),
        (BASE | {"tolerations": [{"effect": "NoSchedule"}]}, "without key needs operator: Exists"),
        (BASE | {"tolerations": [{"key": "a", "operator": "Exists", "value": "b"}]}, "takes no value"),
        (BASE | {"tolerations": [{"key": "a", "operator": "Exists", "tolerationSeconds": 1}]}, "effect: NoExecute"),
        (BASE | {"tolerations": [{"key": "not a key", "operator": "Exists"}]}, r"spec.tolerations\[0\].key"),
        (BASE | {"nodeSelector": {"a": "not a value"}}, "spec.nodeSelector.a"),
        (BASE | {"template": {"metadata": {"labels": {"a": "x/y"}}}}, "spec.template.metadata.labels.a"),
        (BASE | {"nodeSelector": {"not a key": "x"}}, "spec.nodeSelector: .*keys are a name"),
        (BASE | {"template": {"metadata": {"labels": {"": "x"}}}}, "spec.template.metadata.labels: .*keys are a name"),
        (
            BASE | {"template": {"metadata": {"annotations": {"a/" + 64 * "b": "x"}}}},
            "spec.template.metadata.annotations: .*keys are a name",
        ),
        (BASE | {"image": "two words"}, "spec.image"),
        (BASE | {"env": [{"name": "BUD_PORT", "value": "1"}]}, "spec.env: .*BUD_ are set by the operator"),
        (
            BASE | {"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "a b"}}}]},
            "secretKeyRef.key",
        ),
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


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"nodeSelector": {"a..b/c": "x"}}, "spec.nodeSelector"),
        ({"template": {"metadata": {"labels": {"a..b/c": "x"}}}}, "spec.template.metadata.labels"),
        ({"template": {"metadata": {"annotations": {"a..b/c": "x"}}}}, "spec.template.metadata.annotations"),
    ],
)
def test_what_only_the_pods_are_refused_for_is_told_by_the_field_of_the_spec(
    world: World, spec: dict[str, Any], field: str
) -> None:
    world.make_available("tiny")
    world.apply(deployment("chat", "tiny", **spec))
    message = world.await_reason("mdep", "chat", "ApiRefused")["message"]
    assert message.startswith(f"the API server refuses the pods: {field}") and message.endswith("correct that field")
    assert world.condition("mdep", "chat", "Stalled")["status"] == "True"


def test_what_kustomize_adds_is_accepted(world: World) -> None:
    spec = BASE | {
        "replicas": 2,
        "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}, "annotations": {"c": "d"}}},
    }
    world.kubectl(
        "apply", "--server-side", "-f", "-", stdin=json.dumps({**deployment("kustomized", "m"), "spec": spec})
    )


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
