"""Typed events on their way to the caller."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bud.gateway.events import Typed
from bud.gateway.metadata import in_headers
from bud.gateway.usage import Usage

DELTA = b'data: {"type":"transcript.text.delta","delta":"hi"}\n\n'
LAST = b'data: {"type":"transcript.text.done","text":"hi","usage":{"input_tokens":3,"output_tokens":2}}\n\n'
DONE = b"data: [DONE]\n\n"
METADATA = b',"conduit_metadata":{"cost":2}}\n\n'


def typed(*, metadata: bool = True, upstream: str = "up") -> Typed:
    return Typed(upstream, "mine", (lambda usage: {"cost": usage.output}) if metadata else None, Usage())


@pytest.mark.parametrize("done", [b"", DONE], ids=["that just ends", "that is done"])
@given(cut=st.integers(0, len(DELTA + LAST)))
def test_the_last_event_of_a_stream_carries_the_metadata(done: bytes, cut: int) -> None:
    text, rewriter = DELTA + LAST + done, typed()
    found = rewriter.feed(text[:cut]) + rewriter.feed(text[cut:]) + rewriter.end()
    assert found == DELTA + LAST.removesuffix(b"}\n\n") + METADATA + done
    assert (rewriter.usage.input, rewriter.usage.output) == (3, 2)


def test_what_ends_only_a_part_waits_for_no_more_than_the_next_event() -> None:
    rewriter = typed()
    part = b'event: response.output_text.done\ndata: {"type":"response.output_text.done"}\n\n'
    assert rewriter.feed(part) == b""
    assert rewriter.feed(DELTA) == part + DELTA


def test_without_metadata_no_byte_is_changed_and_nothing_waits() -> None:
    rewriter = typed(metadata=False)
    text = b": alive\n\nevent: x\nid: 7\n" + DELTA + LAST
    assert rewriter.feed(text) == text
    assert rewriter.end() == b""


def test_the_model_is_what_the_caller_calls_it_and_usage_within_a_response_is_read() -> None:
    rewriter = typed()
    told = {"type": "response.completed", "response": {"model": "up", "usage": {"input_tokens": 1, "output_tokens": 9}}}
    rewriter.feed(b"event: response.completed\ndata: " + orjson.dumps(told) + b"\n\n")
    (name, data) = rewriter.end().split(b"\n", 1)
    found = orjson.loads(data.removeprefix(b"data: "))
    assert (name, found["response"]["model"]) == (b"event: response.completed", "mine")
    assert found["conduit_metadata"] == {"cost": 9}


def test_what_headers_tell_is_plain_and_leaves_out_what_is_not_known() -> None:
    told = {"provider": "bud", "model_version": "caf\u00e9\r\n%", "virtual_key_id": "a b", "request_id": "r"}
    assert in_headers({**told, "processing_time_ms": 7, "cost": None}) == [
        (b"x-conduit-provider", b"bud"),
        (b"x-conduit-model-version", b"caf%C3%A9%0D%0A%25"),
        (b"x-conduit-virtual-key-id", b"a b"),
        (b"x-conduit-processing-time-ms", b"7"),
    ]
