"""Projects, keys, Providers and Routes: gather what is seen, decide, act."""

from __future__ import annotations

import secrets
import string
from typing import TypeVar

from bud.access import key, offers, project
from bud.api import PROJECT
from bud.api.api_key import APIKeySpec, APIKeyStatus
from bud.api.base import Condition, Status
from bud.api.base import Resource as Spec
from bud.api.conditions import READY, Verdict, conditions, find
from bud.api.project import ProjectSpec, ProjectStatus
from bud.api.provider import ProviderSpec, ProviderStatus
from bud.api.route import RouteSpec, RouteStatus
from bud.context import Context
from bud.errors import ApiConflict, ApiForbidden, ApiRefused, ApiUnavailable, BudError, InvalidError, WaitingError
from bud.kube.client import Object
from bud.kube.kinds import (
    API_KEYS,
    CONFIG_MAPS,
    DEPLOYMENTS,
    PROJECTS,
    PROVIDERS,
    ROLE_BINDINGS,
    ROUTES,
    SECRETS,
    Resource,
    ledger_name,
)
from bud.kube.seen import Seen
from bud.report import read_spec, read_status, report, report_unreadable, retry_after
from bud.times import seconds_between

_R = TypeVar("_R", bound=Spec)
_S = TypeVar("_S", bound=Status)

_CREDENTIALS_SECONDS = 5.0
"""How often it is looked for credentials that lack: Secrets are not watched."""
_RIGHTS_SECONDS = 5.0
"""For so long after a Project was accepted, that its Secrets are refused is no news: rights take a moment to spread."""
_LETTERS = string.ascii_letters + string.digits
_LENGTH = 43
"""Letters of a new key: 256 bits."""


async def reconcile_project(context: Context, namespace: str, name: str) -> float | None:
    """Gives the operator and the gateway their rights in the project's namespace."""
    opened = await _open(context, PROJECTS, (namespace, name), spec=ProjectSpec, status=ProjectStatus)
    if opened is None:
        return None
    owner, spec, previous = opened
    if context.settings.namespaces and project.namespace_of(owner) not in context.settings.namespaces:
        return None  # another operator's
    trouble = await _bind(context, owner)
    verdict = project.verdict(spec.namespace or name, trouble)
    after = ProjectStatus(
        observed_generation=owner.data.generation,
        namespace=spec.namespace or name,
        usage=previous.usage,
        conditions=_conditions(context, owner, verdict, previous.conditions),
    )
    seen = context.store.get(CONFIG_MAPS, context.settings.gateway_namespace, ledger_name(name))
    used = seen.data if seen is not None else None
    left = project.seconds_left(previous.usage, used, now=context.now())
    if left == 0:
        after = after.model_copy(update={"usage": project.summary(used, now=context.now())})
    await report(context, owner, before=previous, after=after, trouble=not verdict.ready)
    return retry_after(trouble) or left or None


async def _open(
    context: Context, resource: Resource, key: tuple[str, str], *, spec: type[_R], status: type[_S], phase: str = ""
) -> tuple[Seen, _R, _S] | None:
    """An object with its spec and its status as it was; None where it is gone, or cannot be read, which is told."""
    owner = context.store.get(resource, *key)
    if owner is None or owner.deleting:
        return None
    previous = read_status(status, owner.data.status)
    try:
        return owner, read_spec(spec, owner.data.spec), previous
    except InvalidError as error:
        await report_unreadable(context, owner, previous, error=error, phase=phase)
        return None


async def _bind(context: Context, owner: Seen) -> BudError | None:
    namespace = project.namespace_of(owner)
    holder = _project_of(context, namespace)
    other = holder if holder is not None and holder.uid != owner.uid else None
    for child in [one for one in context.store.all(ROLE_BINDINGS) if one.owner_kind == PROJECT.kind]:
        is_its = child.owner_name == project.identity(owner.name)
        # Of a Project that is gone, which Kubernetes deletes when it comes to it.
        is_left = child.namespace == namespace and not context.store.linked(
            PROJECTS, namespace="", link=f"id:{child.owner_name}"
        )
        if is_left or (is_its and (other is not None or child.namespace != namespace)):
            await context.writer.delete(child)
    if other is not None:
        return project.taken(namespace, other.name)
    try:
        for document in project.role_bindings(owner.name, owner.uid, namespace, context.settings.project_bindings):
            await context.writer.apply(document, ROLE_BINDINGS)
    except (ApiUnavailable, ApiConflict):
        raise
    except BudError as error:
        return project.in_words_of_the_spec(error, namespace)
    return None


async def reconcile_key(context: Context, namespace: str, name: str) -> float | None:
    """Makes the Secret of a key, or a new key in the place of the old; comes back when one ends by itself."""
    opened = await _open(context, API_KEYS, (namespace, name), spec=APIKeySpec, status=APIKeyStatus)
    if opened is None:
        return None
    owner, spec, previous = opened
    try:
        known, used = await _secret_of(context, owner, spec, previous)
    except (ApiUnavailable, ApiConflict):
        raise
    except BudError as error:
        if isinstance(error, ApiForbidden) and _is_new(context, namespace):
            raise
        invalid = isinstance(error, InvalidError)
        verdict = Verdict(False, error.reason, str(error), reconciling=not invalid, stalled=invalid)
        # What cannot be looked at stays as it was.
        told = {"observed_generation": owner.data.generation}
        told["conditions"] = _conditions(context, owner, verdict, previous.conditions)
        await report(context, owner, before=previous, after=previous.model_copy(update=told), trouble=True)
        return retry_after(error)
    lacks, serial = key.lack(known, used), used.serial if used is not None else 0
    phase, verdict = key.verdict(spec, name, now=context.now(), lacks=lacks, serial=serial)
    hashes = key.accepted(spec, used, now=context.now())
    after = APIKeyStatus(
        observed_generation=owner.data.generation,
        phase=phase,
        secret_name=name if known is not None and not lacks else "",
        serial=serial,
        hint=used.hint if used is not None else "",
        hashes=hashes,
        conditions=_conditions(context, owner, verdict, previous.conditions),
    )
    await report(context, owner, before=previous, after=after, trouble=bool(lacks))
    return key.next_look(spec, hashes, now=context.now())


async def _secret_of(
    context: Context, owner: Seen, spec: APIKeySpec, status: APIKeyStatus
) -> tuple[key.Kept | None, key.Made | None]:
    """What the Secret says, once it is as it should be, and the key in use. Raises `WaitingError`, `InvalidError`."""
    namespace, name = owner.key
    if _project_of(context, namespace) is None:
        raise WaitingError(
            f"no Project has namespace {namespace}, so its keys mean nothing: create a Project with spec.namespace",
            reason=offers.PROJECT_MISSING,
        )
    if spec.hash is not None:
        return None, None
    found = await _secret(context, namespace, name)
    known = key.kept(found, namespace=namespace, name=name) if found is not None else None
    used = key.made(spec, status, known)
    fresh = "".join(secrets.choice(_LETTERS) for _ in range(_LENGTH))
    itself = key.Owner(namespace, name, owner.uid)
    wanted = key.secret(itself, spec, known, used=used, fresh=fresh, now=context.now())
    if wanted is None:
        return known, used
    known = key.kept(await context.writer.put(wanted, SECRETS), namespace=namespace, name=name)
    now_used = key.made(spec, status, known)
    if used is not None and now_used is not None and now_used.serial != used.serial:
        note = f"Secret {name} holds a new key; the old one is accepted until {known.replaced[0].expires_at}"
        await context.writer.event(owner, kind="Normal", reason="KeyReplaced", note=note)
    return known, now_used


async def reconcile_provider(context: Context, namespace: str, name: str) -> float | None:
    """Says whether a Provider has what the gateway needs."""
    opened = await _open(
        context, PROVIDERS, (namespace, name), spec=ProviderSpec, status=ProviderStatus, phase="Unhealthy"
    )
    if opened is None:
        return None
    owner, spec, previous = opened
    accepted = _project_of(context, namespace) is not None
    lacking = await _lacking(context, namespace, spec) if accepted else ""
    verdict = offers.provider_verdict(spec, lacking, accepted=accepted)
    after = ProviderStatus(
        observed_generation=owner.data.generation,
        phase="Configured" if verdict.ready else "Unhealthy",
        conditions=_conditions(context, owner, verdict, previous.conditions),
    )
    await report(context, owner, before=previous, after=after, trouble=not verdict.ready)
    return _CREDENTIALS_SECONDS if accepted and not verdict.ready else None


async def _lacking(context: Context, namespace: str, spec: ProviderSpec) -> str:
    reference = spec.credentials_secret_ref
    try:
        found = await _secret(context, namespace, reference.name) if reference is not None else None
    except ApiForbidden as error:
        if _is_new(context, namespace):
            raise
        return str(error)
    return offers.lacks(spec, found)


async def reconcile_route(context: Context, namespace: str, name: str) -> float | None:
    """Says whether what a Route names is there."""
    opened = await _open(context, ROUTES, (namespace, name), spec=RouteSpec, status=RouteStatus)
    if opened is None:
        return None
    owner, spec, previous = opened
    accepted = _project_of(context, namespace) is not None
    verdict = offers.route_verdict(spec, name, _offered(context, namespace), accepted=accepted)
    after = RouteStatus(
        observed_generation=owner.data.generation,
        conditions=_conditions(context, owner, verdict, previous.conditions),
    )
    await report(context, owner, before=previous, after=after, trouble=not verdict.ready)
    return None


def _conditions(
    context: Context, owner: Seen, verdict: Verdict, previous: tuple[Condition, ...]
) -> tuple[Condition, ...]:
    return conditions(verdict, previous=previous, generation=owner.data.generation, now=context.now())


def _project_of(context: Context, namespace: str) -> Seen | None:
    return project.holder(context.store.linked(PROJECTS, namespace="", link=f"namespace:{namespace}"))


def _is_new(context: Context, namespace: str) -> bool:
    """Whether the namespace's Project is not accepted yet, or was so only a moment ago."""
    seen = _project_of(context, namespace)
    known = read_status(ProjectStatus, seen.data.status) if seen is not None else ProjectStatus()
    ready = find(known.conditions, READY)
    if ready is None or ready.status != "True":
        return True
    return seconds_between(ready.last_transition_time, context.now()) < _RIGHTS_SECONDS


async def _secret(context: Context, namespace: str, name: str) -> Object | None:
    """The one object that is read for a reconcile: no right to watch Secrets is worth what it would open."""
    try:
        return await context.client.get(SECRETS, namespace=namespace, name=name)
    except ApiRefused as error:
        if error.status != 404:
            raise
        return None


def _offered(context: Context, namespace: str) -> offers.Offered:
    def names(resource: Resource, field: str) -> dict[str, set[str]]:
        return {
            seen.name: {str(item.get("name")) for item in seen.data.spec.get(field) or ()}
            for seen in context.store.all(resource)
            if seen.namespace == namespace and not seen.deleting
        }

    return offers.Offered(names(DEPLOYMENTS, "adapters"), names(PROVIDERS, "models"))
