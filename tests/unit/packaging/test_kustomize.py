"""Kustomize is told of every field that names another object."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from bud.api import KINDS, Kind
from bud.api.base import DNS_SUBDOMAIN
from bud.api.crd import crd

CONFIGURATION = yaml.safe_load((Path(__file__).parents[3] / "manifests/kustomize/bud.yaml").read_text())


def names(schema: dict[str, Any], path: str) -> Iterator[str]:
    """Paths of the fields that hold an object's name, as Kustomize writes them: through lists as if they were not there."""
    if schema.get("pattern") == DNS_SUBDOMAIN:
        yield path
    for field, inner in schema.get("properties", {}).items():
        yield from names(inner, f"{path}/{field}")
    if "items" in schema:
        yield from names(schema["items"], path)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kind)
def test_every_field_that_names_an_object_is_told(kind: Kind) -> None:
    schema = crd(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    told = {
        field["path"]
        for reference in CONFIGURATION["nameReference"]
        for field in reference["fieldSpecs"]
        if field["kind"] == kind.kind
    }
    assert told == set(names(schema, "spec"))
