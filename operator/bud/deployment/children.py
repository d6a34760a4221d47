"""The objects of a Deployment, as documents for server-side apply: pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bud.api import API_VERSION, DEPLOYMENT
from bud.api.deployment import AutoScaling
from bud.deployment.replicas import replicas
from bud.deployment.rollout import strategy
from bud.deployment.started import ENGINE_ANNOTATION, note
from bud.deployment.view import View
from bud.engines.adapters import beside
from bud.engines.pod import ENGINE, Adapter, Document, Engine, Served, Weights, pod_template, start_seconds
from bud.kube.kinds import (
    APPS,
    AUTOSCALERS,
    DISRUPTION_BUDGETS,
    FULL_NAME,
    MANAGED_BY,
    MANAGER,
    OWNER_KIND,
    OWNER_NAME,
    SERVICES,
)


def _metadata(view: View, annotations: Mapping[str, str] | None = None) -> Document:
    return {
        "annotations": {FULL_NAME: view.name, **(annotations or {})},
        "labels": _labels(view),
        "name": view.id,
        "namespace": view.namespace,
        "ownerReferences": [
            {
                "apiVersion": API_VERSION,
                "controller": True,
                "kind": DEPLOYMENT.kind,
                "name": view.name,
                "uid": view.uid,
            }
        ],
    }


def _labels(view: View) -> dict[str, str]:
    return {MANAGED_BY: MANAGER, OWNER_KIND: DEPLOYMENT.kind, OWNER_NAME: view.id}


def selector(view: View) -> dict[str, str]:
    """Labels that select the engine's pods."""
    return {OWNER_KIND: DEPLOYMENT.kind, OWNER_NAME: view.id}


def app(view: View, engine: Engine, weights: Weights, adapters: tuple[Adapter, ...] = ()) -> Document:
    """The apps/v1 Deployment. Raises `InvalidError` and `WaitingError` for adapters that the Runtime cannot load."""
    served = Served(
        model_name=view.name,
        labels=_labels(view),
        annotations={FULL_NAME: view.name},
        beside=beside(adapters, engine=engine, model_name=view.name),
    )
    started = note(view.spec, engine, weights, adapters)
    document: Document = {
        "apiVersion": APPS.api_version,
        "kind": APPS.kind,
        "metadata": _metadata(view, {ENGINE_ANNOTATION: started}),
        "spec": {
            "progressDeadlineSeconds": start_seconds(engine.runtime, weights) + 300,
            "revisionHistoryLimit": 3,
            "selector": {"matchLabels": selector(view)},
            "strategy": strategy(view, started),
            "template": pod_template(view.spec, served=served, engine=engine, weights=weights),
        },
    }
    wanted = replicas(view)
    if wanted.number is not None:
        document["spec"]["replicas"] = wanted.number
    if wanted.repeated and view.app is not None:
        document["metadata"]["resourceVersion"] = str(view.app.version)
    return document


def disruption_budget(view: View) -> Document:
    """Node drains take one replica at a time, and replicas that do not answer anyway hold up no drain."""
    return {
        "apiVersion": DISRUPTION_BUDGETS.api_version,
        "kind": DISRUPTION_BUDGETS.kind,
        "metadata": _metadata(view),
        "spec": {
            "maxUnavailable": 1,
            "selector": {"matchLabels": selector(view)},
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    }


def service(view: View, engine: Engine) -> Document:
    return {
        "apiVersion": SERVICES.api_version,
        "kind": SERVICES.kind,
        "metadata": _metadata(view),
        "spec": {
            "ports": [{"appProtocol": "http", "name": "http", "port": 80, "protocol": "TCP", "targetPort": "http"}],
            "selector": selector(view),
        },
    }


def autoscaler(view: View, scaling: AutoScaling) -> Document:
    targets = {"cpu": scaling.target_cpu, "memory": scaling.target_memory}
    if not any(targets.values()):
        targets["cpu"] = 80
    return {
        "apiVersion": AUTOSCALERS.api_version,
        "kind": AUTOSCALERS.kind,
        "metadata": _metadata(view),
        "spec": {
            "maxReplicas": scaling.max_replicas,
            "metrics": [_metric(name, value) for name, value in targets.items() if value],
            "minReplicas": max(1, scaling.min_replicas),
            "scaleTargetRef": {"apiVersion": APPS.api_version, "kind": APPS.kind, "name": view.id},
        },
    }


def _metric(name: str, percent: int) -> dict[str, Any]:
    target = {"averageUtilization": percent, "type": "Utilization"}
    return {
        "containerResource": {"container": ENGINE, "name": name, "target": target},
        "type": "ContainerResource",
    }
