"""GPU names that people write, matched to the labels that nodes carry."""

from __future__ import annotations

import pytest

from bud.engines.gpu import Gpus, any_gpus, exact_gpus, means, named_gpus
from bud.kube.gpus import NodeGpu, gpus_of, is_gpu

PRODUCTS = (
    "NVIDIA-L4",
    "NVIDIA-L40S",
    "NVIDIA-A100-SXM4-40GB",
    "NVIDIA-A100-SXM4-80GB",
    "NVIDIA-H100-80GB-HBM3",
    "Tesla-T4",
    "NVIDIA-A100-SXM4-80GB-MIG-1g.10gb",
    "AMD_Instinct_MI300X_OAM",
    "Max_1550",
)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("L4", ("NVIDIA-L4",)),
        ("l40s", ("NVIDIA-L40S",)),
        ("A100", ("NVIDIA-A100-SXM4-40GB", "NVIDIA-A100-SXM4-80GB")),
        ("A100-SXM4-80GB", ("NVIDIA-A100-SXM4-80GB",)),
        ("A100-80GB", ("NVIDIA-A100-SXM4-80GB",)),
        ("MIG-1g.10gb", ("NVIDIA-A100-SXM4-80GB-MIG-1g.10gb",)),
        ("MI300X", ("AMD_Instinct_MI300X_OAM",)),
        ("Max-1550", ("Max_1550",)),
        ("80GB-A100", ()),
        ("H100 80GB", ("NVIDIA-H100-80GB-HBM3",)),
        ("nvidia-l4", ("NVIDIA-L4",)),
        ("T4", ("Tesla-T4",)),
        ("B200", ()),
        ("4", ()),
        ("--", ()),
    ],
)
def test_a_name_means_the_labels_that_hold_its_words(wanted: str, expected: tuple[str, ...]) -> None:
    assert tuple(product for product in PRODUCTS if means(wanted, product)) == expected


NVIDIA = {"nvidia.com/gpu.product": "NVIDIA-L4"}
AMD = {
    "amd.com/gpu.product-name": "AMD_Instinct_MI300X_OAM",
    "beta.amd.com/gpu.product-name": "AMD_Instinct_MI300X_OAM",
}
INTEL = {"gpu.intel.com/product": "Max_1550"}
SLICES = {"nvidia.com/gpu.product": "NVIDIA-A100", "nvidia.com/mig-1g.10gb.product": "NVIDIA-A100-MIG-1g.10gb"}

L4 = NodeGpu("NVIDIA", "nvidia.com/gpu", "nvidia.com/gpu.product", "NVIDIA-L4")
MI300X = NodeGpu("AMD", "amd.com/gpu", "amd.com/gpu.product-name", "AMD_Instinct_MI300X_OAM")
OLD_MI300X = MI300X._replace(label="beta.amd.com/gpu.product-name")
MAX = NodeGpu("Intel", "gpu.intel.com/i915", "gpu.intel.com/product", "Max_1550")
SLICE = NodeGpu("NVIDIA", "nvidia.com/mig-1g.10gb", "nvidia.com/mig-1g.10gb.product", "NVIDIA-A100-MIG-1g.10gb")


@pytest.mark.parametrize(
    ("labels", "allocatable", "expected"),
    [
        pytest.param(NVIDIA, {"nvidia.com/gpu": "1k", "cpu": "4"}, (L4,), id="NVIDIA"),
        pytest.param(AMD, {"amd.com/gpu": "8"}, (MI300X,), id="AMD"),
        pytest.param(
            {"beta.amd.com/gpu.product-name": MI300X.product},
            {"amd.com/gpu": "8"},
            (OLD_MI300X,),
            id="an older AMD labeller",
        ),
        pytest.param(INTEL, {"gpu.intel.com/i915": "2"}, (MAX,), id="Intel"),
        pytest.param(
            INTEL, {"gpu.intel.com/xe": "2"}, (MAX._replace(resource="gpu.intel.com/xe"),), id="Intel's newer driver"
        ),
        pytest.param(SLICES, {"nvidia.com/mig-1g.10gb": "7", "nvidia.com/gpu": "0"}, (SLICE,), id="slices"),
        pytest.param(
            {}, {"nvidia.com/gpu": "1"}, (NodeGpu("NVIDIA", "nvidia.com/gpu", "", ""),), id="no product label"
        ),
        pytest.param(NVIDIA, {"nvidia.com/gpu": "0"}, (), id="the label alone"),
    ],
)
def test_what_a_node_tells_of_its_gpus(labels: dict[str, str], allocatable: dict[str, str], expected: object) -> None:
    assert gpus_of(labels, allocatable) == expected


def test_only_gpus_are_gpus() -> None:
    names = ("nvidia.com/gpu", "amd.com/gpu", "gpu.intel.com/xe", "nvidia.com/mig-2g.20gb", "cpu", "hugepages-2Mi")
    assert [is_gpu(name) for name in names] == [True] * 4 + [False] * 2


@pytest.mark.parametrize(
    ("have", "preferred", "vendor"),
    [
        ((), (), "NVIDIA"),
        ((MI300X,), (), "AMD"),
        ((MAX, MI300X), (), "AMD"),
        ((MAX, L4), (), "NVIDIA"),
        ((MI300X, L4), ("AMD",), "AMD"),
        ((L4,), ("AMD",), "AMD"),
        ((SLICE,), (), "NVIDIA"),
    ],
)
def test_whose_gpus_are_asked_for_when_no_product_is_named(
    have: tuple[NodeGpu, ...], preferred: tuple[str, ...], vendor: str
) -> None:
    found = any_gpus(have, preferred=preferred)
    assert (found.vendor, found.products) == (vendor, ())
    assert "mig" not in found.resource


@pytest.mark.parametrize(
    ("wanted", "have", "expected"),
    [
        ("L4", (L4, MI300X), Gpus("NVIDIA", "nvidia.com/gpu", (("nvidia.com/gpu.product", ("NVIDIA-L4",)),))),
        ("MI300X", (L4, MI300X, OLD_MI300X), Gpus("AMD", "amd.com/gpu", (
            ("amd.com/gpu.product-name", (MI300X.product,)), ("beta.amd.com/gpu.product-name", (MI300X.product,)),
        ))),
        ("max-1550", (MAX,), Gpus("Intel", "gpu.intel.com/i915", (("gpu.intel.com/product", ("Max_1550",)),))),
        ("mig-1g.10gb", (L4, SLICE), Gpus("NVIDIA", "nvidia.com/mig-1g.10gb", ((SLICE.label, (SLICE.product,)),))),
        ("A100", (SLICE,), None),
    ],
)  # fmt: skip
def test_the_gpus_that_a_name_stands_for(wanted: str, have: tuple[NodeGpu, ...], expected: Gpus | None) -> None:
    assert named_gpus(wanted, have, preferred=()) == expected


@pytest.mark.parametrize(
    ("wanted", "label"),
    [
        ("NVIDIA-L4", "nvidia.com/gpu.product"),
        ("AMD_Instinct_MI300X_OAM", "amd.com/gpu.product-name"),
        ("Max_1550", "gpu.intel.com/product"),
    ],
)
def test_where_nodes_are_not_seen_a_name_is_the_value_of_the_label(wanted: str, label: str) -> None:
    assert exact_gpus(wanted).products == ((label, (wanted,)),)


def test_nodes_with_slices_carry_the_taint_of_whole_gpus() -> None:
    assert Gpus("NVIDIA", "nvidia.com/mig-1g.10gb").taints == ("nvidia.com/gpu", "nvidia.com/mig-1g.10gb")
    assert Gpus("AMD", "amd.com/gpu").taints == ("amd.com/gpu",)
