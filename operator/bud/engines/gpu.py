"""Which nodes have the GPU that a Deployment asks for, by the labels of NVIDIA's GPU feature discovery."""

from __future__ import annotations

import re
from collections.abc import Iterable

GPU_RESOURCE = "nvidia.com/gpu"
GPU_PRODUCT_LABEL = "nvidia.com/gpu.product"


def matching_products(wanted: str, products: Iterable[str]) -> tuple[str, ...]:
    """The product labels that a name such as `L4` or `A100-SXM4-80GB` means, sorted.

    A name means a label when its words stand in the label one after the other, whatever their case.
    """
    words = _words(wanted)
    return tuple(sorted({product for product in products if _contains(_words(product), words)}))


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.lower())


def _contains(words: list[str], part: list[str]) -> bool:
    spans = range(len(words) - len(part) + 1)
    return bool(part) and any(words[start : start + len(part)] == part for start in spans)
