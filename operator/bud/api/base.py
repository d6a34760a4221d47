"""What all kinds share: the base model, bounded field types, conditions, and the description of a kind.

Every string, list and map carries a maximum, because the API server refuses CEL rules over unbounded ones
(https://kubernetes.io/docs/reference/using-api/cel/, "resource constraints").
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema
from pydantic.alias_generators import to_camel

GROUP = "bud.studio"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"

DNS_SUBDOMAIN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"


def rule(expression: str, message: str, **extra: str) -> dict[str, str]:
    """A CEL validation rule; `message` names the field and the remedy."""
    return {"rule": expression, "message": message, **extra}


def rules(*items: dict[str, str]) -> dict[str, Any]:
    """`json_schema_extra` that carries CEL rules."""
    return {"x-kubernetes-validations": list(items)}


def atomic() -> dict[str, Any]:
    """`json_schema_extra` of a list that is replaced as a whole."""
    return {"x-kubernetes-list-type": "atomic"}


def list_map(*keys: str) -> dict[str, Any]:
    """`json_schema_extra` of a list whose entries are merged by these keys."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": list(keys)}


Quantity = Annotated[
    str | int,
    WithJsonSchema(
        {
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "x-kubernetes-int-or-string": True,
            "x-kubernetes-validations": [
                rule(
                    "type(self) == string ? (self.size() <= 64 && isQuantity(self)) : true",
                    'must be a Kubernetes quantity, such as "500m", 4 or 16Gi',
                ),
                rule(
                    "type(self) == string ? (self.size() > 64 || !isQuantity(self) "
                    "|| quantity(self).isGreaterThan(quantity('0'))) : self > 0",
                    "must be greater than zero",
                ),
            ],
        }
    ),
]
"""A Kubernetes quantity, as a string or a whole number."""


def at_least_1mi(field: str) -> dict[str, str]:
    """A rule for quantities of bytes, which are easily written without their unit."""
    return rule(
        "type(self) == string ? (self.size() > 64 || !isQuantity(self) "
        "|| !quantity(self).isLessThan(quantity('1Mi'))) : self >= 1048576",
        f"{field} counts bytes, and this is less than 1Mi: write 16Gi rather than 16",
    )


ObjectName = Annotated[str, Field(min_length=1, max_length=253, pattern=DNS_SUBDOMAIN)]
Label = Annotated[str, Field(max_length=63, pattern=r"^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$")]
"""The value of a label."""
ShortText = Annotated[str, Field(max_length=253)]
Text = Annotated[str, Field(max_length=4096)]


class Resource(BaseModel):
    """Base of everything inside a spec: camelCase outside, snake_case inside, unknown fields refused."""

    model_config = ConfigDict(
        alias_generator=to_camel, validate_by_name=True, validate_by_alias=True, extra="forbid", frozen=True
    )


class Status(BaseModel):
    """Base of everything inside a status: what an older or newer operator wrote is read leniently."""

    model_config = ConfigDict(
        alias_generator=to_camel, validate_by_name=True, validate_by_alias=True, extra="ignore", frozen=True
    )


class NameRef(Resource):
    """A reference to an object by name, in the same namespace where the kind is namespaced."""

    name: ObjectName = Field(description="Name of the object.")


class Condition(Status):
    """One condition, as `metav1.Condition` in the Kubernetes API conventions."""

    type: Annotated[str, Field(max_length=316)] = Field(description="Type of the condition, in CamelCase.")
    status: Literal["True", "False", "Unknown"] = Field(description="Whether the condition holds.")
    observed_generation: int = Field(0, ge=0, description="The generation of the spec that this was computed from.")
    last_transition_time: Annotated[str, Field(max_length=64, json_schema_extra={"format": "date-time"})] = Field(
        description="When `status` last changed."
    )
    reason: Annotated[str, Field(min_length=1, max_length=1024)] = Field(
        description="Why, as one CamelCase word that programs may compare."
    )
    message: Annotated[str, Field(max_length=32768)] = Field("", description="Why and what to do, for a person.")


Conditions = Annotated[
    tuple[Condition, ...],
    Field(
        max_length=16,
        description="Conditions of the object; `Ready`, `Reconciling` and `Stalled` follow kstatus.",
        json_schema_extra=list_map("type"),
    ),
]


@dataclass(frozen=True, slots=True)
class Column:
    """A printer column of `kubectl get`; `priority` 1 is shown only by `-o wide`."""

    name: str
    path: str
    type: Literal["string", "integer", "date", "boolean"] = "string"
    description: str = ""
    priority: int = 0


REASON = Column("Reason", '.status.conditions[?(@.type=="Ready")].reason', description="Why it is ready or not.")
MESSAGE = Column(
    "Message", '.status.conditions[?(@.type=="Ready")].message', description="What that means.", priority=1
)
AGE = Column("Age", ".metadata.creationTimestamp", type="date")


@dataclass(frozen=True, slots=True)
class Kind:
    """A custom resource: its names, its spec and status models, and how `kubectl` shows it."""

    kind: str
    plural: str
    short: str
    namespaced: bool
    spec: type[Resource]
    status: type[Status] | None
    columns: tuple[Column, ...]
    description: str
    scale: dict[str, str] | None = None
    rules: tuple[dict[str, str], ...] = field(default=())

    @property
    def singular(self) -> str:
        return self.kind.lower()
