"""Events on their way to the caller."""

from __future__ import annotations

from collections.abc import Iterator

import orjson
import pytest

from bud.gateway.naming import Naming
from bud.gateway.splice import add_member, rename_model
from bud.gateway.stream import CutShort, Rewriter
from bud.gateway.usage import Usage


def chunk(text: str | None = None, *, model: str = "up", finish: str | None = None, **more: object) -> bytes:
    delta = {"content": text} if text is not None else {}
    choices = [{"index": 0, "delta": delta, "finish_reason": finish}]
    return orjson.dumps({"id": "c", "model": model, "choices": choices, **more})


USAGE = {"prompt_tokens": 3, "completion_tokens": 5}
LAST = orjson.dumps({"id": "c", "model": "up", "choices": [], "usage": USAGE})


def passed(*data: bytes, shows_usage: bool = False, metadata: bool = True, name: str = "mine") -> list[bytes]:
    rewriter = Rewriter(
        Naming(name), shows_usage, (lambda usage: {"cost": usage.output}) if metadata else None, Usage(), {}
    )
    text = b"".join(rewriter.feed(b"data: " + one + b"\n\n") for one in data)
    text += b"" if rewriter.is_over else rewriter.end()
    return [event + b"\n\n" for event in text.split(b"\n\n")[:-1]]


def told(events: list[bytes]) -> Iterator[dict[str, object] | str]:
    for event in events:
        data = event.removeprefix(b"data: ").removesuffix(b"\n\n")
        yield "done" if data == b"[DONE]" else orjson.loads(data)


def test_metadata_stands_in_the_last_chunk_and_usage_that_nobody_asked_for_is_kept_back() -> None:
    found = list(told(passed(chunk("a"), chunk(finish="stop"), LAST, b"[DONE]")))
    assert [one if isinstance(one, str) else one.get("conduit_metadata") for one in found] == [
        None,
        {"cost": 5},
        "done",
    ]
    assert all(
        one == "done" or (isinstance(one, dict) and one["model"] == "mine" and "usage" not in one) for one in found
    )


def test_what_was_kept_back_comes_when_a_stream_just_ends() -> None:
    rewriter = Rewriter(Naming("mine"), False, lambda usage: {"cost": usage.output}, Usage(), {})
    event = b"data: " + chunk(finish="stop") + b"\r\n\r\n"
    assert rewriter.feed(event[:9]) + rewriter.feed(event[9:]) == b""
    last, done = told([event + b"\n\n" for event in rewriter.end().split(b"\n\n")[:-1]])
    assert isinstance(last, dict) and "conduit_metadata" in last
    assert done == "done"


def test_usage_that_the_caller_asked_for_is_the_last_chunk_and_carries_the_metadata() -> None:
    found = list(told(passed(chunk("a"), chunk(finish="stop"), LAST, b"[DONE]", shows_usage=True)))
    assert isinstance(found[2], dict)
    assert (found[2]["usage"], found[2]["conduit_metadata"]) == (USAGE, {"cost": 5})
    assert found[3] == "done"


def test_without_metadata_nothing_is_kept_back_and_no_byte_is_changed() -> None:
    events = [chunk("a", model="mine"), chunk(finish="stop", model="mine")]
    found = passed(*events, metadata=False)
    assert found == [b"data: " + event + b"\n\n" for event in (*events, b"[DONE]")]


def test_a_word_goes_on_at_once_and_only_an_end_waits() -> None:
    rewriter = Rewriter(Naming("up"), False, lambda usage: {}, Usage(), {})
    sent = [rewriter.feed(b"data: " + data + b"\n\n") for data in (chunk("a"), chunk(finish="stop"), b"[DONE]")]
    assert [one.count(b"\n\n") for one in sent] == [1, 0, 2]


@pytest.mark.parametrize("metadata", [True, False])
def test_what_comes_after_done_is_not_the_callers(metadata: bool) -> None:
    rewriter = Rewriter(Naming("up"), True, (lambda usage: {}) if metadata else None, Usage(), {})
    whole = b"".join(b"data: " + one + b"\n\n" for one in (chunk("a"), b"[DONE]", chunk("b"), b"[DONE]")) + b": x\n\n"
    assert rewriter.feed(whole) == b"data: " + chunk("a") + b"\n\ndata: [DONE]\n\n"
    assert rewriter.is_ending and rewriter.is_over


def test_a_comment_passes() -> None:
    assert Rewriter(Naming("mine"), True, None, Usage(), {}).feed(b": keep-alive\n\n") == b": keep-alive\n\n"


def test_of_several_choices_each_end_goes_on_with_the_next() -> None:
    found = list(told(passed(chunk(finish="stop"), chunk(finish="length"), b"[DONE]")))
    assert [isinstance(one, dict) and "conduit_metadata" in one for one in found] == [False, True, False]


def test_what_follows_the_end_of_all_choices_carries_the_metadata_in_its_last_chunk() -> None:
    found = list(told(passed(chunk("a"), chunk(finish="stop"), chunk(""), chunk(extra=1), b"[DONE]")))
    assert [isinstance(one, dict) and "conduit_metadata" in one for one in found] == [False, False, False, True, False]


def test_data_of_several_lines_gets_the_name_and_the_metadata() -> None:
    first, second = chunk(finish="stop").split(b",", 1)
    (last, _) = told(
        [b"data: " + b"".join(line[6:] for line in one.split(b"\n")) for one in passed(first + b",\ndata: " + second)]
    )
    assert isinstance(last, dict)
    assert (last["model"], last["conduit_metadata"]) == ("mine", {"cost": None})


@pytest.mark.parametrize(
    "fault",
    [b'data: {"error":{"message":"no"}}', b'event: error\ndata: {"message":"no"}', b"event: error\ndata: no JSON"],
)
def test_an_error_ends_a_stream_and_nothing_of_it_or_after_it_goes_on(fault: bytes) -> None:
    rewriter = Rewriter(Naming("up"), False, lambda usage: {}, Usage(), {})
    ends = b"data: " + chunk(finish="stop") + b"\n\n"
    assert rewriter.feed(ends + fault + b"\n\n" + ends + b"data: [DONE]\n\n") == ends
    assert (rewriter.fault, rewriter.is_over, rewriter.tells_fault, rewriter.chunks) == (fault, True, True, 1)


def test_a_word_that_speaks_of_errors_is_none() -> None:
    rewriter, word = Rewriter(Naming("up"), False, None, Usage(), {}), b"data: " + chunk("error", error=None) + b"\n\n"
    assert (rewriter.feed(word), rewriter.fault, rewriter.is_over) == (word, None, False)


def ends(*choices: object) -> bytes:
    return orjson.dumps({"choices": list(choices)})


STOP, SECOND = {"index": 0, "finish_reason": "stop"}, {"index": 1, "finish_reason": "length"}
OPEN, SAID = {"index": 0, "finish_reason": None}, {"index": 0, "delta": {"content": '"finish_reason": "stop"'}}
TEXTS: dict[str, object] = {"prompt": ["a", "b"]}


@pytest.mark.parametrize(
    ("asked", "data", "is_whole"),
    [
        ({}, [ends(STOP)], True),
        ({"n": None}, [ends(STOP), LAST], True),
        ({"prompt": [1, 2, 3]}, [ends(STOP)], True),
        ({"n": 2}, [ends(SECOND), ends(STOP)], True),
        (TEXTS, [ends(SECOND, STOP)], True),
        ({}, [ends({"finish_reason": "stop"})], True),
        ({}, [ends(OPEN), b"[DONE]"], True),
        ({}, [], False),
        ({}, [ends(OPEN)], False),
        ({}, [ends(SAID)], False),
        ({}, [ends({"index": 0, "finish_reason": ""})], False),
        ({}, [b'{"error":{"finish_reason":"stop"}}'], False),
        ({}, [b'{"finish_reason":"stop"'], False),
        ({"n": 2}, [ends(STOP), ends(STOP)], False),
        ({"n": 2}, [ends(SECOND, OPEN)], False),
        (TEXTS | {"n": 2}, [ends(STOP, SECOND)], False),
        ({}, [ends({"index": [], "finish_reason": "stop"}), ends(SECOND)], False),
    ],
)
def test_a_stream_is_whole_once_it_says_so_or_every_choice_has_ended(
    asked: dict[str, object], data: list[bytes], is_whole: bool
) -> None:
    rewriter = Rewriter(Naming("up"), True, None, Usage(), asked)
    text = b"".join(rewriter.feed(b"data: " + one + b"\n\n") for one in data)
    if is_whole:
        text += b"" if rewriter.is_over else rewriter.end()
        assert text.endswith(b"data: [DONE]\n\n") and text.count(b"[DONE]") == 1
    else:
        with pytest.raises(CutShort):
            rewriter.end()
        assert b"[DONE]" not in text


@pytest.mark.parametrize(
    ("text", "after"),
    [
        (b'{"model":"up","x":1}', b'{"model":"mine","x":1}'),
        (b'{"x": 1.50, "model" : "up"}', b'{"x": 1.50, "model" : "mine"}'),
        (b'{"text":"say \\"model\\":\\"up\\"","model":"up"}', b'{"text":"say \\"model\\":\\"up\\"","model":"mine"}'),
        (b'{"model":"another"}', b'{"model":"another"}'),
        (b'{"x":1}', b'{"x":1}'),
    ],
)
def test_only_the_name_of_the_model_changes(text: bytes, after: bytes) -> None:
    assert rename_model(text, "up", "mine") == after


@pytest.mark.parametrize(
    ("text", "after"),
    [
        (b'{"a":1}', b'{"a":1,"m":{"b":2}}'),
        (b'{"a":1} \n', b'{"a":1,"m":{"b":2}}'),
        (b"{}", b'{"m":{"b":2}}'),
        (b"{ }", b'{ "m":{"b":2}}'),
        (b"[1]", b"[1]"),
    ],
)
def test_a_member_is_added_at_the_end(text: bytes, after: bytes) -> None:
    assert add_member(text, "m", {"b": 2}) == after
