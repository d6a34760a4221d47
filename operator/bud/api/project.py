"""Project: a team, its namespace, and what it may use."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from bud.api.base import AGE, MESSAGE, REASON, Column, Conditions, Kind, Resource, ShortText, Status
from bud.api.limits import Budget, Limits

Namespace = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]


class ProjectSpec(Resource):
    """A team, its namespace, and what it may use."""

    namespace: Namespace | None = Field(
        None, description="Namespace of what the project serves and of its keys. Default: the project's name."
    )
    display_name: ShortText = Field("", description="Name for people.")
    limits: Limits = Field(Limits(), description="What all keys of the project may use together.")
    budget: Budget | None = Field(None, description="What all keys of the project may spend together.")
    response_metadata: bool = Field(
        True, description="Whether answers carry `conduit_metadata` with the provider, the request's id and its cost."
    )


class UsageSummary(Status):
    """What was used since the first of the month, 00:00 UTC, as the ledger says."""

    since: Annotated[str, Field(max_length=64)] = Field("", description="Beginning of the period.")
    requests: int = Field(0, ge=0, description="Requests that were answered.")
    input_tokens: int = Field(0, ge=0, description="Tokens of the requests.")
    output_tokens: int = Field(0, ge=0, description="Tokens of the answers.")
    cost: Annotated[str, Field(max_length=32)] = Field("", description="US dollars.")
    as_of: Annotated[str, Field(max_length=64)] = Field("", description="When it was summed up, at most every minute.")


class ProjectStatus(Status):
    """What is known of the project."""

    observed_generation: int = Field(0, ge=-1, description="The generation of the spec that this status answers.")
    namespace: ShortText = Field("", description="The namespace that is the project's.")
    usage: UsageSummary | None = Field(None, description="What was used this month.")
    conditions: Conditions = ()


PROJECT = Kind(
    kind="Project",
    plural="projects",
    short="bproj",
    namespaced=False,
    spec=ProjectSpec,
    status=ProjectStatus,
    description="A team: its namespace, its limits and its budget.",
    columns=(
        Column("Namespace", ".status.namespace", description="The project's namespace."),
        Column("Requests", ".status.usage.requests", type="integer", description="Requests this month."),
        Column("Cost", ".status.usage.cost", description="US dollars spent this month."),
        REASON,
        AGE,
        MESSAGE,
    ),
)
