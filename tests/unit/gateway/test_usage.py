"""What an upstream says of usage: believed where it can be meant."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from bud.gateway.catalog import Price
from bud.gateway.usage import MOST_TOKENS, Usage, is_known, priced


@pytest.mark.parametrize(
    ("told", "read"),
    [
        pytest.param({"prompt_tokens": 3, "completion_tokens": 4}, (3, 4, 0), id="chat"),
        pytest.param({"input_tokens": 3, "output_tokens": 4}, (3, 4, 0), id="responses"),
        pytest.param({"prompt_tokens": 3, "prompt_tokens_details": {"cached_tokens": 2}}, (3, 0, 2), id="cached"),
        pytest.param(
            {"prompt_tokens": 3, "prompt_tokens_details": {"cached_tokens": 9}}, (3, 0, 3), id="more cached than read"
        ),
        pytest.param({"prompt_tokens": -1, "completion_tokens": -(10**9)}, (None, 0, 0), id="less than none"),
        pytest.param(
            {"prompt_tokens": 10**15, "completion_tokens": MOST_TOKENS}, (None, MOST_TOKENS, 0), id="too many"
        ),
        pytest.param({"prompt_tokens": 12.0, "completion_tokens": "5"}, (None, 0, 0), id="no whole numbers"),
        pytest.param({"prompt_tokens": True, "completion_tokens": None}, (None, 0, 0), id="no numbers"),
        pytest.param({"prompt_tokens": 3, "prompt_tokens_details": [1]}, (3, 0, 0), id="details of another shape"),
        pytest.param([1], (None, None, 0), id="a list"),
        pytest.param("5", (None, None, 0), id="a string"),
        pytest.param(None, (None, None, 0), id="nothing"),
    ],
)
def test_what_is_read(told: Any, read: tuple[int | None, int | None, int]) -> None:
    usage = Usage()
    usage.read(told)
    assert (usage.input, usage.output, usage.cached) == read


TOKENS, TIME = Price(Decimal(2), Decimal(4)), Price(hour=Decimal(36))


@pytest.mark.parametrize(
    ("price", "usage", "known", "cost"),
    [
        pytest.param(None, Usage(1000, 500), True, None, id="no price"),
        pytest.param(TOKENS, Usage(1000, 500, seconds=9.0), True, "4", id="tokens alone"),
        pytest.param(TOKENS, Usage(seconds=9.0), False, "0", id="tokens that nobody told"),
        pytest.param(TIME, Usage(seconds=0.25), True, "0.0025", id="time alone"),
        pytest.param(TIME, Usage(1000, 500), False, "0", id="time that is not over"),
        pytest.param(TIME, Usage(seconds=1e-6), True, "0.00000001", id="hardly any time"),
        pytest.param(
            Price(Decimal(2), None, Decimal(1), Decimal(36)), Usage(1000, 5, seconds=1.0), True, "3.01", id="all"
        ),
        pytest.param(Price(request=Decimal(1)), Usage(), True, "1", id="a request, whatever it takes"),
    ],
)
def test_a_cost_is_the_sum_of_all_that_has_a_price(
    price: Price | None, usage: Usage, known: bool, cost: str | None
) -> None:
    assert is_known(price, usage) is known
    assert priced(price, usage) == (Decimal(cost) if cost is not None else None)
