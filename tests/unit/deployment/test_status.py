"""The truth table of a Deployment's phase and conditions."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from bud.api.conditions import READY, RECONCILING, REPLICAS_IGNORED, STALLED, find
from bud.api.deployment import DeploymentStatus
from bud.deployment.plan import plan
from bud.deployment.rollout import NO_SWAP, SWAP
from bud.deployment.status import Outcome, diagnose, status
from bud.deployment.view import View
from bud.errors import BudError, InvalidError, WaitingError
from bud.kube.seen import Container, Pod
from tests.unit.deployment.views import app, model, view

NOW = "2026-01-01T00:00:00Z"
LATER = "2026-01-01T01:00:00Z"


def container(**changes: Any) -> Container:
    return replace(Container("engine", False, 0, "", "", None, "", ""), **changes)


def pod(*containers: Container, **changes: Any) -> Pod:
    return replace(Pod("Running", False, "", NOW, containers), **changes)


def outcome_of(changed: View, error: BudError | None = None) -> Outcome:
    return Outcome(None, error) if error else Outcome(plan(changed), None)


def look(
    changed: View,
    *pods: Pod,
    error: BudError | None = None,
    previous: DeploymentStatus | None = None,
    now: str = NOW,
) -> DeploymentStatus:
    seen = replace(changed, pods=pods)
    return status(seen, outcome_of(seen, error), previous=previous or DeploymentStatus(), now=now)


def row(found: DeploymentStatus) -> tuple[str | None, str, str, bool, bool]:
    """Phase, Ready's status and reason, Reconciling, Stalled."""
    ready, going, stalled = (find(found.conditions, kind) for kind in (READY, RECONCILING, STALLED))
    assert ready
    assert going
    assert stalled
    assert {c.observed_generation for c in found.conditions} == {found.observed_generation}
    return found.phase, ready.status, ready.reason, going.status == "True", stalled.status == "True"


ACTIVE = look(view(app=app()))
SCALED = {"autoScaling": {"minReplicas": 1, "maxReplicas": 5}}
ACTIVE_SCALED = look(view(SCALED, app=app()))
CRASHED = container(exit_code=1, exit_reason="Error", exit_message="boom\nno such file", restarts=4)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        pytest.param(look(view()), ("Deploying", "False", "Deploying", True, False), id="nothing made yet"),
        pytest.param(
            look(view(), error=WaitingError("x", reason="ModelNotFound")),
            ("Pending", "False", "ModelNotFound", True, False),
            id="something outside is missing",
        ),
        pytest.param(
            look(view(app=app()), error=WaitingError("x", reason="ModelNotReady"), previous=ACTIVE),
            ("Deploying", "True", "ModelNotReady", False, False),
            id="new weights are fetched while the old ones are served",
        ),
        pytest.param(
            look(view(), error=InvalidError("x", reason="NoRuntime")),
            ("Failed", "False", "NoRuntime", False, True),
            id="a spec that cannot work",
        ),
        pytest.param(
            look(view(app=app(observed_generation=0, available=0))),
            ("Deploying", "False", "Deploying", True, False),
            id="the cluster has not looked at the new pods yet",
        ),
        pytest.param(
            look(view(app=app(observed_generation=0), generation=2), previous=ACTIVE),
            ("Deploying", "True", "Deploying", True, False),
            id="the cluster has not looked at a change yet, and what is there answers",
        ),
        pytest.param(
            look(view(app=app(available=0, ready=0))),
            ("Deploying", "False", "Deploying", True, False),
            id="the engine starts",
        ),
        pytest.param(look(view(app=app())), ("Active", "True", "Active", False, False), id="all replicas answer"),
        pytest.param(
            look(view(app=app(available=0)), pod(unschedulable="0/1 nodes: Insufficient nvidia.com/gpu")),
            ("Pending", "False", "Unschedulable", True, False),
            id="no node fits",
        ),
        pytest.param(
            look(view(app=app(available=0, failure="admission webhook says no"))),
            ("Pending", "False", "ReplicaFailure", True, False),
            id="pods cannot be made",
        ),
        pytest.param(
            look(view(app=app(available=0, failure="pods is forbidden: exceeded quota: gpus"))),
            ("Pending", "False", "QuotaExceeded", True, False),
            id="a quota is in the way of pods",
        ),
        pytest.param(
            look(view(app=app(available=0)), pod(CRASHED)),
            ("Failed", "False", "EngineCrashed", True, False),
            id="the engine crashes",
        ),
        pytest.param(
            look(view(app=app(available=0)), pod(CRASHED), previous=ACTIVE),
            ("Failed", "False", "EngineCrashed", False, False),
            id="the engine crashes long after it served",
        ),
        pytest.param(
            look(
                view({"replicas": 3}, app=app(wanted=3, replicas=3, updated=1, available=3), generation=2),
                previous=ACTIVE,
            ),
            ("Deploying", "True", "Deploying", True, False),
            id="a roll-out while the old replicas answer",
        ),
        pytest.param(
            look(
                view({"replicas": 3}, app=app(wanted=3, replicas=3, updated=3, available=1), generation=2),
                previous=ACTIVE,
            ),
            ("Scaling", "False", "Scaling", True, False),
            id="more replicas by the spec",
        ),
        pytest.param(
            look(view(SCALED, app=app(wanted=3, replicas=3, updated=3, available=1)), previous=ACTIVE_SCALED),
            ("Scaling", "True", "Scaling", False, False),
            id="more replicas by the autoscaler",
        ),
        pytest.param(
            look(view({"stopped": True}, app=app(wanted=0, replicas=1))),
            ("Scaling", "False", "Stopping", True, False),
            id="stopping",
        ),
        pytest.param(
            look(view({"stopped": True}, app=app(wanted=0, replicas=0, updated=0, available=0))),
            ("Stopped", "True", "Stopped", False, False),
            id="stopped",
        ),
        pytest.param(
            look(view({"replicas": 0}, app=app(wanted=0, replicas=0, updated=0, available=0))),
            ("Stopped", "True", "Stopped", False, False),
            id="no replicas wanted",
        ),
    ],
)
def test_the_truth_table(found: DeploymentStatus, expected: tuple[str | None, str, str, bool, bool]) -> None:
    assert row(found) == expected


def test_a_status_computed_again_from_the_same_cluster_is_the_same() -> None:
    assert look(view(app=app()), previous=ACTIVE, now=LATER) == ACTIVE


def test_a_transition_time_moves_only_with_its_condition() -> None:
    broken = look(view(app=app(available=0)), pod(CRASHED), previous=ACTIVE, now=LATER)
    times = {c.type: c.last_transition_time for c in broken.conditions}
    assert times == {READY: LATER, RECONCILING: NOW, STALLED: NOW}


def test_the_counts_and_the_address_are_told() -> None:
    found = look(view({"replicas": 2}, app=app(wanted=2, replicas=2, updated=2, available=1)))
    assert (found.ready, found.replicas, found.ready_replicas, found.updated_replicas) == ("1/2", 2, 1, 2)
    assert found.endpoint_url == f"http://{view().id}.team.svc/v1"
    assert found.runtime == "tiny"


def test_replicas_that_still_answer_are_told_of_a_broken_spec() -> None:
    found = look(view(app=app()), error=InvalidError("no", reason="NoRuntime"), previous=ACTIVE)
    ready = find(found.conditions, READY)
    assert ready is not None
    assert ready.message == "no; 1 replicas answer meanwhile"


@pytest.mark.parametrize(
    ("failure", "remedy"),
    [
        ("exceeded quota: gpus", "raise the ResourceQuota"),
        ("no PriorityClass with name x", "spec.priorityClassName"),
        ("violates PodSecurity: hostPath volumes", "level privileged"),
    ],
)
def test_a_refusal_to_make_pods_is_told_with_the_remedy(failure: str, remedy: str) -> None:
    ready = find(look(view(app=app(available=0, failure=failure))).conditions, READY)
    assert ready is not None
    assert failure in ready.message and remedy in ready.message


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (SCALED, False),
        (SCALED | {"replicas": 5}, True),
        (SCALED | {"replicas": 5, "stopped": True}, False),
        ({"replicas": 5, "autoScaling": {"enabled": False}}, False),
    ],
)
def test_replicas_under_autoscaling_have_a_condition_of_their_own(spec: dict[str, Any], expected: bool) -> None:
    found = look(view(spec, app=app()))
    ignored = find(found.conditions, REPLICAS_IGNORED)
    assert (ignored is not None) == expected
    if ignored is not None:
        assert (ignored.status, ignored.reason) == ("True", "AutoScaling")
        assert "spec.replicas 5" in ignored.message
        assert "5" not in str(find(found.conditions, READY))


NEW = pod(unschedulable="0/1 nodes are available: 1 Insufficient nvidia.com/gpu.", needs=1)
OLD = pod(ready=True, node="n", needs=1)
UNDER_WAY = app(wanted=1, replicas=2, updated=1, available=1)
GPU = {"runtimeRef": {"name": "vllm"}, "resources": {"gpu": 1}}


@pytest.mark.parametrize(
    ("known", "pods", "expected"),
    [
        (replace(UNDER_WAY, data=replace(UNDER_WAY.data, surges=False)), (NEW, OLD), SWAP),
        (UNDER_WAY, (replace(NEW, needs=2), OLD), NO_SWAP),
        (UNDER_WAY, (OLD, OLD), ""),
        (app(surges=False), (OLD,), ""),
    ],
)
def test_a_roll_out_without_a_spare_gpu_says_how_it_goes_on(known: Any, pods: tuple[Pod, ...], expected: str) -> None:
    changed = view(GPU, app=known, model=model(format="safetensors"))
    ready = find(look(changed, *pods).conditions, READY)
    assert ready is not None
    assert (
        (ready.message.endswith(expected)) if expected else not any(text in ready.message for text in (SWAP, NO_SWAP))
    )


@pytest.mark.parametrize(("held", "expected"), [(False, "the weights are brought"), (True, "the engine starts")])
def test_a_pod_that_starts_tells_whether_its_weights_are_there(held: bool, expected: str) -> None:
    starting = pod(container(name="weights", ready=held), container())
    ready = find(look(view(app=app(available=0)), starting).conditions, READY)
    assert ready is not None
    assert expected in ready.message


@pytest.mark.parametrize(("available", "expected"), [(0, True), (1, False)])
def test_where_nodes_are_not_read_it_is_said_what_the_gpu_type_means(available: int, expected: bool) -> None:
    spec = {"runtimeRef": {"name": "vllm"}, "resources": {"gpu": 1, "gpuType": "NVIDIA-L4"}}
    found = look(view(spec, app=app(available=available), gpus=None, model=model(format="safetensors")))
    ready = find(found.conditions, READY)
    assert ready is not None
    assert ("no nodes are read" in ready.message) == expected


def test_children_that_something_changes_back_are_named() -> None:
    changed = view(app=app())
    found = status(changed, Outcome(plan(changed), None, ("Service x",)), previous=DeploymentStatus(), now=NOW)
    ready = find(found.conditions, READY)
    assert ready is not None
    assert ready.reason == "ChildrenChanged"
    assert "Service x" in ready.message


NO_ROOM = '{"error": {"reason": "NodeCacheFull", "message": "200 GiB are in use"}}'


@pytest.mark.parametrize(
    ("pods", "reason", "message"),
    [
        ([pod(container(waiting_reason="ImagePullBackOff", waiting_message="not found"))], "ImagePullFailed", "not found; correct spec.image or the Runtime's"),
        ([pod(container(name="probe", waiting_reason="ImagePullBackOff", waiting_message="not found"))], "ImagePullFailed", "--image"),
        ([pod(container(waiting_reason="CreateContainerConfigError", waiting_message='secret "s" not found'))],
         "ContainerConfigInvalid", 'secret "s" not found; .*spec.env'),
        ([pod(CRASHED)], "EngineCrashed", "code 1 .4 restarts.: no such file; .*spec.args"),
        ([pod(container(exit_code=137, exit_reason="OOMKilled"))], "EngineCrashed", "spec.resources.memory"),
        ([pod(container(name="weights", exit_code=1, exit_message=NO_ROOM))], "NodeCacheFull", "in use; it is tried again"),
        ([pod(container(name="weights", exit_code=1, exit_message='{"error": {"reason": "a b", "message": "m"}}'))],
         "WeightsFailed", "cannot be brought to the node: m"),
        ([pod(container(name="weights", exit_code=137, exit_reason="OOMKilled"))], "WeightsFailed", "code 137: OOMKilled"),
        ([pod(unschedulable="Insufficient cpu")], "Unschedulable", "Insufficient cpu.*spec.resources"),
        ([pod(unschedulable="1 node(s) had untolerated taint {gpu: only}")], "Unschedulable", "spec.tolerations"),
        ([pod(unschedulable="1 Insufficient cpu, 2 node(s) didn't match Pod's node affinity/selector")],
         "Unschedulable", "less in spec.resources, or correct spec.nodeSelector or spec.resources.gpuType"),
        ([pod(unschedulable="1 node(s) were unschedulable")], "Unschedulable", "uncordon a node$"),
        ([pod(unschedulable="words of a later release")], "Unschedulable", "free or add a node that fits"),
    ],
)  # fmt: skip
def test_the_reason_why_pods_are_not_ready(pods: list[Pod], reason: str, message: str) -> None:
    found = diagnose(pods)
    assert found is not None
    assert found[0] == reason
    assert re.search(message, found[1])


@pytest.mark.parametrize(
    "pods",
    [
        [],
        [pod(container())],
        [pod(container(exit_code=0))],
        [pod(replace(CRASHED, ready=True))],
        [pod(CRASHED, ready=True)],
    ],
)
def test_pods_that_merely_start_or_have_recovered_are_no_trouble(pods: list[Pod]) -> None:
    assert diagnose(pods) is None


def test_the_task_that_is_served_is_told_and_stays_so_while_nothing_can_be_planned() -> None:
    assert ACTIVE.task == "text-generation"
    assert look(view(app=app()), error=WaitingError("no", reason="No"), previous=ACTIVE).task == "text-generation"
