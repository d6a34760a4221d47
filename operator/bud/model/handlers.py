"""Models: gather what is seen, decide, act."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bud.api import MODEL
from bud.api.model import ModelSpec, ModelStatus, Progress
from bud.context import Context
from bud.errors import ApiConflict, ApiUnavailable, BudError, InvalidError
from bud.kube.kinds import APPS, CLAIMS, DEPLOYMENTS, JOBS, MODELS, NODES, PODS, STORAGE_CLASSES
from bud.kube.seen import Seen, all_gpus
from bud.model.job import WORKER, fills, kept_result
from bud.model.placement import need
from bud.model.plan import FINALIZER, claim, plan
from bud.model.status import Told, is_without_pods, progress_of, result_of, status
from bud.model.view import Need, Owner, View, copy_id, given_claim, makes_claim
from bud.report import read_spec, read_status, report, report_unreadable, retry_after
from bud.times import seconds_between

PROGRESS_SECONDS = 5.0
"""How often the log of a running download is read."""

POD_SECONDS = 3.0
"""A Job makes its pod at once; one that has none after so long cannot."""

WARNING_SECONDS = 30.0
"""How often the warnings about a claim are read again."""


async def reconcile(context: Context, namespace: str, name: str) -> float | None:
    """Brings one Model's copy and status in line with its spec; asks to come back while a download runs."""
    owner = context.store.get(MODELS, namespace, name)
    if owner is None:
        return None
    try:
        view = gather(context, owner)
    except InvalidError as error:
        previous = read_status(ModelStatus, owner.data.status)
        await report_unreadable(context, owner, previous, error=error, phase="Error")
        if owner.deleting:
            await _release(context, owner)
        return None
    if view.deleting:
        trouble = await _end(context, owner, view) if not view.users else None
        return await _report(context, owner, trouble) if trouble is not None or view.users else None
    await _hold(context, owner)
    trouble = await _act(context, view)
    if trouble is None and _just_arrived(view):
        context.metrics.downloaded.inc(int((view.result or {}).get("bytes") or 0))
    return await _report(context, owner, trouble)


def _just_arrived(view: View) -> bool:
    """Whether a download's pod has told its result, and the claim not yet: true once for each copy."""
    return view.makes_claim and view.result is not None and view.claim is not None and kept_result(view.claim) is None


def gather(context: Context, owner: Seen) -> View:
    """Everything that decides, from the store. Raises `InvalidError` for a spec that cannot be read."""
    store, own = context.store, owner.data
    spec = read_spec(ModelSpec, own.spec)
    namespace, identity = owner.namespace, copy_id(owner.namespace, spec)
    kept = store.get(CLAIMS, namespace, identity) if makes_claim(spec) else None
    ours, job = _ours(kept, identity), _ours(store.get(JOBS, namespace, identity), identity)
    name = given_claim(spec)
    given = store.get(CLAIMS, namespace, name) if name is not None else None
    pods = _pods(context, namespace, identity)
    filled = job if job is not None and fills(job, given) else None
    owners, result = _owners(context, namespace, identity), result_of(ours, filled, pods if filled is not None else ())
    return View(
        namespace=namespace,
        name=owner.name,
        uid=owner.uid,
        generation=own.generation,
        deleting=owner.deleting,
        spec=spec,
        owners=owners,
        users=_users(context, owner),
        needs=_needs(context, namespace, (model.name for model in owners)) if result is None else (),
        claim=ours,
        job=job,
        waits_for_node=not pods or (pods[-1].data.unschedulable != "" and not pods[-1].data.node),
        older_claim=kept is not None and kept.deleting,
        given_claim=given,
        result=result,
        stale=_stale(context, owner, identity),
        classes=tuple(store.all(STORAGE_CLASSES)) if context.settings.inventory else None,
        operator_image=context.settings.image,
        default_size=context.settings.default_volume_size,
        host_path_prefixes=context.settings.host_path_prefixes,
        node_storage=context.settings.node_storage,
    )


def _needs(context: Context, namespace: str, models: Iterable[str]) -> tuple[Need, ...]:
    gpus = context.store.derived(NODES, all_gpus)
    return tuple(
        need(seen.data.spec, gpus)
        for model in models
        for seen in context.store.linked(DEPLOYMENTS, namespace=namespace, link=f"model:{model}")
    )


def _owners(context: Context, namespace: str, identity: str) -> tuple[Owner, ...]:
    out = []
    for seen in context.store.linked(MODELS, namespace=namespace, link=f"id:{identity}"):
        storage = read_spec(ModelSpec, seen.data.spec).storage
        out.append(Owner(seen.name, seen.uid, storage.size, storage.reclaim == "Retain"))
    return tuple(out)


def _users(context: Context, model: Seen) -> tuple[str, ...]:
    users = context.store.linked(DEPLOYMENTS, namespace=model.namespace, link=f"model:{model.name}")
    return tuple(user.name for user in users)


def _stale(context: Context, owner: Seen, identity: str) -> tuple[Seen, ...]:
    """Claims and Jobs of copies that nobody wants any more, and no engine mounts."""
    children = _children(context, owner)
    return tuple(child for child in children if child.name != identity and not _mounted(context, child))


def _children(context: Context, owner: Seen) -> tuple[Seen, ...]:
    """Claims and Jobs of copies that a Model wants or wanted before, and that no other Model wants."""
    return tuple(
        child
        for resource in (JOBS, CLAIMS)
        for child in context.store.linked(resource, namespace=owner.namespace, link=f"model:{owner.name}")
        if _ours(child, child.name) is not None and not _wanted_by_others(context, owner, child.name)
    )


def _wanted_by_others(context: Context, owner: Seen, identity: str) -> bool:
    """Of two Models that go at the same time, neither wants the copy."""
    models = context.store.linked(MODELS, namespace=owner.namespace, link=f"id:{identity}")
    return any(model.uid != owner.uid and (not model.deleting or _users(context, model)) for model in models)


def _mounted(context: Context, child: Seen) -> bool:
    """Whether a pod of an engine mounts a claim, or would when it is started anew."""
    return child.resource is CLAIMS and any(
        context.store.linked(resource, namespace=child.namespace, link=f"claim:{child.name}")
        for resource in (PODS, APPS)
    )


def _ours(seen: Seen | None, identity: str) -> Seen | None:
    """A child that carries our labels and stays; any other of that name proves nothing and is left alone."""
    if seen is None or seen.deleting or (seen.owner_kind, seen.owner_name) != (MODEL.kind, identity):
        return None
    return seen


def _pods(context: Context, namespace: str, identity: str) -> Sequence[Seen]:
    """The pods of the copy's Job, the oldest first; labels alone prove nothing."""
    job = context.store.get(JOBS, namespace, identity)
    pods = context.store.children(PODS, namespace=namespace, owner_kind=MODEL.kind, owner_name=identity)
    mine = (pod for pod in pods if job is not None and job.uid in pod.owner_uids)
    return sorted(mine, key=lambda pod: str(pod.data.created))


async def _hold(context: Context, owner: Seen) -> None:
    if FINALIZER not in owner.data.finalizers:
        await context.writer.finalizers(owner, (*owner.data.finalizers, FINALIZER))


async def _end(context: Context, owner: Seen, view: View) -> BudError | None:
    try:
        if view.retain and view.claim is not None and view.claim.links:
            # It may have been asked for after the operator last looked.
            await context.writer.apply(claim(view), CLAIMS)
        await _release(context, owner)
    except (ApiUnavailable, ApiConflict):
        raise
    except BudError as error:
        return error
    return None


async def _release(context: Context, owner: Seen) -> None:
    for child in _children(context, owner):
        await context.writer.delete(child)
    if FINALIZER in owner.data.finalizers:
        others = tuple(name for name in owner.data.finalizers if name != FINALIZER)
        await context.writer.finalizers(owner, others)


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
    previous = read_status(ModelStatus, owner.data.status)
    pods = _pods(context, view.namespace, view.id)
    unfinished = view.result is None and error is None
    progress = await _progress(context, pods) if view.result is None else None
    overdue = view.job is not None and is_without_pods(view, pods) and _age(context, view.job) >= POD_SECONDS
    blocked = _blocked(view, pods, overdue=overdue) if unfinished else None
    told = Told(progress or previous.progress, overdue, await _warning(context, blocked))
    new = status(view, error, pods=pods, told=told, previous=previous, now=context.now())
    await report(context, owner, before=previous, after=new, trouble=new.phase == "Error")
    if unfinished and (_running(pods) is not None or is_without_pods(view, pods)):
        return PROGRESS_SECONDS
    return WARNING_SECONDS if blocked is not None else retry_after(error)


def _blocked(view: View, pods: Sequence[Seen], *, overdue: bool) -> Seen | None:
    """What holds up the download and says why in Events alone: a Job without pods, or a claim without a volume."""
    if overdue:
        return view.job
    waits = any(pod.data.unschedulable for pod in pods)
    return view.claim if waits and view.claim is not None and view.claim.data.phase == "Pending" else None


def _age(context: Context, job: Seen) -> float:
    return seconds_between(job.data.created, context.now())


async def _warning(context: Context, seen: Seen | None) -> str:
    """The newest warning about an object; "" where there is none, or no right to read Events."""
    if seen is None:
        return ""
    try:
        found = await context.client.warnings(namespace=seen.namespace, uid=seen.uid)
    except BudError:
        return ""
    newest = max(found, key=lambda event: int(event["metadata"]["resourceVersion"]), default={})
    return str(newest.get("message") or "")


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
