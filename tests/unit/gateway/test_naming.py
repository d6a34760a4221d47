"""The model goes by the caller's name, whatever the upstream calls it."""

from __future__ import annotations

import pytest

from bud.gateway.glance import glance
from bud.gateway.naming import MOST_CHARACTERS, Naming

LONG = "x" * (MOST_CHARACTERS + 1)


@pytest.mark.parametrize(
    ("chunks", "changed", "version"),
    [
        ([b'{"model":"up-0125"}'] * 2, [b'{"model":"mine"}'] * 2, "up-0125"),
        ([b'{"model": "mine"}'] * 2, [b'{"model": "mine"}'] * 2, "mine"),
        ([b'{"x": 1.50, "model" : "up"}'], [b'{"x": 1.50, "model" : "mine"}'], "up"),
        # Azure's first event has no name yet.
        ([b'{"model":""}', b'{"model":"up"}', b'{"model":"up"}'], [b'{"model":"mine"}'] * 3, "up"),
        ([b'{"model":"a"}', b'{"model":"b"}', b'{"model":"b"}'], [b'{"model":"mine"}'] * 3, "a"),
        ([b'{"model":"org\\/up"}'], [b'{"model":"mine"}'], "org/up"),
        ([b'{"response":{"model":"up"}}'] * 2, [b'{"response":{"model":"mine"}}'] * 2, "up"),
        (
            [b'{"x":{"model":"other"},"model":"up"}'] * 2,
            [b'{"x":{"model":"other"},"model":"mine"}'] * 2,
            "up",
        ),
        (
            [b'{"text":"say \\"model\\":\\"up\\"","model":"up"}'],
            [b'{"text":"say \\"model\\":\\"up\\"","model":"mine"}'],
            "up",
        ),
        ([b'{"model":"%b"}' % LONG.encode()], [b'{"model":"mine"}'], None),
        ([b'{"x":{"model":"up"}}'], [b'{"x":{"model":"up"}}'], None),
        ([b'{"response":["model"]}'], [b'{"response":["model"]}'], None),
        ([b'{"model":7}', b'{"model":null}', b"{}"], [b'{"model":7}', b'{"model":null}', b"{}"], None),
        ([b'{"model":"up"', b'["model"]', b'"model"'], [b'{"model":"up"', b'["model"]', b'"model"'], None),
        ([b'{"model":"\xff"}'], [b'{"model":"mine"}'], None),
    ],
)
def test_each_chunk_has_the_callers_name_and_the_upstreams_first_one_is_kept(
    chunks: list[bytes], changed: list[bytes], version: str | None
) -> None:
    naming = Naming("mine")
    assert [naming.chunk(one) for one in chunks] == changed
    assert naming.version == version


def test_only_so_many_members_are_looked_at_for_the_one_that_is_meant() -> None:
    text = b'{"x":[' + b'{"model":1},' * 2000 + b'0],"model": "up"}'
    seen = glance(text)
    assert seen is not None
    assert Naming("mine").whole(text, seen) == text
