"""What is read of an upstream's JSON, and how little that takes."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Mapping
from typing import Any

import orjson
import pytest
from msgspec import Raw

from bud.gateway.catalog import Target
from bud.gateway.events import Typed
from bud.gateway.faults import UNKNOWN, status_of
from bud.gateway.glance import ended, glance, is_json, is_text, plain
from bud.gateway.naming import Naming
from bud.gateway.refusal import Refusal, Unavailable
from bud.gateway.stream import Rewriter
from bud.gateway.translate.answer import Translated, read_whole
from bud.gateway.translate.anthropic import AnthropicReader
from bud.gateway.translate.wire import Told
from bud.gateway.usage import Usage
from bud.gateway.whole import Whole, read
from tests.unit.gateway.scripted import OK, run, serving

MANY = b"[" + b"[]," * 100_000 + b"[]]"
LONG = b"x" * 20_000


@pytest.mark.parametrize(
    ("text", "usage"),
    [
        (b'{"a":[{}],"usage":{"prompt_tokens":3}}', {"prompt_tokens": 3}),
        (b' {"usage":1,"usage":{"input_tokens":3}} ', {"input_tokens": 3}),
        (b'{"usage":[1]}', [1]),
        (b'{"usage":1e999}', None),
        (b'{"usage":"\xff"}', None),
        (b'{"usage":"%b"}' % LONG, None),
        (b"{}", None),
    ],
)
def test_a_member_is_what_it_is_wherever_the_text_is_an_object(text: bytes, usage: Any) -> None:
    seen = glance(text)
    assert seen is not None
    assert plain(seen.usage) == usage


@pytest.mark.parametrize(
    "text", [b"", b"[1]", b'"usage"', b"7", b"null", b"{", b'{"a":1,}', b"{} {}", b'{"a":NaN}', b'{"a":' + b"[" * 10**6]
)
def test_what_is_no_object_has_no_members(text: bytes) -> None:
    assert glance(text) is None


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        (b"[1]", True),
        ('"caf\u00e9"'.encode(), True),
        (b'{"a":"%s"}' % ("\u00e9".encode() * 1_000_001), True),
        (b'"\xff"', False),
        (b'"\xc3', False),
        (b"<html>", False),
        (b"[" * 10**6, False),
    ],
)
def test_json_is_json_in_utf_8(text: bytes, is_one: bool) -> None:
    assert is_json(text) is is_one


def test_text_that_ends_within_a_character_is_none() -> None:
    assert not is_text("caf\u00e9".encode()[:-1])


@pytest.mark.parametrize(
    ("choices", "found"),
    [
        (b'[{"index":1,"finish_reason":"stop"},{"index":0,"finish_reason":null},{"finish_reason":"stop"}]', [1, 0]),
        (b'[{"index":0,"finish_reason":"stop","x":%b}]' % MANY, [0]),
        (b"[%b]" % b",".join([b'{"finish_reason":"stop"}'] * 60_000), []),
        (b"[1]", []),
        (b"{}", []),
        (b"", []),
    ],
    ids=["some", "with much in it", "more than anybody means", "no objects", "no list", "none"],
)
def test_choices_end_with_a_reason(choices: bytes, found: list[int]) -> None:
    assert list(ended(Raw(choices))) == found


def rewriter() -> Rewriter:
    return Rewriter(Naming("mine"), False, None, Usage(), {})


READS: Mapping[str, Callable[[bytes], object]] = {
    "usage of a chunk": lambda much: rewriter().feed(b'data: {"usage":null,"x":%b}\n\n' % much),
    "a chunk that ends": lambda much: rewriter().feed(b'data: {"x":%b,"finish_reason":"stop"}\n\n' % much),
    "a chunk's model": lambda much: rewriter().feed(b'data: {"x":%b,"model":"up"}\n\n' % much),
    "usage of an event": lambda much: Usage().read_event(b'{"response":{"usage":{"x":%b}}}' % much),
    "an event's type": lambda much: Typed(Naming("mine"), None, Usage()).feed(
        b'data: {"x":%b,"type":"response.completed"}\n\n' % much
    ),
    "an error that is an event": lambda much: status_of(b'data: {"error":{"x":%b}}' % much),
}


@pytest.mark.parametrize("reads", READS.values(), ids=READS)
def test_what_nobody_needs_becomes_no_objects(reads: Callable[[bytes], object]) -> None:
    """As objects these lists are 6.4 MB."""
    reads(b"[[]]")
    tracemalloc.start()
    try:
        reads(MANY)
        assert tracemalloc.get_traced_memory()[1] < 10 * len(MANY)
    finally:
        tracemalloc.stop()


def test_an_error_that_is_too_long_to_be_read_is_one_all_the_same() -> None:
    assert status_of(b'data: {"error":{"x":%b}}' % MANY) == UNKNOWN


def test_an_answer_that_is_translated_has_a_bound_of_its_own() -> None:
    body = b'{"content":[],"stop_reason":"end_turn","usage":{},"x":"%b"}' % (b"x" * 8 * 1024 * 1024)

    async def test() -> None:
        async with serving(OK + b"Content-Length: %d\r\n\r\n" % len(body) + body) as (server, client):
            reply = await client.ask("POST", server.url, headers={})
            with pytest.raises(Unavailable, match="longer than 8 MiB"):
                await read_whole(Translated(reply, AnthropicReader(Told("c", "m", 1)), streams=False))

    run(test)


def answered(body: bytes) -> Whole | Refusal:
    found = list[Whole | Refusal]()

    async def test() -> None:
        async with serving(OK + b"Content-Length: %d\r\n\r\n" % len(body) + body) as (server, client):
            reply = await client.ask("POST", server.url, headers={})
            found.append(await read(reply, Target("t", "p", "m", (server.url,))))

    run(test)
    return found[0]


@pytest.mark.parametrize("body", [b"[{}]", b"<html>", b"", b'{"a":1', b'{"a":"\xff"}', b'{"a":' + b"[" * 5000])
def test_an_answer_that_is_no_object_is_none(body: bytes) -> None:
    found = answered(body)
    assert isinstance(found, Refusal)
    assert (found.status, found.code) == (503, "upstream_invalid")


@pytest.mark.parametrize("usage", [7, "5", [1], {"prompt_tokens": -1}, {"prompt_tokens": 10**30}, {"x": "y" * 20_000}])
def test_usage_that_nobody_means_fails_no_answer(usage: Any) -> None:
    text = (
        b'{"usage":%b}' % orjson.dumps(usage)
        if usage != {"prompt_tokens": 10**30}
        else b'{"usage":{"prompt_tokens":1%b}}' % (b"0" * 30)
    )
    found = answered(text)
    assert isinstance(found, Whole) and found.seen is not None
    told = Usage()
    told.read(plain(found.seen.usage))
    assert told.input is None
