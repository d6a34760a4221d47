"""`/v1/models`: what a key may name. Pure."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import orjson

from bud.gateway.catalog import Catalog, Key, Price, Served
from bud.gateway.estimate import is_priced
from bud.gateway.paths import Place
from bud.gateway.prices import Published
from bud.gateway.refusal import UnknownModel


def answer(catalog: Catalog, key: Key, where: Place) -> bytes:
    """The list, or one of it. Raises `UnknownModel`."""
    if where.endpoint == "models":
        names = catalog.names.get(key.project.namespace, {})
        shown = [
            _shown(served) for name, served in sorted(names.items()) if may_name(key, name) and _is_at(served, where)
        ]
        return orjson.dumps({"object": "list", "data": shown})
    return orjson.dumps(_shown(find(catalog, key, where, where.endpoint.removeprefix("models/"))))


def find(catalog: Catalog, key: Key, where: Place, name: str) -> Served:
    """What answers to a name. Raises `UnknownModel`."""
    served = catalog.served(key.project.namespace, name)
    if served is None or not may_name(key, name) or not _is_at(served, where):
        raise UnknownModel(name)
    return served


def may_name(key: Key, name: str) -> bool:
    """Whether the key's scopes hold the name."""
    return not key.models or any(_matches(pattern, name) for pattern in key.models)


def _matches(pattern: str, name: str) -> bool:
    return name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern


def _is_at(served: Served, where: Place) -> bool:
    return not where.deployment or any(target.id == where.deployment for target in served.targets)


def _shown(served: Served) -> dict[str, Any]:
    first = served.targets[0] if served.targets else None
    price = served.price or (first.price if first is not None else None)
    return {
        "id": served.name,
        "object": "model",
        "created": first.created if first is not None else 0,
        "owned_by": first.provider if first is not None else "bud",
        "provider": first.provider if first is not None else "bud",
        "capabilities": list(first.capabilities) if first is not None and first.capabilities else None,
        "context_length": first.context_length if first is not None else None,
        "max_output_tokens": first.max_output_tokens if first is not None else None,
        "pricing": _pricing(price),
        "ready": any(target.ready and target.urls for target in (*served.targets, *served.fallbacks)),
    }


def _pricing(price: Price | Published | None) -> dict[str, float] | None:
    if price is None or not is_priced(price):
        return None
    told = {
        "input_tokens_per_1k": float(price.input or Decimal(0)),
        "output_tokens_per_1k": float(price.output or Decimal(0)),
    }
    if isinstance(price, Price):
        told |= {"per_request": float(price.request)} if price.request else {}
        told |= {"per_replica_hour": float(price.hour)} if price.hour else {}
    return told
