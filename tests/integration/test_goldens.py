"""Every golden document is canonical: what the API server says we own of it is the very document that was sent."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from bud.kube.kinds import MANAGER
from bud.kube.owned import fingerprint, owned_fields, wanted_fingerprint
from tests import goldens
from tests.cluster.handle import Cluster

DOCUMENTS = [
    pytest.param(document, id=f"{path.parent.name}/{path.stem} {document['kind']}")
    for path in sorted(goldens.FOLDER.glob("*/*.yaml"))
    for document in yaml.safe_load_all(path.read_text())
]


@pytest.fixture(scope="module")
def namespace(control_cluster: Cluster) -> str:
    control_cluster.kubectl("create", "namespace", "team")
    return "team"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_a_golden_comes_back_as_it_was_sent(control_cluster: Cluster, namespace: str, document: dict[str, Any]) -> None:
    assert document["metadata"]["namespace"] == namespace
    options = ("--server-side", f"--field-manager={MANAGER}", "--dry-run=server", "--show-managed-fields", "-o", "json")
    live = json.loads(control_cluster.kubectl("apply", *options, "-f", "-", stdin=json.dumps(document)))
    owned = owned_fields(live)
    assert owned == {
        **{key: value for key, value in document.items() if key not in ("apiVersion", "kind", "metadata")},
        "metadata": {key: value for key, value in document["metadata"].items() if key not in ("name", "namespace")},
    }
    assert fingerprint(live) == wanted_fingerprint(document)
