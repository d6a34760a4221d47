"""Providers whose wire format is OpenAI's: where they are, and how the gateway shows who it is. Pure.

Addresses as the providers publish them: https://platform.openai.com/docs/api-reference,
https://docs.together.ai/docs/openai-api-compatibility, https://docs.fireworks.ai/tools-sdks/openai-compatibility,
https://docs.x.ai/docs/api-reference, https://learn.microsoft.com/azure/ai-services/openai/reference.
"""

from __future__ import annotations

from collections.abc import Mapping

from bud.api.provider import ProviderKind, ProviderSpec

_ADDRESSES: Mapping[ProviderKind, str] = {
    "OpenAI": "https://api.openai.com/v1",
    "Together": "https://api.together.xyz/v1",
    "Fireworks": "https://api.fireworks.ai/inference/v1",
    "XAI": "https://api.x.ai/v1",
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


def address(spec: ProviderSpec) -> str:
    """Base URL, up to and including `/v1`."""
    return (spec.base_url or _ADDRESSES.get(spec.kind, "")).rstrip("/")


def credentials(spec: ProviderSpec, secret: Mapping[str, str]) -> Mapping[str, str]:
    """Headers by which the provider knows the gateway."""
    key = secret.get("apiKey")
    if key is None:
        return {}
    return {"api-key": key} if spec.kind == "AzureOpenAI" else {"Authorization": f"Bearer {key}"}


def label(kind: ProviderKind) -> str:
    """What `conduit_metadata.provider` and `/v1/models` call it."""
    return _LABELS[kind]
