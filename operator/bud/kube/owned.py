"""Which fields of a live object are ours, by the managedFields that server-side apply keeps.

Format: https://github.com/kubernetes-sigs/structured-merge-diff (`f:` field, `k:` keyed list item, `v:` set item,
`.` the container itself).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import orjson

from bud.kube.kinds import MANAGER

Fields = Mapping[str, Any]

_IDENTITY = ("name", "namespace", "uid", "resourceVersion")


def owned_fields(live: Mapping[str, Any], manager: str = MANAGER) -> dict[str, Any]:
    """The part of `live` that `manager` owns by apply, in the shape of the document it applied."""
    entry = _entry(live, manager)
    extracted = _extract(live, entry) if entry else {}
    return extracted if isinstance(extracted, dict) else {}


def owns(live: Mapping[str, Any], *path: str) -> bool:
    """Whether our manager owns the field at this path of names."""
    fields: Fields = _entry(live, MANAGER)
    for name in path:
        if f"f:{name}" not in fields:
            return False
        fields = fields[f"f:{name}"]
    return True


def fingerprint(live: Mapping[str, Any]) -> bytes:
    """Hash of the fields that we own on a live object."""
    return _hash(owned_fields(live))


def wanted_fingerprint(document: Mapping[str, Any]) -> bytes:
    """Hash that a live object has when it equals the document, identity and preconditions aside."""
    metadata = {key: value for key, value in document["metadata"].items() if key not in _IDENTITY}
    body = {key: value for key, value in document.items() if key not in ("apiVersion", "kind", "metadata")}
    return _hash(body | {"metadata": metadata} if metadata else body)


def _hash(value: object) -> bytes:
    return hashlib.blake2b(orjson.dumps(value, option=orjson.OPT_SORT_KEYS), digest_size=16).digest()


def _entry(live: Mapping[str, Any], manager: str) -> Fields:
    for entry in live["metadata"].get("managedFields") or ():
        if entry.get("manager") == manager and entry.get("operation") == "Apply" and not entry.get("subresource"):
            fields: Fields = entry.get("fieldsV1") or {}
            return fields
    return {}


def _extract(value: Any, fields: Fields) -> Any:
    if not fields:
        return value
    if isinstance(value, Mapping):
        return {
            key[2:]: _extract(value[key[2:]], below)
            for key, below in fields.items()
            if key.startswith("f:") and key[2:] in value
        }
    if isinstance(value, list):
        return _extract_list(value, fields)
    return value


def _extract_list(value: list[Any], fields: Fields) -> list[Any]:
    keyed = [(orjson.loads(key[2:]), below) for key, below in fields.items() if key.startswith("k:")]
    members = [orjson.loads(key[2:]) for key in fields if key.startswith("v:")]
    out = []
    for item in value:
        if item in members:
            out.append(item)
            continue
        for key, below in keyed:
            if isinstance(item, Mapping) and all(item.get(name) == part for name, part in key.items()):
                out.append(_extract(item, below))
                break
    return out
