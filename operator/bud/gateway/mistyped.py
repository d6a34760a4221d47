"""What was probably meant by a field that there is not, or that holds something else. Pure.

Who writes files has no API server to refuse what is mistyped: https://kubernetes.io/docs/reference/using-api/api-concepts/#setting-the-field-validation-level.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel, ValidationError

from bud.api.base import DNS_SUBDOMAIN

Path = tuple[int | str, ...]
_MOST = 5
"""Faults of one object that are told."""
_TOP = ("apiVersion", "kind", "metadata", "spec", "status")
_SECRET = ("apiVersion", "kind", "metadata", "data", "stringData", "type", "immutable")
_METADATA = (
    "name", "namespace", "labels", "annotations", "uid", "creationTimestamp", "resourceVersion", "generation",
    "generateName", "managedFields", "ownerReferences", "finalizers", "selfLink", "deletionTimestamp",
    "deletionGracePeriodSeconds",
)  # fmt: skip


def faults_of(error: ValidationError, model: type[BaseModel]) -> str:
    """The faults of a spec, each by its path and with what may be done."""
    found = error.errors(include_url=False, include_input=False)
    told = [_fault(fault["type"], fault["loc"], fault["msg"], model) for fault in found[:_MOST]]
    if len(found) > _MOST:
        told.append(f"and {len(found) - _MOST} more")
    return "; ".join(told)


def fault_of(document: Mapping[str, Any], model: type[BaseModel] | None) -> str | None:
    """The first field around the spec that there is not; `model` is the spec's, None for a Secret."""
    known = _TOP if model is not None else _SECRET
    for name in document:
        if name not in known:
            own = _properties(model.model_json_schema(), ()) if model is not None else {}
            remedy = "write it below spec" if name in own else meant(str(name), known)
            return f"{name}: there is no such field here; {remedy}"
    for name in document["metadata"]:
        if name not in _METADATA:
            return f"metadata.{name}: there is no such field; {meant(str(name), _METADATA)}"
    for field, is_namespace in (("name", False), ("namespace", True)):
        fault = fault_of_name(document["metadata"].get(field, "default"), is_namespace=is_namespace)
        if fault is not None:
            return f"metadata.{field}: {fault}"
    return None


def fault_of_name(text: str, *, is_namespace: bool) -> str | None:
    """The API server's rule: https://kubernetes.io/docs/concepts/overview/working-with-objects/names/."""
    most, between = (63, "-") if is_namespace else (253, "-.")
    if re.fullmatch(DNS_SUBDOMAIN, text) and len(text) <= most and not (is_namespace and "." in text):
        return None
    words = f"at most {most} small letters, digits and {' '.join(between)}, with a letter or digit at both ends"
    return f"{text!r} is no name in Kubernetes: {words}"


def _fault(kind: str, path: Path, words: str, model: type[BaseModel]) -> str:
    where = f"spec{''.join(f'[{part}]' if isinstance(part, int) else f'.{part}' for part in path)}"
    if kind != "extra_forbidden":
        return f"{where}: {words}"
    known = sorted(_properties(model.model_json_schema(), path[:-1]))
    return f"{where}: there is no such field; {meant(str(path[-1]), known)}"


def meant(name: str, known: Iterable[str]) -> str:
    """The remedy for a name that is none of those that are known."""
    plain = {one.lower(): one for one in known}
    near = get_close_matches(name.replace("_", "").lower(), plain, n=1)
    return f"did you mean {plain[near[0]]}?" if near else f"there are {', '.join(plain.values())}"


def _properties(schema: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    """The fields at a path of a JSON schema; https://json-schema.org/draft/2020-12/json-schema-core."""
    found = [schema]
    for part in path:
        below = list[Any]()
        for one in _resolved(found, schema):
            below.append(one.get("items") if isinstance(part, int) else one.get("properties", {}).get(part))
            below.append(one.get("additionalProperties"))
        found = [one for one in below if isinstance(one, dict)]
    return {name: one for known in _resolved(found, schema) for name, one in known.get("properties", {}).items()}


def _resolved(found: Iterable[Mapping[str, Any]], root: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Each schema, and those that it is made of."""
    for one in found:
        yield one
        if "$ref" in one:
            yield from _resolved([root["$defs"][one["$ref"].rpartition("/")[2]]], root)
        for word in ("anyOf", "allOf", "oneOf"):
            yield from _resolved(one.get(word, ()), root)
