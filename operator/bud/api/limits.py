"""Limits, budgets and prices: what a Project grants, a key narrows, and a model can do and costs."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, WithJsonSchema

from bud.api.base import Resource, atomic

Count = Annotated[int, Field(ge=1, le=1_000_000_000_000)]

_MONEY = r"^[0-9]{1,12}(\.[0-9]{1,12})?$"


def _amount(value: str | int) -> str | int:
    if not re.fullmatch(_MONEY, str(value)):
        raise ValueError('must be an amount in US dollars, such as 20 or "0.15"')
    return value


Money = Annotated[
    str | int,
    AfterValidator(_amount),
    WithJsonSchema(
        {
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "maxLength": 32,
            "maximum": 999_999_999_999,
            "minimum": 0,
            "pattern": _MONEY,
            "x-kubernetes-int-or-string": True,
        }
    ),
]
"""US dollars, as a whole number or a decimal string: floating point would not keep what was written."""


FIRST_BYTE = (
    "Seconds without any of an answer after which the next one is asked, where there is one. A Route's goes before its "
    "Providers'. Default: no such time."
)


Capability = Literal[
    "chat", "completion", "embedding", "classification", "rerank", "image_generation", "transcription", "translation",
    "speech", "document", "realtime", "function_calling", "vision",
]  # fmt: skip
Capabilities = Annotated[tuple[Capability, ...], Field(max_length=16, json_schema_extra=atomic())]
Tokens = Annotated[int, Field(ge=1, le=100_000_000)]


class Limits(Resource):
    """How much may be asked for; absent fields are not limited."""

    requests_per_minute: Count | None = Field(None, description="Requests in any minute.")
    requests_per_day: Count | None = Field(None, description="Requests in a day, which begins at 00:00 UTC.")
    tokens_per_minute: Count | None = Field(None, description="Tokens in and out, in any minute.")
    tokens_per_day: Count | None = Field(None, description="Tokens in and out, in a day, which begins at 00:00 UTC.")


class Budget(Resource):
    """How much may be spent."""

    amount: Money = Field(description='US dollars, as in 20 or "0.15".')
    period: Literal["Day", "Month", "Total"] = Field(
        "Month", description="Day and Month begin at 00:00 UTC; Total never begins anew."
    )


class Pricing(Resource):
    """What a model costs, in US dollars."""

    input_tokens_per_1k: Money | None = Field(
        None, alias="inputTokensPer1k", description="For 1,000 tokens of the request."
    )
    output_tokens_per_1k: Money | None = Field(
        None, alias="outputTokensPer1k", description="For 1,000 tokens of the answer."
    )
    per_request: Money | None = Field(None, description="For each request, whatever its size.")


class OwnPricing(Pricing):
    """What a model that is served here costs, in US dollars; all that is set is added up."""

    per_gpu_hour: Money | None = Field(
        None,
        alias="perGPUHour",
        description="For an hour of one GPU, of which each request pays its share: while n requests are under way at a "
        "replica, an nth of the time of all its GPUs.",
    )
