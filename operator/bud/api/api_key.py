"""APIKey: a key of a project, and what may be done with it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field

from bud.api.base import (
    AGE,
    MESSAGE,
    REASON,
    Column,
    Conditions,
    Kind,
    Resource,
    ShortText,
    Status,
    atomic,
    rule,
    rules,
)
from bud.api.limits import Budget, Limits
from bud.times import moment

MOST_SERIAL = 1_000_000
APIKeyPhase = Literal["Active", "Expired", "Revoked"]
Endpoint = Literal[
    "chat/completions",
    "completions",
    "embeddings",
    "classify",
    "rerank",
    "images/generations",
    "audio/transcriptions",
    "audio/translations",
    "audio/speech",
    "documents",
    "responses",
    "realtime",
    "models",
]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", max_length=64)]
ModelName = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^\S+$")]


def _moment(text: str) -> str:
    """Raises `ValueError` for what the API server takes for a time, and nobody else can read."""
    moment(text)
    return text


Moment = Annotated[str, Field(max_length=64, json_schema_extra={"format": "date-time"}), AfterValidator(_moment)]


class Scopes(Resource):
    """What the key may call; an empty list means everything that its project has."""

    endpoints: Annotated[tuple[Endpoint, ...], Field(max_length=32, json_schema_extra=atomic())] = Field(
        (), description="Paths below /v1, as in chat/completions."
    )
    models: Annotated[tuple[ModelName, ...], Field(max_length=256, json_schema_extra=atomic())] = Field(
        (), description="Names of models as callers use them; a trailing * matches any end."
    )


class Rotation(Resource):
    """A new key beside the old one."""

    serial: int = Field(
        0, ge=0, le=MOST_SERIAL, description="Raise it to have a new key made, into the Secret, beside the old one."
    )
    overlap_seconds: int = Field(
        86400, ge=0, le=31_536_000, description="For so long the old key works beside the new one."
    )


class APIKeySpec(Resource):
    """A key of a project, and what may be done with it."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "!has(self.hash) || !has(self.rotation) || !has(self.rotation.serial) || self.rotation.serial == 0",
                "a key whose hash you bring is yours to rotate: change hash, or remove rotation.serial",
            )
        )
    )

    hash: Sha256 | None = Field(
        None, description="SHA-256 of a key of yours, in hex. Default: a key is made, into a Secret of this name."
    )
    prefix: Annotated[str, Field(min_length=1, max_length=16, pattern=r"^[A-Za-z][A-Za-z0-9]*_$")] = Field(
        "bud_", description="How a key that is made begins."
    )
    scopes: Scopes = Field(Scopes(), description="What the key may call. Default: everything that its project has.")
    expires_at: Moment | None = Field(None, description="When the key ends, in RFC 3339. Default: never.")
    limits: Limits = Field(Limits(), description="What the key may use, within the limits of its project.")
    budget: Budget | None = Field(None, description="What the key may spend, within the budget of its project.")
    rotation: Rotation = Field(Rotation(), description="How a new key takes the place of the old one.")
    revoked: bool = Field(False, description="True: the key is refused.")


class KeyHash(Status):
    """One key that is accepted."""

    hash: Annotated[str, Field(max_length=64)] = Field(description="SHA-256 of the key, in hex.")
    expires_at: Annotated[str, Field(max_length=64)] = Field("", description="When it ends; empty: with the APIKey.")


class APIKeyStatus(Status):
    """What is known of the key; never the key itself."""

    observed_generation: int = Field(0, ge=-1, description="The generation of the spec that this status answers.")
    phase: APIKeyPhase | None = Field(None, description="Active, Expired or Revoked.")
    secret_name: ShortText = Field("", description="Secret that holds the key, as `key`; empty when none does.")
    serial: int = Field(0, ge=0, description="The spec.rotation.serial for which the key was made.")
    hint: Annotated[str, Field(max_length=32)] = Field("", description="How the key begins, to tell it from others.")
    hashes: Annotated[tuple[KeyHash, ...], Field(max_length=4, json_schema_extra=atomic())] = Field(
        (), description="Hashes of the keys that are accepted: the present one, and those that are being replaced."
    )
    conditions: Conditions = ()


API_KEY = Kind(
    kind="APIKey",
    plural="apikeys",
    short="bkey",
    namespaced=True,
    spec=APIKeySpec,
    status=APIKeyStatus,
    description="A key of a project, by which callers are known.",
    columns=(
        Column("Phase", ".status.phase", description="Active, Expired or Revoked."),
        Column("Key", ".status.hint", description="How the key begins."),
        Column("Secret", ".status.secretName", description="Secret that holds the key."),
        Column("Expires", ".spec.expiresAt", type="date", description="When it ends."),
        REASON,
        AGE,
        MESSAGE,
    ),
)
