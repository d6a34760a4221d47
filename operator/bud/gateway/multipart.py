"""A form on its way: its parts and their bytes as they come, none of them kept. Pure.

Everything is passed on byte by byte, so what the gateway reads of a form must be what the next reader reads of it: a
form that another could read in another way is refused. Format: RFC 7578 and RFC 2046, section 5.1.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from bud.gateway.refusal import Invalid

_MOST_PARTS = 100
_HEAD_BYTES = 8192
_BOUNDARY = re.compile(
    rb"""multipart/form-data[ \t]*;[ \t]*boundary=("?)([A-Za-z0-9'()+_,./:=?-]{1,70})\1"""
    rb"""(?:[ \t]*;[ \t]*charset=[\w"-]+)?""",
    re.IGNORECASE,
)
_TOKEN = re.compile(rb"[A-Za-z0-9'+_.-]+")
_QUOTED = rb'"(?:[^"\\\r\n\0]|\\[^\r\n\0])*"'
_DISPOSITION = re.compile(
    rb"form-data[ \t]*((?:;[ \t]*(?:name|filename|filename\*)=(?:" + _QUOTED + rb"|[^\s;\"]+)[ \t]*)+)", re.IGNORECASE
)
_PARAMETER = re.compile(rb";[ \t]*(name|filename|filename\*)=(" + _QUOTED + rb"|[^\s;\"]+)", re.IGNORECASE)
_NAME = re.compile(rb"[A-Za-z0-9_.-]{1,128}(?:\[[A-Za-z0-9_.-]{0,128}\]){0,4}")
_HEADERS = frozenset({b"content-disposition", b"content-type", b"content-transfer-encoding", b"content-length"})


@dataclass(frozen=True, slots=True)
class Part:
    """The beginning of a part; `head` are its headers as they came, `is_file` whether it has a file's name."""

    head: bytes
    name: str
    is_file: bool


def boundary(content_type: bytes) -> bytes:
    """What stands between the parts. Raises `Invalid` for a body that is no form."""
    found = _BOUNDARY.fullmatch(content_type.strip())
    if found is None:
        raise Invalid("send a form: Content-Type: multipart/form-data; boundary=…", code="invalid_form")
    return found[2]


def content_type(mark: bytes) -> str:
    """The header that goes with a boundary."""
    said = mark.decode()
    return (
        f"multipart/form-data; boundary={said}" if _TOKEN.fullmatch(mark) else f'multipart/form-data; boundary="{said}"'
    )


class Scanner:
    """Bytes as they come, into parts. `ended` is whether the last part is over."""

    def __init__(self, mark: bytes) -> None:
        self.ended = False
        self._parts = 0
        self._mark = b"--" + mark
        # A delimiter begins with the end of the line before it, and the first one has none.
        self._text = b"\r\n"
        self._state = "before"

    @property
    def rest(self) -> bytes:
        """What follows the last part."""
        return self._text if self.ended else b""

    def feed(self, data: bytes) -> Iterator[Part | bytes | None]:
        """What they hold: the beginning of a part, its bytes, and None for its end. Raises `Invalid`."""
        self._text += data
        while True:
            at = len(self._text), self._state
            yield from getattr(self, f"_{self._state}")()
            if at == (len(self._text), self._state):
                return

    def _before(self) -> Iterator[None]:
        if not (b"\r\n" + self._mark).startswith(self._text[: len(self._mark) + 2]):
            raise _unread("it does not begin with its boundary")
        if len(self._text) >= len(self._mark) + 2:
            self._text, self._state = self._text[len(self._mark) + 2 :], "delimiter"
        yield from ()

    def _delimiter(self) -> Iterator[None]:
        if len(self._text) >= 2:
            states = {b"\r\n": "head", b"--": "after"}
            if self._text[:2] not in states:
                raise _unread("its boundary is followed by something else")
            self._text, self._state = self._text[2:], states[self._text[:2]]
            self.ended = self._state == "after"
        yield from ()

    def _head(self) -> Iterator[Part]:
        at = self._text.find(b"\r\n\r\n", 0, _HEAD_BYTES)
        if at >= 0:
            head, self._text, self._state = self._text[:at], self._text[at + 4 :], "body"
            self._parts += 1
            if self._parts > _MOST_PARTS:
                raise _unread(f"it has more than {_MOST_PARTS} parts")
            yield _part(head)
        elif len(self._text) >= _HEAD_BYTES:
            raise _unread(f"the headers of a part have at most {_HEAD_BYTES} bytes")

    def _body(self) -> Iterator[bytes | None]:
        at = self._text.find(self._mark)
        if at < 0:
            # The rest may hold the beginning of a delimiter.
            ready, self._text = self._text[: -len(self._mark) - 1], self._text[-len(self._mark) - 1 :]
            if ready:
                yield ready
            return
        if at < 2 or self._text[at - 2 : at] != b"\r\n":
            raise _unread("its boundary stands within a part")
        if at > 2:
            yield self._text[: at - 2]
        yield None
        self._text, self._state = self._text[at + len(self._mark) :], "delimiter"

    def _after(self) -> Iterator[None]:
        # Some clients end with an empty line, as OpenAI's older one for JavaScript.
        if not b"\r\n\r\n".startswith(self._text):
            raise _unread("something follows its last part")
        yield from ()


def _part(head: bytes) -> Part:
    found: dict[bytes, bytes] = {}
    for line in head.split(b"\r\n"):
        title, colon, value = line.partition(b":")
        if not colon or title.lower() not in _HEADERS or title.lower() in found or b"\n" in line or b"\r" in line:
            raise _unread("a part has headers other than Content-Disposition and Content-Type, or one of them twice")
        found[title.lower()] = value.strip()
    told = _DISPOSITION.fullmatch(found.get(b"content-disposition", b""))
    pairs = [(key.lower(), value) for key, value in _PARAMETER.findall(told[1])] if told is not None else []
    said = dict(pairs)
    name = said.get(b"name", b"").strip(b'"')
    if len(said) != len(pairs) or not _NAME.fullmatch(name):
        raise _unread('each part needs Content-Disposition: form-data; name="…", of letters, digits and _.-[]')
    return Part(head, name.decode(), len(said) > 1)


def _unread(why: str) -> Invalid:
    return Invalid(f"the form cannot be read: {why}", code="invalid_form")
