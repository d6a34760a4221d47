"""What is kept of objects: which of our annotations somebody else has written."""

from __future__ import annotations

from typing import Any

import pytest

from bud.kube.kinds import APPS
from bud.kube.seen import App, see

OURS = {"f:metadata": {"f:annotations": {"f:bud.studio/engine": {}}}, "f:spec": {"f:replicas": {}}}
WITHOUT: dict[str, Any] = {"f:metadata": {"f:labels": {}}, "f:spec": {"f:replicas": {}}}


def app(*managers: tuple[str, dict[str, Any]]) -> App:
    entries = [{"manager": name, "operation": "Apply", "fieldsV1": fields} for name, fields in managers]
    metadata = {
        "name": "x",
        "uid": "u",
        "resourceVersion": "1",
        "annotations": {"bud.studio/engine": "{}", "other": ""},
        "managedFields": entries,
    }
    data: App = see(APPS, {"metadata": metadata, "spec": {"replicas": 1}}).data
    return data


@pytest.mark.parametrize(
    ("seen", "edited"),
    [
        pytest.param(app(("bud-operator", OURS)), set(), id="as we wrote it"),
        pytest.param(app(("bud-operator", OURS), ("flux", OURS)), set(), id="somebody wrote the very same"),
        pytest.param(
            app(("bud-operator", WITHOUT), ("flux", OURS)), {"bud.studio/engine"}, id="somebody wrote another"
        ),
        pytest.param(app(("velero", OURS)), set(), id="a restore wrote the whole object"),
        pytest.param(app(), set(), id="nobody is known"),
    ],
)
def test_an_annotation_is_edited_when_somebody_else_wrote_it(seen: App, edited: set[str]) -> None:
    assert seen.edited == edited
