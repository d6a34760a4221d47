"""What is true of a Deployment: pure, from what is seen to the status."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import orjson

from bud.api.conditions import READY, RECONCILING, REPLICAS_IGNORED, Notice, Verdict, conditions, find
from bud.api.deployment import DeploymentPhase, DeploymentSpec, DeploymentStatus, EffectiveResources
from bud.deployment import rollout, sharing, sleep
from bud.deployment.children import selector
from bud.deployment.plan import Plan
from bud.deployment.replicas import replicas
from bud.deployment.view import View, active_scaling
from bud.engines import node_cache
from bud.engines.pod import ENGINE, PROBE, sizes
from bud.errors import BudError, InvalidError
from bud.kube.seen import App, Container, Pod

_WAYS_OUT = {
    "Insufficient": "free or add such a node, or ask for less in spec.resources",
    "untolerated taint": "tolerate the taint in spec.tolerations",
    "didn't match Pod's node affinity/selector": "correct spec.nodeSelector or spec.resources.gpuType",
    "were unschedulable": "uncordon a node",
    "Too many pods": "free or add a node",
}
"""What helps, by the words of the scheduler (pkg/scheduler/framework/plugins, the reasons of each filter)."""

_LACKING = (sharing.UNSCHEDULABLE, "QuotaExceeded", "ReplicaFailure", "NodeCacheFull")
"""Reasons for which a Deployment waits for the cluster rather than having failed."""


@dataclass(frozen=True)
class Outcome:
    """What a reconcile came to: the plan, or the error in its place; and children that something else changes back."""

    plan: Plan | None
    error: BudError | None
    mutated: tuple[str, ...] = ()


def status(view: View, outcome: Outcome, *, previous: DeploymentStatus, now: str) -> DeploymentStatus:
    """The whole status; `now` (RFC 3339) is for conditions that change, and for what waits too long."""
    app = view.app_data
    phase, verdict = _verdict(view, outcome, previous, now)
    for remark in _remarks(view, outcome):
        verdict = replace(verdict, message=f"{verdict.message}; {remark}")
    if outcome.mutated and verdict.ready:
        text = (
            f"something in the cluster changes {', '.join(outcome.mutated)} back; find it by the object's managedFields"
        )
        verdict = Verdict(True, "ChildrenChanged", text, reconciling=verdict.reconciling)
    wanted = app.wanted if app is not None else replicas(view).number or 0
    ready = app.available if app is not None else 0
    return DeploymentStatus(
        observed_generation=view.generation,
        phase=phase,
        endpoint_url=f"http://{view.id}.{view.namespace}.svc/v1" if app is not None else "",
        model_name=view.name if app is not None else "",
        runtime=outcome.plan.engine.runtime_name if outcome.plan else previous.runtime,
        task=outcome.plan.weights.task if outcome.plan else previous.task,
        adapters=tuple(a.name for a in outcome.plan.adapters) if outcome.plan else previous.adapters,
        replicas=app.replicas if app is not None else 0,
        ready_replicas=ready,
        updated_replicas=app.updated if app is not None else 0,
        desired_replicas=wanted,
        ready=f"{ready}/{wanted}",
        selector=",".join(f"{key}={value}" for key, value in selector(view).items()),
        resources=_resources(view, outcome) or previous.resources,
        conditions=conditions(
            verdict, *_further(view), previous=previous.conditions, generation=view.generation, now=now
        ),
    )


def _remarks(view: View, outcome: Outcome) -> list[str]:
    """What a person should know although it changes no condition."""
    app, remarks = view.app_data, []
    if outcome.plan is not None and outcome.plan.waiting:
        remarks.append(f"{outcome.plan.waiting}: the weights of before are served meanwhile")
    if view.gpus is None and view.spec.resources.gpu_type and (app is None or app.available < app.wanted):
        remarks.append("spec.resources.gpuType is taken as the exact value of a node's label, since no nodes are read")
    if outcome.plan is not None:
        remarks += [f"{text}; served as before meanwhile" for text in outcome.plan.lacking]
    if going := rollout.remark(view):
        remarks.append(going)
    return remarks


def _further(view: View) -> tuple[Notice, ...]:
    """Conditions of their own, which stand only while they hold."""
    if active_scaling(view.spec) is None or view.spec.replicas is None:
        return ()
    message = (
        f"spec.replicas {view.spec.replicas} has no effect while autoScaling is enabled; "
        "set autoScaling.minReplicas and maxReplicas, or remove spec.replicas"
    )
    return (Notice(REPLICAS_IGNORED, "AutoScaling", message),)


def _resources(view: View, outcome: Outcome) -> EffectiveResources | None:
    if outcome.plan is None:
        return None
    size = sizes(view.spec.resources, outcome.plan.bytes)
    return EffectiveResources(cpu=size.cpu, memory=size.memory, gpu=size.gpu)


def _verdict(view: View, outcome: Outcome, previous: DeploymentStatus, now: str) -> tuple[DeploymentPhase, Verdict]:
    app = view.app_data
    if outcome.error is not None:
        return _blocked(outcome.error, app, finished=_finished(view, previous))
    if app is None or app.observed_generation < app.generation:
        return _unobserved(view, app, previous)
    if app.wanted == 0:
        return _at_zero(view, app)
    complete = app.updated == app.wanted == app.replicas == app.available
    if complete:
        return _complete(app, outcome.plan, finished=_finished(view, previous), spec=view.spec)
    return _incomplete(view, app, now, finished=_finished(view, previous))


def _complete(app: App, plan: Plan | None, *, finished: bool, spec: DeploymentSpec) -> tuple[DeploymentPhase, Verdict]:
    counted = f"{app.available} of {app.wanted} replicas answer"
    if plan is not None and len(plan.adapters) < len(spec.adapters):
        return "Deploying", Verdict(True, "AdapterNotReady", counted, reconciling=not finished)
    return "Active", Verdict(True, "Active", counted)


def first_roll_out(view: View, previous: DeploymentStatus) -> bool:
    """Whether the Deployment is as it was created, and was never complete before."""
    return view.generation == 1 and not _finished(view, previous)


def _finished(view: View, previous: DeploymentStatus) -> bool:
    """Whether this generation was once complete, so that what goes on now is not its roll-out."""
    known = find(previous.conditions, RECONCILING)
    return known is not None and known.status == "False" and known.observed_generation == view.generation


def _same(previous: DeploymentStatus) -> Verdict:
    ready = find(previous.conditions, READY)
    if ready is None:
        return Verdict(False, "Deploying", "")
    return Verdict(ready.status == "True", ready.reason, ready.message)


def _unobserved(view: View, app: App | None, previous: DeploymentStatus) -> tuple[DeploymentPhase, Verdict]:
    if app is None:
        return "Deploying", Verdict(False, "Deploying", "the engine's pods are being created", reconciling=True)
    if _finished(view, previous):
        return previous.phase or "Deploying", _same(previous)
    serves = app.available >= max(1, _minimum(view, app))
    return "Deploying", Verdict(serves, "Deploying", "the engine's pods are being changed", reconciling=True)


def _minimum(view: View, app: App) -> int:
    scaling = active_scaling(view.spec)
    return max(1, scaling.min_replicas) if scaling is not None else app.wanted


def _blocked(error: BudError, app: App | None, *, finished: bool) -> tuple[DeploymentPhase, Verdict]:
    invalid = isinstance(error, InvalidError)
    serving = app is not None and app.available > 0
    message = f"{error}; {app.available} replicas answer meanwhile" if app is not None and serving else str(error)
    going_on = not invalid and not finished
    verdict = Verdict(serving and not invalid, error.reason, message, reconciling=going_on, stalled=invalid)
    if invalid:
        return "Failed", verdict
    return "Deploying" if serving else "Pending", verdict


def _at_zero(view: View, app: App) -> tuple[DeploymentPhase, Verdict]:
    if sleep.sleeps(view):
        text = "nobody asked for a while: the next request through the gateway wakes it"
        return "Scaling" if app.replicas else "Stopped", Verdict(True, sleep.ASLEEP, text)
    if app.replicas:
        return "Scaling", Verdict(False, "Stopping", f"{app.replicas} replicas are ending", reconciling=True)
    why = "spec.stopped is true" if view.spec.stopped else "no replicas are wanted"
    return "Stopped", Verdict(True, "Stopped", f"{why}; nothing is served, as asked")


def _incomplete(view: View, app: App, now: str, *, finished: bool) -> tuple[DeploymentPhase, Verdict]:
    trouble = sharing.trouble(view, view.pods, now=now) or diagnose(view.pods) or _refusal(app)
    stalled = trouble is not None and trouble[0] == sharing.REASON
    # Where no GPU is spare, a roll-out that goes on takes one replica down at a time, as it says.
    missing = 0 if finished or app.surges or stalled else 1
    serves = app.available >= max(1, _minimum(view, app) - missing)
    unfinished = not finished
    counted = f"{app.available} of {app.wanted} replicas answer"
    if trouble is not None and not serves:
        reason, message = trouble
        phase: DeploymentPhase = "Pending" if reason in _LACKING else "Failed"
        going_on = unfinished and not stalled
        return phase, Verdict(False, reason, f"{counted}; {message}", reconciling=going_on, stalled=stalled)
    if app.updated == app.wanted and app.available > 0:
        detail = f"; {trouble[1]}" if trouble else ""
        return "Scaling", Verdict(serves, "Scaling", counted + detail, reconciling=unfinished)
    going = _step(view.pods) if app.updated == app.wanted else f"{app.updated} of {app.wanted} have the present spec"
    detail = f"; {trouble[1] if trouble else going}"
    return "Deploying", Verdict(serves, "Deploying", counted + detail, reconciling=unfinished)


def _step(pods: Iterable[Pod]) -> str:
    """What a pod does that merely starts."""
    states = [container for pod in pods if not pod.ready for container in pod.containers]
    fetching = any(container.name == node_cache.CONTAINER and not container.ready for container in states)
    return "the weights are brought to the node" if fetching else "the engine starts"


def _refusal(app: App) -> tuple[str, str] | None:
    """Why the cluster makes no pods, with the remedy where it can be told."""
    if not app.failure:
        return None
    if "exceeded quota" in app.failure:
        return "QuotaExceeded", f"{app.failure}; raise the ResourceQuota, or ask for less in spec.resources"
    if "no PriorityClass" in app.failure:
        return "ReplicaFailure", f"{app.failure}; correct spec.priorityClassName or create that PriorityClass"
    if "violates PodSecurity" in app.failure and "hostPath" in app.failure:
        remedy = "weights on the node need a namespace at Pod Security level privileged, or storage of mode Shared"
        return "ReplicaFailure", f"{app.failure}; {remedy}"
    return "ReplicaFailure", app.failure


def diagnose(pods: Iterable[Pod]) -> tuple[str, str] | None:
    """Why pods do not get ready, in a word and in a sentence with the remedy; None when they are merely starting."""
    for pod in sorted((pod for pod in pods if not pod.ready), key=lambda pod: pod.created, reverse=True):
        if pod.unschedulable:
            return sharing.UNSCHEDULABLE, f"no node fits: {pod.unschedulable}; {_way_out(pod.unschedulable)}"
        for container in pod.containers:
            if (trouble := _container_trouble(container)) is not None:
                return trouble
    return None


def _way_out(unschedulable: str) -> str:
    """What a person can do about what the scheduler says of the nodes."""
    ways = [way for words, way in _WAYS_OUT.items() if words in unschedulable]
    return ", or ".join(ways) or "free or add a node that fits"


def _container_trouble(container: Container) -> tuple[str, str] | None:
    reason, message = container.waiting_reason, container.waiting_message
    whose = (
        "correct spec.image or the Runtime's, or give the namespace's ServiceAccount default a pull secret"
        if container.name == ENGINE
        else "it is the image that the operator was started with (--image)"
    )
    if reason in ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"):
        return (
            "ImagePullFailed",
            f"the image of container {container.name} cannot be pulled: {message or reason}; {whose}",
        )
    if reason in ("CreateContainerConfigError", "CreateContainerError"):
        return (
            "ContainerConfigInvalid",
            f"container {container.name} cannot be created: {message}; create what lacks, or correct spec.env",
        )
    if container.name == node_cache.CONTAINER and container.exit_code not in (None, 0) and not container.ready:
        return _weights_trouble(container)
    if container.name in (ENGINE, PROBE) and container.exit_code not in (None, 0) and not container.ready:
        last = container.exit_message.strip().splitlines()[-1:] or [container.exit_reason]
        why = f"{last[0][:300]}; see its log (kubectl logs), spec.args and spec.env"
        if container.exit_reason == "OOMKilled":
            why = "out of memory: raise spec.resources.memory"
        return "EngineCrashed", (
            f"container {container.name} exited with code {container.exit_code} ({container.restarts} restarts): {why}"
        )
    return None


def _weights_trouble(container: Container) -> tuple[str, str]:
    """What the download program tells of a copy that does not get whole on its node."""
    try:
        told = orjson.loads(container.exit_message)["error"]
        reason, message = str(told["reason"]), str(told["message"])
    except (ValueError, KeyError, TypeError):
        why = f"{container.exit_reason} {container.exit_message[-300:]}".strip()
        return "WeightsFailed", f"the weights cannot be brought to the node: exit code {container.exit_code}: {why}"
    if not reason.isalnum():
        reason = "WeightsFailed"
    return reason, f"the weights cannot be brought to the node: {message}; it is tried again"
