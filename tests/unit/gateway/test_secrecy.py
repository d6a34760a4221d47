"""What no answer holds, and what no reader takes for something else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import orjson
import pytest

from bud.gateway.catalog import Target
from bud.gateway.files import Folder
from bud.gateway.mask import mask, masked, secrets
from bud.gateway.passed import passed_on
from bud.gateway.reach import Reach
from bud.gateway.refusal import Refusal
from bud.gateway.splice import unambiguous


def test_credentials_are_hidden_the_longest_first_and_short_words_are_none() -> None:
    hidden = secrets({"apiKey": "sk-secret", "AWS_SECRET_ACCESS_KEY": "sk-secret-and-more", "short": "sk"})
    assert masked(b"sk: sk-secret-and-more, sk-secret.", hidden) == b"sk: [hidden], [hidden]."


def test_nothing_of_a_refusal_holds_them() -> None:
    refusal = Refusal("bad key sk-secret", param="sk-secret", code="no_sk-secret")
    mask(refusal, secrets({"k": "sk-secret"}))
    assert orjson.loads(refusal.body())["error"] == {
        "message": "bad key [hidden]", "type": "api_error", "param": "[hidden]", "code": "no_[hidden]",
    }  # fmt: skip


def test_a_target_does_not_show_its_credentials() -> None:
    target = Target("t", "p", "m", ("http://a",), {"Authorization": "Bearer sk-secret"}, secrets=(b"sk-secret",))
    assert "sk-secret" not in repr(target)


@pytest.mark.parametrize(
    ("text", "is_kept"),
    [
        (b'{ "model": "a",  "n": 1 }', True),
        ('{"model":"a","messages":[{"content":"\u00e9 \\u20ac"}]}'.encode(), True),
        (b'{"model":"b","model":"a"}', False),
        (b'{"mod\\u0065l":"b","model":"a"}', False),
        (b'{"model":"a", "messages":[{"model":"b"}]}', False),
        (b'{"max_tokens":9,"model":"a","max_tokens":1}', False),
    ],
)
def test_an_object_that_could_hold_a_member_twice_is_written_anew(text: bytes, is_kept: bool) -> None:
    read = orjson.loads(text)

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len({name for name, _ in pairs}) == len(pairs)
        return dict(pairs)

    found = unambiguous(text, read)
    assert (found == text) == is_kept
    assert json.loads(found, object_pairs_hook=once) == read


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("Content-Type", "text/plain", [(b"content-type", b"text/plain")]),
        ("OpenAI-Model", "\u00e9\udcff", [(b"openai-model", b"\xc3\xa9\xff")]),
        ("OpenAI-Model", "a\r\nSet-Cookie: b", []),
        ("OpenAI-Model", "a\x01", []),
        ("Set-Cookie", "a=b", []),
        ("X-RateLimit-Limit-Requests", "1", []),
        ("Transfer-Encoding", "chunked", []),
        ("Authorization", "Bearer sk", []),
    ],
)
def test_an_upstreams_headers_pass_only_if_they_are_known_and_well(name: str, value: str, told: Any) -> None:
    assert passed_on([(name, value)]) == told


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ("stringData:\n  key: sk-live\n  key: sk-live2", "a field stands twice (line 5, column 3)"),
        ("stringData:\n  sk-live: a\n  sk-live: b", "a field stands twice (line 5, column 3)"),
        ('stringData:\n  key: "sk-live', "found unexpected end of stream (line 5, column 1)"),
        ("stringData: {key: sk-live, other: 3]", "expected ',' or '}' (line 3, column 36)"),
        ("stringData:\n  key: a: sk-live", "mapping values are not allowed here (line 4, column 9)"),
        ("stringData:\n  key: a\n sk-live", "expected <block end> (line 5, column 2)"),
        ("stringData:\n  key: *sk-live", "found undefined alias (line 4, column 8)"),
        ("stringData:\n  key: !sk-live a", "could not determine a constructor for the tag (line 4, column 8)"),
        ("stringData:\n  key: @sk-live", "found character that cannot start any token (line 4, column 8)"),
        ('stringData:\n  key: "\\sk-live"', "found unknown escape character (line 4, column 10)"),
        ("stringData:\n  key: !!int sk-live", "it cannot be read: ValueError;"),
        ("stringData:\n  key: !!bool sk-live", "it cannot be read: KeyError;"),
        ("stringData:\n  key: \x01sk-live", "special characters are not allowed;"),
        ("stringData: sk-live", "Secret default/k: it cannot be read"),
        ("data: {key: sk-live}", "Secret default/k: it holds what is neither base64 nor text"),
        ("data: {key: [sk-live]}", "Secret default/k: it cannot be read"),
    ],
)
def test_nothing_of_a_secret_is_told_whatever_is_mistyped(tmp_path: Path, data: str, told: str) -> None:
    (tmp_path / "k.yaml").write_text(f"kind: Secret\nmetadata: {{name: k}}\n{data}\n")
    found = Folder(tmp_path, Reach()).look()
    assert found is not None
    says = "\n".join(f"{what}: {text}" for what, text in found.troubles)
    assert told in says and "live" not in says
