"""What is looked at again when something changes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bud.kube.gpus import NodeGpu
from bud.kube.kinds import (
    AUTOSCALERS,
    CLAIMS,
    DEPLOYMENTS,
    MODELS,
    NODES,
    PODS,
    RUNTIMES,
    STORAGE_CLASSES,
    Resource,
    child_name,
)
from bud.kube.seen import Claim, Node, Nothing, Pod, Seen, see
from bud.kube.store import Store
from bud.model.plan import FINALIZER
from bud.triggers import affected, see_linked

HUB = {"source": {"huggingFace": {"repo": "a/b"}}}


def own(resource: Resource, name: str, spec: dict[str, Any], *, deleting: bool = False) -> Seen:
    metadata: dict[str, Any] = {"namespace": "ns", "name": name, "uid": name, "resourceVersion": "1"}
    if deleting:
        metadata |= {"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": [FINALIZER]}
    return see_linked(resource, {"metadata": metadata, "spec": spec})


def child(resource: Resource, data: object, *, kind: str, owner: str, name: str = "x") -> Seen:
    return Seen(resource, "ns", name, "u", 1, kind, owner, frozenset(), False, b"", data)


def node(name: str, gpus: tuple[NodeGpu, ...]) -> Seen:
    return Seen(NODES, "", name, name, 1, "", "", frozenset(), False, b"", Node(gpus))


CHAT = own(DEPLOYMENTS, "chat", {"modelRef": {"name": "m"}})
LORA = own(MODELS, "lora", {"source": {"huggingFace": {"repo": "a/lora"}}})
EMBED = own(
    DEPLOYMENTS, "embed", {"modelRef": {"name": "other"}, "adapters": [{"name": "a", "modelRef": {"name": "lora"}}]}
)
MODEL = own(MODELS, "m", HUB)
SAME_COPY = own(MODELS, "m2", HUB)
LOCAL = own(MODELS, "local", {"source": {"local": {"pvc": "weights"}}})
KEPT_THERE = own(MODELS, "kept-there", HUB | {"storage": {"claimName": "weights"}})
COPY = next(link for link in MODEL.links if link.startswith("id:")).removeprefix("id:")
L4 = NodeGpu("NVIDIA", "nvidia.com/gpu", "nvidia.com/gpu.product", "NVIDIA-L4")
A100 = NodeGpu("NVIDIA", "nvidia.com/gpu", "nvidia.com/gpu.product", "NVIDIA-A100-SXM4-80GB")
POD = Pod("Running", False, "", "", ())


def store(*more: Seen) -> Store:
    filled = Store()
    for seen in (CHAT, LORA, EMBED, MODEL, SAME_COPY, LOCAL, KEPT_THERE, *more):
        filled.put(seen)
    return filled


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        pytest.param(MODEL, {"Model m", "Model m2", "Deployment chat"}, id="a Model: itself, those that share its copy, its users"),
        pytest.param(
            CHAT, {"Deployment chat", "Model m", "NetworkPolicy bud-engines"}, id="a Deployment: itself, the policy of all, its Model that is not there yet"
        ),
        pytest.param(LORA, {"Model lora", "Deployment embed"}, id="a Model that is an adapter: those that load it"),
        pytest.param(
            child(PODS, POD, kind="Deployment", owner=child_name("Deployment", "ns", "chat")),
            {"Deployment chat"},
            id="an engine's pod: its Deployment",
        ),
        pytest.param(child(PODS, POD, kind="Model", owner=COPY), {"Model m", "Model m2"}, id="a download's pod: all that share the copy"),
        pytest.param(
            child(CLAIMS, Claim("Bound", None, "", {}), kind="", owner="", name="weights"), {"Model local", "Model kept-there"}, id="a claim of a user: Models that name it"
        ),
        pytest.param(replace(MODEL, resource=RUNTIMES), {"Deployment chat", "Deployment embed"}, id="a Runtime: every Deployment"),
        pytest.param(child(PODS, POD, kind="Deployment", owner="nobody"), set(), id="a pod of nobody"),
    ],
)  # fmt: skip
def test_who_depends_on_what_changed(changed: Seen, expected: set[str]) -> None:
    assert {f"{kind} {name}" for kind, _, name in affected(store(), changed.resource, None, changed)} == expected


def test_a_model_that_is_there_hears_of_no_deployment_and_one_that_is_not_of_no_mere_status() -> None:
    raw = {"metadata": {"namespace": "ns", "name": "m", "uid": "m", "resourceVersion": "2"}, "spec": HUB}
    there = see_linked(MODELS, raw | {"status": {"phase": "Available"}})
    assert ("Model", "ns", "m") not in set(affected(store(there), DEPLOYMENTS, None, CHAT))
    told = replace(CHAT, version=2, data=replace(CHAT.data, phase="Pending"))
    assert set(affected(store(), DEPLOYMENTS, CHAT, told)) == {("Deployment", "ns", "chat")}


def test_a_model_that_waits_for_its_users_hears_of_them() -> None:
    waiting = replace(own(MODELS, "m", HUB, deleting=True), version=2)
    keys = set(affected(store(waiting), DEPLOYMENTS, CHAT, None))
    assert keys == {("Deployment", "ns", "chat"), ("Model", "ns", "m"), ("NetworkPolicy", "ns", "bud-engines")}


def test_a_change_of_one_of_several_deployments_does_not_concern_their_policy() -> None:
    assert set(affected(store(), DEPLOYMENTS, CHAT, replace(CHAT, version=2, uid="new"))) == {
        ("Deployment", "ns", "chat")
    }


def test_a_storage_class_concerns_every_model() -> None:
    raw = {"metadata": {"name": "fast", "uid": "u", "resourceVersion": "2"}, "provisioner": "disk.example.com"}
    filled = store()
    keys = set(affected(filled, STORAGE_CLASSES, None, see(STORAGE_CLASSES, raw)))
    assert keys == {("Model", "ns", model.name) for model in filled.all(MODELS)}


def test_a_heartbeat_of_a_node_concerns_nobody_but_new_gpus_concern_all() -> None:
    before = node("n", (L4,))
    assert set(affected(store(), NODES, before, replace(before, version=2))) == set()
    after = replace(before, version=2, data=Node(()))
    assert {kind for kind, _, _ in affected(store(), NODES, before, after)} == {"Deployment", "Model"}


@pytest.mark.parametrize(
    ("old", "new", "concerned"),
    [
        pytest.param(None, (), False, id="a node without GPUs comes"),
        pytest.param((), None, False, id="a node without GPUs goes"),
        pytest.param(None, (L4,), False, id="one more with GPUs that others have"),
        pytest.param((L4,), None, False, id="one less with GPUs that others have"),
        pytest.param(None, (L4, A100), True, id="the first with such GPUs"),
        pytest.param((A100,), None, True, id="the last with such GPUs"),
        pytest.param((L4,), (A100,), True, id="a node gets other GPUs"),
    ],
)
def test_a_node_concerns_others_only_when_the_cluster_has_other_kinds_of_gpus(
    old: tuple[NodeGpu, ...] | None, new: tuple[NodeGpu, ...] | None, concerned: bool
) -> None:
    before, after = (node("n", gpus) if gpus is not None else None for gpus in (old, new))
    filled = store(node("other", (L4,)), *([after] if after is not None else []))
    kinds = {kind for kind, _, _ in affected(filled, NODES, before, after)}
    assert kinds == ({"Deployment", "Model"} if concerned else set())


def test_a_new_version_of_a_child_in_which_nothing_that_decides_changed_concerns_nobody() -> None:
    before = child(AUTOSCALERS, Nothing(), kind="Deployment", owner=child_name("Deployment", "ns", "chat"))
    assert set(affected(store(), AUTOSCALERS, before, replace(before, version=2))) == set()
    edited = replace(before, version=2, fingerprint=b"other")
    assert set(affected(store(), AUTOSCALERS, before, edited)) == {("Deployment", "ns", "chat")}


def test_a_model_that_wanted_a_copy_before_is_remembered_by_its_name() -> None:
    raw = {
        "metadata": {
            "namespace": "ns", "name": "old-copy", "uid": "u", "resourceVersion": "3",
            "annotations": {"bud.studio/models": "a,m"},
        },
        "spec": {},
    }  # fmt: skip
    filled = store(see(CLAIMS, raw))
    assert [claim.name for claim in filled.linked(CLAIMS, namespace="ns", link="model:m")] == ["old-copy"]


def test_a_model_whose_copy_of_before_is_mounted_hears_of_the_pods_and_one_whose_copy_is_of_now_does_not() -> None:
    def pod(claim: str, phase: str = "Running") -> Seen:
        volumes = [{"name": "weights", "persistentVolumeClaim": {"claimName": claim}}, {"name": "tmp", "emptyDir": {}}]
        labels = {"bud.studio/owner-kind": "Deployment", "bud.studio/owner-name": "nobody"}
        metadata = {"namespace": "ns", "name": "p", "uid": "p", "resourceVersion": "4", "labels": labels}
        spec = {"containers": [], "volumes": volumes}
        return see(PODS, {"metadata": metadata, "spec": spec, "status": {"phase": phase}})

    def copy(name: str) -> Seen:
        wanted = {"bud.studio/models": "m,long-gone"}
        metadata = {"namespace": "ns", "name": name, "uid": name, "resourceVersion": "3", "annotations": wanted}
        return see(CLAIMS, {"metadata": metadata, "spec": {}})

    filled = store(copy("old-copy"), copy(COPY))
    assert set(affected(filled, PODS, pod("old-copy"), None)) == {("Model", "ns", "m")}
    assert set(affected(filled, PODS, pod("old-copy"), pod("old-copy", "Failed"))) == {("Model", "ns", "m")}
    assert set(affected(filled, PODS, pod(COPY), None)) == set()
