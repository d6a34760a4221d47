"""Sleep: at 0 replicas while nobody asks."""

from __future__ import annotations

from typing import Any

import pytest

from bud.api.conditions import READY, RECONCILING, find
from bud.api.deployment import DeploymentStatus
from bud.deployment.plan import plan
from bud.deployment.replicas import replicas
from bud.deployment.sleep import seconds_left, sleeps
from bud.deployment.status import Outcome, status
from tests.unit.deployment.views import app, view

NOW, LONG_AGO, JUST_NOW = "2026-11-22T12:00:00Z", "2026-11-22T11:00:00Z", "2026-11-22T11:59:40.000000Z"
SLEEPY = {"autoScaling": {"minReplicas": 0, "idleSeconds": 60}}
AWAKE, ASLEEP = app(owns_replicas=False), app(wanted=0, replicas=0, updated=0, available=0)


@pytest.mark.parametrize(
    ("spec", "seen", "asleep", "left"),
    [
        pytest.param(SLEEPY, {"ready_since": LONG_AGO}, True, -3540, id="ready for long, and never used"),
        pytest.param(SLEEPY, {"ready_since": LONG_AGO, "last_used": JUST_NOW}, False, 40, id="used just now"),
        pytest.param(SLEEPY, {"ready_since": JUST_NOW, "last_used": LONG_AGO}, False, 40, id="ready just now"),
        pytest.param(SLEEPY, {"last_used": LONG_AGO}, False, None, id="it starts"),
        pytest.param(SLEEPY, {"app": None}, False, None, id="it is new"),
        pytest.param(SLEEPY, {"app": ASLEEP}, True, None, id="asleep, and never used"),
        pytest.param(SLEEPY, {"app": ASLEEP, "ready_since": JUST_NOW}, True, None, id="asleep since just now"),
        pytest.param(SLEEPY, {"app": ASLEEP, "last_used": LONG_AGO}, True, -3540, id="asleep, and used long ago"),
        pytest.param(SLEEPY, {"app": ASLEEP, "last_used": JUST_NOW}, False, 40, id="asleep, and asked for"),
        pytest.param(SLEEPY, {"ready_since": LONG_AGO, "may_sleep": False}, False, None, id="no gateway"),
        pytest.param({"autoScaling": {}}, {"ready_since": LONG_AGO}, False, None, id="one replica at least"),
        pytest.param(SLEEPY | {"stopped": True}, {"ready_since": LONG_AGO}, False, None, id="stopped"),
        pytest.param({}, {"ready_since": LONG_AGO}, False, None, id="no autoscaling"),
    ],
)
def test_when_it_sleeps(spec: dict[str, Any], seen: dict[str, Any], asleep: bool, left: float | None) -> None:
    found = view(spec, **({"app": AWAKE, "may_sleep": True, "now": NOW} | seen))
    assert sleeps(found) is asleep
    if left is not None:
        assert seconds_left(found) == left
    elif not asleep:
        assert seconds_left(found) == float("inf")


@pytest.mark.parametrize(
    ("seen", "number"),
    [
        pytest.param({"app": AWAKE, "ready_since": LONG_AGO}, 0, id="it falls asleep"),
        pytest.param({"app": ASLEEP}, 0, id="it sleeps on"),
        pytest.param({"app": ASLEEP, "last_used": JUST_NOW}, 1, id="it wakes"),
        pytest.param({"app": AWAKE, "last_used": JUST_NOW}, None, id="awake, it is the autoscaler's"),
    ],
)
def test_how_many_replicas_that_means(seen: dict[str, Any], number: int | None) -> None:
    assert replicas(view(SLEEPY, may_sleep=True, now=NOW, **seen)).number == number


@pytest.mark.parametrize(
    ("seen", "row"),
    [
        pytest.param({"app": ASLEEP}, ("Stopped", "True", "Asleep", "False"), id="asleep"),
        pytest.param(
            {"app": app(wanted=0), "last_used": LONG_AGO}, ("Scaling", "True", "Asleep", "False"), id="its pod ends"
        ),
    ],
)
def test_sleep_is_as_asked(seen: dict[str, Any], row: tuple[str, ...]) -> None:
    found = view(SLEEPY, may_sleep=True, now=NOW, **seen)
    told = status(found, Outcome(plan(found), None), previous=DeploymentStatus(), now=NOW)
    ready, reconciling = find(told.conditions, READY), find(told.conditions, RECONCILING)
    assert ready is not None and reconciling is not None
    assert (told.phase, ready.status, ready.reason, reconciling.status) == row
    assert "wakes it" in ready.message
