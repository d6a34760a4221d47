"""When it is said that nodes cannot share the volume of the weights."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bud.api.conditions import STALLED, find
from bud.api.deployment import DeploymentStatus
from bud.deployment.plan import plan
from bud.deployment.sharing import any_waits, trouble
from bud.deployment.status import Outcome, status
from bud.errors import InvalidError
from bud.kube.seen import Claim, Pod
from tests.unit.deployment.views import app, view

CREATED, NOW = "2026-01-01T00:00:00Z", "2026-01-01T00:00:30Z"
ONE = Claim("Bound", "fast", "20Gi", {}, ("ReadWriteOnce",))
RUNS = Pod("Running", True, "", CREATED, (), node="a")
STARTS = replace(RUNS, ready=False)
WAITS = replace(RUNS, phase="Pending", ready=False, mounted=False, node="b")
NOT_PLACED = replace(WAITS, node="", mounted=True)


def refused(message: str) -> Pod:
    return replace(NOT_PLACED, unschedulable=f"0/2 nodes are available: 1 Insufficient cpu, {message}.")


@pytest.mark.parametrize(
    ("pods", "modes", "now", "told"),
    [
        pytest.param((RUNS, refused("1 node(s) didn't match PersistentVolume's node affinity")), ONE.access_modes, NOW, True, id="another node fits but for the volume"),
        pytest.param((RUNS, refused("1 node(s) had volume node affinity conflict")), ONE.access_modes, NOW, True, id="the same, by an older scheduler"),
        pytest.param((RUNS, refused("1 node(s) had no available volume zone")), ONE.access_modes, NOW, True, id="the volume is in another zone"),
        pytest.param((RUNS, replace(NOT_PLACED, unschedulable="0/1 nodes are available: 1 Insufficient cpu.")), ONE.access_modes, NOW, False, id="the only node is full"),
        pytest.param((RUNS, WAITS), ONE.access_modes, NOW, True, id="the volume is used on another node"),
        pytest.param((RUNS, WAITS), ONE.access_modes, CREATED, False, id="the pod is new"),
        pytest.param((RUNS, replace(WAITS, node="a")), ONE.access_modes, NOW, False, id="the volume is used on the same node"),
        pytest.param((WAITS, replace(WAITS, node="c")), ONE.access_modes, NOW, False, id="nobody has it yet"),
        pytest.param((RUNS, STARTS), ONE.access_modes, NOW, False, id="the engine starts"),
        pytest.param((RUNS, WAITS), ("ReadWriteMany",), NOW, False, id="a shared volume is slow to mount"),
        pytest.param((RUNS, WAITS), ("ReadWriteOnce", "ReadOnlyMany"), NOW, False, id="a volume that many may read"),
    ],
)  # fmt: skip
def test_when_a_volume_keeps_pods_from_starting(
    pods: tuple[Pod, ...], modes: tuple[str, ...], now: str, told: bool
) -> None:
    seen = view({"replicas": 2}, claim=replace(ONE, access_modes=modes), app=app(wanted=2))
    found = trouble(seen, pods, now=now)
    assert (found is not None) is told
    if found is not None:
        assert found[0] == "StorageNotShareable"
        assert "spec.storage.storageClassName to a class that offers ReadWriteMany" in found[1]


CORDONED = refused("1 node(s) were unschedulable, 1 node(s) had volume node affinity conflict")


@pytest.mark.parametrize(
    ("replicas", "pods"),
    [
        pytest.param(1, (CORDONED,), id="the only replica, and the volume's node is cordoned"),
        pytest.param(1, (STARTS, CORDONED), id="a roll-out of the only replica"),
        pytest.param(2, (CORDONED, CORDONED), id="no replica has the volume"),
    ],
)
def test_a_pod_that_waits_for_the_volumes_node_waits_for_a_node_like_any_other(
    replicas: int, pods: tuple[Pod, ...]
) -> None:
    wanted = app(wanted=replicas, replicas=len(pods), updated=replicas, available=0)
    seen = view({"replicas": replicas}, claim=ONE, pods=pods, app=wanted)
    found = status(seen, Outcome(plan(seen), None), previous=DeploymentStatus(), now=NOW)
    ready, stalled = (find(found.conditions, kind) for kind in ("Ready", STALLED))
    assert ready is not None and stalled is not None
    assert (found.phase, ready.reason, stalled.status) == ("Pending", "Unschedulable", "False")
    assert "1 node(s) were unschedulable" in ready.message
    assert "offers ReadWriteMany" in ready.message


def test_a_pod_that_waits_for_its_volume_is_looked_at_again() -> None:
    assert any_waits([RUNS, WAITS])
    assert not any_waits([RUNS, STARTS, NOT_PLACED])


@pytest.mark.parametrize(
    ("spec", "available", "row"),
    [
        pytest.param({"replicas": 2}, 1, ("Failed", "False", "StorageNotShareable", "True"), id="fewer than asked for"),
        pytest.param(
            {"autoScaling": {"minReplicas": 1, "maxReplicas": 4}}, 1,
            ("Scaling", "True", "Scaling", "False"), id="the minimum answers",
        ),
    ],
)  # fmt: skip
@pytest.mark.parametrize("surges", [True, False], ids=["pods surge", "one goes down at a time"])
def test_it_is_stalled_only_while_fewer_than_the_minimum_answer(
    spec: dict[str, Any], available: int, row: tuple[str, ...], surges: bool
) -> None:
    pods = (RUNS, refused("1 node(s) didn't match PersistentVolume's node affinity"))
    known = app(wanted=2, replicas=2, updated=2, available=available, surges=surges)
    seen = view(spec, claim=ONE, pods=pods, app=known)
    found = status(seen, Outcome(plan(seen), None), previous=DeploymentStatus(), now=NOW)
    ready, stalled = (find(found.conditions, kind) for kind in ("Ready", STALLED))
    assert ready is not None and stalled is not None
    assert (found.phase, ready.status, ready.reason, stalled.status) == row
    assert "offers ReadWriteMany" in ready.message


@pytest.mark.parametrize(
    ("spec", "refused"),
    [
        ({}, False),
        ({"replicas": 2}, True),
        ({"replicas": 2, "stopped": True}, False),
        ({"autoScaling": {"maxReplicas": 1}}, False),
        ({"autoScaling": {"maxReplicas": 2}}, True),
    ],
)
def test_a_volume_for_one_pod_serves_one_replica(spec: dict[str, Any], refused: bool) -> None:
    seen = view(spec, claim=replace(ONE, access_modes=("ReadWriteOncePod",)))
    if not refused:
        plan(seen)
        return
    with pytest.raises(InvalidError, match=r"2 replicas are asked for.*ReadWriteMany") as caught:
        plan(seen)
    assert caught.value.reason == "StorageNotShareable"
