"""How a change of the pods rolls out, with and without a spare GPU."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bud.deployment.plan import plan
from bud.kube.seen import Claim, Pod
from tests.unit.deployment.views import app, app_document, model, view

GPU = {"runtimeRef": {"name": "vllm"}, "resources": {"gpu": 1}}
NO_GPU = "0/2 nodes are available: 1 Insufficient nvidia.com/gpu, 1 node(s) didn't match Pod's node affinity/selector."
NEW = Pod("Pending", False, NO_GPU, "", (), needs=1)
OLD = Pod("Running", True, "", "", (), node="n", needs=1)
UNDER_WAY = {"wanted": 1, "replicas": 2, "updated": 1, "available": 1}


def rolling(spec: dict[str, Any], *pods: Pod, changed: bool = False, **seen: Any) -> tuple[Any, Any]:
    """maxSurge and maxUnavailable of a Deployment that is known, and whose pods change once more."""
    weights = model(format="safetensors")
    before = plan(view(spec, model=weights))
    spec = spec | {"args": ["--x"]} if changed else spec
    known = app(annotations=app_document(before)["metadata"]["annotations"], **seen)
    wanted = plan(view(spec, app=known, pods=pods, model=weights))
    rolling_update = app_document(wanted)["spec"]["strategy"]["rollingUpdate"]
    return rolling_update["maxSurge"], rolling_update["maxUnavailable"]


@pytest.mark.parametrize(
    ("spec", "pods", "seen", "expected"),
    [
        pytest.param(GPU, (), {}, (1, 0), id="at first"),
        pytest.param(GPU, (NEW, OLD), UNDER_WAY, (0, 1), id="no GPU for the new pod"),
        pytest.param(GPU, (NEW, OLD), UNDER_WAY | {"updated": 2}, (1, 0), id="no GPU for more replicas is no roll-out"),
        pytest.param(GPU, (NEW, OLD), UNDER_WAY | {"observed_generation": 0}, (1, 0), id="not looked at yet"),
        pytest.param(GPU, (replace(NEW, needs=2), OLD), UNDER_WAY, (1, 0), id="an old pod would make no room"),
        pytest.param(
            GPU, (replace(NEW, unschedulable="1 Insufficient cpu."), OLD), UNDER_WAY, (1, 0), id="something else is short"
        ),
        pytest.param(GPU, (OLD,), {"surges": False}, (0, 1), id="kept once it is over"),
        pytest.param(GPU | {"rollout": {"maxSurge": 1}}, (NEW, OLD), UNDER_WAY, (1, 0), id="as the spec says"),
        pytest.param({"rollout": {"maxSurge": 0}}, (), {}, (0, 1), id="no surge"),
        pytest.param({"rollout": {"maxSurge": "0%"}}, (), {}, ("0%", 1), id="no surge in percent"),
        pytest.param({"rollout": {"maxUnavailable": 0}}, (), {}, (1, 0), id="none unavailable"),
        pytest.param({"rollout": {"maxUnavailable": "25%"}}, (), {}, (1, "25%"), id="some unavailable"),
        pytest.param({"rollout": {"maxSurge": 3, "maxUnavailable": 2}}, (), {}, (3, 2), id="both"),
    ],
)  # fmt: skip
def test_how_a_change_rolls_out(
    spec: dict[str, Any], pods: tuple[Pod, ...], seen: dict[str, Any], expected: tuple[Any, Any]
) -> None:
    spec = spec if "runtimeRef" in spec else GPU | spec
    assert rolling(spec, *pods, **seen) == expected


@pytest.mark.parametrize(
    ("modes", "spec", "expected"),
    [
        (("ReadWriteOnce",), {}, (1, 0)),
        (("ReadWriteOncePod",), {}, (0, 1)),
        (("ReadWriteOncePod",), {"rollout": {"maxUnavailable": 0}}, (1, 0)),
        (("ReadWriteOncePod",), {"rollout": {"maxSurge": 1}}, (1, 0)),
    ],
)
def test_a_volume_for_one_pod_is_let_go_before_the_next_one_mounts_it(
    modes: tuple[str, ...], spec: dict[str, Any], expected: tuple[Any, Any]
) -> None:
    wanted = plan(view(spec, claim=Claim("Bound", None, "", {}, modes)))
    rolling_update = app_document(wanted)["spec"]["strategy"]["rollingUpdate"]
    assert (rolling_update["maxSurge"], rolling_update["maxUnavailable"]) == expected


def test_the_next_change_tries_for_a_spare_gpu_again() -> None:
    assert rolling(GPU, OLD, changed=True, surges=False) == (1, 0)
