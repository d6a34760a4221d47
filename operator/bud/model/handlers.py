"""Models: gather what is seen, decide, act."""

from __future__ import annotations

from collections.abc import Sequence

from bud.api import MODEL
from bud.api.model import ModelSpec, ModelStatus, Progress
from bud.context import Context
from bud.errors import ApiConflict, ApiUnavailable, BudError, InvalidError
from bud.kube.kinds import CLAIMS, DEPLOYMENTS, JOBS, MODELS, PODS
from bud.kube.seen import Own, Seen
from bud.model.plan import FINALIZER, WORKER, View, copy_id, plan
from bud.model.status import progress_of, result_of, status
from bud.report import report, report_unreadable, retry_after

PROGRESS_SECONDS = 5.0
"""How often the log of a running download is read."""


async def reconcile(context: Context, namespace: str, name: str) -> float | None:
    """Brings one Model's copy and status in line with its spec; asks to come back while a download runs."""
    owner = context.store.get(MODELS, namespace, name)
    if owner is None:
        return None
    try:
        view = gather(context, owner)
    except InvalidError as error:
        previous = ModelStatus.model_validate(owner.data.status)
        await report_unreadable(context, owner, previous, error=error, phase="Error")
        if owner.deleting:
            await _release(context, owner)
        return None
    if view.deleting and not view.users:
        await _release(context, owner)
        return None
    if not view.deleting:
        await _hold(context, owner)
    trouble = None if view.deleting else await _act(context, view)
    return await _report(context, owner, trouble)


def gather(context: Context, owner: Seen) -> View:
    """Everything that decides, from the store. Raises `InvalidError` for a spec that cannot be read."""
    store, own = context.store, owner.data
    spec = _spec(own)
    namespace, identity, link = owner.namespace, copy_id(owner.namespace, spec), f"model:{owner.name}"
    claim, job = store.get(CLAIMS, namespace, identity), store.get(JOBS, namespace, identity)
    local = spec.source.local
    sharing = store.linked(MODELS, namespace=namespace, link=f"id:{identity}")
    return View(
        namespace=namespace,
        name=owner.name,
        uid=owner.uid,
        generation=own.generation,
        deleting=owner.deleting,
        spec=spec,
        owners=tuple((model.name, model.uid) for model in sharing),
        users=tuple(user.name for user in store.linked(DEPLOYMENTS, namespace=namespace, link=link)),
        claim=claim,
        job=job,
        source_claim=store.get(CLAIMS, namespace, local.pvc) if local is not None and local.pvc else None,
        result=result_of(claim, job, _pods(context, namespace, identity)),
        stale=tuple(
            child
            for resource in (JOBS, CLAIMS)
            for child in store.linked(resource, namespace=namespace, link=link)
            if child.name != identity and not store.linked(MODELS, namespace=namespace, link=f"id:{child.name}")
        ),
        operator_image=context.settings.image,
        default_size=context.settings.default_volume_size,
        host_path_prefixes=context.settings.host_path_prefixes,
    )


def _spec(own: Own) -> ModelSpec:
    try:
        return ModelSpec.model_validate(own.spec)
    except ValueError as error:
        raise InvalidError(f"the spec cannot be read: {error}", reason="InvalidSpec") from error


def _pods(context: Context, namespace: str, identity: str) -> Sequence[Seen]:
    return context.store.children(PODS, namespace=namespace, owner_kind=MODEL.kind, owner_name=identity)


async def _hold(context: Context, owner: Seen) -> None:
    if FINALIZER not in owner.data.finalizers:
        await context.writer.finalizers(owner, (FINALIZER,))


async def _release(context: Context, owner: Seen) -> None:
    if FINALIZER in owner.data.finalizers:
        await context.writer.finalizers(owner, ())


async def _act(context: Context, view: View) -> BudError | None:
    try:
        wanted = plan(view)
        for resource, document in wanted.objects:
            await context.writer.apply(document, resource)
        for child in wanted.unwanted:
            await context.writer.delete(child)
    except (ApiUnavailable, ApiConflict):
        raise
    except BudError as error:
        return error
    return None


async def _report(context: Context, owner: Seen, error: BudError | None) -> float | None:
    view = gather(context, owner)
    previous = ModelStatus.model_validate(owner.data.status)
    pods = _pods(context, view.namespace, view.id)
    progress = await _progress(context, pods) if view.result is None else None
    known = progress or previous.progress
    new = status(view, error, pods=pods, progress=known, previous=previous, now=context.now())
    await report(context, owner, before=previous, after=new, trouble=new.phase == "Error")
    if new.phase == "Available" and previous.phase != "Available":
        context.metrics.downloaded.inc(new.bytes or 0)
    return PROGRESS_SECONDS if _running(pods) is not None and view.result is None else retry_after(error)


async def _progress(context: Context, pods: Sequence[Seen]) -> Progress | None:
    pod = _running(pods)
    if pod is None:
        return None
    try:
        log = await context.client.log_tail(namespace=pod.namespace, pod=pod.name, container=WORKER, lines=5)
    except BudError:
        return None  # progress is a courtesy: the right may be missing, the node away, the pod just gone
    return progress_of(log)


def _running(pods: Sequence[Seen]) -> Seen | None:
    return next((pod for pod in pods if pod.data.phase == "Running"), None)
