"""Projects: whose a namespace is, what is told of trouble, and when the summary of what was used is written."""

from __future__ import annotations

import pytest

from bud.access.project import in_words_of_the_spec, seconds_left, summary, taken, verdict
from bud.api.project import UsageSummary
from bud.errors import ApiForbidden, ApiRefused, BudError
from bud.kube.notes import Usage, usage
from bud.ledger import DATA

USED = Usage("2026-11-01", 9, 90, 45, "7.25")
NOW, BEFORE, LONG_BEFORE = "2026-11-22T12:00:00Z", "2026-11-22T11:59:40Z", "2026-11-22T11:00:00Z"


def known(as_of: str, used: Usage = USED) -> UsageSummary | None:
    return summary(used, now=as_of)


OTHER = Usage("2026-11-01", 8, 80, 40, "7")


@pytest.mark.parametrize(
    ("before", "used", "left"),
    [
        pytest.param(None, None, None, id="no ledger"),
        pytest.param(None, USED, 0.0, id="never told"),
        pytest.param(known(LONG_BEFORE), USED, None, id="nothing new"),
        pytest.param(known(LONG_BEFORE, OTHER), USED, 0.0, id="told long ago"),
        pytest.param(known(BEFORE, OTHER), USED, 40.0, id="told just now"),
        pytest.param(UsageSummary(requests=1), USED, 0.0, id="told by a release that did not say when"),
        pytest.param(known(BEFORE), None, None, id="the ledger is gone: what it said stays"),
    ],
)
def test_when_what_was_used_is_told(before: UsageSummary | None, used: Usage | None, left: float | None) -> None:
    assert seconds_left(before, used, now=NOW) == left


@pytest.mark.parametrize(
    ("text", "found"),
    [
        pytest.param(
            '{"version": 1, "since": {"Day": "2026-11-22", "Month": "2026-11-01"}, "replicas": {}, "accounts": {"project": '
            '{"requests": 9, "inputTokens": 90, "outputTokens": 45, "spent": {"Day": "1", "Month": "7.25", "Total": "8"}}}}',
            USED,
            id="a ledger",
        ),
        pytest.param(
            '{"version": 1, "since": {"Day": "2026-11-22", "Month": "2026-11-01"}, "replicas": {}, "accounts": {}}',
            Usage("2026-11-01", 0, 0, 0, "0"),
            id="an empty one",
        ),
        pytest.param('{"version": 2}', None, id="a later release's"),
        pytest.param("{", None, id="something else"),
    ],
)
def test_what_a_ledger_says(text: str, found: Usage | None) -> None:
    assert usage({"metadata": {}, "data": {DATA: text}}) == found


@pytest.mark.parametrize(
    ("error", "row", "says"),
    [
        pytest.param(None, (True, "Active", False, False), "keys of namespace team are accepted", id="fine"),
        pytest.param(taken("team", "older"), (False, "NamespaceTaken", False, True), "Project older's", id="taken"),
        pytest.param(
            in_words_of_the_spec(ApiRefused('namespaces "team" not found', status=404), "team"),
            (False, "NamespaceMissing", True, False), "kubectl create namespace team", id="no such namespace",
        ),
        pytest.param(ApiForbidden("no"), (False, "Forbidden", True, False), "no", id="rights that lack"),
    ],
)  # fmt: skip
def test_what_is_true_of_a_project(error: BudError | None, row: tuple[bool, str, bool, bool], says: str) -> None:
    told = verdict("team", error)
    assert (told.ready, told.reason, told.reconciling, told.stalled) == row
    assert says in told.message
