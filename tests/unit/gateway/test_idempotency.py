"""What is kept of answers, and for how long."""

from __future__ import annotations

import pytest

from bud.gateway.idempotency import KEPT_SECONDS, Answers, check_key, digest_of
from bud.gateway.refusal import Invalid

SAME = digest_of("chat/completions", b"{}")


def keep(answers: Answers, key: bytes, body: bytes, *, now: float = 0.0) -> None:
    kept = answers.begin("alice", key, SAME, now=now)
    kept.take({"type": "http.response.start", "status": 200, "headers": [(b"x-request-id", b"1"), (b"a", b"b")]})
    kept.take({"type": "http.response.body", "body": body[:1], "more_body": True})
    kept.take({"type": "http.response.body", "body": body[1:]})
    answers.end("alice", key, kept)


def test_an_answer_is_kept_for_a_day_and_without_what_belongs_to_one_request() -> None:
    answers = Answers()
    keep(answers, b"k", b"hello")
    kept = answers.find("alice", b"k", now=KEPT_SECONDS - 1)
    assert kept is not None
    assert (kept.whole(), kept.headers) == (b"hello", [(b"a", b"b")])
    assert answers.find("alice", b"k", now=KEPT_SECONDS) is None


def test_keys_belong_to_who_sent_them() -> None:
    answers = Answers()
    keep(answers, b"k", b"hello")
    assert answers.find("bob", b"k", now=0.0) is None


def test_the_oldest_answers_are_forgotten_when_there_are_too_many() -> None:
    answers = Answers(most=2500)
    for number in range(4):
        keep(answers, b"%d" % number, b"x" * 100, now=float(number))
    assert [answers.find("alice", b"%d" % number, now=5.0) is not None for number in range(4)] == [
        False,
        False,
        True,
        True,
    ]


@pytest.mark.parametrize("key", [b"", b"a b", b"x" * 256, "ü".encode()])
def test_a_key_that_is_none_is_refused(key: bytes) -> None:
    with pytest.raises(Invalid, match="Idempotency-Key: 1 to 255"):
        check_key(key)
