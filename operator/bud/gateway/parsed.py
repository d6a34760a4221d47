"""Each object as the gateway needs it, read by itself: pure. What cannot be read says why."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from types import MappingProxyType
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from bud.api import DEPLOYMENT
from bud.api.api_key import APIKeySpec, APIKeyStatus
from bud.api.deployment import DeploymentSpec, DeploymentStatus
from bud.api.limits import Budget, Capability, OwnPricing
from bud.api.project import ProjectSpec
from bud.api.provider import ProviderSpec
from bud.api.route import RouteSpec
from bud.gateway.catalog import Meter, Project, Spending, meters
from bud.gateway.mistyped import faults_of
from bud.kube.kinds import OWNER_NAME, child_name
from bud.times import moment

Raw = Mapping[str, Any]
Name = tuple[str, str, str]
"""Kind, namespace and name."""
_M = TypeVar("_M", bound=BaseModel)


_CAPABILITIES: Mapping[str, tuple[Capability, ...]] = MappingProxyType(
    {
        "text-generation": ("chat", "completion"),
        "feature-extraction": ("embedding",),
        "text-classification": ("classification",),
        "text-ranking": ("rerank",),
        "automatic-speech-recognition": ("transcription",),
        "text-to-speech": ("speech",),
        "text-to-image": ("image_generation",),
    }
)
"""What a model can do, by its task."""


class _Unreadable(Exception):
    """What is wrong with an object."""


@dataclass(frozen=True, slots=True)
class KeyParts:
    """An APIKey without its Project; `hashes` come with the moment at which each ends on its own.

    `brought` says whether the hash is of the user's choice. Without hashes, a Secret of its name may hold the key.
    """

    uid: str
    endpoints: frozenset[str]
    models: tuple[str, ...]
    ends: float | None
    budget: Spending | None
    meters: tuple[Meter, ...]
    hashes: tuple[tuple[str, float | None], ...]
    brought: bool
    revoked: bool


@dataclass(frozen=True, slots=True)
class Engine:
    """A Deployment: `id` is what its pods' EndpointSlices know it by; `url` is its Service's, for who sees no pods."""

    id: str
    model: str
    adapters: tuple[str, ...]
    url: str
    ready: bool
    gpus: int
    pricing: OwnPricing | None
    capabilities: tuple[Capability, ...]
    context_length: int | None
    max_output_tokens: int | None
    idle_seconds: float | None = None
    """After so long without a request it sleeps."""


@dataclass(frozen=True, slots=True)
class Pods:
    """An EndpointSlice: base URLs of the pods that take requests, of the Deployment with this id."""

    engine: str
    urls: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Item:
    """An object: `what` is None where it cannot be read, which `troubles` tell of; `created` is RFC 3339 or empty."""

    kind: str
    namespace: str
    name: str
    created: str
    what: Project | KeyParts | ProviderSpec | RouteSpec | Engine | Pods | Mapping[str, str] | None
    troubles: tuple[str, ...] = ()

    @property
    def key(self) -> Name:
        return self.kind, self.namespace, self.name


def parsed(kind: str, raw: Raw) -> Item:
    """An object of one of `KINDS`."""
    metadata = raw["metadata"]
    what, troubles = None, tuple[str, ...]()
    created = metadata.get("creationTimestamp") or ""
    try:
        epoch(created)
        what = _READERS[kind](raw)
    except _Unreadable as error:
        troubles = (str(error),)
    except (ValueError, ArithmeticError, TypeError, AttributeError, LookupError) as error:
        # Never what it said before: that may be what was just taken back.
        troubles = (f"it cannot be read: {error}; the object is left out",)
    known = created if what is not None else ""
    return Item(kind, metadata.get("namespace", ""), metadata["name"], known, what, troubles)


def epoch(text: str | None) -> float | None:
    """Seconds since 1970 of a moment in RFC 3339. Raises `ValueError`."""
    return moment(text).timestamp() if text else None


def _project(raw: Raw) -> Project:
    spec, name = _spec(ProjectSpec, raw), raw["metadata"]["name"]
    return Project(name, spec.namespace or name, spec.limits, _spending(spec.budget), spec.response_metadata)


def _api_key(raw: Raw) -> KeyParts:
    spec, metadata = _spec(APIKeySpec, raw), raw["metadata"]
    uid = str(metadata.get("uid") or _name_of(metadata))
    hashes: tuple[tuple[str, float | None], ...]
    if spec.hash is not None:
        hashes = ((spec.hash, None),)
    else:
        status = APIKeyStatus.model_validate(raw.get("status") or {})
        hashes = tuple((known.hash, epoch(known.expires_at)) for known in status.hashes)
    return KeyParts(
        uid=uid,
        endpoints=frozenset(spec.scopes.endpoints),
        models=spec.scopes.models,
        ends=epoch(spec.expires_at),
        budget=_spending(spec.budget),
        meters=meters(f"key/{uid}", "this key", spec.limits),
        hashes=hashes,
        brought=spec.hash is not None,
        revoked=spec.revoked,
    )


def _provider(raw: Raw) -> ProviderSpec:
    """With the rules that the API server would see to."""
    spec = _spec(ProviderSpec, raw)
    if spec.base_url is None and spec.kind in ("OpenAICompatible", "AzureOpenAI"):
        raise _Unreadable(f"spec.baseURL is needed for kind {spec.kind}: set it; the object is left out")
    if spec.region is None and spec.kind == "Bedrock":
        raise _Unreadable("spec.region is needed for kind Bedrock: set it, as in us-east-1; the object is left out")
    return spec


def _route(raw: Raw) -> RouteSpec:
    """With the rules that the API server would see to."""
    spec = _spec(RouteSpec, raw)
    for field, targets in (("targets", spec.targets), ("fallbacks", spec.fallbacks)):
        for number, target in enumerate(targets):
            if (target.deployment_ref is None) == (target.provider_ref is None):
                text = "set exactly one of deploymentRef or providerRef; the object is left out"
                raise _Unreadable(f"spec.{field}[{number}]: {text}")
    return spec


def _name_of(metadata: Raw) -> str:
    """What is a key's own, where there is no uid, as in files."""
    namespace = metadata.get("namespace", "default")
    return str(metadata["name"] if namespace == "default" else f"{namespace}/{metadata['name']}")


def _engine(raw: Raw) -> Engine:
    """With the rule that the API server would see to."""
    spec, metadata = _spec(DeploymentSpec, raw), raw["metadata"]
    status = DeploymentStatus.model_validate(raw.get("status") or {})
    if spec.pricing is not None and spec.pricing.per_gpu_hour is not None and not spec.resources.gpu:
        raise _Unreadable("spec.pricing.perGPUHour needs spec.resources.gpu: set it; the object is left out")
    scaling = spec.auto_scaling if not spec.stopped else None
    sleeps = scaling is not None and scaling.enabled and scaling.min_replicas == 0
    return Engine(
        id=child_name(DEPLOYMENT.kind, metadata.get("namespace", ""), metadata["name"]),
        model=status.model_name or metadata["name"],
        adapters=tuple(adapter.name for adapter in spec.adapters),
        url=status.endpoint_url.rstrip("/"),
        ready=status.ready_replicas > 0,
        gpus=spec.resources.gpu,
        pricing=spec.pricing,
        capabilities=spec.capabilities or _CAPABILITIES.get(status.task, ()),
        context_length=spec.context_length,
        max_output_tokens=spec.max_output_tokens,
        idle_seconds=scaling.idle_seconds if scaling is not None and sleeps else None,
    )


def _pods(raw: Raw) -> Pods:
    """An endpoint without conditions is ready; one that is terminating is not.

    https://kubernetes.io/docs/reference/kubernetes-api/service-resources/endpoint-slice-v1/
    """
    ports = [port["port"] for port in raw.get("ports") or () if port.get("name") == "http" and port.get("port")]
    hosts = [
        f"[{address}]" if raw.get("addressType") == "IPv6" else address
        for endpoint in raw.get("endpoints") or ()
        for address in endpoint["addresses"][:1]
        if (endpoint.get("conditions") or {}).get("ready") is not False
    ]
    urls = tuple(f"http://{host}:{port}/v1" for host in hosts for port in ports)
    return Pods((raw["metadata"].get("labels") or {}).get(OWNER_NAME, ""), urls)


def _secret(raw: Raw) -> Mapping[str, str]:
    plain = {key: str(value) for key, value in (raw.get("stringData") or {}).items()}
    try:
        coded = {key: _plain(value) for key, value in (raw.get("data") or {}).items()}
    except ValueError:
        raise _Unreadable("it holds what is neither base64 nor text") from None
    return {key: value.strip() for key, value in (coded | plain).items()}


def _plain(coded: str) -> str:
    """As the API server reads base64: in lines, but without anything else in between."""
    return base64.b64decode(coded.replace("\r", "").replace("\n", ""), validate=True).decode()


_READERS: Mapping[str, Callable[[Raw], Any]] = MappingProxyType(
    {
        "Project": _project,
        "APIKey": _api_key,
        "Provider": _provider,
        "Route": _route,
        "Deployment": _engine,
        "EndpointSlice": _pods,
        "Secret": _secret,
    }
)


SPECS: Mapping[str, type[BaseModel]] = MappingProxyType(
    {
        "Project": ProjectSpec,
        "APIKey": APIKeySpec,
        "Provider": ProviderSpec,
        "Route": RouteSpec,
        "Deployment": DeploymentSpec,
    }
)
"""How the spec of each kind of ours is made."""
KINDS = frozenset(_READERS)
"""What the gateway has a use for."""


def _spec(model: type[_M], raw: Raw) -> _M:
    try:
        return model.model_validate(raw.get("spec") or {})
    except ValidationError as error:
        raise _Unreadable(f"{faults_of(error, model)}; the object is left out") from None


def _spending(budget: Budget | None) -> Spending | None:
    return Spending(Decimal(str(budget.amount)), budget.period) if budget is not None else None
