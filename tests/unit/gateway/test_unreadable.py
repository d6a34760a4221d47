"""Objects that cannot be meant: each is left out by itself, and told by the field."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from bud.gateway.files import Folder
from bud.gateway.reach import Reach

GOOD = {"kind": "Project", "metadata": {"name": "team"}, "spec": {"namespace": "default"}}
MODELS = [{"name": "m"}]


def built(folder: Path, *documents: object) -> Any:
    (folder / "objects.yaml").write_text(yaml.safe_dump_all(documents))
    found = Folder(folder, Reach()).look()
    assert found is not None
    return found


def of(kind: str, spec: object) -> dict[str, Any]:
    return {"apiVersion": "bud.studio/v1alpha1", "kind": kind, "metadata": {"name": "some"}, "spec": spec}


@pytest.mark.parametrize(
    ("document", "says"),
    [
        (of("Route", {"targets": [{"weight": 1}]}), "spec.targets[0]: set exactly one of deploymentRef or providerRef"),
        (of("Provider", {"kind": "OpenAICompatible", "models": MODELS}), "spec.baseURL is needed"),
        (of("Provider", {"kind": "Bedrock", "models": MODELS}), "spec.region is needed"),
        (of("APIKey", {"budget": {"amount": "5 USD"}}), "amount in US dollars"),
        (of("APIKey", {"budget": {"amount": "NaN"}}), "amount in US dollars"),
        (of("APIKey", {"budget": {"amount": "9" * 32}}), "amount in US dollars"),
        (of("APIKey", {"expiresAt": "tomorrow"}), "spec.expiresAt"),
        (of("APIKey", "hello"), "APIKey default/some"),
        ({"kind": "Secret", "metadata": {"name": "some"}, "data": [1]}, "Secret default/some"),
    ],
)
def test_an_object_that_cannot_be_meant_is_left_out_and_told(tmp_path: Path, document: object, says: str) -> None:
    found = built(tmp_path, GOOD, document)
    assert any(says in f"{what}: {text}" for what, text in found.troubles), found.troubles
    assert "default" in found.catalog.names


@pytest.mark.parametrize("name", [5, ["a"]])
def test_a_name_that_is_no_text_is_told_by_its_file(tmp_path: Path, name: object) -> None:
    ((what, text),) = built(tmp_path, GOOD, GOOD | {"metadata": {"name": name}}).troubles
    assert what.endswith("objects.yaml") and "document 2: metadata.name and metadata.namespace are text" in text


def test_times_need_no_quotes(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        "{kind: Project, metadata: {name: default}}\n---\n"
        f"{{kind: APIKey, metadata: {{name: k}}, spec: {{hash: {'a' * 64}, expiresAt: 2027-01-01T00:00:00Z}}}}\n"
    )
    found = Folder(tmp_path, Reach()).look()
    assert found is not None
    assert (found.troubles, found.catalog.keys["a" * 64].ends) == ([], 1798761600.0)
