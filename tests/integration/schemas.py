"""JSON schemas for kubeconform out of what a running API server publishes, so that they are those of its version."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from tests.cluster.handle import Cluster

Schema = dict[str, Any]

LOCATION = "{{.ResourceKind}}_{{.Group}}_{{.ResourceAPIVersion}}.json"


def write(cluster: Cluster, folder: Path, kinds: Collection[str]) -> None:
    """A schema for each of these kinds, in files as LOCATION says; they refuse unknown fields."""
    for path in json.loads(cluster.kubectl("get", "--raw", "/openapi/v3"))["paths"]:
        if path.startswith(("api/", "apis/")):
            document = json.loads(cluster.kubectl("get", "--raw", f"/openapi/v3/{path}"))
            _write_group(document.get("components", {}).get("schemas", {}), folder, kinds)


def _write_group(schemas: dict[str, Schema], folder: Path, kinds: Collection[str]) -> None:
    components = {name: _strict(schema) for name, schema in schemas.items()}
    for name, schema in schemas.items():
        for kind in schema.get("x-kubernetes-group-version-kind", ()):
            if kind["kind"] in kinds:
                # kubeconform takes the core group's version for its name.
                file = f"{kind['kind'].lower()}_{kind['group'] or kind['version']}_{kind['version']}.json"
                root = {"$ref": f"#/components/schemas/{name}", "components": {"schemas": components}}
                (folder / file).write_text(json.dumps(root))


def _strict(schema: Schema) -> Schema:
    out = dict(schema)
    if "properties" in out:
        out["properties"] = {name: _strict(inner) for name, inner in out["properties"].items()}
        if not out.get("x-kubernetes-preserve-unknown-fields"):
            out.setdefault("additionalProperties", False)
    for key in ("items", "additionalProperties"):
        if isinstance(out.get(key), dict):
            out[key] = _strict(out[key])
    return out
