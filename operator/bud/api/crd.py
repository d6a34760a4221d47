"""From the pydantic models to CustomResourceDefinitions with structural schemas.

Rules of structural schemas: https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/
(no `$ref`, no `anyOf` that carries types, `nullable` instead of a union with null).
"""

from __future__ import annotations

from typing import Any

import yaml
from pydantic import BaseModel

from bud.api.base import GROUP, VERSION, Kind, rules

Schema = dict[str, Any]

_UNSEEN: Schema = {"default": {"observedGeneration": -1}}
"""A status that nobody has written yet: without it, whatever follows kstatus takes a new object for ready
(https://github.com/kubernetes-sigs/cli-utils/blob/master/pkg/kstatus/README.md)."""
_DROPPED = ("title", "$defs", "discriminator")


def crd(kind: Kind) -> Schema:
    """The CustomResourceDefinition of a kind, as a document for `kubectl apply`."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind.plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "names": {
                "kind": kind.kind,
                "listKind": f"{kind.kind}List",
                "plural": kind.plural,
                "singular": kind.singular,
                "shortNames": [kind.short],
                "categories": ["bud"],
            },
            "scope": "Namespaced" if kind.namespaced else "Cluster",
            "versions": [_version(kind)],
        },
    }


def to_yaml(document: Schema) -> str:
    """A document as YAML, keys in their order, long lines kept whole."""
    return yaml.safe_dump(document, sort_keys=False, width=10_000, allow_unicode=True)


def _version(kind: Kind) -> Schema:
    properties: Schema = {
        "apiVersion": {"type": "string"},
        "kind": {"type": "string"},
        "metadata": {"type": "object"},
        "spec": _structural(kind.spec),
    }
    version: Schema = {"name": VERSION, "served": True, "storage": True}
    subresources: Schema = {}
    if kind.status is not None:
        properties["status"] = _without_defaults(_structural(kind.status)) | _UNSEEN
        subresources["status"] = {}
    if kind.scale is not None:
        subresources["scale"] = kind.scale
    if subresources:
        version["subresources"] = subresources
    version["additionalPrinterColumns"] = [_column(column) for column in kind.columns]
    schema: Schema = {"type": "object", "description": kind.description, "properties": properties}
    if properties["spec"].get("required"):
        schema["required"] = ["spec"]
    if kind.rules:
        schema |= rules(*kind.rules)
    version["schema"] = {"openAPIV3Schema": schema}
    return version


def _column(column: Any) -> Schema:
    out: Schema = {"name": column.name, "type": column.type, "jsonPath": column.path}
    if column.description:
        out["description"] = column.description
    if column.priority:
        out["priority"] = column.priority
    return out


def _structural(model: type[BaseModel]) -> Schema:
    raw = model.model_json_schema(by_alias=True, mode="validation")
    schema: Schema = _clean(raw, raw.get("$defs", {}))
    return schema


def _without_defaults(node: Any) -> Any:
    """The API server would write defaults into a status that says nothing."""
    if isinstance(node, list):
        return [_without_defaults(item) for item in node]
    if not isinstance(node, dict):
        return node
    return {key: _without_defaults(value) for key, value in node.items() if key != "default"}


def _clean(node: Any, defs: Schema) -> Any:
    if isinstance(node, list):
        return [_clean(item, defs) for item in node]
    if not isinstance(node, dict):
        return node
    node = _resolved(node, defs)
    out: Schema = {}
    for key, value in node.items():
        if key in _DROPPED or (key == "default" and (value in (None, "") or isinstance(value, list | dict))):
            continue
        if key == "properties":
            out[key] = {name: _clean(schema, defs) for name, schema in value.items()}
        elif key in ("const", "propertyNames", "additionalProperties"):
            out |= _special(key, value, defs)
        elif key in ("default", "enum", "x-kubernetes-validations"):
            out[key] = value
        else:
            out[key] = _clean(value, defs)
    if out.get("type") == "object":
        _rename(out, {"minItems": "minProperties", "maxItems": "maxProperties", "maxLength": "maxProperties"})
    return out


def _special(key: str, value: Any, defs: Schema) -> Schema:
    if key == "const":
        return {"enum": [value]}
    if key == "additionalProperties" and not isinstance(value, bool):
        return {key: _clean(value, defs)}
    return {}


def _resolved(node: Schema, defs: Schema) -> Schema:
    """Puts a referenced definition, or the only non-null branch of a union, in the place of the node."""
    node = dict(node)
    while True:
        if "$ref" in node:
            target = defs[node.pop("$ref").rsplit("/", 1)[1]]
        elif "anyOf" in node and "x-kubernetes-int-or-string" not in node:
            branches = [branch for branch in node.pop("anyOf") if branch.get("type") != "null"]
            if len(branches) != 1:
                raise TypeError(f"a structural schema has one type a field, not {branches}")
            target = branches[0]
        else:
            return node
        node = {**target, **node, **_joined_rules(target, node)}


def _joined_rules(target: Schema, node: Schema) -> Schema:
    key = "x-kubernetes-validations"
    joined = [*target.get(key, ()), *node.get(key, ())]
    return {key: joined} if joined else {}


def _rename(schema: Schema, names: dict[str, str]) -> None:
    for old, new in names.items():
        if old in schema:
            schema[new] = schema.pop(old)
