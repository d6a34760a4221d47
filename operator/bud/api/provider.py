"""Provider: an API outside the cluster, and the models that it offers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from bud.api.api_key import ModelName
from bud.api.base import (
    AGE,
    MESSAGE,
    REASON,
    Column,
    Conditions,
    Kind,
    NameRef,
    Resource,
    Status,
    list_map,
    rule,
    rules,
)
from bud.api.limits import FIRST_BYTE, Capabilities, Pricing, Tokens

ProviderKind = Literal[
    "OpenAI", "AzureOpenAI", "Together", "Fireworks", "XAI", "OpenAICompatible", "Anthropic", "Google", "Bedrock"
]
ProviderPhase = Literal["Configured", "Unhealthy"]
"""Healthy is none of them: whether a provider answers, only gateways know, and they write no status."""
BaseUrl = Annotated[str, Field(min_length=8, max_length=2048, pattern=r"^https?://[^\s/?#@]+(/[^\s?#]*)?$")]


class ProviderModel(Resource):
    """A model that the provider offers."""

    name: ModelName = Field(description="Value of `model` in requests, as callers use it.")
    upstream_name: ModelName | None = Field(
        None, description="What the provider calls it; for Azure, the deployment. Default: the same."
    )
    capabilities: Capabilities = Field((), description="What it can do, as told to callers. Default: it is not told.")
    context_length: Tokens | None = Field(
        None, description="Tokens that it can take in all. Default: as published, where known."
    )
    max_output_tokens: Tokens | None = Field(
        None, description="Tokens that an answer can have; who asks for more is refused."
    )
    pricing: Pricing | None = Field(None, description="What it costs. Default: the published prices, where known.")


class ProviderSpec(Resource):
    """An API outside the cluster, and the models that it offers."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "has(self.baseURL) || !(self.kind in ['OpenAICompatible', 'AzureOpenAI'])",
                "baseURL is needed for this kind: set it to the address of the API",
            ),
            rule("self.kind != 'Bedrock' || has(self.region)", "Bedrock needs region: set it, as in us-east-1"),
        )
    )

    kind: ProviderKind = Field(description="Whose API it is; this decides address, authentication and wire format.")
    base_url: BaseUrl | None = Field(
        None,
        alias="baseURL",
        description="Address of the API, up to and including /v1 where it has that; credentials belong in the Secret. "
        "Default: the provider's own.",
    )
    credentials_secret_ref: NameRef | None = Field(
        None,
        description="Secret of the same namespace with `apiKey`; for Bedrock `AWS_ACCESS_KEY_ID`, "
        "`AWS_SECRET_ACCESS_KEY` and, where there is one, `AWS_SESSION_TOKEN`.",
    )
    region: Annotated[str, Field(min_length=1, max_length=64)] | None = Field(None, description="Region, for Bedrock.")
    api_version: Annotated[str, Field(min_length=1, max_length=64)] | None = Field(
        None,
        description="Version of the API. Azure: a date takes the older addresses, one for each deployment; default: "
        "/openai/v1. "
        "Anthropic: default 2023-06-01, the newest that takes temperature and top_p.",
    )
    models: Annotated[
        tuple[ProviderModel, ...], Field(min_length=1, max_length=512, json_schema_extra=list_map("name"))
    ] = Field(description="Models that callers may use.")
    priority: int = Field(
        0, ge=-1000, le=1000, description="Of several Providers with the same model, the highest is asked first."
    )
    timeout_seconds: int = Field(600, ge=1, le=86400, description="Longest time that an answer may take, in seconds.")
    first_byte_seconds: int | None = Field(None, ge=1, le=86400, description=FIRST_BYTE)


class ProviderStatus(Status):
    """What is known of the provider."""

    observed_generation: int = Field(0, ge=-1, description="The generation of the spec that this status answers.")
    phase: ProviderPhase | None = Field(None, description="Configured, or Unhealthy where something lacks.")
    conditions: Conditions = ()


PROVIDER = Kind(
    kind="Provider",
    plural="providers",
    short="bprov",
    namespaced=True,
    spec=ProviderSpec,
    status=ProviderStatus,
    description="An API outside the cluster, and the models that it offers.",
    columns=(
        Column("Kind", ".spec.kind", description="Whose API it is."),
        Column("Phase", ".status.phase", description="Configured, or Unhealthy where something lacks."),
        REASON,
        AGE,
        MESSAGE,
    ),
)
