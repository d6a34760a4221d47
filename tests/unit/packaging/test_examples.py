"""Every example is an object that the API takes, and the ones that belong together do."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from bud.api import API_VERSION, KINDS
from bud.gateway.build import Objects, build
from bud.gateway.models import may_name
from bud.gateway.reach import Reach

ROOT = Path(__file__).parents[3]
EXAMPLES = sorted((ROOT / "examples").rglob("*.yaml"))
SPECS = {kind.kind: kind.spec for kind in KINDS}


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: str(path.relative_to(ROOT)))
def test_an_example_says_what_it_is_and_is_read_by_the_operator(path: Path) -> None:
    assert path.read_text().startswith("# ")
    for document in documents(path):
        assert document["apiVersion"] == API_VERSION
        SPECS[document["kind"]].model_validate(document["spec"])


@pytest.mark.parametrize("folder", ["examples", "examples/more"])
def test_the_model_of_every_deployment_is_in_the_same_folder(folder: str) -> None:
    found = [document for path in sorted((ROOT / folder).glob("*.yaml")) for document in documents(path)]
    models = {item["metadata"]["name"] for item in found if item["kind"] == "Model"}
    specs = [item["spec"] for item in found if item["kind"] == "Deployment"]
    wanted = {part["modelRef"]["name"] for spec in specs for part in (spec, *spec.get("adapters", ()))}
    assert wanted
    assert wanted <= models


def test_the_examples_of_the_gateway_are_served_by_it() -> None:
    found, folder = Objects(), ROOT / "examples/gateway"
    for document in (
        item for path in (*folder.glob("*.yaml"), ROOT / "examples/chat.yaml") for item in documents(path)
    ):
        if document["kind"] != "Model":
            status = {"hashes": [{"hash": "a" * 64}]} if document["kind"] == "APIKey" else {}
            namespace = {} if document["kind"] == "Project" else {"namespace": "team"}
            found.add(document | {"metadata": document["metadata"] | namespace, "status": status})
    secret = {"kind": "Secret", "metadata": {"name": "openai", "namespace": "team"}, "stringData": {"apiKey": "k"}}
    found.add(secret)
    built = build(found, Reach())
    assert not built.troubles
    (key,) = built.catalog.keys.values()
    assert {name for name in built.catalog.names["team"] if may_name(key, name)} == {"assistant", "qwen2.5-0.5b"}
    served = built.catalog.names["team"]["assistant"]
    assert [target.id for target in (*served.targets, *served.fallbacks)] == ["qwen2.5-0.5b", "openai/gpt-4o-mini"]


def test_the_first_examples_need_no_gpu_and_no_secret() -> None:
    for path in (ROOT / "examples").glob("*.yaml"):
        for document in documents(path):
            assert "credentialsSecretRef" not in document["spec"]
            assert "gpu" not in document["spec"].get("resources", {})
