"""What becomes of an upstream's own status."""

from __future__ import annotations

import pytest

from bud.gateway.catalog import Target
from bud.gateway.refusal import of_status
from bud.gateway.relay import _told


@pytest.mark.parametrize(
    ("status", "told", "code"),
    [
        (500, (500, "api_error"), "upstream_error"),
        (501, (501, "api_error"), "not_implemented"),
        (502, (502, "api_error"), "upstream_error"),
        (503, (503, "overloaded_error"), "upstream_unavailable"),
        (504, (504, "api_error"), "upstream_error"),
        (529, (529, "api_error"), "upstream_error"),
        (401, (503, "overloaded_error"), "provider_credentials"),
        (418, (418, "invalid_request_error"), "invalid_value"),
        (429, (429, "rate_limit_error"), "rate_limit_exceeded"),
    ],
)
def test_a_fault_of_the_upstream_is_never_told_as_the_gateways(status: int, told: tuple[int, str], code: str) -> None:
    found = of_status(status, "no")
    assert ((found.status, found.type), found.code) == (told, code)
    if status != 401:
        assert of_status(status, "no", code="its_own").code == "its_own"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b'{"error": {"message": "so"}}', "so"),
        (b'{"error": "so"}', "so"),
        (b'{"detail": "so"}', "so"),
        (b'{"detail": [{"loc": ["body", "x"], "msg": "no"}]}', '[{"loc":["body","x"],"msg":"no"}]'),
        (b"[]", "the model answered with status 422"),
        (b"<html>", "the model answered with status 422"),
    ],
)
def test_an_upstreams_own_words_are_told_however_it_writes_them(text: bytes, words: str) -> None:
    assert _told(422, text, Target("t", "p", "m", ())).message == words
