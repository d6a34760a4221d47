"""What the pods of a Deployment were started with: a note on the apps/v1 child, so that upgrades restart nobody.

The note is written together with the pods' template, so no kill can part the two. It is believed as long as it is as we
wrote it, which the API server tells by its owner: whoever writes another value becomes the owner. One that was edited
is not obeyed; the pods then follow the present Runtime and spec, which puts it right.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import orjson

from bud.api.deployment import DeploymentSpec
from bud.api.runtime import RuntimeSpec
from bud.deployment.view import View
from bud.engines.gpu import Gpus
from bud.engines.node_cache import NodeCache
from bud.engines.pod import Adapter, Engine, Weights

ENGINE_ANNOTATION = "bud.studio/engine"
"""On the apps/v1 Deployment: the Runtime revision and images it was started with, as JSON."""

VERSION = 1
"""How pods are rendered from a spec and a Runtime. A release that renders another template for them counts this up,
and goes on rendering the versions before for pods that were started so."""

_NOT_THE_PODS = {
    *("replicas", "auto_scaling", "stopped", "update_policy", "selector", "rollout"),
    *("pricing", "capabilities", "context_length", "max_output_tokens"),
}
"""Fields of the spec by which no pod changes."""


@dataclass(frozen=True)
class Started:
    """What the pods run: the note of it on the apps/v1 Deployment, and whether the spec still asks for those pods."""

    engine: Engine
    weights: Weights
    adapters: tuple[Adapter, ...]
    unchanged: bool


def started_with(view: View) -> Started | None:
    """The Runtime revision, images and weights that the pods were started with; None when no note tells it that can be
    believed and that this release can render."""
    app = view.app_data
    text = app.annotations.get(ENGINE_ANNOTATION) if app is not None else None
    if not text or is_edited(view):
        return None
    try:
        known = orjson.loads(text)
        if known["version"] != VERSION:
            return None
        engine = Engine(
            runtime_name=known["runtimeName"],
            runtime=RuntimeSpec.model_validate(known["runtime"]),
            operator_image=known["operatorImage"],
            gpus=_gpus(known.get("gpus")),
        )
        weights = _weights(known["weights"])
        adapters = tuple(
            Adapter(item["name"], item["model"], _weights(item["weights"])) for item in known.get("adapters", ())
        )
        unchanged = known["spec"] == pod_digest(view.spec) and view.spec.update_policy != "Auto"
    except (ValueError, KeyError, TypeError):
        return None
    return Started(engine, weights, adapters, unchanged)


def is_edited(view: View) -> bool:
    """Whether somebody else wrote the note that is there."""
    return view.app_data is not None and ENGINE_ANNOTATION in view.app_data.edited


def _gpus(known: Mapping[str, Any] | None) -> Gpus | None:
    if known is None:
        return None
    products = tuple((label, tuple(values)) for label, values in known["products"])
    return Gpus(known["vendor"], known["resource"], products)


def _weights(known: Mapping[str, Any]) -> Weights:
    cache = known.get("node_cache")
    return Weights(**{**known, "node_cache": NodeCache(**cache) if cache is not None else None})


def _noted(weights: Weights) -> dict[str, object]:
    return {key: value for key, value in asdict(weights).items() if (key, value) != ("node_cache", None)}


def pod_digest(spec: DeploymentSpec) -> str:
    fields = spec.model_dump(mode="json", by_alias=True, exclude=_NOT_THE_PODS, exclude_defaults=True)
    return hashlib.sha256(orjson.dumps(fields, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]


def note(spec: DeploymentSpec, engine: Engine, weights: Weights, adapters: tuple[Adapter, ...]) -> str:
    """The note, as JSON."""
    known: dict[str, object] = {
        "gpus": asdict(engine.gpus) if engine.gpus is not None else None,
        "operatorImage": engine.operator_image,
        "runtime": engine.runtime.model_dump(mode="json", by_alias=True, exclude_defaults=True),
        "runtimeName": engine.runtime_name,
        "spec": pod_digest(spec),
        "version": VERSION,
        "weights": _noted(weights),
    }
    if adapters:
        known["adapters"] = [{"model": a.model, "name": a.name, "weights": _noted(a.weights)} for a in adapters]
    return orjson.dumps(known, option=orjson.OPT_SORT_KEYS).decode()
