"""Typed events on their way to the caller."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bud.gateway.events import Typed
from bud.gateway.faults import UNKNOWN, status_of
from bud.gateway.metadata import in_headers
from bud.gateway.naming import Naming
from bud.gateway.stream import CutShort
from bud.gateway.usage import Usage

DELTA = b'data: {"type":"transcript.text.delta","delta":"hi"}\n\n'
LAST = b'data: {"type":"transcript.text.done","text":"hi","usage":{"input_tokens":3,"output_tokens":2}}\n\n'
DONE = b"data: [DONE]\n\n"
METADATA = b',"conduit_metadata":{"cost":2}}\n\n'


def typed(*, metadata: bool = True) -> Typed:
    return Typed(Naming("mine"), (lambda usage: {"cost": usage.output}) if metadata else None, Usage())


@given(cut=st.integers(0, len(DELTA + LAST) - 1))
def test_the_last_event_of_a_stream_carries_the_metadata_and_nothing_follows_it(cut: int) -> None:
    text, rewriter = DELTA + LAST, typed()
    found = rewriter.feed(text[:cut])
    assert not rewriter.is_over
    found += rewriter.feed(text[cut:] + DELTA + DONE)
    assert found == DELTA + LAST.removesuffix(b"}\n\n") + METADATA
    assert rewriter.is_over
    assert (rewriter.usage.input, rewriter.usage.output) == (3, 2)


def event(kind: str, **more: object) -> bytes:
    return b"data: " + orjson.dumps({**more, "type": kind}) + b"\n\n"


@pytest.mark.parametrize("metadata", [True, False])
@pytest.mark.parametrize(
    "kind",
    ["response.completed", "response.failed", "response.incomplete", "speech.audio.done", "transcript.text.done"],
)
def test_a_stream_is_over_with_its_last_event(kind: str, metadata: bool) -> None:
    rewriter = typed(metadata=metadata)
    assert kind.encode() in rewriter.feed(event(kind))
    assert rewriter.is_over


@pytest.mark.parametrize(
    "told",
    [
        event("response.output_text.done"),
        event("response.created", response={"metadata": {"type": "response.completed"}, "tools": [{"type": "error"}]}),
        b'data: {"type":"error"\n\n',
        b'data: ["type", {"type":"error"}]\n\n',
        b": alive\n\n",
    ],
    ids=["a part's end", "an end within", "no JSON", "no object", "a comment"],
)
def test_what_ends_no_stream_goes_on_at_once_and_leaves_it_cut_short(told: bytes) -> None:
    rewriter = typed()
    assert rewriter.feed(told) == told
    assert not rewriter.is_ending
    with pytest.raises(CutShort):
        rewriter.end()


def test_what_comes_after_done_is_not_the_callers() -> None:
    rewriter = typed()
    assert rewriter.feed(DELTA + DONE + DELTA) == DELTA + DONE
    assert rewriter.is_over


def test_a_failure_may_follow_an_error_or_not() -> None:
    rewriter, failed = typed(metadata=False), event("response.failed")
    assert rewriter.feed(event("error")) == event("error")
    assert (rewriter.is_ending, rewriter.is_over, rewriter.end()) == (True, False, b"")
    assert rewriter.feed(failed) == failed
    assert rewriter.is_over


@pytest.mark.parametrize(
    ("told", "status"),
    [
        (event("error", code="server_error"), 500),
        (event("error", error={"type": "rate_limit_error"}), 429),
        (event("response.failed", response={"error": {"code": "server_error"}}), 500),
        (event("response.failed", response={"error": None}), UNKNOWN),
        (event("response.failed"), UNKNOWN),
    ],
)
def test_an_error_in_the_apis_own_form_passes_and_is_a_failure(told: bytes, status: int) -> None:
    rewriter = typed(metadata=False)
    assert rewriter.feed(told + DONE).startswith(told)
    assert rewriter.fault is not None and not rewriter.tells_fault
    assert status_of(rewriter.fault) == status


@pytest.mark.parametrize("told", [b'data: {"error":{"message":"no"}}', b'event: error\ndata: {"message":"no"}'])
def test_an_error_in_another_form_ends_a_stream_and_is_not_passed(told: bytes) -> None:
    rewriter = typed()
    assert rewriter.feed(DELTA + told + b"\n\n" + LAST + DONE) == DELTA
    assert (rewriter.fault, rewriter.is_over, rewriter.tells_fault) == (told, True, True)


def test_what_is_incomplete_or_tells_of_no_error_has_not_failed() -> None:
    rewriter = typed()
    rewriter.feed(event("response.created", response={"error": None}) + event("response.incomplete"))
    assert (rewriter.is_over, rewriter.fault) == (True, None)


def test_data_of_several_lines_gets_the_name_and_the_metadata() -> None:
    rewriter = typed()
    found = rewriter.feed(b'id: 7\ndata: {"type":"response.completed",\ndata: "model":"up"}\n\n')
    assert found.startswith(b'id: 7\ndata: {"type":"response.completed",\ndata: "model":"mine","conduit_metadata":')


@pytest.mark.parametrize("kind", ["image_generation.completed", "image_edit.completed"])
def test_a_picture_may_be_one_of_several_and_the_last_one_carries_the_metadata(kind: str) -> None:
    rewriter, partial, picture = typed(), event("image_generation.partial_image"), event(kind)
    assert rewriter.feed(picture) == b""
    assert rewriter.feed(partial) == picture + partial
    with pytest.raises(CutShort):
        rewriter.end()
    assert rewriter.feed(picture) == b""
    assert rewriter.end().count(b"conduit_metadata") == 1


def test_without_metadata_no_byte_is_changed_and_nothing_waits() -> None:
    rewriter = typed(metadata=False)
    text = b": alive\n\nevent: x\nid: 7\n" + DELTA + LAST
    assert rewriter.feed(text) == text
    assert rewriter.is_over


def test_the_model_is_what_the_caller_calls_it_and_usage_within_a_response_is_read() -> None:
    rewriter = typed()
    told = {"type": "response.completed", "response": {"model": "up", "usage": {"input_tokens": 1, "output_tokens": 9}}}
    (name, data) = rewriter.feed(b"event: response.completed\ndata: " + orjson.dumps(told) + b"\n\n").split(b"\n", 1)
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
