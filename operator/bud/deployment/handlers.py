"""Deployments: gather what is seen, decide, act."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace

from bud.api import DEPLOYMENT
from bud.api.conditions import READY, find
from bud.api.deployment import DeploymentSpec, DeploymentStatus
from bud.api.model import ModelSpec, ModelStatus
from bud.api.runtime import RuntimeSpec
from bud.context import Context
from bud.deployment import sharing, sleep
from bud.deployment.plan import Plan, plan
from bud.deployment.refusals import in_words_of_the_spec
from bud.deployment.started import ENGINE_ANNOTATION, is_edited
from bud.deployment.status import Outcome, first_roll_out, status
from bud.deployment.view import ModelSeen, View
from bud.errors import ApiConflict, ApiRefused, ApiUnavailable, BudError, InvalidError
from bud.kube.kinds import (
    APPS,
    AUTOSCALERS,
    CLAIMS,
    DEPLOYMENTS,
    DISRUPTION_BUDGETS,
    LEASES,
    MODELS,
    NODES,
    PODS,
    RUNTIMES,
    SERVICES,
    child_name,
)
from bud.kube.seen import Claim, Own, Pod, Seen, all_gpus
from bud.report import read_spec, read_status, report, report_unreadable, retry_after
from bud.times import seconds_between

VOLUME_SECONDS = 10.0
"""How often it is looked whether a pod waits too long for its volumes: no watch tells."""

_CHILDREN = (AUTOSCALERS, APPS, SERVICES, DISRUPTION_BUDGETS)


async def reconcile(context: Context, namespace: str, name: str) -> float | None:
    """Brings one Deployment's children and status in line with its spec."""
    owner = context.store.get(DEPLOYMENTS, namespace, name)
    if owner is None or owner.deleting:
        return None
    try:
        view = gather(context, owner)
    except InvalidError as error:
        previous = read_status(DeploymentStatus, owner.data.status)
        await report_unreadable(context, owner, previous, error=error, phase="Failed")
        return None
    outcome = await _act(context, owner, view)
    if outcome is None:
        return None
    # What decides besides may have changed too, and leads here again by itself.
    after = replace(view, app=_app(context, view.namespace, view.id), pods=_pods(context, view.namespace, view.id))
    await _report(context, owner, after, outcome)
    if is_edited(view) and not is_edited(after):
        await _tell_edited(context, owner)
    due = [VOLUME_SECONDS] if sharing.any_waits(after.pods) else []
    left = sleep.seconds_left(after)
    due += [left] if 0 < left < math.inf else []
    return retry_after(outcome.error) or min(due, default=None)


def gather(context: Context, owner: Seen) -> View:
    """Everything that decides, from the store. Raises `InvalidError` for a spec that cannot be read."""
    own: Own = owner.data
    spec = read_spec(DeploymentSpec, own.spec)
    identity = child_name(DEPLOYMENT.kind, owner.namespace, owner.name)
    model = _model(context, owner.namespace, spec.model_ref.name)
    home = context.settings.gateway_namespace
    use = context.store.get(LEASES, home, identity)
    return View(
        namespace=owner.namespace,
        name=owner.name,
        uid=owner.uid,
        generation=own.generation,
        spec=spec,
        model=model,
        adapter_models=_adapter_models(context, owner.namespace, spec),
        older=_older(context, owner, identity),
        runtimes=context.store.derived(RUNTIMES, _runtimes),
        gpus=context.store.derived(NODES, all_gpus) if context.settings.inventory else None,
        app=_app(context, owner.namespace, identity),
        pods=_pods(context, owner.namespace, identity),
        claim=_claim(context, owner.namespace, model),
        operator_image=context.settings.image,
        host_path_prefixes=context.settings.host_path_prefixes,
        node_storage=context.settings.node_storage,
        may_sleep=bool(home),
        last_used=use.data.renewed if use is not None else "",
        ready_since=_ready_since(own),
        now=context.now(),
    )


def _ready_since(own: Own) -> str:
    """When it became ready, empty while it is not."""
    ready = find(read_status(DeploymentStatus, own.status).conditions, READY)
    return ready.last_transition_time if ready is not None and ready.status == "True" else ""


def _app(context: Context, namespace: str, identity: str) -> Seen | None:
    return context.store.get(APPS, namespace, identity)


def _pods(context: Context, namespace: str, identity: str) -> tuple[Pod, ...]:
    seen = context.store.children(PODS, namespace=namespace, owner_kind=DEPLOYMENT.kind, owner_name=identity)
    # One that has ended for good, as by an eviction, has a successor, and would be told of in its place.
    return tuple(pod.data for pod in seen if not pod.deleting and not pod.data.over)


def _model(context: Context, namespace: str, name: str) -> ModelSeen | None:
    seen = context.store.get(MODELS, namespace, name)
    if seen is None:
        return None
    own: Own = seen.data
    known = read_status(ModelStatus, own.status)
    try:
        spec = ModelSpec.model_validate(own.spec)
    except ValueError:
        return ModelSeen(ModelStatus(), current=False)
    # An edit that leaves the copy as it is, as of free metadata, leaves it current.
    names = {name for copy in known.copies for name in (copy.claim_name, copy.path, copy.path.rpartition("/")[2])}
    same_copy = any(f"id:{name}" in seen.links for name in names)
    current = same_copy or known.observed_generation == own.generation
    local = spec.source.local
    return ModelSeen(known, current, local.host_path or "" if local is not None else "", spec)


def _adapter_models(context: Context, namespace: str, spec: DeploymentSpec) -> dict[str, ModelSeen]:
    names = {adapter.model_ref.name for adapter in spec.adapters}
    return {name: seen for name in names if (seen := _model(context, namespace, name)) is not None}


def _claim(context: Context, namespace: str, model: ModelSeen | None) -> Claim | None:
    for copy in model.status.copies if model is not None else ():
        if (seen := context.store.get(CLAIMS, namespace, copy.claim_name)) is not None:
            claim: Claim = seen.data
            return claim
    return None


def _older(context: Context, owner: Seen, identity: str) -> str:
    """Eight hex digits can be made to collide: of two Deployments with one child name, the first has it."""
    same = context.store.linked(DEPLOYMENTS, namespace=owner.namespace, link=f"id:{identity}")
    app = context.store.get(APPS, owner.namespace, identity)
    has = app.owner_uids if app is not None else frozenset()
    first = min(same, key=lambda seen: (seen.uid not in has, seen.data.created, seen.name), default=owner)
    return first.name if first.name != owner.name else ""


def _runtimes(found: Iterable[Seen]) -> Mapping[str, RuntimeSpec]:
    out = {}
    for seen in found:
        try:
            out[seen.name] = RuntimeSpec.model_validate(seen.data.spec)
        except ValueError:
            continue  # one that a newer release wrote; a Deployment that names it is told that it is not found
    return out


async def _act(context: Context, owner: Seen, view: View) -> Outcome | None:
    """None when the Deployment is gone, which its children may tell before its own watch does."""
    try:
        wanted = plan(view)
        if _lacks_one_it_had(context, owner, wanted) and not await context.writer.confirm(owner):
            return None
        await _prune(context, view, wanted)
        mutated = [
            f"{resource.kind} {document['metadata']['name']}"
            for resource, document in wanted.objects
            if not await context.writer.apply(document, resource)
        ]
    except (ApiUnavailable, ApiConflict):
        raise
    except BudError as error:
        return Outcome(None, in_words_of_the_spec(error) if isinstance(error, ApiRefused) else error)
    return Outcome(wanted, None, tuple(mutated))


def _lacks_one_it_had(context: Context, owner: Seen, wanted: Plan) -> bool:
    lacks = any(
        context.store.get(resource, owner.namespace, document["metadata"]["name"]) is None
        for resource, document in wanted.objects
    )
    return lacks and bool(owner.data.status.get("endpointURL"))


async def _prune(context: Context, view: View, wanted: Plan) -> None:
    kept = {resource for resource, _ in wanted.objects}
    for resource in _CHILDREN:
        for child in context.store.children(
            resource, namespace=view.namespace, owner_kind=DEPLOYMENT.kind, owner_name=view.id
        ):
            if resource not in kept and child.name == view.id:
                await context.writer.delete(child)


async def _report(context: Context, owner: Seen, view: View, outcome: Outcome) -> None:
    own: Own = owner.data
    previous = read_status(DeploymentStatus, own.status)
    new = status(view, outcome, previous=previous, now=context.now())
    await report(context, owner, before=previous, after=new, trouble=new.phase == "Failed")
    if new.phase == "Active" and first_roll_out(view, previous):
        context.metrics.time_to_active.observe(seconds_between(own.created, context.now()))


async def _tell_edited(context: Context, owner: Seen) -> None:
    child = child_name(DEPLOYMENT.kind, owner.namespace, owner.name)
    note = (
        f"annotation {ENGINE_ANNOTATION} of deployments.apps {child} was edited and is not obeyed: "
        "the pods follow the present Runtime and spec; edit those instead"
    )
    await context.writer.event(owner, kind="Warning", reason="StartNoteEdited", note=note)
