"""From custom resources to the catalog: pure. What cannot be read is left out, and told.

A name is resolved in the order Deployment, adapter, Route, Provider model; what a later kind calls the same is hidden.
"""

from __future__ import annotations

import base64
import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from bud.api.api_key import APIKeySpec, APIKeyStatus
from bud.api.deployment import DeploymentSpec, DeploymentStatus
from bud.api.limits import Budget, Pricing
from bud.api.project import ProjectSpec
from bud.api.provider import ProviderModel, ProviderSpec
from bud.api.route import RouteSpec
from bud.api.route import Target as RouteTarget
from bud.gateway.catalog import Catalog, Key, Price, Project, Served, Spending, Target, meters
from bud.gateway.mask import secrets
from bud.gateway.prices import Published, published
from bud.gateway.providers import Reached, reached
from bud.gateway.reach import Reach

Raw = Mapping[str, Any]
_M = TypeVar("_M", bound=BaseModel)


@dataclass
class Objects:
    """Custom resources and Secrets as they came, by kind, namespace and name."""

    items: dict[tuple[str, str, str], Raw] = field(default_factory=dict)

    def add(self, raw: Raw) -> None:
        metadata = raw["metadata"]
        self.items[raw["kind"], metadata.get("namespace", ""), metadata["name"]] = raw

    def of(self, kind: str) -> Iterator[Raw]:
        """All of a kind, by namespace and name."""
        return (self.items[key] for key in sorted(self.items) if key[0] == kind)


@dataclass
class Built:
    """The catalog, and what a person should know: the object and what is wrong with it."""

    catalog: Catalog
    troubles: list[tuple[str, str]]


def build(objects: Objects, reach: Reach) -> Built:
    """The whole catalog; `reach` says where Providers may be."""
    builder = _Builder(objects, reach)
    projects = {project.namespace: project for project in builder.projects()}
    keys = {key.hash: key for key in builder.keys(projects)}
    names = {namespace: builder.names(namespace) for namespace in projects}
    return Built(Catalog(keys, names), builder.troubles)


class _Builder:
    def __init__(self, objects: Objects, reach: Reach) -> None:
        self.objects = objects
        self.reach = reach
        self.troubles: list[tuple[str, str]] = []
        self._by_namespace: dict[tuple[str, str], list[Raw]] = defaultdict(list)
        for (kind, namespace, _), raw in sorted(objects.items.items(), key=lambda item: item[0]):
            self._by_namespace[kind, namespace].append(raw)

    def projects(self) -> Iterator[Project]:
        for raw in self.objects.of("Project"):
            if (spec := self._parsed(ProjectSpec, raw)) is not None:
                name = raw["metadata"]["name"]
                yield Project(name, spec.namespace or name, spec.limits, _spending(spec.budget), spec.response_metadata)

    def keys(self, projects: Mapping[str, Project]) -> Iterator[Key]:
        for raw in self.objects.of("APIKey"):
            metadata = raw["metadata"]
            spec, project = self._parsed(APIKeySpec, raw), projects.get(metadata.get("namespace", ""))
            if spec is None or spec.revoked:
                continue
            if project is None:
                self._trouble(
                    raw, f"namespace {metadata.get('namespace', '')!r} is no Project's: the key is not accepted"
                )
                continue
            uid = str(metadata.get("uid") or metadata["name"])
            for digest, ends in self._hashes(raw, spec):
                yield Key(
                    uid=uid,
                    name=metadata["name"],
                    project=project,
                    hash=digest,
                    endpoints=frozenset(spec.scopes.endpoints),
                    models=spec.scopes.models,
                    ends=_soonest(_epoch(spec.expires_at), ends),
                    budget=_spending(spec.budget),
                    meters=meters(f"key/{uid}", "this key", spec.limits)
                    + meters(f"project/{project.name}", f"project {project.name}", project.limits),
                )

    def _hashes(self, raw: Raw, spec: APIKeySpec) -> Iterator[tuple[str, float | None]]:
        """SHA-256 of each key that is accepted, and when it ends on its own."""
        if spec.hash is not None:
            yield spec.hash, None
            return
        status = APIKeyStatus.model_validate(raw.get("status") or {})
        for known in status.hashes:
            yield known.hash, _epoch(known.expires_at)
        if not status.hashes:
            given = self._secret(raw, raw["metadata"]["name"]).get("key")
            if given is None:
                self._trouble(raw, "neither spec.hash nor a Secret of its name with `key`: the key is not accepted")
            else:
                yield hashlib.sha256(given.encode()).hexdigest(), None

    def names(self, namespace: str) -> Mapping[str, Served]:
        """What callers of a namespace may name; the first to take a name keeps it."""
        found: dict[str, Served] = {}
        deployments = list(self._deployments(namespace))
        offers = list(self._offers(namespace))
        direct = [(t.id, t) for t, adapter in deployments if not adapter]
        adapters = [(t.model, t) for t, adapter in deployments if adapter]
        for name, target in (*direct, *adapters):
            found.setdefault(name, Served(name, (target,), timeout=target.timeout))
        for served in self._routes(namespace, deployments, offers):
            found.setdefault(served.name, served)
        chains: dict[str, list[Target]] = defaultdict(list)
        for name, _, target in sorted(offers, key=lambda offer: -offer[1].priority):
            chains[name].append(target)
        for name, chain in chains.items():
            found.setdefault(name, Served(name, (chain[0],), tuple(chain[1:]), timeout=chain[0].timeout))
        return found

    def _deployments(self, namespace: str) -> Iterator[tuple[Target, bool]]:
        """Targets of Deployments, and whether each is an adapter's."""
        for raw in self._by_namespace["Deployment", namespace]:
            spec = self._parsed(DeploymentSpec, raw)
            status = DeploymentStatus.model_validate(raw.get("status") or {})
            if spec is None or not raw.get("apiVersion", "").startswith("bud.studio/"):
                continue
            name = raw["metadata"]["name"]
            urls = (status.endpoint_url.rstrip("/"),) if status.endpoint_url else ()
            target = Target(
                id=name,
                provider="bud",
                model=status.model_name or name,
                urls=urls,
                created=_created(raw),
                own=True,
                ready=status.ready_replicas > 0,
            )
            yield target, False
            for adapter in spec.adapters:
                yield replace(target, model=adapter.name), True

    def _offers(self, namespace: str) -> Iterator[tuple[str, ProviderSpec, Target]]:
        """Models of Providers: their names, whose they are, and their targets."""
        for raw in self._by_namespace["Provider", namespace]:
            if (spec := self._parsed(ProviderSpec, raw)) is None:
                continue
            secret = self._secret(raw, spec.credentials_secret_ref.name) if spec.credentials_secret_ref else {}
            if spec.kind == "Bedrock" and not secret:
                self._trouble(raw, "no Secret with credentials: requests go unsigned, and are refused")
            there = reached(spec, secret)
            try:
                is_open, why = self.reach.judge(there.base)
            except ValueError as error:
                self._trouble(raw, f"spec.baseURL: {error}; the object is left out")
                continue
            if why is not None:
                self._trouble(raw, why)
            for model in spec.models:
                yield model.name, spec, replace(_offer(raw, spec, model, there), own=is_open, secrets=secrets(secret))

    def _routes(
        self, namespace: str, deployments: list[tuple[Target, bool]], offers: list[tuple[str, ProviderSpec, Target]]
    ) -> Iterator[Served]:
        for raw in self._by_namespace["Route", namespace]:
            if (spec := self._parsed(RouteSpec, raw)) is None:
                continue
            name = spec.model or raw["metadata"]["name"]

            def found(wanted: Iterable[RouteTarget], raw: Raw = raw, name: str = name) -> Iterator[Target]:
                for one in wanted:
                    target = _meant(one, name, deployments, offers)
                    if target is None:
                        self._trouble(raw, f"nothing is called {_called(one, name)}; it is left out")
                    else:
                        yield replace(target, weight=one.weight)

            yield Served(
                name,
                tuple(found(spec.targets)),
                tuple(found(spec.fallbacks)),
                strategy=spec.strategy,
                retries=spec.retries,
                timeout=float(spec.timeout_seconds),
                price=_price(spec.pricing),
            )

    def _secret(self, raw: Raw, name: str) -> Mapping[str, str]:
        secret = self.objects.items.get(("Secret", raw["metadata"].get("namespace", ""), name), {})
        plain = {key: str(value) for key, value in (secret.get("stringData") or {}).items()}
        try:
            coded = {key: base64.b64decode(value).decode() for key, value in (secret.get("data") or {}).items()}
        except ValueError:
            self._trouble(raw, f"Secret {name} holds what is neither base64 nor text")
            return plain
        return {key: value.strip() for key, value in (coded | plain).items()}

    def _parsed(self, model: type[_M], raw: Raw) -> _M | None:
        try:
            return model.model_validate(raw.get("spec") or {})
        except ValidationError as error:
            fault = error.errors(include_url=False, include_input=False)[0]
            self._trouble(raw, f"spec.{'.'.join(map(str, fault['loc']))}: {fault['msg']}; the object is left out")
            return None

    def _trouble(self, raw: Raw, text: str) -> None:
        metadata = raw["metadata"]
        self.troubles.append(
            (f"{raw['kind']} {metadata.get('namespace', '')}/{metadata['name']}".replace(" /", " "), text)
        )


def _offer(raw: Raw, spec: ProviderSpec, model: ProviderModel, reach: Reached) -> Target:
    name = model.upstream_name or model.name
    price = _price(model.pricing) or published(spec.kind, name)
    window = price.context_length if isinstance(price, Published) else None
    return Target(
        id=f"{raw['metadata']['name']}/{model.name}",
        provider=reach.label,
        model=name,
        urls=(reach.url(name),),
        query=reach.query,
        headers=reach.headers,
        translator=reach.translator,
        most=reach.most,
        functions=reach.functions,
        price=price,
        capabilities=model.capabilities,
        context_length=model.context_length or window,
        max_output_tokens=model.max_output_tokens,
        timeout=float(spec.timeout_seconds),
        created=_created(raw),
    )


def _meant(
    wanted: RouteTarget,
    name: str,
    deployments: list[tuple[Target, bool]],
    offers: list[tuple[str, ProviderSpec, Target]],
) -> Target | None:
    if wanted.deployment_ref is not None:
        for target, is_adapter in deployments:
            is_it = target.model == wanted.adapter if is_adapter else wanted.adapter is None
            if target.id == wanted.deployment_ref.name and is_it:
                return target
        return None
    assert wanted.provider_ref is not None
    full = f"{wanted.provider_ref.name}/{wanted.provider_ref.model or name}"
    return next((target for _, _, target in offers if target.id == full), None)


def _called(wanted: RouteTarget, name: str) -> str:
    if wanted.deployment_ref is not None:
        adapter = f", adapter {wanted.adapter}" if wanted.adapter else ""
        return f"Deployment {wanted.deployment_ref.name}{adapter}"
    assert wanted.provider_ref is not None
    return f"Provider {wanted.provider_ref.name}, model {wanted.provider_ref.model or name}"


def _spending(budget: Budget | None) -> Spending | None:
    return Spending(Decimal(str(budget.amount)), budget.period) if budget is not None else None


def _price(pricing: Pricing | None) -> Price | None:
    if pricing is None:
        return None
    rates = (pricing.input_tokens_per_1k, pricing.output_tokens_per_1k)
    read, written = (Decimal(str(rate)) if rate is not None else None for rate in rates)
    return Price(read, written, Decimal(str(pricing.per_request or 0)))


def _epoch(text: str | None) -> float | None:
    return datetime.fromisoformat(text).timestamp() if text else None


def _soonest(*times: float | None) -> float | None:
    return min((time for time in times if time is not None), default=None)


def _created(raw: Raw) -> int:
    return int(_epoch(raw["metadata"].get("creationTimestamp")) or 0)
