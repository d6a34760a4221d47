"""How much of requests' bodies is held and read."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from bud.gateway.bodies import MOST_VALUES, Room, read
from bud.gateway.refusal import Invalid, Unavailable

KIB = 1024
WORDS = 'a, "b" [c] {d} \\' * (MOST_VALUES // 3)


@pytest.mark.parametrize(
    "value",
    [
        pytest.param([0] * (MOST_VALUES - 1), id="as many as may be"),
        pytest.param(WORDS, id="words with as many commas, quotes, braces and backslashes"),
        pytest.param([WORDS[:50]] * 100 + [WORDS], id="such words in several strings"),
        pytest.param("\\" * MOST_VALUES + WORDS, id="backslashes before them"),
    ],
)
def test_a_body_may_hold_many_values_and_any_words(value: Any) -> None:
    body = {"x": value}
    assert read(orjson.dumps(body)) == body


@pytest.mark.parametrize(
    "text",
    [
        b"[" + b"0," * MOST_VALUES + b"0]",
        b"[" + b"[]," * MOST_VALUES + b"0]",
        b"[" + b'"",' * MOST_VALUES + b'""]',
        b"[" + rb'"\\",' * MOST_VALUES + b'""]',
        b"[" + b'"a\\"",' * MOST_VALUES + b'""]',
        b"{" + b'"":0,' * MOST_VALUES + b'"":0}',
    ],
    ids=["numbers", "lists", "strings", "strings that end in a backslash", "strings that end in a quote", "members"],
)
def test_a_body_of_too_many_values_is_refused_before_it_is_read(text: bytes) -> None:
    with pytest.raises(Invalid) as refused:
        read(text)
    assert (refused.value.status, refused.value.code) == (413, "request_too_large")


def test_what_is_no_json_is_told_with_the_place() -> None:
    with pytest.raises(Invalid, match=r"the body is not JSON: .* line 1 column 2"):
        read(b"{")


def test_a_project_has_half_of_the_room_and_others_have_the_rest() -> None:
    room = Room(1024 * KIB)
    with room.share("a") as mine, room.share("a") as more, room.share("b") as theirs:
        mine.grow(500 * KIB)
        more.grow(16 * KIB)
        with pytest.raises(Unavailable) as refused:
            more.grow(50 * KIB)
        assert refused.value.code == "overloaded"
        theirs.grow(500 * KIB)
        with room.share("c") as third, pytest.raises(Unavailable):
            third.grow(100 * KIB)
        with room.share("c") as small:
            small.grow(16 * KIB)
    with room.share("a") as again:
        again.grow(100 * KIB)
        again.grow(528 * KIB)
