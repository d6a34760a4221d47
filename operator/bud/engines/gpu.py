"""Which GPUs a Deployment's pods ask for: the extended resource, and the labels of nodes that have the product."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from bud.kube.gpus import AMD, INTEL, NVIDIA, VENDORS, NodeGpu, Vendor


@dataclass(frozen=True)
class Gpus:
    """GPUs of one resource; `products` pairs a node label with the values that will do, and is empty where all do."""

    vendor: str
    resource: str
    products: tuple[tuple[str, tuple[str, ...]], ...] = ()

    @property
    def taints(self) -> tuple[str, ...]:
        """Keys of the taints that by custom keep other pods off: the resource's, and for a slice the whole GPU's."""
        whole = NVIDIA.resources if self.vendor == NVIDIA.name else ()
        return tuple(sorted({self.resource, *whole}))


def any_gpus(have: Iterable[NodeGpu], *, preferred: Collection[str]) -> Gpus:
    """GPUs of any product: of a preferred vendor, then of one that some node has, then by the order NVIDIA, AMD, Intel.

    Whole GPUs only: a slice is asked for by its name.
    """
    found = [gpu for gpu in have if any(gpu.resource in vendor.resources for vendor in VENDORS)]
    usual = [NodeGpu(vendor.name, vendor.resources[0], "", "") for vendor in VENDORS]
    best = min(found or usual, key=lambda gpu: _rank(gpu, preferred))
    if found and preferred and best.vendor not in preferred:
        best = min(usual, key=lambda gpu: _rank(gpu, preferred))
    return Gpus(best.vendor, best.resource)


def named_gpus(wanted: str, have: Iterable[NodeGpu], *, preferred: Collection[str]) -> Gpus | None:
    """GPUs of the products that a name such as `L4`, `A100-80GB` or `MI300X` means; None when no node has one.

    A name means a product when its words stand in the product's label in the same order, whatever their case. Where
    the products are of several resources, a preferred vendor's goes first, as in `any_gpus`.
    """
    matched = [gpu for gpu in have if gpu.product and means(wanted, gpu.product)]
    if not matched:
        return None
    best = min(matched, key=lambda gpu: _rank(gpu, preferred))
    same = [gpu for gpu in matched if gpu.resource == best.resource]
    return Gpus(
        best.vendor,
        best.resource,
        tuple(
            (label, tuple(sorted({gpu.product for gpu in same if gpu.label == label})))
            for label in sorted({gpu.label for gpu in same})
        ),
    )


def exact_gpus(wanted: str) -> Gpus:
    """GPUs whose product label has exactly this value, for when nodes are not seen; the value tells the vendor."""
    vendor = _vendor_of(wanted)
    return Gpus(vendor.name, vendor.resources[0], ((vendor.labels[0], (wanted,)),))


def means(wanted: str, product: str) -> bool:
    """Whether a name that people write means this product. A whole GPU's name never means a slice of one."""
    asked, words = _words(wanted), _words(product)
    if "mig" in words and "mig" not in asked:
        return False
    rest = iter(words)
    return bool(asked) and all(word in rest for word in asked)


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.lower())


def _rank(gpu: NodeGpu, preferred: Collection[str]) -> tuple[bool, int, bool, str]:
    order = next(i for i, vendor in enumerate(VENDORS) if vendor.name == gpu.vendor)
    return (
        bool(preferred) and gpu.vendor not in preferred,
        order,
        gpu.resource != VENDORS[order].resources[0],
        gpu.resource,
    )


def _vendor_of(product: str) -> Vendor:
    first = _words(product)[:1]
    if first == ["amd"]:
        return AMD
    return INTEL if first in (["max"], ["flex"]) else NVIDIA
