"""The schemas: bounded, described, and saying the same as the Python models."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from bud.api import KINDS, Kind
from bud.api.crd import crd, to_yaml
from bud.api.deployment import DeploymentSpec
from bud.api.model import ModelSpec
from bud.api.runtime import RuntimeSpec


def schema(kind: Kind) -> dict[str, Any]:
    found: dict[str, Any] = crd(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return found


def nodes(node: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, node
    for name, below in node.get("properties", {}).items():
        yield from nodes(below, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if isinstance(node.get(key), dict):
            yield from nodes(node[key], f"{path}[]")


ALL = [
    pytest.param(path, node, id=f"{kind.kind}{path}")
    for kind in KINDS
    for path, node in nodes(schema(kind))
    if path.startswith((".spec", ".status"))
]


@pytest.mark.parametrize(("path", "node"), ALL)
def test_every_field_is_described_and_every_string_list_and_map_has_a_maximum(path: str, node: dict[str, Any]) -> None:
    assert node.get("description") or path.endswith("[]")
    if node.get("x-kubernetes-int-or-string"):
        return
    bound = {"string": "maxLength", "array": "maxItems"}.get(node["type"])
    if node["type"] == "object" and not node.get("properties"):
        bound = "maxProperties"
    assert bound is None or bound in node or "enum" in node


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kind)
def test_a_definition_stays_under_200_kib(kind: Kind) -> None:
    assert len(to_yaml(crd(kind))) < 200 * 1024


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kind)
def test_no_field_is_a_boolean_to_yaml(kind: Kind) -> None:
    names = {path.rsplit(".", 1)[1] for path, _ in nodes(schema(kind)) if "." in path and not path.endswith("[]")}
    assert {name for name in names if not isinstance(yaml.safe_load(name), str)} == set()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kind)
def test_a_rule_names_the_remedy_and_a_status_has_no_defaults_but_that_nobody_wrote_it(kind: Kind) -> None:
    for path, node in nodes(schema(kind)):
        assert all(rule["message"] for rule in node.get("x-kubernetes-validations", ()))
        assert not (path.startswith(".status.") and "default" in node)
        assert path != ".status" or node["default"] == {"observedGeneration": -1}


SURFACE = {
    "Model": "bmodel models Namespaced spec: credentialsSecretRef format metadata serviceAccountName sha256 source storage task",
    "Deployment": "mdep deployments Namespaced spec: adapters args autoScaling capabilities contextLength env image maxOutputTokens modelRef nodeSelector pricing priorityClassName replicas "
    "resources rollout runtimeRef selector stopped template tolerations updatePolicy",
    "Runtime": "brt runtimes Cluster spec: accelerator adapters answerCheck args command description drainSeconds env formats gpuVendors healthPath image metricsPath "
    "port priority sharedMemory startupSeconds tasks writablePaths",
    "Project": "bproj projects Cluster spec: budget displayName limits namespace responseMetadata",
    "APIKey": "bkey apikeys Namespaced spec: budget expiresAt hash limits prefix revoked rotation scopes",
    "Provider": "bprov providers Namespaced spec: apiVersion baseURL credentialsSecretRef firstByteSeconds kind models priority region timeoutSeconds",
    "Route": "broute routes Namespaced spec: fallbacks firstByteSeconds model pricing retries strategy targets timeoutSeconds",
}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kind)
def test_the_public_surface(kind: Kind) -> None:
    definition = crd(kind)
    names = definition["spec"]["names"]
    fields = " ".join(sorted(schema(kind)["properties"]["spec"]["properties"]))
    assert (
        f"{names['shortNames'][0]} {names['plural']} {definition['spec']['scope']} spec: {fields}" == SURFACE[kind.kind]
    )
    assert definition["metadata"]["name"] == f"{names['plural']}.bud.studio"
    assert names["categories"] == ["bud"]


@pytest.mark.parametrize(
    ("model", "spec"),
    [
        (ModelSpec, {"source": {"huggingFace": {"repo": "meta-llama/Llama-3.2-1B-Instruct"}}}),
        (DeploymentSpec, {"modelRef": {"name": "m"}}),
        (
            DeploymentSpec,
            {
                "modelRef": {"name": "llama-3.2-1b"},
                "resources": {"cpu": "4", "memory": "16Gi", "gpu": 1, "gpuType": "L4"},
                "autoScaling": {"enabled": True, "minReplicas": 1, "maxReplicas": 4, "targetCPU": 80},
            },
        ),
        (RuntimeSpec, {"formats": ["gguf"], "tasks": ["text-generation"]}),
    ],
)
def test_the_shortest_useful_specs_are_read_and_written_alike(model: Any, spec: dict[str, Any]) -> None:
    assert model.model_validate(spec).model_dump(by_alias=True, exclude_unset=True, mode="json") == spec
