"""Forms, in whatever pieces they come."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bud.gateway.multipart import Scanner, boundary, content_type
from bud.gateway.refusal import Invalid

MARK = b"XbX"
MODEL = b'--XbX\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper\r\n'
FILE = (
    b'--XbX\r\nContent-Disposition: form-data; name="file"; filename="a \\"b\\".wav"\r\nContent-Type: audio/wav\r\n\r\n'
    b"\r\n--Xb\r\n\x00-\r\n"
)
END = b"--XbX--\r\n"


def read(pieces: Iterable[bytes]) -> tuple[list[tuple[str, bool, bytes]], bool]:
    scanner, found = Scanner(MARK), list[tuple[str, bool, bytes]]()
    part, data = None, b""
    for piece in pieces:
        for one in scanner.feed(piece):
            if one is None:
                assert part is not None
                found.append((part.name, part.is_file, data))
                part = None
            elif isinstance(one, bytes):
                data += one
            else:
                assert part is None
                part, data = one, b""
    return found, scanner.ended


@given(st.lists(st.integers(0, len(FILE + MODEL + END)), max_size=8))
def test_a_form_reads_the_same_however_it_is_cut(cuts: list[int]) -> None:
    text = FILE + MODEL + END
    edges = [0, *sorted(cuts), len(text)]
    pieces = [text[a:b] for a, b in pairwise(edges)]
    assert read(pieces) == ([("file", True, b"\r\n--Xb\r\n\x00-"), ("model", False, b"whisper")], True)


def test_a_long_part_is_passed_on_as_it_comes() -> None:
    scanner = Scanner(MARK)
    list(scanner.feed(FILE))
    for _ in range(100):
        (passed,) = scanner.feed(b"x" * 65536)
        assert isinstance(passed, bytes) and len(passed) > 65000


def part(head: str, data: str = "x") -> bytes:
    return f"--XbX\r\n{head}\r\n\r\n{data}\r\n".encode()


NAMED = 'Content-Disposition: form-data; name="a"'


@pytest.mark.parametrize(
    "text",
    [
        b"hello " + MODEL + END,
        b"--XbXy\r\n",
        part("Content-Disposition: form-data; name=a b"),
        part('Content-Disposition: form-data; name="a"; name="model"'),
        part("Content-Disposition: form-data; name=\"a\"; name*=utf-8''model"),
        part('Content-Disposition: form-data; name="mo\\del"'),
        part('Content-Disposition: form-data; name="mod\u00e9l"'),
        part('Content-Disposition: attachment; name="a"'),
        part("Content-Type: text/plain"),
        part(f"{NAMED}\r\n{NAMED}"),
        part(f"{NAMED}\r\n ; name=model"),
        part(f"{NAMED}\n; name=model"),
        part(f"{NAMED}\r\nX-Other: 1"),
        part(NAMED, "a\n--XbX\nb"),
        part(NAMED, "a--XbX--"),
        part(NAMED, "a\r\n--XbXyz"),
        part("Content-Disposition: form-data; name=" + "a" * 9000),
        MODEL + END + b"--XbX\r\n",
    ],
    ids=lambda text: repr(text[:60]),
)
def test_what_another_could_read_otherwise_is_refused(text: bytes) -> None:
    with pytest.raises(Invalid, match="cannot be read"):
        read([text])


@pytest.mark.parametrize("head", [NAMED, "content-disposition:form-data;name=a", f"{NAMED}\r\nContent-Length: 1"])
def test_what_clients_send_is_read(head: str) -> None:
    assert read([part(head) + b"--XbX--"]) == ([("a", False, b"x")], True)


@pytest.mark.parametrize("end", [b"", b"\r\n", b"\r\n\r\n"], ids=["nothing", "a line's end", "an empty line"])
def test_a_form_ends_as_clients_end_it(end: bytes) -> None:
    assert read([MODEL + b"--XbX--", end]) == ([("model", False, b"whisper")], True)


def test_a_form_that_breaks_off_is_not_ended() -> None:
    assert read([MODEL + b"--XbX"]) == ([("model", False, b"whisper")], False)


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("multipart/form-data; boundary=abc", b"abc"),
        ('Multipart/Form-Data;boundary="a:b"', b"a:b"),
        ("multipart/form-data; boundary=abc; charset=utf-8", b"abc"),
        ("multipart/form-data", None),
        ("multipart/form-data; boundary=a; boundary=b", None),
        ("multipart/form-data; boundary=" + "a" * 71, None),
        ("multipart/mixed; boundary=abc", None),
        ("application/json", None),
        ("", None),
    ],
)
def test_a_boundary_is_taken_only_if_it_is_plain(header: str, found: bytes | None) -> None:
    if found is None:
        with pytest.raises(Invalid, match="multipart/form-data"):
            boundary(header.encode())
        return
    assert boundary(header.encode()) == found
    assert boundary(content_type(found).encode()) == found
