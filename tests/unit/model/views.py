"""Views of a Model for tests."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from bud.api.model import ModelSpec
from bud.kube.kinds import CLAIMS, JOBS, PODS, STORAGE_CLASSES, Resource
from bud.kube.seen import Claim, Container, Job, Pod, Seen, StorageClass
from bud.model.view import Owner, View

HUB = {"source": {"huggingFace": {"repo": "meta-llama/Llama-3.2-1B-Instruct"}}}
RESULT = {
    "digest": "sha256:" + "a" * 64,
    "bytes": 2_500_000_000,
    "files": 3,
    "revision": "abc123",
    "verification": "verified",
    "format": "safetensors",
    "task": "text-generation",
    "file": None,
}


def view(spec: dict[str, Any] | None = None, **changes: Any) -> View:
    parsed = ModelSpec.model_validate(HUB if spec is None else spec)
    base = View(
        namespace="team",
        name="llama",
        uid="uid-1",
        generation=1,
        deleting=False,
        spec=parsed,
        owners=(Owner("llama", "uid-1", parsed.storage.size, parsed.storage.reclaim == "Retain"),),
        users=(),
        needs=(),
        claim=None,
        job=None,
        waits_for_node=False,
        older_claim=False,
        given_claim=None,
        result=None,
        stale=(),
        classes=(storage_class("standard", default=True),),
        operator_image="bud:1",
        default_size="20Gi",
        host_path_prefixes=("/mnt/models",),
    )
    return replace(base, **changes)


def seen(resource: Resource, data: object, name: str = "copy") -> Seen:
    return Seen(resource, "team", name, f"uid-{name}", 1, "Model", "copy", frozenset(), False, b"", data)


def claim(phase: str = "Bound", annotations: dict[str, str] | None = None, name: str = "copy", **changes: Any) -> Seen:
    return seen(CLAIMS, replace(Claim(phase, "fast", "20Gi", annotations or {}), **changes), name)


def job(*, complete: bool = False, failed: str = "", annotations: dict[str, str] | None = None) -> Seen:
    return seen(JOBS, Job(complete, failed, "told by the Job" if failed else "", annotations or {}))


def pod(*, phase: str = "Running", unschedulable: str = "", **state: Any) -> Seen:
    container = replace(Container("weights", False, 0, "", "", None, "", ""), **state)
    return seen(PODS, Pod(phase, False, unschedulable, "2026-01-01T00:00:00Z", (container,)))


def storage_class(name: str, **changes: Any) -> Seen:
    data = replace(StorageClass("disk.example.com", False, False, "2026-01-01T00:00:00Z"), **changes)
    return replace(seen(STORAGE_CLASSES, data, name), namespace="", owner_kind="", owner_name="")
