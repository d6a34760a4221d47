"""Published prices of providers' models, by genai-prices, which is loaded only where a Provider leaves a price open."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from types import MappingProxyType

from bud.api.provider import ProviderKind

_IDS: Mapping[ProviderKind, str] = MappingProxyType(
    {
        "OpenAI": "openai",
        "AzureOpenAI": "azure",
        "Together": "together",
        "Fireworks": "fireworks",
        "XAI": "x-ai",
        "Anthropic": "anthropic",
        "Google": "google",
        "Bedrock": "aws",
    }
)


@dataclass(frozen=True, slots=True)
class Published:
    """A price by its publisher's names; `input` and `output` are US dollars for 1,000 tokens of a short request.

    Long requests and tokens out of a cache may cost other rates, so a cost is always worked out anew.
    """

    provider: str
    model: str
    input: Decimal
    output: Decimal
    context_length: int | None

    def cost(self, *, input_tokens: int, cached_tokens: int, output_tokens: int) -> Decimal:
        """US dollars; of the tokens that were read, so many came out of the provider's cache."""
        from genai_prices import Usage, calc_price  # noqa: PLC0415  see the module's docstring

        used = Usage(input_tokens=input_tokens, cache_read_tokens=cached_tokens or None, output_tokens=output_tokens)
        return calc_price(used, model_ref=self.model, provider_id=self.provider).total_price


def published(kind: ProviderKind, model: str) -> Published | None:
    """None where nobody has published a price."""
    provider = _IDS.get(kind)
    if provider is None:
        return None
    from genai_prices import Usage, calc_price  # noqa: PLC0415  see the module's docstring

    try:
        found = calc_price(Usage(input_tokens=1000, output_tokens=1000), model_ref=model, provider_id=provider)
    except LookupError:
        return None
    return Published(provider, model, found.input_price, found.output_price, found.model.context_window)
