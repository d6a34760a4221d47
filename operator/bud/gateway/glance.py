"""The few members that the gateway needs of an upstream's JSON; of all others no object is made. Pure.

What a tenant's own upstream sends may be long, and as objects of Python forty times as long. All of it is checked to be
JSON all the same, but for the characters within its strings and for numbers beyond what a float holds.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from typing import Any

import msgspec
import orjson
from msgspec import Raw

_PLAIN_BYTES = 16 * 1024
"""No value that is read has as many: usage, names, types."""
_CHOICES_BYTES = 1024 * 1024
_SLICE_BYTES = 1024 * 1024
_FAULTS = (msgspec.DecodeError, RecursionError, UnicodeError)
_NONE = Raw()


class Seen(msgspec.Struct, gc=False):
    """Members of an object as they were written; of one that is told twice the last, of one that is not there nothing.

    They keep the text that they are of.
    """

    model: Raw = _NONE
    usage: Raw = _NONE
    choices: Raw = _NONE
    response: Raw = _NONE
    error: Raw = _NONE
    type: Raw = _NONE
    object: Raw = _NONE
    code: Raw = _NONE


class _Choice(msgspec.Struct, gc=False):
    index: Raw = _NONE
    finish_reason: Raw = _NONE


_SEEN = msgspec.json.Decoder(Seen)
_CHOICES = msgspec.json.Decoder(list[_Choice])
_ANY = msgspec.json.Decoder(Raw)


def glance(text: bytes | str | Raw) -> Seen | None:
    """What an object's text holds; None for any other text."""
    try:
        return _SEEN.decode(text)
    except _FAULTS:
        return None


def plain(raw: Raw, *, long: Any = None) -> Any:
    """The value; None where there is none, and `long` in place of one that is longer than any that is meant."""
    written = memoryview(raw)
    if written.nbytes > _PLAIN_BYTES:
        return long
    try:
        return orjson.loads(written) if written.nbytes else None
    except orjson.JSONDecodeError:
        return None


def ended(choices: Raw) -> Iterator[Any]:
    """The indices of those choices that have a `finish_reason`; of a list that nobody means, none."""
    if memoryview(choices).nbytes > _CHOICES_BYTES:
        return
    try:
        found = _CHOICES.decode(choices)
    except _FAULTS:
        return
    for one in found:
        if plain(one.finish_reason):
            yield plain(one.index) if memoryview(one.index).nbytes else 0


def is_json(text: bytes) -> bool:
    """Whether it is JSON in UTF-8, be it an object or not."""
    try:
        _ANY.decode(text)
    except _FAULTS:
        return False
    return is_text(text)


def is_text(text: bytes) -> bool:
    """Whether it is UTF-8."""
    if text.isascii():
        return True
    decoder, view = codecs.getincrementaldecoder("utf-8")(), memoryview(text)
    try:
        for at in range(0, len(text), _SLICE_BYTES):
            decoder.decode(view[at : at + _SLICE_BYTES])
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True
