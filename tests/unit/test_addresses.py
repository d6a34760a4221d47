"""How addresses are read, whatever they are written or wrapped in."""

from __future__ import annotations

import pytest

from bud.addresses import literal, read


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("::1", "::1"),
        ("::", "::"),
        ("fe80::1%eth0", "fe80::1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("::ffff:a9fe:a9fe", "169.254.169.254"),
        ("::10.0.0.1", "10.0.0.1"),
        ("64:ff9b::7f00:1", "127.0.0.1"),
        ("64:ff9b::8.8.8.8", "8.8.8.8"),
        ("2002:a9fe:a9fe::1", "169.254.169.254"),
        ("2606:4700::1111", "2606:4700::1111"),
        ("127.1", None),
        ("a-name", None),
        ("", None),
    ],
)
def test_an_address_within_another_is_read_as_what_it_is(text: str, found: str | None) -> None:
    assert (None if (address := read(text)) is None else str(address)) == found


@pytest.mark.parametrize(
    ("host", "found"),
    [
        ("2130706433", "127.0.0.1"),
        ("0x7f000001", "127.0.0.1"),
        ("0177.0.0.1", "127.0.0.1"),
        ("0x7f.1", "127.0.0.1"),
        ("127.1", "127.0.0.1"),
        ("127.0.0.1.", "127.0.0.1"),
        ("[::1]", "::1"),
        ("0", "0.0.0.0"),
        ("localhost", "127.0.0.1"),
        ("LOCALHOST.", "127.0.0.1"),
        ("a.localhost", "127.0.0.1"),
        ("8.8.8.8", "8.8.8.8"),
        ("api.openai.com", None),
        ("127.0.0.1.nip.io", None),
        ("\u2460.example", None),
    ],
)
def test_the_older_ways_to_write_an_address_are_read(host: str, found: str | None) -> None:
    assert (None if (address := literal(host)) is None else str(address)) == found
