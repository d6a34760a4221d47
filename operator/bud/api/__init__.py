"""The custom resources of group `bud.studio`: one module per kind; `crds/*.yaml` is generated from here."""

from bud.api.base import API_VERSION, GROUP, VERSION, Kind
from bud.api.deployment import DEPLOYMENT
from bud.api.model import MODEL
from bud.api.runtime import RUNTIME

KINDS: tuple[Kind, ...] = (MODEL, DEPLOYMENT, RUNTIME)
"""Every kind, in the order of the documentation."""

__all__ = ["API_VERSION", "DEPLOYMENT", "GROUP", "KINDS", "MODEL", "RUNTIME", "VERSION", "Kind"]
