"""Adapters beside a model: the pods they make, when they are waited for, and which are refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from bud.api.conditions import READY, RECONCILING, find
from bud.api.deployment import DeploymentStatus
from bud.api.model import ModelSpec, ModelStorage
from bud.api.runtime import RuntimeSpec
from bud.deployment.plan import Plan, plan
from bud.deployment.status import Outcome, status
from bud.deployment.view import ModelSeen, View
from bud.deployment.weights import may_be_same
from bud.engines.node_cache import NodeStorage
from bud.errors import BudError, InvalidError, WaitingError
from bud.kube.kinds import APPS
from tests import goldens
from tests.unit.deployment.views import RUNTIMES, app, model, view

FOLDER = Path(__file__).parents[3] / "charts/bud-operator/runtimes"
BUILTIN = {
    document["metadata"]["name"]: RuntimeSpec.model_validate(document["spec"])
    for document in (yaml.safe_load(path.read_text()) for path in sorted(FOLDER.glob("*.yaml")))
}
LORA = {"type": "lora", "base": "meta-llama/Llama-3.2-1B"}
TWO = {
    "adapters": [
        {"name": "pirate", "modelRef": {"name": "pirate-lora"}},
        {"name": "Poet-1.0", "modelRef": {"name": "poet-lora"}},
    ]
}
ONE = {"adapters": TWO["adapters"][:1]}


def adapter(claim: str = "pirate-aaaa1111", **changes: Any) -> ModelSeen:
    copies = [{"cluster": "local", "claimName": claim, "path": ""}]
    return model(**{"bytes": 2_000_000, "file": "lora.gguf", "copies": copies, "adapter": LORA} | changes)


MODELS = {"pirate-lora": adapter(), "poet-lora": adapter("poet-bbbb2222", file="poet/lora.gguf")}
FOLDERS = {
    "pirate-lora": adapter(format="safetensors", file=""),
    "poet-lora": adapter(
        "shared",
        format="safetensors",
        file="",
        copies=[{"cluster": "local", "claimName": "shared", "path": "loras/poet"}],
    ),
}


def served(spec: dict[str, Any], models: dict[str, ModelSeen] | None = None, **changes: Any) -> View:
    given = {"adapter_models": MODELS if models is None else models, "runtimes": BUILTIN}
    return view({"runtimeRef": {"name": "tiny"}} | spec, **(given | changes))


SAFE = model(format="safetensors", file="")
GPU = {"resources": {"gpu": 1}}
GOLDENS = {
    "adapters-by-relay": served(TWO),
    "adapters-by-name": served(
        TWO | GPU | {"runtimeRef": {"name": "vllm"}, "args": ["--max-lora-rank=64"]}, FOLDERS, model=SAFE
    ),
    "adapters-by-field": served(TWO | GPU | {"runtimeRef": {"name": "sglang"}}, FOLDERS, model=SAFE),
}


@pytest.mark.parametrize("name", GOLDENS)
def test_the_objects_of_a_deployment_with_adapters(name: str) -> None:
    goldens.check(f"deployment/{name}", [document for _, document in plan(GOLDENS[name]).objects])


def template(wanted: Plan) -> dict[str, Any]:
    document = next(document for resource, document in wanted.objects if resource is APPS)
    found: dict[str, Any] = document["spec"]["template"]
    return found


def running(spec: dict[str, Any], **changes: Any) -> View:
    """A view in which pods run that were started with this spec."""
    document = next(document for resource, document in plan(served(spec)).objects if resource is APPS)
    return served(spec, app=app(annotations=document["metadata"]["annotations"]), **changes)


HUB = ModelSpec.model_validate({"source": {"huggingFace": {"repo": "meta-llama/Llama-3.2-1B-Instruct"}}})
HUB_BASE = replace(model(), spec=HUB)
PER_NODE = HUB.model_copy(update={"storage": ModelStorage(mode="PerNode")})
GONE = {"pirate-lora": adapter(phase="Downloading")}


@pytest.mark.parametrize(
    ("changed", "kind", "reason", "message"),
    [
        (served(ONE, {}), WaitingError, "ModelNotFound", r"adapter pirate: no Model pirate-lora in namespace team.*modelRef.name of adapter pirate"),
        (served(ONE, GONE), WaitingError, "ModelNotReady", "adapter pirate: Model pirate-lora is Downloading"),
        (served(ONE, {"pirate-lora": adapter(phase="Error")}), WaitingError, "ModelFailed", "adapter pirate.*kubectl describe bmodel pirate-lora"),
        (served(ONE, {"pirate-lora": adapter(adapter=None)}), InvalidError, "NotAnAdapter", "pirate-lora of adapter pirate is no adapter.*spec.adapters"),
        (served(ONE, {"pirate-lora": adapter(adapter={"type": "ia3"})}), InvalidError, "AdapterTypeNotSupported", "of type ia3"),
        (served(ONE, {"pirate-lora": adapter(file="")}), WaitingError, "ModelFileUnknown", "allowPatterns"),
        (served(ONE, {"pirate-lora": adapter(format="safetensors")}), InvalidError, "FormatNotSupported", "is safetensors, and Runtime tiny loads gguf"),
        (served(ONE, {"pirate-lora": replace(adapter(), host_path="/etc")}), InvalidError, "HostPathNotAllowed", "/etc of Model pirate-lora"),
        (
            served(ONE, {"pirate-lora": replace(adapter(), spec=PER_NODE)}, node_storage=NodeStorage("/cache", 1)),
            InvalidError, "AdapterStorageNotSupported", "storage.mode PerNode.*set it to Shared",
        ),
        (served(ONE, runtimes=RUNTIMES), InvalidError, "AdaptersNotSupported", "Runtime tiny loads no adapters.*spec.runtimeRef"),
        (served({"adapters": [{"name": "chat.v1", "modelRef": {"name": "pirate-lora"}}]}), InvalidError, "AdapterNameTaken", "rename it"),
        (served({}, model=model(adapter=LORA)), InvalidError, "ModelIsAdapter", "Model tiny is an adapter: name meta-llama/Llama-3.2-1B in spec.modelRef"),
        (
            served(ONE, {"pirate-lora": adapter(adapter=LORA | {"base": "google/gemma-3-1b-it"})}, model=HUB_BASE),
            InvalidError, "AdapterBaseMismatch", "made for google/gemma-3-1b-it, and Model tiny is meta-llama/Llama-3.2-1B-Instruct; name",
        ),
        (
            served(ONE, {"pirate-lora": adapter(architecture="qwen3")}, model=model(architecture="llama")),
            InvalidError, "AdapterBaseMismatch", "made for a qwen3 model, and Model tiny is a llama model",
        ),
    ],
)  # fmt: skip
def test_why_adapters_are_not_served(changed: View, kind: type[BudError], reason: str, message: str) -> None:
    with pytest.raises(kind, match=message) as caught:
        plan(changed)
    assert caught.value.reason == reason


def test_the_names_that_the_pods_answer_to_are_told() -> None:
    assert look(served(TWO, app=app())).adapters == ("pirate", "Poet-1.0")


@pytest.mark.parametrize(
    ("told", "repo", "same"),
    [
        ("meta-llama/Llama-3.2-1B", "meta-llama/Llama-3.2-1B", True),
        ("META-LLAMA/llama-3.2-1b", "mirror/Llama-3.2-1B", True),
        ("meta-llama/Llama-3.2-1B-Instruct", "bartowski/Llama-3.2-1B-Instruct-GGUF", True),
        ("unsloth/llama-3.2-1b-instruct-bnb-4bit", "meta-llama/Llama-3.2-1B-Instruct", True),
        ("https://huggingface.co/meta-llama/Llama-3.2-1B/", "meta-llama/Llama-3.2-1B", True),
        ("https://huggingface.co/google/gemma-3-1b-it", "meta-llama/Llama-3.2-1B", False),
        ("meta-llama/Llama-3.2-3B", "meta-llama/Llama-3.2-1B", False),
        ("meta-llama/Llama-2-7b-hf", "huggyllama/llama-7b", False),
        ("/data/checkpoints/step-500", "meta-llama/Llama-3.2-1B", True),
        ("./output", "meta-llama/Llama-3.2-1B", True),
        ("../base/model", "meta-llama/Llama-3.2-1B", True),
        ("", "meta-llama/Llama-3.2-1B", True),
    ],
)
def test_only_a_base_that_is_surely_another_is_refused(told: str, repo: str, same: bool) -> None:
    assert may_be_same(told, repo) is same


def test_adapters_prefer_a_runtime_that_loads_them() -> None:
    plain = BUILTIN["llama-cpp"].model_copy(update={"adapters": None, "priority": 999})
    runtimes = {"plain": plain, "tiny": BUILTIN["tiny"]}
    chosen = [plan(served(spec | {"runtimeRef": None}, runtimes=runtimes)).engine.runtime_name for spec in ({}, ONE)]
    assert chosen == ["plain", "tiny"]


def test_pods_go_on_as_they_are_while_an_added_adapter_is_not_there() -> None:
    wanted = plan(replace(running(ONE), spec=served(TWO).spec, adapter_models={"pirate-lora": MODELS["pirate-lora"]}))
    assert template(wanted) == template(plan(served(ONE)))
    assert wanted.lacking == (
        "adapter Poet-1.0: no Model poet-lora in namespace team; create it or correct modelRef.name of adapter Poet-1.0 "
        "in spec.adapters",
    )


@pytest.mark.parametrize("models", [{}, GONE, {"pirate-lora": adapter(phase="Error")}])
def test_an_adapter_that_is_served_is_kept_whatever_becomes_of_its_model(models: dict[str, ModelSeen]) -> None:
    wanted = plan(replace(running(ONE), adapter_models=models))
    assert template(wanted) == template(plan(served(ONE)))
    assert len(wanted.lacking) == 1


@pytest.mark.parametrize("spec", [{}, TWO, {"adapters": [{"name": "pirate", "modelRef": {"name": "poet-lora"}}]}])
def test_another_list_of_adapters_is_another_pod(spec: dict[str, Any]) -> None:
    assert template(plan(replace(running(ONE), spec=served(spec).spec))) != template(plan(served(ONE)))


def test_a_file_name_cannot_smuggle_a_variable_in() -> None:
    odd = adapter(file="$(HOME).gguf")
    args = template(plan(served(ONE, {"pirate-lora": odd})))["spec"]["containers"][0]["args"]
    assert args[-1] == "/adapters/pirate/$$(HOME).gguf"


def test_requests_for_the_model_itself_switch_all_adapters_off() -> None:
    relay = template(plan(served(TWO)))["spec"]["initContainers"][1]
    env = {variable["name"]: variable["value"] for variable in relay["env"]}
    fields = json.loads(env["BUD_RELAY_FIELDS"])
    assert {name: [entry["scale"] for entry in field["lora"]] for name, field in fields.items()} == {
        "chat.v1": [0, 0],
        "pirate": [1, 0],
        "Poet-1.0": [0, 1],
    }


def test_adapters_count_in_the_memory_that_is_asked_for() -> None:
    large = adapter(bytes=8 * 1024**3)
    found = look(served(ONE, {"pirate-lora": large}, app=app())).resources
    assert found is not None and found.memory == "12Gi"


def look(changed: View, previous: DeploymentStatus | None = None) -> DeploymentStatus:
    outcome = Outcome(plan(changed), None)
    return status(changed, outcome, previous=previous or DeploymentStatus(), now="2026-01-01T00:00:00Z")


def test_a_deployment_is_not_active_before_all_its_adapters_are() -> None:
    changed = replace(running(ONE), spec=served(TWO).spec, adapter_models={"pirate-lora": MODELS["pirate-lora"]})
    found = look(changed)
    ready, going = find(found.conditions, READY), find(found.conditions, RECONCILING)
    assert ready is not None and going is not None
    assert (found.phase, ready.status, ready.reason, going.status) == ("Deploying", "True", "AdapterNotReady", "True")
    assert "no Model poet-lora" in ready.message
    assert found.adapters == ("pirate",)


def test_an_adapter_that_is_kept_from_before_is_served_and_remarked() -> None:
    found = look(replace(running(ONE), adapter_models=GONE))
    ready = find(found.conditions, READY)
    assert ready is not None
    assert (found.phase, ready.reason) == ("Active", "Active")
    assert "adapter pirate: Model pirate-lora is Downloading; served as before meanwhile" in ready.message
