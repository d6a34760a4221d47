"""The operator as a whole: when it counts as ready."""

from __future__ import annotations

import pytest

from bud.app import SILENT_SECONDS, unheard


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        pytest.param([], "", id="nothing is watched"),
        pytest.param([("pods", 0.0, 180.0), ("nodes", 180.0, 180.0)], "", id="all were heard in time"),
        pytest.param([("pods", 181.0, 180.0), ("nodes", 5.0, 180.0)], "nothing heard of pods for too long", id="one is silent"),
        pytest.param(
            [("pods", 999.0, 180.0), ("models", 999.0, 1380.0), ("pods", 3.0, 180.0)], "nothing heard of pods for too long",
            id="each has its own limit, and one namespace of several is enough",
        ),
        pytest.param([("pods", float("inf"), 180.0), ("jobs", 200.0, 180.0)], "nothing heard of jobs, pods for too long", id="two"),
    ],
)  # fmt: skip
def test_a_kind_of_which_nothing_is_heard_makes_it_unready(
    kinds: list[tuple[str, float, float]], expected: str
) -> None:
    assert unheard(kinds) == expected


def test_silence_is_longer_than_any_watch() -> None:
    assert SILENT_SECONDS > 150, "the client gives up on a watch after 150 s, and lists anew"
