"""What the pods of a Deployment were started with: a note on the apps/v1 child, so that upgrades restart nobody."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass

import orjson

from bud.api.deployment import DeploymentSpec
from bud.api.runtime import RuntimeSpec
from bud.deployment.view import View
from bud.engines.pod import Engine, Weights

ENGINE_ANNOTATION = "bud.studio/engine"
"""On the apps/v1 Deployment: the Runtime revision and images it was started with, as JSON."""

_SCALING_FIELDS = {"replicas", "auto_scaling", "stopped", "update_policy", "selector"}


@dataclass(frozen=True)
class Started:
    """What the pods run: the note of it on the apps/v1 Deployment, and whether the spec still asks for those pods."""

    engine: Engine
    weights: Weights
    unchanged: bool


def started_with(view: View) -> Started | None:
    """The Runtime revision, images and weights that the pods were started with."""
    app = view.app_data
    text = app.annotations.get(ENGINE_ANNOTATION) if app is not None else None
    if not text:
        return None
    try:
        known = orjson.loads(text)
        engine = Engine(
            runtime_name=known["runtimeName"],
            runtime=RuntimeSpec.model_validate(known["runtime"]),
            operator_image=known["operatorImage"],
            gpu_products=tuple(known["gpuProducts"]),
        )
        weights = Weights(**known["weights"])
        unchanged = known["spec"] == pod_digest(view.spec) and view.spec.update_policy != "Auto"
    except (ValueError, KeyError, TypeError):
        return None
    return Started(engine, weights, unchanged)


def pod_digest(spec: DeploymentSpec) -> str:
    fields = spec.model_dump(mode="json", by_alias=True, exclude=_SCALING_FIELDS, exclude_defaults=True)
    return hashlib.sha256(orjson.dumps(fields, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]


def note(spec: DeploymentSpec, engine: Engine, weights: Weights) -> str:
    """The note, as JSON."""
    known = {
        "gpuProducts": engine.gpu_products,
        "operatorImage": engine.operator_image,
        "runtime": engine.runtime.model_dump(mode="json", by_alias=True, exclude_defaults=True),
        "runtimeName": engine.runtime_name,
        "spec": pod_digest(spec),
        "weights": asdict(weights),
    }
    return orjson.dumps(known, option=orjson.OPT_SORT_KEYS).decode()
