"""What the callers of one namespace may name: pure.

Each object is worked out once, and again when it changes; a pod that comes or goes costs one Deployment anew, and a
look at the names of the rest.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from decimal import Decimal
from typing import NamedTuple

from bud.api.limits import OwnPricing, Pricing
from bud.api.provider import ProviderModel, ProviderSpec
from bud.api.route import RouteSpec
from bud.api.route import Target as RouteTarget
from bud.gateway.catalog import OWN, Nap, Price, Served, Target
from bud.gateway.mask import secrets
from bud.gateway.parsed import Engine, Item, Pods, epoch
from bud.gateway.prices import Published, published
from bud.gateway.providers import Reached, reached, unusable
from bud.gateway.reach import Reach


class _Offer(NamedTuple):
    """A model of a Provider."""

    name: str
    priority: int
    target: Target


class Names:
    """The names of one namespace, from objects that come and go.

    `reach` says where Providers may be. Where it `sees_pods`, a Deployment is reached at its pods, else at its Service.
    `found` is what `work` made last.
    """

    def __init__(self, reach: Reach, *, sees_pods: bool) -> None:
        self._reach = reach
        self.found: dict[str, Served] = {}
        self.is_due = False
        self._sees_pods = sees_pods
        self._items: dict[str, dict[str, Item]] = defaultdict(dict)
        self._pods: dict[str, dict[str, tuple[str, ...]]] = defaultdict(dict)
        self._by_id: dict[str, str] = {}
        self._secrets: dict[str, Mapping[str, str]] = {}
        self._engines: dict[str, tuple[Served, ...]] = {}
        self._offers: dict[str, tuple[_Offer, ...]] = {}
        self._told: dict[str, str] = {}
        self._told_of_routes: list[tuple[str, str]] = []

    @property
    def is_empty(self) -> bool:
        """Whether nothing is known of the namespace any more."""
        return not (any(self._items.values()) or any(self._pods.values()) or self._secrets)

    def put(self, old: Item | None, new: Item | None) -> None:
        """One of them is None for an object that comes or goes."""
        item = new or old
        assert item is not None
        if item.kind == "EndpointSlice":
            self._put_pods(old, new)
            return
        if new is None:
            self._items[item.kind].pop(item.name, None)
        else:
            self._items[item.kind][item.name] = new
        if item.kind == "Deployment":
            self._engines.pop(item.name, None)
            if old is not None and isinstance(old.what, Engine):
                self._by_id.pop(old.what.id, None)
            if new is not None and isinstance(new.what, Engine):
                self._by_id[new.what.id] = new.name
        elif item.kind == "Provider":
            self._offers.pop(item.name, None)
        self.is_due = True

    def put_secret(self, name: str, secret: Mapping[str, str] | None) -> None:
        """A Secret that may hold credentials of Providers; None for one that is not there."""
        if self._secrets.get(name) == secret:
            return
        if secret is None:
            del self._secrets[name]
        else:
            self._secrets[name] = secret
        self._offers.clear()
        self.is_due = True

    def credentials(self) -> frozenset[str]:
        """The Secrets that Providers refer to."""
        specs = (item.what for item in self._items["Provider"].values() if isinstance(item.what, ProviderSpec))
        return frozenset(spec.credentials_secret_ref.name for spec in specs if spec.credentials_secret_ref is not None)

    def work(self) -> None:
        """Makes `found`; the first to take a name keeps it."""
        self.is_due = False
        self._told_of_routes = []
        engines = [self._engine(name, item) for name, item in sorted(self._items["Deployment"].items())]
        offers = [offer for name, item in sorted(self._items["Provider"].items()) for offer in self._offer(name, item)]
        found = {one[0].name: one[0] for one in engines if one}
        for served in (adapter for one in engines if len(one) > 1 for adapter in one[1:]):
            found.setdefault(served.name, served)
        for served in self._routes():
            found.setdefault(served.name, served)
        chains: dict[str, list[Target]] = defaultdict(list)
        for offer in sorted(offers, key=lambda offer: -offer.priority):
            chains[offer.name].append(offer.target)
        for name, chain in chains.items():
            found.setdefault(name, Served(name, (chain[0],), tuple(chain[1:]), timeout=chain[0].timeout))
        self.found = found

    def troubles(self) -> list[tuple[str, str]]:
        """Objects, and what is wrong with them."""
        known = self._items["Provider"]
        told = [(known[name], text) for name, text in sorted(self._told.items()) if name in known]
        return [(f"Provider {item.namespace}/{item.name}", text) for item, text in told] + self._told_of_routes

    def _put_pods(self, old: Item | None, new: Item | None) -> None:
        before = old.what if old is not None else None
        after = new.what if new is not None else None
        if before == after:
            return
        for item, pods in ((old, before), (new, after)):
            if item is not None and isinstance(pods, Pods):
                if pods is after:
                    self._pods[pods.engine][item.name] = pods.urls
                else:
                    self._pods[pods.engine].pop(item.name, None)
                if not self._pods[pods.engine]:
                    del self._pods[pods.engine]
                self._engines.pop(self._by_id.get(pods.engine, ""), None)
        self.is_due = True

    def _engine(self, name: str, item: Item) -> tuple[Served, ...]:
        """What a Deployment's own name leads to, and its adapters' names."""
        known = self._engines.get(name)
        if known is None:
            known = self._engines[name] = self._new_engine(item)
        return known

    def _new_engine(self, item: Item) -> tuple[Served, ...]:
        engine = item.what
        if not isinstance(engine, Engine):
            return ()
        urls: tuple[str, ...] = (engine.url,) if engine.url else ()
        if self._sees_pods:
            # Sorted, so that what comes in another order is the same.
            urls = tuple(sorted({url for urls in self._pods.get(engine.id, {}).values() for url in urls}))
        target = Target(
            id=item.name,
            provider=OWN,
            model=engine.model,
            urls=urls,
            created=int(epoch(item.created) or 0),
            ready=bool(urls) if self._sees_pods else engine.ready,
            price=_price(engine.pricing, gpus=engine.gpus),
            capabilities=engine.capabilities,
            context_length=engine.context_length,
            max_output_tokens=engine.max_output_tokens,
            own=True,
            namespace=item.namespace,
            nap=Nap(engine.id, engine.idle_seconds) if self._sees_pods and engine.idle_seconds is not None else None,
        )
        targets = [(item.name, target), *((adapter, replace(target, model=adapter)) for adapter in engine.adapters)]
        return tuple(Served(name, (target,), timeout=target.timeout) for name, target in targets)

    def _offer(self, name: str, item: Item) -> tuple[_Offer, ...]:
        known = self._offers.get(name)
        if known is None:
            known = self._offers[name] = tuple(self._new_offers(item))
        return known

    def _new_offers(self, item: Item) -> Iterator[_Offer]:
        self._told.pop(item.name, None)
        spec = item.what
        if not isinstance(spec, ProviderSpec):
            return
        wanted = spec.credentials_secret_ref.name if spec.credentials_secret_ref is not None else None
        secret = self._secrets.get(wanted) if wanted is not None else {}
        if secret is None:
            self._told[item.name] = f"Secret {wanted} is not at hand: the provider is asked nothing until it is"
        elif wanted is not None and (wrong := unusable(secret)) is not None:
            self._told[item.name] = f"Secret {wanted}: {wrong}; the provider is asked nothing until that is mended"
            secret = None
        elif spec.kind == "Bedrock" and not secret:
            self._told[item.name] = "no Secret with credentials: requests go unsigned, and are refused"
        there = reached(spec, secret or {})
        try:
            is_open, why = self._reach.judge(there.base)
        except ValueError as error:
            self._told[item.name] = f"spec.baseURL: {error}; the object is left out"
            return
        if why is not None:
            self._told[item.name] = why
        for model in spec.models:
            target = replace(_target(item, spec, model, there), own=is_open, secrets=secrets(secret or {}))
            yield _Offer(model.name, spec.priority, target if secret is not None else replace(target, urls=()))

    def _routes(self) -> Iterator[Served]:
        for _, item in sorted(self._items["Route"].items()):
            spec = item.what
            if not isinstance(spec, RouteSpec):
                continue
            name = spec.model or item.name

            def found(wanted: Iterable[RouteTarget], item: Item = item, name: str = name) -> Iterator[Target]:
                for one in wanted:
                    target = self._meant(one, name)
                    if target is not None:
                        yield target if one.weight == target.weight else replace(target, weight=one.weight)
                        continue
                    text = f"nothing is called {_called(one, name)}; it is left out"
                    self._told_of_routes.append((f"Route {item.namespace}/{item.name}", text))

            yield Served(
                name,
                tuple(found(spec.targets)),
                tuple(found(spec.fallbacks)),
                strategy=spec.strategy,
                retries=spec.retries,
                timeout=float(spec.timeout_seconds),
                first_byte=spec.first_byte_seconds,
                price=_price(spec.pricing),
            )

    def _meant(self, wanted: RouteTarget, name: str) -> Target | None:
        """What a Route's target is, once all else is worked out."""
        if wanted.deployment_ref is not None:
            known = self._engines.get(wanted.deployment_ref.name, ())
            known = known[:1] if wanted.adapter is None else known[1:]
            return next((one.targets[0] for one in known if wanted.adapter in (None, one.name)), None)
        assert wanted.provider_ref is not None
        offers, model = self._offers.get(wanted.provider_ref.name, ()), wanted.provider_ref.model or name
        return next((offer.target for offer in offers if offer.name == model), None)


def _target(item: Item, spec: ProviderSpec, model: ProviderModel, reach: Reached) -> Target:
    name = model.upstream_name or model.name
    price = _price(model.pricing) or published(spec.kind, name)
    window = price.context_length if isinstance(price, Published) else None
    return Target(
        id=f"{item.name}/{model.name}",
        namespace=item.namespace,
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
        first_byte=spec.first_byte_seconds,
        created=int(epoch(item.created) or 0),
    )


def _called(wanted: RouteTarget, name: str) -> str:
    if wanted.deployment_ref is not None:
        adapter = f", adapter {wanted.adapter}" if wanted.adapter else ""
        return f"Deployment {wanted.deployment_ref.name}{adapter}"
    assert wanted.provider_ref is not None
    return f"Provider {wanted.provider_ref.name}, model {wanted.provider_ref.model or name}"


def _price(pricing: Pricing | None, *, gpus: int = 0) -> Price | None:
    if pricing is None:
        return None
    rates = (pricing.input_tokens_per_1k, pricing.output_tokens_per_1k)
    read, written = (Decimal(str(rate)) if rate is not None else None for rate in rates)
    hour = pricing.per_gpu_hour if isinstance(pricing, OwnPricing) else None
    return Price(read, written, Decimal(str(pricing.per_request or 0)), gpus * Decimal(str(hour or 0)))
