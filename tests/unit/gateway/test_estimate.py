"""What requests may take, before anyone has counted."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import orjson
import pytest

from bud.gateway.catalog import Price, Served, Target
from bud.gateway.estimate import _INLINE, Estimate, Usual, estimate, may_cost
from bud.gateway.usage import Usage

INLINE = "data:image/png;base64," + "A" * 40_000


CHAT = "chat/completions"


def block(url: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]


@pytest.mark.parametrize(
    ("endpoint", "body", "read", "written"),
    [
        (CHAT, {"messages": [{"role": "user", "content": "x" * 4000}], "max_tokens": 7}, (1000, 1100), 7),
        (CHAT, {"messages": [], "max_completion_tokens": 9, "max_tokens": 7, "n": 3}, (0, 100), 27),
        (CHAT, {"messages": []}, (0, 100), 50),
        ("embeddings", {"input": "x" * 400}, (100, 200), 0),
        ("responses", {"input": "x" * 400}, (100, 200), 50),
        ("responses", {"input": "x" * 400, "max_output_tokens": 7}, (100, 200), 7),
        ("completions", {"prompt": "x" * 400, "max_tokens": 7}, (100, 200), 7),
        ("completions", {"prompt": ["a", "b", "c"], "max_tokens": 7}, (0, 100), 21),
        ("completions", {"prompt": [[1, 2], [3]], "max_tokens": 7, "n": 2, "best_of": 5}, (0, 100), 70),
        ("completions", {"prompt": [1, 2, 3], "max_tokens": 7}, (0, 100), 7),
        (CHAT, {"messages": block(INLINE)}, (0, 100), 50),
        (CHAT, {"messages": block("https://x/" + "a" * 4000)}, (1000, 1100), 50),
        (CHAT, {"messages": [{"role": "user", "content": "data: " + "x" * 4000}]}, (1000, 1100), 50),
        (
            "responses",
            {"input": [{"type": "input_file", "file_data": INLINE}, {"type": "input_image", "image_url": INLINE}]},
            (0, 100),
            50,
        ),
        ("documents", {"document": {"document_url": INLINE}, "prompt": "x" * 40}, (10, 10), 0),
    ],
)
def test_tokens_are_guessed_by_the_text(
    endpoint: str, body: dict[str, Any], read: tuple[int, int], written: int
) -> None:
    found = estimate(endpoint, body, orjson.dumps(body), usual=Estimate(7, 50, 2.5))
    assert read[0] <= found.input <= read[1]
    assert (found.output, found.seconds) == (written, 2.5)


@pytest.mark.parametrize(
    ("text", "is_a_file"),
    [
        (b'"data:image/png;base64,iVBORw0KGgo+/-_="', True),
        (b'"data:text/plain;charset=utf-8;base64,"', True),
        (rb'"data:x;base64,ab\/cd\r\nef\u002b\u003D"', True),
        (b'"data:x;base64,words and words"', False),
        (b'"data:x;base64,words' + b",words" * 100_000 + b'"', False),
        (rb'"data:x;base64,words\twords"', False),
        (rb'"data:x;base64,words\u0020words"', False),
        (rb'"data:x;base64,words\"', False),
        (b'"data:x;base64,' + b"w" * 1_000_000 + b' "', False),
        (b'"data:' + b";base64" * 100_000 + b'"', False),
        (b'"data:x;base64,' + rb"wor\/ds" * 1_000_000 + b'"', True),
    ],
    ids=range(11),
)
def test_a_file_in_a_body_is_of_base64s_letters_alone(text: bytes, is_a_file: bool) -> None:
    found = _INLINE.fullmatch(text)
    assert (found is not None) == is_a_file
    assert is_a_file or not _INLINE.search(text)


def target(price: Price | None) -> Target:
    return Target("t", "bud", "m", (), price=price)


CHEAP, DEAR = Price(Decimal(1), Decimal(2), Decimal("0.5")), Price(Decimal(10))


@pytest.mark.parametrize(
    ("served", "cost"),
    [
        (Served("m", (target(CHEAP),)), "2.9"),
        (Served("m", (target(CHEAP),), (target(DEAR),)), "4"),
        (Served("m", (target(CHEAP), target(None))), "2.9"),
        (Served("m", (target(DEAR),), price=CHEAP), "2.9"),
        (Served("m", (target(None),)), None),
        (Served("m", (target(Price()),)), None),
        (Served("m", (target(Price(hour=Decimal(9))),)), "0.005"),
    ],
)
def test_the_dearest_that_may_answer_counts(served: Served, cost: str | None) -> None:
    assert may_cost(served, Estimate(400, 1000, 2.0)) == (Decimal(cost) if cost is not None else None)


def test_what_uploads_take_is_what_they_took_of_late() -> None:
    usual, ears = Usual(), ("team", "ears", "audio/transcriptions")
    assert usual.of(ears) == Estimate()
    for usage in (Usage(100, 10, seconds=2.0), Usage(200, None), Usage(seconds=3.0)):
        usual.add(ears, usage)
    assert usual.of(ears) == Estimate(110, 9, 2.1)
    assert usual.of(("other", *ears[1:])) == Estimate()


def test_what_embeddings_take_says_nothing_of_chats_by_the_same_name() -> None:
    usual, chats, embeddings = Usual(), ("team", "m", CHAT), ("team", "m", "embeddings")
    assert (usual.of(chats).output, usual.of(embeddings).output) == (256, 0)
    usual.add(chats, Usage(10, 1000, seconds=2.0))
    for _ in range(40):
        usual.add(embeddings, Usage(500, 0, seconds=0.1))
    assert usual.of(chats) == Estimate(10, 1000, 2.0)
    assert usual.of(embeddings) == Estimate(500, 0, 0.1)


def test_a_stream_whose_upstream_told_nothing_teaches_its_time_alone() -> None:
    usual, chats = Usual(), ("team", "m", CHAT)
    usual.add(chats, Usage(10, 1000, seconds=2.0))
    usual.add(chats, Usage(None, 3, seconds=4.0))
    assert usual.of(chats) == Estimate(10, 1000, 2.2)
