"""Small changes to JSON text that leave all its other bytes as they are. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import orjson

_MODEL = re.compile(rb'("model"\s*:\s*)("(?:[^"\\]|\\.)*")')
"""A member called model: within a string its quotes would be escaped."""
_MANY = 64
"""Of an object with more members than any request needs, looking for each would take long."""
_LONG = 256 * 1024
"""In bytes: so does looking through a text as long."""


def add_member(text: bytes, name: str, value: Mapping[str, Any]) -> bytes:
    """An object's text with one member more, at its end."""
    body = text.rstrip()
    if not body.endswith(b"}"):
        return text
    comma = b"" if body[:-1].rstrip().endswith(b"{") else b","
    return b"".join((memoryview(body)[:-1], comma, b'"', name.encode(), b'":', orjson.dumps(value), b"}"))


def unambiguous(text: bytes, read: Mapping[str, Any]) -> bytes:
    """An object's text, written anew if it may hold a member twice: of two, another reader could take the first.

    Names of members are ASCII, so they are told twice only in plain letters, or by an escape of such a letter.
    """
    if (
        len(read) > _MANY
        or len(text) > _LONG
        or b"\\u00" in text
        or any(text.count(b'"%b"' % name.encode()) > 1 for name in read)
    ):
        return orjson.dumps(read)
    return text


def rename_model(text: bytes, before: str, after: str) -> bytes:
    """An object's text with another value of its first member `model`, if that has the value before."""
    found = _MODEL.search(text)
    if found is None or found[2] != orjson.dumps(before):
        return text
    return text[: found.start(2)] + orjson.dumps(after) + text[found.end(2) :]
