"""Which fields are ours, by managedFields."""

from __future__ import annotations

from typing import Any

import pytest

from bud.kube.owned import fingerprint as live_fingerprint
from bud.kube.owned import owned_fields, owns, wanted_fingerprint


def live(
    spec: Any, fields: dict[str, Any], *, operation: str = "Apply", manager: str = "bud-operator"
) -> dict[str, Any]:
    entry = {"manager": manager, "operation": operation, "fieldsV1": {"f:spec": fields}}
    return {"metadata": {"name": "x", "managedFields": [entry]}, "spec": spec}


@pytest.mark.parametrize(
    ("spec", "fields", "expected"),
    [
        pytest.param({"a": 1, "b": 2}, {"f:a": {}}, {"a": 1}, id="a field"),
        pytest.param({"a": {"x": 1, "y": 2}}, {"f:a": {}}, {"a": {"x": 1, "y": 2}}, id="a whole struct"),
        pytest.param({"a": {"x": 1, "y": 2}}, {"f:a": {".": {}, "f:y": {}}}, {"a": {"y": 2}}, id="a part of a struct"),
        pytest.param(
            {"c": [{"name": "a", "v": 1}, {"name": "b", "v": 2, "w": 3}]},
            {"f:c": {'k:{"name":"b"}': {".": {}, "f:name": {}, "f:v": {}}}},
            {"c": [{"name": "b", "v": 2}]},
            id="a keyed list item",
        ),
        pytest.param(
            {"p": [{"port": 80, "protocol": "TCP", "nodePort": 3}]},
            {"f:p": {'k:{"port":80,"protocol":"TCP"}': {"f:port": {}, "f:protocol": {}}}},
            {"p": [{"port": 80, "protocol": "TCP"}]},
            id="a list item with two keys",
        ),
        pytest.param({"s": ["a", "b"]}, {"f:s": {'v:"b"': {}}}, {"s": ["b"]}, id="a member of a set"),
        pytest.param({"l": [1, 2]}, {"f:l": {}}, {"l": [1, 2]}, id="an atomic list"),
        pytest.param({}, {"f:gone": {}}, {}, id="a field that is not there"),
    ],
)
def test_owned_fields_have_the_shape_of_the_applied_document(spec: Any, fields: Any, expected: Any) -> None:
    found = live(spec, fields)
    assert owned_fields(found) == {"spec": expected}
    document = {"apiVersion": "v1", "kind": "X", "metadata": {"name": "x", "uid": "u"}, "spec": expected}
    assert live_fingerprint(found) == wanted_fingerprint(document)


def test_fields_set_by_update_or_by_another_manager_are_not_ours() -> None:
    assert owned_fields(live({"a": 1}, {"f:a": {}}, operation="Update")) == {}
    assert owned_fields(live({"a": 1}, {"f:a": {}}, manager="kubectl")) == {}


def test_ownership_of_one_field_is_told_by_its_path() -> None:
    found = live({"replicas": 3, "x": 1}, {"f:replicas": {}})
    assert owns(found, "spec", "replicas")
    assert not owns(found, "spec", "x")
