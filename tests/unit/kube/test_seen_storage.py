"""What is kept of claims, StorageClasses and pods, where storage decides."""

from __future__ import annotations

from typing import Any

from bud.kube.kinds import CLAIMS, PODS, STORAGE_CLASSES, Resource
from bud.kube.seen import Claim, StorageClass, see


def seen(resource: Resource, **fields: Any) -> Any:
    metadata = {"name": "x", "uid": "u", "resourceVersion": "1", "creationTimestamp": "2026-01-01T00:00:00Z"}
    return see(resource, {"metadata": metadata | fields.pop("metadata", {}), **fields}).data


def test_a_claim_that_grows() -> None:
    found = seen(
        CLAIMS,
        spec={"accessModes": ["ReadWriteOnce"], "storageClassName": "fast", "resources": {"requests": {"storage": "2Gi"}}},
        status={
            "phase": "Bound",
            "capacity": {"storage": "1Gi"},
            "conditions": [{"type": "FileSystemResizePending", "status": "True"}],
        },
    )  # fmt: skip
    assert found == Claim("Bound", "fast", "2Gi", {}, ("ReadWriteOnce",), capacity="1Gi", awaits_mount=True)


def test_a_claim_that_nobody_looked_at() -> None:
    assert seen(CLAIMS, spec={}) == Claim("", None, "", {})


def test_storage_classes() -> None:
    marked = {"annotations": {"storageclass.kubernetes.io/is-default-class": "true"}}
    created = "2026-01-01T00:00:00Z"
    full = seen(STORAGE_CLASSES, metadata=marked, provisioner="efs.csi.aws.com", allowVolumeExpansion=True)
    assert full == StorageClass("efs.csi.aws.com", default=True, expands=True, created=created)
    assert seen(STORAGE_CLASSES, provisioner="p") == StorageClass("p", default=False, expands=False, created=created)


def test_a_pod_that_waits_for_its_volumes() -> None:
    waits = [{"type": "PodReadyToStartContainers", "status": "False"}]
    found = seen(PODS, spec={"nodeName": "a", "containers": []}, status={"conditions": waits})
    assert (found.node, found.placed, found.mounted) == ("a", True, False)
    found = seen(PODS, spec={"containers": []}, status={})
    assert (found.node, found.placed, found.mounted) == ("", False, True)
