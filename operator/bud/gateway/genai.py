"""OpenTelemetry's names for generative AI, as metrics and traces use them. Pure.

https://opentelemetry.io/docs/specs/semconv/registry/attributes/gen-ai/: a value that is listed there must be used where
it applies; others are our own.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

_OPERATIONS: Mapping[str, str] = MappingProxyType(
    {"chat/completions": "chat", "completions": "text_completion", "embeddings": "embeddings"}
)
_PROVIDERS: Mapping[str, str] = MappingProxyType(
    {"azure": "azure.ai.openai", "bedrock": "aws.bedrock", "google": "gcp.gemini", "xai": "x_ai"}
)


def operation(endpoint: str) -> str:
    """`gen_ai.operation.name` of a path below `/v1`: the path itself where no value is listed."""
    return _OPERATIONS.get(endpoint, endpoint)


def provider(label: str) -> str:
    """`gen_ai.provider.name` of who is `provider` in `conduit_metadata`."""
    return _PROVIDERS.get(label, label)


def error_type(status: int) -> str:
    """`error.type` of what came of a request: its status, or "" for one that went well."""
    return str(status) if status >= 400 else ""
