"""What a Deployment asks of nodes, as far as a download must know."""

from __future__ import annotations

from typing import Any

import pytest

from bud.kube.gpus import NodeGpu
from bud.model.placement import need

L4 = NodeGpu("NVIDIA", "nvidia.com/gpu", "nvidia.com/gpu.product", "NVIDIA-L4")
MI300 = NodeGpu("AMD", "amd.com/gpu", "amd.com/gpu.product-name", "AMD_Instinct_MI300X_OAM")
UNNAMED = NodeGpu("Intel", "gpu.intel.com/xe", "", "")
H100 = ("nvidia.com/gpu.product", ("H100",))
NVIDIA = ("nvidia.com/gpu.product", ("NVIDIA-L4",))
AMD = ("amd.com/gpu.product-name", ("AMD_Instinct_MI300X_OAM",))


@pytest.mark.parametrize(
    ("resources", "gpus", "labels", "taints"),
    [
        pytest.param({}, [L4], (), (), id="no GPU"),
        pytest.param({"gpu": 0}, [L4], (), (), id="none of them"),
        pytest.param({"gpu": 1}, [L4, MI300], (AMD, NVIDIA), ("amd.com/gpu", "nvidia.com/gpu"), id="any GPU"),
        pytest.param({"gpu": 1, "gpuType": "MI300X"}, [L4, MI300], (AMD,), ("amd.com/gpu",), id="one by its name"),
        pytest.param(
            {"gpu": 1, "gpuType": "H100"}, [L4, MI300], (H100,), ("nvidia.com/gpu",), id="one that no node has"
        ),
        pytest.param(
            {"gpu": 1, "gpuType": "AMD_X"},
            [],
            (("amd.com/gpu.product-name", ("AMD_X",)),),
            ("amd.com/gpu",),
            id="one by its exact name, when nodes are not read",
        ),
        pytest.param({"gpu": 1, "gpuType": "no label"}, [], (), (), id="what no label can be"),
        pytest.param({"gpu": 1}, [UNNAMED], (), ("gpu.intel.com/xe",), id="GPUs without a label"),
        pytest.param({"gpu": 1}, [], (), (), id="nodes are not read"),
    ],
)
def test_what_a_deployment_asks_of_nodes(
    resources: dict[str, Any], gpus: list[NodeGpu], labels: tuple[Any, ...], taints: tuple[str, ...]
) -> None:
    found = need({"resources": resources}, gpus)
    assert (found.gpu_labels, found.gpu_taints) == (labels, taints)
