"""Which of our objects must be looked at again when something changes: pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from bud.api import DEPLOYMENT, MODEL
from bud.api.model import ModelSpec
from bud.kube.kinds import (
    CLAIMS,
    DEPLOYMENTS,
    MODELS,
    NETWORK_POLICIES,
    NETWORK_POLICY_NAME,
    NODES,
    RUNTIMES,
    Resource,
    child_name,
)
from bud.kube.seen import Seen, see_own
from bud.kube.store import Store
from bud.model.view import copy_id, given_claim

Key = tuple[str, str, str]
"""Kind, namespace and name of one of our objects."""


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


def affected(store: Store, resource: Resource, old: Seen | None, new: Seen | None) -> Iterator[Key]:
    """Keys of what depends on the object that changed from `old` to `new`: none, when nothing that decides did."""
    if old is not None and new is not None and replace(old, version=new.version) == new:
        return
    for seen in (old, new):
        if seen is not None:
            yield from _of(store, resource, seen)
    either = new or old
    if resource is DEPLOYMENTS and either is not None and (old is None or new is None or old.deleting != new.deleting):
        yield _policy(either.namespace)
    if resource is RUNTIMES or (resource is NODES and _data(old) != _data(new)):
        yield from ((DEPLOYMENT.kind, seen.namespace, seen.name) for seen in store.all(DEPLOYMENTS))


def _of(store: Store, resource: Resource, seen: Seen) -> Iterator[Key]:
    if resource is MODELS:
        yield from _of_model(store, seen)
    elif resource is DEPLOYMENTS:
        yield DEPLOYMENT.kind, seen.namespace, seen.name
        yield from _models_used_by(store, seen)
    elif seen.owner_kind in (MODEL.kind, DEPLOYMENT.kind):
        owners = MODELS if seen.owner_kind == MODEL.kind else DEPLOYMENTS
        yield from _linked(store, owners, seen.namespace, f"id:{seen.owner_name}")
    elif resource is NETWORK_POLICIES and seen.name == NETWORK_POLICY_NAME:
        yield _policy(seen.namespace)
    if resource is CLAIMS:
        yield from _linked(store, MODELS, seen.namespace, f"claim:{seen.name}")


def everything(store: Store) -> Iterator[Key]:
    """Keys of all that is looked at from time to time, changed or not."""
    for resource in (MODELS, DEPLOYMENTS):
        yield from ((resource.kind, seen.namespace, seen.name) for seen in store.all(resource))
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
    """Only a Model that waits for its users to go depends on them."""
    for link in deployment.links:
        name = link.removeprefix("model:")
        model = store.get(MODELS, deployment.namespace, name)
        if name != link and model is not None and model.deleting:
            yield MODEL.kind, model.namespace, model.name


def _linked(store: Store, resource: Resource, namespace: str, link: str) -> Iterator[Key]:
    for seen in store.linked(resource, namespace=namespace, link=link):
        yield resource.kind, seen.namespace, seen.name


def _data(seen: Seen | None) -> object:
    return seen.data if seen is not None else None
