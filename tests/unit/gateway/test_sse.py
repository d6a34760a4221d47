"""Server-sent events out of bytes, wherever these are cut."""

from __future__ import annotations

import tracemalloc

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bud.gateway.sse import Splitter, TooLong, data_of, with_data


@given(st.lists(st.text(max_size=20), max_size=8), st.lists(st.integers(1, 30), min_size=1, max_size=60), st.booleans())
def test_events_are_whole_wherever_the_bytes_are_cut(words: list[str], cuts: list[int], windows: bool) -> None:
    end = b"\r\n\r\n" if windows else b"\n\n"
    data = [orjson.dumps({"word": word}) for word in words]
    text, splitter, found, at = b"".join(b"data: " + one + end for one in data), Splitter(), list[bytes](), 0
    while at < len(text):
        size = cuts[at % len(cuts)]
        found += [data_of(event) or b"" for event in splitter.feed(text[at : at + size])]
        at += size
    assert found == data


@given(st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b"a"])), st.lists(st.integers(1, 4), min_size=1))
def test_whatever_the_ends_of_lines_the_events_are_those_of_the_whole_text(parts: list[bytes], cuts: list[int]) -> None:
    text, splitter, found, at = b"".join(parts), Splitter(), list[bytes](), 0
    while at < len(text):
        size = cuts[at % len(cuts)]
        found += splitter.feed(text[at : at + size])
        at += size
    *whole, rest = text.replace(b"\r\n", b"\n").split(b"\n\n")
    assert (found, splitter.rest) == (whole, rest)


def test_a_line_more_of_a_long_event_does_not_copy_what_is_held() -> None:
    splitter, line = Splitter(), b"\ndata: more"
    splitter.feed(b"data: " + bytes(4 * 1024 * 1024))
    splitter.feed(line)
    tracemalloc.start()
    try:
        for _ in range(100):
            assert not splitter.feed(line)
        assert tracemalloc.get_traced_memory()[1] < 64 * 1024
    finally:
        tracemalloc.stop()
    assert len(splitter.feed(b"\n\n")[0]) == 6 + 4 * 1024 * 1024 + 101 * len(line)


@pytest.mark.parametrize("text", [b"data: " + bytes(17 * 1024 * 1024), b": " + bytes(65 * 1024)], ids=["data", "none"])
def test_an_event_has_an_end_and_soon_some_data(text: bytes) -> None:
    splitter = Splitter()
    splitter.feed(text[: 63 * 1024])
    with pytest.raises(TooLong):
        splitter.feed(text[63 * 1024 :])


def test_data_that_begins_after_a_name_may_be_long() -> None:
    splitter, text = Splitter(), b"event: picture\ndata: " + bytes(1024 * 1024)
    assert splitter.feed(text) == []
    assert splitter.feed(b"\n\n") == [text]


def test_data_of_several_lines_is_replaced_and_the_other_lines_stay() -> None:
    event = b'event: x\ndata: {"a":1,\ndata: "b":2}\nid: 7'
    assert data_of(event) == b'{"a":1,\n"b":2}'
    changed = with_data(event, b'{"a":1,\n"b":2}', b'{"a":3,\n"b":2}')
    assert changed == b'event: x\nid: 7\ndata: {"a":3,\ndata: "b":2}\n\n'
