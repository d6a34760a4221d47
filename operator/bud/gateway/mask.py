"""The gateway's own credentials, which no answer holds even where an upstream repeats them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from bud.gateway.refusal import Refusal

_SHORTEST = 8
"""A credential of fewer characters is none; to look for it would change other words."""
_INSTEAD = b"[hidden]"


def secrets(values: Mapping[str, str]) -> tuple[bytes, ...]:
    """What is looked for, of the values of a Secret; the longest first, since one may hold another."""
    return tuple(sorted((v.encode() for v in values.values() if len(v) >= _SHORTEST), key=len, reverse=True))


def masked(text: bytes, hidden: Iterable[bytes]) -> bytes:
    """The text without what is hidden."""
    for one in hidden:
        if one in text:
            text = text.replace(one, _INSTEAD)
    return text


def mask(refusal: Refusal, hidden: Iterable[bytes]) -> None:
    """Takes what is hidden out of the words of an upstream's error."""
    found = (refusal.message, refusal.param, refusal.code)
    said = [None if one is None else masked(one.encode(errors="replace"), hidden).decode() for one in found]
    refusal.message, refusal.param, refusal.code = said[0] or "", said[1], said[2]
