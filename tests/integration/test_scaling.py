"""Who sets the number of replicas, and how a change of the pods rolls out, on a real API server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.waiting import contains, eventually, is_equal
from tests.watching import watching
from tests.world import World, deployment

SCALED = {"autoScaling": {"enabled": True, "minReplicas": 1, "maxReplicas": 8, "targetCPU": 80}}


def patch(world: World, spec: dict[str, Any]) -> None:
    world.kubectl("patch", "mdep", "chat", "--type=merge", "-p", json.dumps({"spec": spec}))


@contextmanager
def every_number(world: World, child: str) -> Iterator[list[int]]:
    """Every value that `replicas` of the apps/v1 Deployment takes within the block, those of a moment included."""
    with watching(world, "deployments.apps", child) as versions:
        numbers: list[int] = []
        yield numbers
        last = world.get("deployments.apps", child)["metadata"]["resourceVersion"]
        eventually(lambda: contains([item["metadata"]["resourceVersion"] for item in versions()], last))
        numbers += [item["spec"]["replicas"] for item in versions()]


@pytest.mark.parametrize(
    ("before", "turned_off", "after"),
    [
        pytest.param({}, {"autoScaling": None}, 4, id="nobody says how many: what runs stays"),
        pytest.param({}, {"autoScaling": {"enabled": False}}, 4, id="nobody says how many, and the settings stay"),
        pytest.param({"replicas": 4}, {"autoScaling": None}, 4, id="the spec says the same"),
        pytest.param({}, {"autoScaling": None, "replicas": 2}, 2, id="the spec says another number"),
    ],
)
def test_autoscaling_is_turned_on_and_off_without_a_replica_less_for_a_moment(
    world: World, before: dict[str, Any], turned_off: dict[str, Any], after: int
) -> None:
    child = world.serve("chat", **before)["metadata"]["name"]
    world.kubectl("scale", f"deployments.apps/{child}", "--replicas=4")
    world.kubectl("wait", "mdep/chat", "--for=jsonpath={.status.ready}=4/4", "--timeout=30s")
    with every_number(world, child) as numbers:
        patch(world, SCALED)
        world.one("hpa")
        world.await_phase("mdep", "chat", "Active")
        # What an autoscaler that has metrics does: it writes the number through the scale subresource.
        world.kubectl("scale", f"deployments.apps/{child}", "--replicas=5")
        world.kubectl("wait", "mdep/chat", "--for=jsonpath={.status.ready}=5/5", "--timeout=30s")
        patch(world, {"args": ["--x"]})
        world.kubectl("wait", "mdep/chat", "--for=condition=Reconciling=False", "--timeout=30s")
        world.kubectl("scale", f"deployments.apps/{child}", "--replicas=4")
        world.kubectl("wait", "mdep/chat", "--for=jsonpath={.status.ready}=4/4", "--timeout=30s")
        patch(world, turned_off)
        eventually(lambda: is_equal(world.find("hpa"), []))
        world.kubectl("wait", "mdep/chat", f"--for=jsonpath={{.status.ready}}={after}/{after}", "--timeout=30s")
    changes = [number for i, number in enumerate(numbers) if i == 0 or number != numbers[i - 1]]
    assert changes == [4, 5, 4] + ([after] if after != 4 else [])


def test_what_runs_is_kept_until_the_spec_says_a_number(world: World) -> None:
    child = world.serve("chat")["metadata"]["name"]
    world.kubectl("scale", f"deployments.apps/{child}", "--replicas=3")
    world.kubectl("wait", "mdep/chat", "--for=jsonpath={.status.ready}=3/3", "--timeout=30s")
    eventually(lambda: is_equal(len(world.find("pdb")), 1))
    world.kubectl("scale", "mdep/chat", "--replicas=1")
    world.kubectl("wait", "mdep/chat", "--for=jsonpath={.status.ready}=1/1", "--timeout=30s")
    eventually(lambda: is_equal(world.find("pdb"), []))


def test_kubectl_scale_under_autoscaling_is_answered_by_a_condition(world: World) -> None:
    world.serve("chat", **SCALED)
    world.kubectl("scale", "mdep/chat", "--replicas=5")
    ignored = eventually(lambda: world.condition("mdep", "chat", "ReplicasIgnored"))
    assert (ignored["status"], ignored["reason"]) == ("True", "AutoScaling")
    assert "autoScaling.minReplicas" in ignored["message"]
    patch(world, {"replicas": None})
    world.kubectl("wait", "mdep/chat", "--for=jsonpath={.status.observedGeneration}=3", "--timeout=30s")
    conditions = [condition["type"] for condition in world.get("mdep", "chat")["status"]["conditions"]]
    assert conditions == ["Ready", "Reconciling", "Stalled"]


def test_without_a_spare_gpu_replicas_are_replaced_one_after_another_and_it_is_said(world: World) -> None:
    product = f"NVIDIA-{world.namespace}"
    world.cluster.add_fake_node(world.namespace, gpu_product=product, gpus=2)
    spec = {"replicas": 2, "resources": {"gpu": 1, "gpuType": product}}
    try:
        child = world.serve("chat", **spec)["metadata"]["name"]
        assert strategy(world, child) == {"maxSurge": 1, "maxUnavailable": 0}
        # With a GPU less the roll-out stands where an old replica has gone and no new one has come.
        world.cluster.add_fake_gpus(product=product, gpus=1, node=world.namespace)
        patch(world, {"args": ["--x"]})
        said = "no spare GPU: replicas are replaced one after another"
        eventually(lambda: contains(world.condition("mdep", "chat")["message"], said))
        assert strategy(world, child) == {"maxSurge": 0, "maxUnavailable": 1}
        world.cluster.add_fake_gpus(product=product, gpus=2, node=world.namespace)
        world.kubectl("wait", "mdep/chat", "--for=jsonpath={.status.updatedReplicas}=2", "--timeout=30s")
        world.await_phase("mdep", "chat", "Active")
        assert said not in world.condition("mdep", "chat")["message"]
        assert strategy(world, child) == {"maxSurge": 0, "maxUnavailable": 1}
        patch(world, {"rollout": {"maxSurge": "25%"}})
        eventually(lambda: is_equal(strategy(world, child), {"maxSurge": "25%", "maxUnavailable": 0}))
    finally:
        world.kubectl("delete", "mdep", "--all")
        world.cluster.kubectl("delete", "node", world.namespace)


def test_a_change_that_fits_nowhere_costs_no_replica(world: World) -> None:
    product = f"NVIDIA-{world.namespace}"
    world.cluster.add_fake_node(world.namespace, gpu_product=product, gpus=1)
    try:
        child = world.serve("chat", resources={"gpu": 1, "gpuType": product})["metadata"]["name"]
        patch(world, {"resources": {"gpu": 2}})
        eventually(
            lambda: is_equal("set spec.rollout.maxSurge to 0" in world.condition("mdep", "chat")["message"], True)
        )
        assert world.condition("mdep", "chat")["status"] == "True"
        assert strategy(world, child) == {"maxSurge": 1, "maxUnavailable": 0}
    finally:
        world.kubectl("delete", "mdep", "--all")
        world.cluster.kubectl("delete", "node", world.namespace)


@pytest.mark.parametrize(
    ("resource", "labels", "asked"),
    [
        ("amd.com/gpu", {"amd.com/gpu.product-name": "AMD_Instinct_MI300X_OAM"}, "MI300X"),
        ("gpu.intel.com/xe", {"gpu.intel.com/product": "Max_1550"}, "Max-1550"),
        ("nvidia.com/mig-1g.10gb", {"nvidia.com/mig-1g.10gb.product": "NVIDIA-H100-MIG-1g.10gb"}, "MIG-1g.10gb"),
    ],
)
def test_gpus_of_any_vendor_are_found_by_name_and_tainted_nodes_are_tolerated(
    world: World, resource: str, labels: dict[str, str], asked: str
) -> None:
    runtime = world.get("brt", "tiny")["spec"] | {"gpuVendors": ["NVIDIA", "AMD", "Intel"]}
    name, node = f"any-{world.namespace}", world.namespace
    world.cluster.apply(
        {"apiVersion": "bud.studio/v1alpha1", "kind": "Runtime", "metadata": {"name": name}, "spec": runtime}
    )
    world.cluster.add_fake_node(node, labels=labels)
    status = {"status": {"capacity": {resource: "4"}, "allocatable": {resource: "4"}}}
    world.cluster.kubectl("patch", "node", node, "--subresource=status", "--type=merge", "-p", json.dumps(status))
    world.cluster.kubectl("taint", "node", node, f"{resource}=present:NoSchedule")
    try:
        world.make_available("tiny")
        world.apply(deployment("chat", "tiny", runtimeRef={"name": name}, resources={"gpu": 2, "gpuType": asked}))
        world.await_phase("mdep", "chat", "Active")
        pods = world.find_by("bud.studio/owner-kind=Deployment")
        assert [pod["spec"]["nodeName"] for pod in pods] == [node]
    finally:
        world.kubectl("delete", "mdep", "--all")
        world.cluster.kubectl("delete", "node", node)
        world.kubectl("delete", "brt", name)


def strategy(world: World, child: str) -> object:
    return world.get("deployments.apps", child)["spec"]["strategy"]["rollingUpdate"]
