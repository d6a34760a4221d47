"""The custom resources of group `bud.studio`: one module per kind; `crds/*.yaml` is generated from here."""

from bud.api.api_key import API_KEY
from bud.api.base import API_VERSION, GROUP, VERSION, Kind
from bud.api.deployment import DEPLOYMENT
from bud.api.model import MODEL
from bud.api.project import PROJECT
from bud.api.provider import PROVIDER
from bud.api.route import ROUTE
from bud.api.runtime import RUNTIME

KINDS: tuple[Kind, ...] = (MODEL, DEPLOYMENT, RUNTIME, PROJECT, API_KEY, PROVIDER, ROUTE)
"""Every kind, in the order of the documentation."""

__all__ = [
    "API_KEY",
    "API_VERSION",
    "DEPLOYMENT",
    "GROUP",
    "KINDS",
    "MODEL",
    "PROJECT",
    "PROVIDER",
    "ROUTE",
    "RUNTIME",
    "VERSION",
    "Kind",
]
