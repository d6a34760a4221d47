"""Providers: where they are, how the gateway shows who it is, and whether they are translated. Pure.

Addresses as the providers publish them: https://platform.openai.com/docs/api-reference,
https://docs.together.ai/docs/openai-api-compatibility, https://docs.fireworks.ai/tools-sdks/openai-compatibility,
https://docs.x.ai/docs/api-reference, https://learn.microsoft.com/azure/ai-services/openai/reference,
https://platform.claude.com/docs/en/api/overview, https://ai.google.dev/api,
https://docs.aws.amazon.com/general/latest/gr/bedrock.html.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal
from urllib.parse import quote

from bud.api.provider import ProviderKind, ProviderSpec

if TYPE_CHECKING:
    from bud.gateway.translate.wire import Translator

_ADDRESSES: Mapping[ProviderKind, str] = {
    "OpenAI": "https://api.openai.com/v1",
    "Together": "https://api.together.xyz/v1",
    "Fireworks": "https://api.fireworks.ai/inference/v1",
    "XAI": "https://api.x.ai/v1",
    "Anthropic": "https://api.anthropic.com/v1",
    "Google": "https://generativelanguage.googleapis.com/v1beta",
}

_LABELS: Mapping[ProviderKind, str] = {
    "OpenAI": "openai",
    "AzureOpenAI": "azure",
    "Together": "together",
    "Fireworks": "fireworks",
    "XAI": "xai",
    "OpenAICompatible": "openai-compatible",
    "Anthropic": "anthropic",
    "Google": "google",
    "Bedrock": "bedrock",
}

_NEWER_BOUND = frozenset[ProviderKind]({"OpenAI", "AzureOpenAI", "XAI"})
"""Those whose chats want `max_completion_tokens`: their reasoning models refuse the older name, which is all that
engines and other providers are sure to know."""
_OLDER_FUNCTIONS = frozenset[ProviderKind]({"OpenAI", "AzureOpenAI"})
_AZURE_NEWER_BOUND = "2024-09-01"
"""The first of Azure's dated versions that knows `max_completion_tokens`."""


_CREDENTIALS = ("apiKey", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
_VISIBLE = re.compile(r"[\x21-\x7e]+")
"""What a credential may be made of, since a header holds it; https://www.rfc-editor.org/rfc/rfc9110#section-5.5."""


@dataclass(frozen=True, slots=True)
class Reached:
    """How one provider is reached; the rest is as in `Target`."""

    label: str
    base: str
    headers: Mapping[str, str] = field(default_factory=dict)
    query: str = ""
    by_model: bool = False
    translator: Translator | None = None
    most: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    functions: bool = False

    def url(self, model: str) -> str:
        """The base URL for a model, which the path of an endpoint follows."""
        return f"{self.base}/{quote(model, safe='')}" if self.by_model else self.base


def reached(spec: ProviderSpec, secret: Mapping[str, str]) -> Reached:
    """How a provider is reached with the credentials of its Secret."""
    label = _LABELS[spec.kind]
    if spec.kind == "AzureOpenAI":
        return _azure(spec, secret)
    if spec.kind == "Bedrock":
        return _bedrock(spec, secret)
    base = (spec.base_url or _ADDRESSES.get(spec.kind, "")).rstrip("/")
    key = secret.get("apiKey")
    if spec.kind == "Anthropic":
        from bud.gateway.translate.anthropic import VERSION, Anthropic  # noqa: PLC0415  few gateways translate

        translator = Anthropic(spec.api_version or VERSION)
        return Reached(label, base, _header("x-api-key", key), translator=translator)
    if spec.kind == "Google":
        from bud.gateway.translate.google import Google  # noqa: PLC0415  few gateways translate

        return Reached(label, base, _header("x-goog-api-key", key), translator=Google())
    return Reached(
        label,
        base,
        _bearer(key),
        most="max_completion_tokens" if spec.kind in _NEWER_BOUND else "max_tokens",
        functions=spec.kind in _OLDER_FUNCTIONS,
    )


def unusable(secret: Mapping[str, str]) -> str | None:
    """Which field of a Secret no request can be made with, and why; None if all can be used."""
    for name in _CREDENTIALS:
        value = secret.get(name)
        if value is not None and not _VISIBLE.fullmatch(value):
            wrong = "is empty" if not value else "holds a line break, a space, or what is no ASCII"
            return f"{name} {wrong}"
    return None if any(name in secret for name in _CREDENTIALS) else f"it has none of {', '.join(_CREDENTIALS)}"


def _azure(spec: ProviderSpec, secret: Mapping[str, str]) -> Reached:
    """With a dated `apiVersion` the older addresses, one for each deployment; else the one below `/openai/v1`."""
    root = (spec.base_url or "").rstrip("/").removesuffix("/v1").removesuffix("/openai")
    version, headers = spec.api_version or "", _header("api-key", secret.get("apiKey"))
    if not version[:1].isdigit():
        query = f"?api-version={quote(version)}" if version else ""
        return Reached("azure", f"{root}/openai/v1", headers, query, most="max_completion_tokens", functions=True)
    return Reached(
        "azure",
        f"{root}/openai/deployments",
        headers,
        f"?api-version={quote(version)}",
        by_model=True,
        most="max_completion_tokens" if version >= _AZURE_NEWER_BOUND else "max_tokens",
        functions=True,
    )


def _bedrock(spec: ProviderSpec, secret: Mapping[str, str]) -> Reached:
    """With a Bedrock API key as `apiKey`, or signed with AWS's credentials."""
    from bud.gateway.translate.bedrock import Bedrock  # noqa: PLC0415  few gateways translate, and it is large

    region = spec.region or ""
    domain = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    base = (spec.base_url or f"https://bedrock-runtime.{region}.{domain}").rstrip("/")
    return Reached("bedrock", base, _bearer(secret.get("apiKey")), translator=Bedrock(region, secret))


def _bearer(key: str | None) -> Mapping[str, str]:
    return _header("Authorization", f"Bearer {key}" if key is not None else None)


def _header(name: str, value: str | None) -> dict[str, str]:
    return {} if value is None else {name: value}
