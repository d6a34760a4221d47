"""Which of our objects must be looked at again when something changes: pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from bud.access import project
from bud.api import DEPLOYMENT, MODEL, PROJECT
from bud.api.conditions import READY
from bud.api.model import ModelSpec
from bud.kube.kinds import (
    API_KEYS,
    APPS,
    CLAIMS,
    CONFIG_MAPS,
    DEPLOYMENTS,
    LEASES,
    LEDGER_PREFIX,
    MODELS,
    NETWORK_POLICIES,
    NETWORK_POLICY_NAME,
    NODES,
    PODS,
    PROJECTS,
    PROVIDERS,
    ROUTES,
    RUNTIMES,
    STORAGE_CLASSES,
    Resource,
    child_name,
)
from bud.kube.seen import Seen, see_own
from bud.kube.store import Store
from bud.model.view import copy_id, given_claim

Key = tuple[str, str, str]
"""Kind, namespace and name of one of our objects."""

_LOOKED_AT = (MODELS, DEPLOYMENTS, PROJECTS, API_KEYS, PROVIDERS, ROUTES)
"""Those of our kinds that have a controller."""


def see_linked(resource: Resource, raw: Mapping[str, Any]) -> Seen:
    """One of our objects, with the links by which the store finds it."""
    return see_own(resource, raw, links=frozenset(_links(resource, raw)))


def _links(resource: Resource, raw: Mapping[str, Any]) -> Iterator[str]:
    namespace, name = raw["metadata"].get("namespace", ""), raw["metadata"]["name"]
    spec = raw.get("spec") or {}
    if resource is DEPLOYMENTS:
        yield f"id:{child_name(DEPLOYMENT.kind, namespace, name)}"
        for part in (spec, *(spec.get("adapters") or ())):
            yield f"model:{(part.get('modelRef') or {}).get('name', '')}"
    elif resource is MODELS:
        try:
            parsed = ModelSpec.model_validate(spec)
        except ValueError:
            return
        yield f"id:{copy_id(namespace, parsed)}"
        if (given := given_claim(parsed)) is not None:
            yield f"claim:{given}"
    elif resource is PROJECTS:
        yield f"id:{project.identity(name)}"
        yield f"namespace:{spec.get('namespace') or name}"


def affected(store: Store, resource: Resource, old: Seen | None, new: Seen | None) -> Iterator[Key]:
    """Keys of what depends on the object that changed from `old` to `new`: none, when nothing that decides did."""
    if old is not None and new is not None and replace(old, version=new.version) == new:
        return
    for seen in (old, new):
        if seen is not None:
            yield from _of(store, resource, seen)
    if resource is DEPLOYMENTS:
        yield from _beside(store, old, new)
    if resource in (DEPLOYMENTS, PROVIDERS) and _asks_otherwise(old, new):
        yield from _in_namespace(store, (ROUTES,), next(seen.namespace for seen in (new, old) if seen is not None))
    if resource is PROJECTS and _stands_otherwise(old, new):
        for namespace in {project.namespace_of(seen) for seen in (old, new) if seen is not None}:
            yield from _linked(store, PROJECTS, "", f"namespace:{namespace}")
            yield from _in_namespace(store, (API_KEYS, PROVIDERS, ROUTES), namespace)
    if resource in (RUNTIMES, STORAGE_CLASSES) or (resource is NODES and _is_other_inventory(store, old, new)):
        yield from _of_the_cluster(store, resource)


def _beside(store: Store, old: Seen | None, new: Seen | None) -> Iterator[Key]:
    """What depends on a Deployment that is new, gone, going or has another spec."""
    either = new or old
    if either is not None and (old is None or new is None or old.deleting != new.deleting):
        yield _policy(either.namespace)
    if _asks_otherwise(old, new):
        for seen in (old, new):
            yield from _models_used_by(store, seen) if seen is not None else ()


def _asks_otherwise(old: Seen | None, new: Seen | None) -> bool:
    """Whether an object is new, gone or has another spec."""
    return old is None or new is None or bool(old.data.generation != new.data.generation)


def _stands_otherwise(old: Seen | None, new: Seen | None) -> bool:
    """Whether a Project is new, gone, going, has another spec, or is accepted or not where it was not or was."""
    if old is None or new is None or old.deleting != new.deleting or _asks_otherwise(old, new):
        return True
    return _is_accepted(old) != _is_accepted(new)


def _is_accepted(seen: Seen) -> bool:
    conditions = seen.data.status.get("conditions") or ()
    return any(one.get("type") == READY and one.get("status") == "True" for one in conditions)


def _in_namespace(store: Store, resources: Iterable[Resource], namespace: str) -> Iterator[Key]:
    for resource in resources:
        for seen in store.all(resource):
            if seen.namespace == namespace:
                yield resource.kind, seen.namespace, seen.name


def _is_other_inventory(store: Store, old: Seen | None, new: Seen | None) -> bool:
    """Whether the cluster has a kind of GPU more or less by the change of a node: nothing else of nodes decides."""
    before, after = (frozenset(seen.data.gpus if seen is not None else ()) for seen in (old, new))
    if before == after:
        return False
    name = next(seen.name for seen in (new, old) if seen is not None)
    others = {gpu for node in store.all(NODES) if node.name != name for gpu in node.data.gpus}
    return not (before ^ after) <= others


def _of_the_cluster(store: Store, resource: Resource) -> Iterator[Key]:
    if resource is not STORAGE_CLASSES:
        yield from ((DEPLOYMENT.kind, seen.namespace, seen.name) for seen in store.all(DEPLOYMENTS))
    if resource is not RUNTIMES:
        models = (seen for seen in store.all(MODELS) if resource is STORAGE_CLASSES or not _is_there(seen))
        yield from ((MODEL.kind, seen.namespace, seen.name) for seen in models)


def _of(store: Store, resource: Resource, seen: Seen) -> Iterator[Key]:
    if resource is MODELS:
        yield from _of_model(store, seen)
    elif resource in _LOOKED_AT:
        yield resource.kind, seen.namespace, seen.name
    elif seen.owner_kind == PROJECT.kind:
        yield from _linked(store, PROJECTS, "", f"id:{seen.owner_name}")
    elif seen.owner_kind in (MODEL.kind, DEPLOYMENT.kind):
        owners = MODELS if seen.owner_kind == MODEL.kind else DEPLOYMENTS
        yield from _linked(store, owners, seen.namespace, f"id:{seen.owner_name}")
    elif resource is LEASES:
        yield from _linked(store, DEPLOYMENTS, "", f"id:{seen.name}")
    elif resource is CONFIG_MAPS:
        yield from _linked(store, PROJECTS, "", f"id:{seen.name.removeprefix(LEDGER_PREFIX)}")
    elif resource is NETWORK_POLICIES and seen.name == NETWORK_POLICY_NAME:
        yield _policy(seen.namespace)
    if resource is CLAIMS:
        yield from _linked(store, MODELS, seen.namespace, f"claim:{seen.name}")
    elif resource in (APPS, PODS):
        yield from _that_wanted_before(store, seen)


def _that_wanted_before(store: Store, mounting: Seen) -> Iterator[Key]:
    """Models whose copy of before stays for as long as an engine mounts it."""
    for link in mounting.links:
        name = link.removeprefix("claim:")
        claim = store.get(CLAIMS, mounting.namespace, name)
        if claim is not None and not store.linked(MODELS, namespace=mounting.namespace, link=f"id:{name}"):
            for model in claim.links:
                if store.get(MODELS, mounting.namespace, model.removeprefix("model:")) is not None:
                    yield MODEL.kind, mounting.namespace, model.removeprefix("model:")


def everything(store: Store) -> Iterator[Key]:
    """Keys of all that is looked at from time to time, changed or not."""
    for resource in _LOOKED_AT:
        yield from ((resource.kind, seen.namespace, seen.name) for seen in store.all(resource))
    yield from ((LEASES.kind, note.namespace, note.name) for note in store.all(LEASES))
    yield from ((CONFIG_MAPS.kind, ledger.namespace, ledger.name) for ledger in store.all(CONFIG_MAPS))
    known = (*store.all(DEPLOYMENTS), *store.all(NETWORK_POLICIES))
    yield from (_policy(namespace) for namespace in {seen.namespace for seen in known})


def _policy(namespace: str) -> Key:
    return NETWORK_POLICIES.kind, namespace, NETWORK_POLICY_NAME


def _of_model(store: Store, model: Seen) -> Iterator[Key]:
    yield MODEL.kind, model.namespace, model.name
    yield from _linked(store, DEPLOYMENTS, model.namespace, f"model:{model.name}")
    for link in model.links:
        yield from _linked(store, MODELS, model.namespace, link)


def _models_used_by(store: Store, deployment: Seen) -> Iterator[Key]:
    """A Model that waits for its users to go depends on them, and one that is yet to be fetched to where they are."""
    for link in deployment.links:
        name = link.removeprefix("model:")
        model = store.get(MODELS, deployment.namespace, name)
        if name != link and model is not None and (model.deleting or not _is_there(model)):
            yield MODEL.kind, model.namespace, model.name


def _is_there(model: Seen) -> bool:
    return bool(model.data.phase == "Available")


def _linked(store: Store, resource: Resource, namespace: str, link: str) -> Iterator[Key]:
    for seen in store.linked(resource, namespace=namespace, link=link):
        yield resource.kind, seen.namespace, seen.name
