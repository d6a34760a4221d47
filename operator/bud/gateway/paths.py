"""Where a request goes, by its path: `/v1/…`, `/projects/P/v1/…` or `/projects/P/deployments/D/v1/…`. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

from bud.gateway.asks import ASKS, FORMS
from bud.gateway.catalog import Key
from bud.gateway.refusal import NotAllowed

_SAME = MappingProxyType({"realtime/connect": "realtime"})
_KNOWN = frozenset({*ASKS, *FORMS, "models", "realtime"})


@dataclass(frozen=True, slots=True)
class Place:
    """`endpoint` is the path below `/v1`, by its usual name; the path's own project and deployment may be ""."""

    endpoint: str
    project: str = ""
    deployment: str = ""

    def check(self, key: Key) -> None:
        """Raises `NotAllowed` for a path of another project, or one that the key is not for."""
        if self.project and self.project != key.project.name:
            raise NotAllowed(f"this key is not one of project '{self.project}'")
        kind = "models" if self.endpoint.startswith("models/") else self.endpoint
        if key.endpoints and kind not in key.endpoints:
            raise NotAllowed(f"this key may not use /v1/{kind}: spec.scopes.endpoints of its APIKey does not name it")


def place(path: str) -> Place | None:
    """None for a path that leads nowhere."""
    project = deployment = ""
    if path.startswith("/projects/"):
        parts = path.split("/", 5)
        if len(parts) > 5 and parts[3] == "deployments":
            project, deployment, path = parts[2], parts[4], f"/{parts[5]}"
        else:
            parts = path.split("/", 3)
            if len(parts) < 4:
                return None
            project, path = parts[2], f"/{parts[3]}"
    if not path.startswith("/v1/"):
        return None
    endpoint = _SAME.get(path[4:], path[4:])
    known = endpoint in _KNOWN or endpoint.startswith("models/")
    return Place(endpoint, project, deployment) if known else None
