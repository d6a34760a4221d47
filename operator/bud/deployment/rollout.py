"""How a change of the pods rolls out: pure.

A new pod comes before an old one goes, so that no request is lost. Where no GPU is spare for it, the scheduler says so
of the new pod; from then on, until the pods change again, an old pod goes first. What is spare is never computed from
nodes: pods that are not ours take GPUs too, and only the scheduler sees them all.
"""

from __future__ import annotations

import re

from bud.deployment.sharing import is_for_one_pod
from bud.deployment.started import ENGINE_ANNOTATION
from bud.deployment.view import View
from bud.engines.pod import Document
from bud.kube.gpus import is_gpu
from bud.kube.seen import App, Pod

SWAP = "no spare GPU: replicas are replaced one after another"
NO_SWAP = (
    "no spare GPU, and the new replica may not fit where an old one runs; free GPUs, or set spec.rollout.maxSurge to 0 "
    "to end an old replica first all the same"
)

_SHORT = re.compile(r"Insufficient ([^\s,]+[^\s,.])")
"""What a node lacks, as the scheduler words it."""


def strategy(view: View, note: str) -> Document:
    """The `strategy` of the apps/v1 Deployment; `note` is the wanted note of what the pods are started with."""
    rollout = view.spec.rollout
    surge, unavailable = rollout.max_surge, rollout.max_unavailable
    if surge is None:
        swaps = is_for_one_pod(view.claim) or _swaps(view, note)
        surge = 0 if not _is_zero(unavailable) and swaps else 1
    if unavailable is None:
        unavailable = 1 if _is_zero(surge) else 0
    return {"rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}, "type": "RollingUpdate"}


def remark(view: View) -> str:
    """What a person should know of the roll-out that goes on; "" as a rule."""
    app, rollout = view.app_data, view.spec.rollout
    if app is None or rollout.max_surge is not None or not _goes_on(app):
        return ""
    if not app.surges:
        return SWAP
    blocked = _blocked(view, app)
    return NO_SWAP if blocked and not _fit_after(view, blocked) else ""


def _is_zero(value: int | str | None) -> bool:
    return value in (0, "0%")


def _swaps(view: View, note: str) -> bool:
    app = view.app_data
    if app is None or not view.spec.resources.gpu or app.annotations.get(ENGINE_ANNOTATION) != note:
        return False
    if not app.surges:
        return True
    return _fit_after(view, _blocked(view, app))


def _goes_on(app: App) -> bool:
    return app.observed_generation >= app.generation and app.updated < app.replicas


def _blocked(view: View, app: App) -> list[Pod]:
    """Pods that the scheduler has no GPU for, while it has found nodes that fit them otherwise."""
    if not _goes_on(app):
        return []
    return [pod for pod in view.pods if any(is_gpu(name) for name in _SHORT.findall(pod.unschedulable))]


def _fit_after(view: View, blocked: list[Pod]) -> bool:
    """Whether an old pod makes room: one that needs the very same. Else ending it might only lose a replica."""
    placed = {pod.needs for pod in view.pods if pod.placed}
    return any(pod.needs in placed for pod in blocked)
