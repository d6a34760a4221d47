"""The operator as a whole: when it counts as ready."""

from __future__ import annotations

import pytest

from bud.app import SILENT_SECONDS, unheard
from bud.kube.kinds import MODELS, RUNTIMES
from bud.ours import Hearing


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


def test_kopf_must_tell_what_is_known_by_other_ways() -> None:
    hearing = Hearing()
    assert hearing.overdue(MODELS, now=100) == 0
    hearing.knows(MODELS, 5, now=100)
    hearing.knows(MODELS, 7, now=150)
    assert hearing.overdue(MODELS, now=160) == 60
    hearing.hears(MODELS, 6, now=170)
    assert hearing.overdue(MODELS, now=180) == 10, "it hears, but is behind"
    hearing.hears(MODELS, 7, now=190)
    assert hearing.overdue(MODELS, now=999) == 0
    hearing.knows(MODELS, 3, now=999)
    assert hearing.overdue(MODELS, now=1999) == 0
    assert hearing.overdue(RUNTIMES, now=1999) == 0
