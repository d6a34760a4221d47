"""What an upstream says of usage: believed where it can be meant."""

from __future__ import annotations

from typing import Any

import pytest

from bud.gateway.usage import MOST_TOKENS, Usage


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
