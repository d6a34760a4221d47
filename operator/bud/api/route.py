"""Route: a model name for callers, and what answers to it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from bud.api.api_key import ModelName
from bud.api.base import (
    AGE,
    MESSAGE,
    REASON,
    Column,
    Conditions,
    Kind,
    NameRef,
    ObjectName,
    Resource,
    Status,
    atomic,
    rule,
    rules,
)
from bud.api.limits import FIRST_BYTE, Pricing


class ProviderTarget(Resource):
    """A model of a Provider."""

    name: ObjectName = Field(description="Name of the Provider, of the same namespace.")
    model: ModelName | None = Field(None, description="Name in its list of models. Default: the Route's model.")


class Target(Resource):
    """What answers."""

    deployment_ref: NameRef | None = Field(None, description="A Deployment of the same namespace.")
    adapter: ModelName | None = Field(None, description="An adapter of that Deployment.")
    provider_ref: ProviderTarget | None = Field(None, description="A model of a Provider of the same namespace.")
    weight: int = Field(1, ge=0, le=1_000_000, description="Share of the requests, beside the other weights.")


_TARGETS = atomic() | rules(
    rule("self.all(t, has(t.deploymentRef) != has(t.providerRef))", "set exactly one of deploymentRef or providerRef"),
    rule(
        "self.all(t, !has(t.adapter) || has(t.deploymentRef))", "adapter needs deploymentRef: set it, or remove adapter"
    ),
)


class RouteSpec(Resource):
    """A model name for callers, and what answers to it."""

    model: ModelName | None = Field(
        None, description="Value of `model` in requests; it may hold slashes. Default: the Route's name."
    )
    targets: Annotated[tuple[Target, ...], Field(min_length=1, max_length=16, json_schema_extra=_TARGETS)] = Field(
        description="What answers, by weight."
    )
    fallbacks: Annotated[tuple[Target, ...], Field(max_length=16, json_schema_extra=_TARGETS)] = Field(
        (), description="What is asked, in this order, when no target can answer."
    )
    strategy: Literal["Weighted", "LeastRequests", "PrefixAffinity"] = Field(
        "Weighted",
        description="How a target is chosen: by weight alone; the one with the fewest requests for its weight; or the "
        "one that has seen the beginning of the conversation.",
    )
    retries: int = Field(2, ge=0, le=10, description="How often a request is tried again before its first byte.")
    timeout_seconds: int = Field(600, ge=1, le=86400, description="Longest time that an answer may take, in seconds.")
    first_byte_seconds: int | None = Field(None, ge=1, le=86400, description=FIRST_BYTE)
    pricing: Pricing | None = Field(None, description="What callers are charged. Default: the target's own prices.")


class RouteStatus(Status):
    """What is known of the route."""

    observed_generation: int = Field(0, ge=-1, description="The generation of the spec that this status answers.")
    conditions: Conditions = ()


ROUTE = Kind(
    kind="Route",
    plural="routes",
    short="broute",
    namespaced=True,
    spec=RouteSpec,
    status=RouteStatus,
    description="A model name for callers, and what answers to it.",
    columns=(
        Column("Model", ".spec.model", description="Value of model in requests, when it is not the name."),
        Column("Strategy", ".spec.strategy", description="How a target is chosen."),
        REASON,
        AGE,
        MESSAGE,
    ),
)
