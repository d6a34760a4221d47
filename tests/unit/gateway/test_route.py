"""Who is asked first, and who next."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from bud.gateway.catalog import Served, Target
from bud.gateway.route import Board, Turn, model_at, order

PODS = tuple(f"http://10.0.0.{number}/v1" for number in range(8))
CHAT = Target("chat", "bud", "chat", PODS)
A, B, C = (Target(name, "openai", name, (f"http://{name}/v1",)) for name in "abc")


def tried(served: Served, board: Board, *, prefix: bytes = b"", now: float = 0.0) -> list[str]:
    return [url for _, url in order(served, board, prefix=prefix, now=now)]


def test_a_conversation_stays_with_its_pod_and_conversations_spread() -> None:
    served, board = Served("chat", (CHAT,)), Board()
    first = [tried(served, board, prefix=b"conversation %d" % number)[0] for number in range(400)]
    assert first == [tried(served, board, prefix=b"conversation %d" % number)[0] for number in range(400)]
    assert min(Counter(first).values()) > 20


def test_a_pod_with_too_much_to_do_gives_conversations_away() -> None:
    served, board = Served("chat", (CHAT,)), Board()
    mine = tried(served, board, prefix=b"x")[0]
    for _ in range(5):
        board.begin(mine)
    assert tried(served, board, prefix=b"x")[0] != mine
    for _ in range(5):
        board.end(mine)
    assert tried(served, board, prefix=b"x")[0] == mine


def test_another_pod_is_tried_next_and_a_pod_that_is_gone_moves_only_its_own() -> None:
    board = Board()
    assert len(set(tried(Served("chat", (CHAT,)), board, prefix=b"x"))) == 3
    fewer = Served("chat", (replace(CHAT, urls=PODS[1:]),))
    before, after = (
        [tried(s, board, prefix=b"%d" % n)[0] for n in range(200)] for s in (Served("chat", (CHAT,)), fewer)
    )
    assert all(old in (new, PODS[0]) for old, new in zip(before, after, strict=True))


def test_weights_share_the_requests_and_zero_gets_none() -> None:
    served = Served("r", (replace(A, weight=3), replace(B, weight=1), replace(C, weight=0)))
    counts = Counter(tried(served, Board())[0] for _ in range(4000))
    assert C.urls[0] not in counts
    assert 2.4 < counts[A.urls[0]] / counts[B.urls[0]] < 3.8


def test_the_one_with_the_fewest_requests_for_its_weight_is_asked() -> None:
    served, board = Served("r", (replace(A, weight=4), B), strategy="LeastRequests"), Board()
    for _ in range(3):
        board.begin(A.urls[0])
    board.begin(B.urls[0])
    assert tried(served, board)[0] == A.urls[0]


def test_the_other_targets_are_tried_and_then_the_fallbacks() -> None:
    served = Served("r", (A, B), (C,), retries=1)
    found = tried(served, Board())
    assert sorted(found[:2]) == [A.urls[0], B.urls[0]]
    assert found[2:] == [C.urls[0]]


def test_an_address_that_fails_again_and_again_rests_and_is_tried_anew() -> None:
    served, board = Served("r", (A, B)), Board()
    for _ in range(5):
        board.failed(A.urls[0], now=0.0)
    assert {tried(served, board, now=1.0)[0] for _ in range(50)} == {B.urls[0]}
    assert A.urls[0] in {tried(served, board, now=2.5)[0] for _ in range(200)}
    board.failed(A.urls[0], now=2.5)
    assert {tried(served, board, now=5.0)[0] for _ in range(50)} == {B.urls[0]}
    board.worked(A, A.urls[0])
    assert A.urls[0] in {tried(served, board, now=5.0)[0] for _ in range(200)}


@pytest.mark.parametrize("other", [replace(A, id="a/other", model="other"), replace(A, namespace="another")])
def test_a_model_that_fails_rests_alone_in_its_project_and_an_address_that_fails_rests_with_all_of_it(
    other: Target,
) -> None:
    broken, well, board = Served("r", (A, B)), Served("s", (other, B)), Board()
    for _ in range(5):
        board.failed(model_at(A, A.urls[0]), now=0.0)
    assert {tried(broken, board, now=1.0)[0] for _ in range(50)} == {B.urls[0]}
    assert A.urls[0] in {tried(well, board, now=1.0)[0] for _ in range(200)}
    # What works at the address says nothing of the model that does not.
    board.worked(other, A.urls[0])
    assert {tried(broken, board, now=1.0)[0] for _ in range(50)} == {B.urls[0]}
    for _ in range(5):
        board.failed(A.urls[0], now=0.0)
    assert {tried(well, board, now=1.0)[0] for _ in range(50)} == {B.urls[0]}
    board.worked(A, A.urls[0])
    assert A.urls[0] in {tried(broken, board, now=1.0)[0] for _ in range(200)}


def test_when_all_rest_the_last_resort_is_to_try() -> None:
    served, board = Served("r", (A,)), Board()
    for _ in range(9):
        board.failed(A.urls[0], now=0.0)
    assert tried(served, board, now=1.0)[0] == A.urls[0]


@pytest.mark.parametrize(
    ("resting", "wanted"),
    [
        ((), [A, A, B, C]),
        ((A,), [B, C, A]),
        ((A, B), [C, B, A]),
        ((B,), [A, A, B, C]),
        ((A, B, C), [A, A, B, C]),
    ],
    ids=["none rests", "the target", "the target and a fallback", "a fallback", "all"],
)
def test_fallbacks_come_first_while_the_targets_rest(resting: tuple[Target, ...], wanted: list[Target]) -> None:
    served, board = Served("r", (A,), (B, C), retries=1), Board()
    for target in resting:
        for _ in range(5):
            board.failed(target.urls[0], now=0.0)
    assert tried(served, board, now=1.0) == [target.urls[0] for target in wanted]


def test_nothing_without_an_address_is_asked() -> None:
    assert tried(Served("r", (replace(A, urls=()),), (replace(B, urls=()),)), Board()) == []


def test_requests_share_the_time_of_an_address_and_all_shares_are_the_time_that_it_was_busy() -> None:
    now = [0.0]
    board = Board(lambda: now[0])
    turns: dict[str, Turn] = {}
    found: dict[str, float] = {}
    for at, name in ((100, "a"), (104, "b"), (106, "c"), (109, "a"), (110, "b"), (112, "c"), (150, "d"), (151, "d")):
        now[0] = at
        if name in turns:
            found[name] = turns[name].seconds()
            board.end("u")
        else:
            board.begin("u")
            turns[name] = board.turn("u")
    assert found == pytest.approx({"a": 4 + 1 + 1, "b": 1 + 1 + 0.5, "c": 1 + 0.5 + 2, "d": 1})
    now[0] = 999.0
    assert turns["d"].seconds() == pytest.approx(1)
