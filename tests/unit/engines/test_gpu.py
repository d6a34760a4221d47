"""GPU names that people write, matched to the labels that nodes carry."""

from __future__ import annotations

import pytest

from bud.engines.gpu import matching_products

PRODUCTS = (
    "NVIDIA-L4",
    "NVIDIA-L40S",
    "NVIDIA-A100-SXM4-40GB",
    "NVIDIA-A100-SXM4-80GB",
    "NVIDIA-H100-80GB-HBM3",
    "Tesla-T4",
)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("L4", ("NVIDIA-L4",)),
        ("l40s", ("NVIDIA-L40S",)),
        ("A100", ("NVIDIA-A100-SXM4-40GB", "NVIDIA-A100-SXM4-80GB")),
        ("A100-SXM4-80GB", ("NVIDIA-A100-SXM4-80GB",)),
        ("H100 80GB", ("NVIDIA-H100-80GB-HBM3",)),
        ("nvidia-l4", ("NVIDIA-L4",)),
        ("T4", ("Tesla-T4",)),
        ("B200", ()),
        ("4", ()),
        ("--", ()),
    ],
)
def test_a_name_means_the_labels_that_hold_its_words(wanted: str, expected: tuple[str, ...]) -> None:
    assert matching_products(wanted, PRODUCTS) == expected
