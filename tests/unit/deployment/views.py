"""Views of a Deployment for tests: a served model with everything in place, to be changed field by field."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from bud.api.deployment import DeploymentSpec
from bud.api.model import ModelStatus
from bud.api.runtime import RuntimeSpec
from bud.deployment.plan import Plan
from bud.deployment.view import ModelSeen, View
from bud.kube.gpus import NodeGpu
from bud.kube.kinds import APPS
from bud.kube.seen import App, Seen

RUNTIMES = {
    "tiny": RuntimeSpec.model_validate(
        {
            "command": ["python", "-m", "bud.engines.tiny"],
            "args": ["--model", "$(BUD_MODEL_FILE)", "--port", "$(BUD_PORT)"],
            "formats": ["gguf"],
            "tasks": ["text-generation"],
            "accelerator": "CPU",
            "port": 8080,
            "priority": 1,
        }
    ),
    "vllm": RuntimeSpec.model_validate(
        {
            "image": "vllm/vllm-openai:v0",
            "args": ["--model", "$(BUD_MODEL_PATH)", "--tensor-parallel-size", "$(BUD_GPU_COUNT)"],
            "env": [{"name": "HF_HUB_OFFLINE", "value": "1"}, {"name": "EMPTY"}],
            "formats": ["safetensors"],
            "tasks": ["text-generation"],
            "accelerator": "GPU",
            "sharedMemory": True,
            "metricsPath": "/metrics",
            "startupSeconds": 1800,
            "writablePaths": ["/tmp", "/home/engine"],
            "answerCheck": {"path": "/v1/completions"},
        }
    ),
    "proven": RuntimeSpec.model_validate(
        {"image": "sglang:1", "formats": ["gguf"], "tasks": ["text-generation"], "answerCheck": {"enabled": False}}
    ),
}


def nvidia(product: str) -> NodeGpu:
    return NodeGpu("NVIDIA", "nvidia.com/gpu", "nvidia.com/gpu.product", product)


def model(**changes: Any) -> ModelSeen:
    fields = {
        "observedGeneration": 1,
        "phase": "Available",
        "bytes": 500_000,
        "format": "gguf",
        "task": "text-generation",
        "file": "tiny.gguf",
        "copies": [{"cluster": "local", "claimName": "tiny-11112222", "path": ""}],
    }
    known = ModelStatus.model_validate(fields | changes)
    return ModelSeen(known, current=known.observed_generation == 1)


def view(spec: dict[str, Any] | None = None, **changes: Any) -> View:
    parsed = DeploymentSpec.model_validate({"modelRef": {"name": "tiny"}} | (spec or {}))
    base = View(
        namespace="team",
        name="chat.v1",
        uid="uid-1",
        generation=1,
        spec=parsed,
        model=model(),
        adapter_models={},
        older="",
        runtimes=RUNTIMES,
        gpus=tuple(nvidia(product) for product in ("NVIDIA-A100-SXM4-80GB", "NVIDIA-L4")),
        app=None,
        pods=(),
        claim=None,
        operator_image="bud:1",
        host_path_prefixes=("/mnt/models",),
    )
    return replace(base, **changes)


def app(**changes: Any) -> Seen:
    data = App(
        generation=1,
        observed_generation=1,
        wanted=1,
        replicas=1,
        updated=1,
        ready=1,
        available=1,
        owns_replicas=True,
        surges=True,
        annotations={},
        edited=frozenset(),
        failure="",
    )
    return Seen(
        resource=APPS,
        namespace="team",
        name=view().id,
        uid="uid-app",
        version=7,
        owner_kind="Deployment",
        owner_name=view().id,
        owner_uids=frozenset(),
        deleting=False,
        fingerprint=b"",
        data=replace(data, **changes),
    )


def app_document(wanted: Plan) -> dict[str, Any]:
    return next(document for resource, document in wanted.objects if resource is APPS)
