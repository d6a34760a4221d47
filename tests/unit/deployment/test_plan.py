"""What a Deployment wants to exist, as YAML, and why it sometimes wants nothing yet."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from bud.api.deployment import DeploymentSpec
from bud.api.model import ModelSpec
from bud.deployment.network import policy
from bud.deployment.plan import plan
from bud.deployment.started import ENGINE_ANNOTATION
from bud.deployment.view import ModelSeen, View
from bud.engines.gpu import Gpus
from bud.engines.node_cache import NodeStorage
from bud.errors import BudError, InvalidError, NameConflict, WaitingError
from bud.kube.gpus import NodeGpu
from bud.kube.kinds import AUTOSCALERS, DISRUPTION_BUDGETS
from tests import goldens
from tests.unit.deployment.views import RUNTIMES, app, app_document, model, nvidia, view

AMD = NodeGpu("AMD", "amd.com/gpu", "amd.com/gpu.product-name", "AMD_Instinct_MI300X_OAM")

FULL: dict[str, Any] = {
    "runtimeRef": {"name": "vllm"},
    "autoScaling": {"enabled": True, "minReplicas": 2, "maxReplicas": 8, "targetCPU": 70, "targetMemory": 90},
    "resources": {"cpu": "4000m", "memory": "1024Mi", "gpu": 2, "gpuType": "L4"},
    "args": ["--max-model-len", "4096"],
    "env": [
        {"name": "HF_HUB_OFFLINE", "value": "0"},
        {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
        {"name": "NOTHING", "value": ""},
    ],
    "image": "mirror/vllm:v0",
    "nodeSelector": {"pool": "gpu"},
    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
    "priorityClassName": "high",
    "template": {"metadata": {"labels": {"team": "a"}, "annotations": {"note": "x"}}},
}

NODE = NodeStorage("/var/lib/bud/models", 200 * 1024**3)
PER_NODE = replace(
    model(
        copies=[{"cluster": "local", "path": "team/tiny-11112222"}],
        digest="sha256:" + "a" * 64,
        revision="abc123",
    ),
    spec=ModelSpec.model_validate(
        {
            "source": {"huggingFace": {"repo": "team/tiny"}},
            "storage": {"mode": "PerNode"},
            "credentialsSecretRef": {"name": "hub"},
        }
    ),
)

GOLDENS = {
    "shortest": view(),
    "full": view(FULL, model=model(format="safetensors", bytes=14_000_000_000, file="")),
    "stopped": view({"stopped": True, "autoScaling": {"maxReplicas": 4}}),
    "without-answer-check": view({"runtimeRef": {"name": "proven"}}),
    "weights-in-a-folder-of-a-claim": view(
        model=model(copies=[{"cluster": "local", "claimName": "shared", "path": "models/tiny"}])
    ),
    "weights-on-every-node": view(model=PER_NODE, node_storage=NODE),
    "weights-on-the-node": view(model=replace(model(copies=[{"cluster": "local"}]), host_path="/mnt/models/tiny")),
}


def test_the_policy_of_a_namespace() -> None:
    goldens.check("deployment/network-policy", [policy("team", "bud.studio/engine-access=true")])


@pytest.mark.parametrize("name", GOLDENS)
def test_the_objects_that_are_wanted(name: str) -> None:
    goldens.check(f"deployment/{name}", [document for _, document in plan(GOLDENS[name]).objects])


@pytest.mark.parametrize(
    ("changed", "kind", "reason", "message"),
    [
        (view(older="first"), NameConflict, "NameConflict", "older Deployment first"),
        (view(model=replace(model(), host_path="/etc")), InvalidError, "HostPathNotAllowed", "/etc"),
        (
            view(model=replace(model(phase="Deleting"), host_path="/mnt/models/../x")),
            InvalidError,
            "HostPathNotAllowed",
            "not allowed",
        ),
        (view(model=PER_NODE), WaitingError, "NodeCacheNotEnabled", "--node-cache-path"),
        (view(model=None), WaitingError, "ModelNotFound", "no Model tiny in namespace team.*spec.modelRef.name"),
        (view(model=model(phase="Downloading")), WaitingError, "ModelNotReady", "Downloading"),
        (view(model=model(phase="Error")), WaitingError, "ModelFailed", "kubectl describe bmodel tiny"),
        (view(model=model(observedGeneration=0)), WaitingError, "ModelNotReady", "not looked at yet"),
        (
            view({"runtimeRef": {"name": "nope"}}),
            WaitingError,
            "RuntimeNotFound",
            "proven, tiny, vllm.*spec.runtimeRef",
        ),
        (
            view({"runtimeRef": {"name": "vllm"}, "resources": {"gpu": 1}}),
            InvalidError,
            "FormatNotSupported",
            "not gguf",
        ),
        (view(model=model(format="onnx")), InvalidError, "NoRuntime", "onnx"),
        (
            view(
                {"runtimeRef": {"name": "vllm"}, "resources": {"gpu": 1, "gpuType": "B200"}},
                model=model(format="safetensors"),
            ),
            WaitingError,
            "GPUTypeNotFound",
            "no node has GPU type B200 .nodes have: NVIDIA-A100-SXM4-80GB, NVIDIA-L4",
        ),
        (
            view(
                {"runtimeRef": {"name": "vllm"}, "resources": {"gpu": 1, "gpuType": "MI300X"}},
                model=model(format="safetensors"),
                gpus=(AMD,),
            ),
            InvalidError,
            "AcceleratorNotSupported",
            "vllm runs on GPUs of NVIDIA, not AMD",
        ),
        (view(model=model(file="")), WaitingError, "ModelFileUnknown", "allowPatterns"),
        (view({"resources": {"cpu": "abc"}}), InvalidError, "InvalidQuantity", "500m"),
    ],
)
def test_why_nothing_is_wanted_yet(changed: View, kind: type[BudError], reason: str, message: str) -> None:
    with pytest.raises(kind, match=message) as caught:
        plan(changed)
    assert caught.value.reason == reason


def replicas(changed: View) -> tuple[int | None, bool]:
    document = app_document(plan(changed))
    return document["spec"].get("replicas"), "resourceVersion" in document["metadata"]


SCALED = {"autoScaling": {"minReplicas": 2, "maxReplicas": 5}}


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        pytest.param(view({"replicas": 3}), (3, False), id="the spec's number without autoscaling"),
        pytest.param(view(), (1, False), id="one when nobody says"),
        pytest.param(view(app=app(wanted=4)), (4, True), id="what runs when nobody says"),
        pytest.param(view(app=app(wanted=0)), (1, False), id="one after a stop when nobody says"),
        pytest.param(
            view({"autoScaling": {"enabled": False}}, app=app(wanted=4, owns_replicas=False)),
            (4, True),
            id="what the autoscaler left when it is turned off and nobody says",
        ),
        pytest.param(
            view(SCALED | {"replicas": 1}, app=app(wanted=4)), (4, True), id="what runs when autoscaling is turned on"
        ),
        pytest.param(view(SCALED), (2, False), id="the minimum at the start"),
        pytest.param(view({"autoScaling": {"minReplicas": 0}}), (1, False), id="one when the minimum is zero"),
        pytest.param(
            view(SCALED, app=app(wanted=4, owns_replicas=True)), (4, True), id="what is seen, pinned, while we own it"
        ),
        pytest.param(
            view(SCALED, app=app(wanted=4, owns_replicas=False)),
            (None, False),
            id="nothing once the autoscaler owns it",
        ),
        pytest.param(view(SCALED, app=app(wanted=0)), (2, False), id="the minimum after a stop"),
        pytest.param(view(SCALED | {"stopped": True}, app=app(wanted=4)), (0, False), id="none when stopped"),
        pytest.param(
            view({"autoScaling": {"enabled": False}, "replicas": 3}, app=app(wanted=4, owns_replicas=False)),
            (3, False),
            id="the spec's number when autoscaling is turned off",
        ),
    ],
)
def test_who_sets_the_number_of_replicas(changed: View, expected: tuple[int | None, bool]) -> None:
    assert replicas(changed) == expected


@pytest.mark.parametrize(
    ("spec", "wanted", "expected"),
    [
        ({}, 1, False),
        ({}, 2, True),
        ({"replicas": 2}, 1, True),
        ({"replicas": 2, "stopped": True}, 2, False),
        ({"autoScaling": {"maxReplicas": 2}}, 1, True),
        ({"autoScaling": {"maxReplicas": 1}}, 1, False),
        ({"autoScaling": {"maxReplicas": 5}, "stopped": True}, 3, False),
    ],
)
def test_a_disruption_budget_stands_where_several_replicas_are_wanted(
    spec: dict[str, Any], wanted: int, expected: bool
) -> None:
    kinds = [resource for resource, _ in plan(view(spec, app=app(wanted=wanted))).objects]
    assert (DISRUPTION_BUDGETS in kinds) == expected


def test_how_a_change_rolls_out_is_no_change_of_the_pods() -> None:
    known = started()
    assert images(view({"rollout": {"maxSurge": 2}}, app=known.app)) == {"old:1", "bud:0"}


@pytest.mark.parametrize(
    ("spec", "gpus", "resource"),
    [
        ({"gpu": 1}, (AMD,), "amd.com/gpu"),
        ({"gpu": 1, "gpuType": "MI300X"}, (AMD, nvidia("NVIDIA-L4")), "amd.com/gpu"),
        ({"gpu": 1}, (AMD, nvidia("NVIDIA-L4")), "nvidia.com/gpu"),
    ],
)
def test_the_engine_is_one_for_the_vendor_of_the_gpus(spec: Any, gpus: tuple[NodeGpu, ...], resource: str) -> None:
    runtimes = RUNTIMES | {"vllm-rocm": RUNTIMES["vllm"].model_copy(update={"gpu_vendors": ("AMD",)})}
    wanted = plan(view({"resources": spec}, model=model(format="safetensors"), gpus=gpus, runtimes=runtimes))
    assert wanted.engine.runtime_name == ("vllm-rocm" if resource == "amd.com/gpu" else "vllm")
    pod = app_document(wanted)["spec"]["template"]["spec"]
    assert pod["containers"][0]["resources"]["limits"][resource] == "1"
    assert pod["tolerations"] == [{"effect": "NoSchedule", "key": resource, "operator": "Exists"}]


def test_an_engine_that_is_named_decides_between_vendors() -> None:
    runtimes = {"vllm": RUNTIMES["vllm"].model_copy(update={"gpu_vendors": ("AMD",)})}
    changed = view(
        {"runtimeRef": {"name": "vllm"}, "resources": {"gpu": 1}},
        model=model(format="safetensors"),
        gpus=(AMD, nvidia("NVIDIA-L4")),
        runtimes=runtimes,
    )
    assert plan(changed).engine.gpus == Gpus("AMD", "amd.com/gpu")


def test_where_nodes_are_not_read_the_gpu_type_is_the_value_of_the_label() -> None:
    spec = {"runtimeRef": {"name": "vllm"}, "resources": {"gpu": 1, "gpuType": "NVIDIA-L4"}}
    wanted = plan(view(spec, model=model(format="safetensors"), gpus=None))
    assert wanted.engine.gpus == Gpus("NVIDIA", "nvidia.com/gpu", (("nvidia.com/gpu.product", ("NVIDIA-L4",)),))


def test_a_stopped_deployment_has_no_autoscaler() -> None:
    assert AUTOSCALERS not in [resource for resource, _ in plan(GOLDENS["stopped"]).objects]


def started(spec: dict[str, Any] | None = None) -> View:
    """A Deployment whose pods were started by an earlier release with an earlier Runtime."""
    before = view(
        spec,
        operator_image="bud:0",
        runtimes=RUNTIMES | {"tiny": RUNTIMES["tiny"].model_copy(update={"image": "old:1"})},
    )
    annotations = app_document(plan(before))["metadata"]["annotations"]
    return view(spec, app=app(annotations=annotations))


def images(changed: View) -> set[str]:
    pod = app_document(plan(changed))["spec"]["template"]["spec"]
    return {container["image"] for container in (*pod["containers"], *pod["initContainers"])}


def test_an_upgrade_of_operator_and_runtime_changes_no_pod() -> None:
    assert images(started()) == {"old:1", "bud:0"}


@pytest.mark.parametrize("spec", [{"args": ["--x"]}, {"updatePolicy": "Auto"}])
def test_a_changed_spec_or_the_policy_auto_brings_the_new_release(spec: dict[str, Any]) -> None:
    known = started()
    assert images(view(spec, app=known.app)) == {"bud:1"}


@pytest.mark.parametrize(
    "spec",
    [
        {"replicas": 7},
        {"autoScaling": {"maxReplicas": 9}},
        {"stopped": True},
        {"pricing": {"perRequest": 1}, "capabilities": ["chat"], "contextLength": 9, "maxOutputTokens": 9},
    ],
)
def test_scaling_and_what_callers_are_told_bring_no_new_release(spec: dict[str, Any]) -> None:
    assert images(view(spec, app=started().app)) == {"old:1", "bud:0"}


@pytest.mark.parametrize("known", [None, model(phase="Error"), model(phase="Downloading")])
@pytest.mark.parametrize(("spec", "expected"), [({"replicas": 3}, 3), ({"stopped": True}, 0)])
def test_what_is_served_is_scaled_and_stopped_whatever_becomes_of_its_model(
    known: ModelSeen | None, spec: dict[str, Any], expected: int
) -> None:
    wanted = plan(view(spec, app=started().app, model=known))
    assert app_document(wanted)["spec"]["replicas"] == expected
    assert wanted.weights.claim_name == "tiny-11112222"
    assert "Model tiny" in wanted.waiting


def test_a_changed_spec_is_answered_with_the_weights_of_before() -> None:
    changed = view({"args": ["--x"]}, app=started().app, model=model(phase="Error"))
    assert app_document(plan(changed))["spec"]["template"]["spec"]["containers"][0]["args"][-1] == "--x"


def noted(**changes: Any) -> str:
    """The note of an earlier release, with some of its fields changed."""
    app_data = started().app_data
    assert app_data is not None
    known = json.loads(app_data.annotations[ENGINE_ANNOTATION])
    return json.dumps({key: value for key, value in (known | changes).items() if value is not None})


OLD, NEW = {"old:1", "bud:0"}, {"bud:1"}


@pytest.mark.parametrize(
    ("note", "edited", "expected"),
    [
        pytest.param(noted(), False, OLD, id="as it was written: obeyed"),
        pytest.param(noted(), True, NEW, id="written by somebody else: the present Runtime and spec"),
        pytest.param("{", False, NEW, id="unreadable: as none"),
        pytest.param(noted(weights=None), False, NEW, id="without what this release needs: as none"),
        pytest.param(noted(version=2), False, NEW, id="of a later release's rendering: as none"),
        pytest.param(noted(version=None), False, NEW, id="of no version: as none"),
    ],
)
def test_a_note_is_obeyed_as_it_was_written(note: str, edited: bool, expected: set[str]) -> None:
    known = app(annotations={ENGINE_ANNOTATION: note}, edited=frozenset({ENGINE_ANNOTATION} if edited else ()))
    assert images(view(app=known)) == expected


def test_an_edited_note_changes_no_pod_when_nothing_else_changed() -> None:
    before = app_document(plan(view({"replicas": 1})))
    edited = app(annotations={ENGINE_ANNOTATION: noted(operatorImage="evil:1")}, edited=frozenset({ENGINE_ANNOTATION}))
    assert app_document(plan(view({"replicas": 1}, app=edited))) == before


def test_the_same_view_gives_the_same_objects() -> None:
    assert plan(GOLDENS["full"]) == plan(GOLDENS["full"])


def weights_container(changed: View) -> dict[str, Any]:
    first: dict[str, Any] = app_document(plan(changed))["spec"]["template"]["spec"]["initContainers"][0]
    return first


def test_another_cache_of_the_nodes_restarts_nobody_and_serves_whoever_starts() -> None:
    before = view(model=PER_NODE, node_storage=NODE)
    notes = app_document(plan(before))["metadata"]["annotations"]
    after = replace(before, app=app(annotations=notes), node_storage=NodeStorage("/elsewhere", 1))
    assert app_document(plan(after)) == app_document(plan(replace(before, app=app(annotations=notes))))
    changed = replace(after, spec=DeploymentSpec.model_validate({"modelRef": {"name": "tiny"}, "args": ["-v"]}))
    assert '"sizeBytes":1}' in weights_container(changed)["env"][0]["value"]


def test_another_content_of_the_model_brings_other_pods() -> None:
    before = view(model=PER_NODE, node_storage=NODE)
    notes = app_document(plan(before))["metadata"]["annotations"]
    other = replace(PER_NODE, status=PER_NODE.status.model_copy(update={"digest": "sha256:" + "b" * 64}))
    after = replace(before, app=app(annotations=notes), model=other)
    assert "bbbb" in weights_container(after)["env"][0]["value"]
