"""GPUs as nodes tell of them: the extended resources and product labels of the vendors.

Sources: NVIDIA's device plugin and GPU feature discovery (MIG strategies `single` and `mixed`), AMD's device plugin and
node labeller (older ones label with the prefix `beta.`), Intel's device plugins and their rules for node feature
discovery (`xe` and `i915` are the two kernel drivers).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from bud.kube.quantity import parse


@dataclass(frozen=True, slots=True)
class Vendor:
    """One vendor's resources, and the labels that may name a node's product; the first of each is the usual one."""

    name: str
    resources: tuple[str, ...]
    labels: tuple[str, ...]


NVIDIA = Vendor("NVIDIA", ("nvidia.com/gpu",), ("nvidia.com/gpu.product",))
AMD = Vendor("AMD", ("amd.com/gpu",), ("amd.com/gpu.product-name", "beta.amd.com/gpu.product-name"))
INTEL = Vendor("Intel", ("gpu.intel.com/xe", "gpu.intel.com/i915"), ("gpu.intel.com/product",))
VENDORS = (NVIDIA, AMD, INTEL)

_SLICE = "nvidia.com/mig-"


class NodeGpu(NamedTuple):
    """GPUs of one kind on a node; label and product are "" where nothing names the product."""

    vendor: str
    resource: str
    label: str
    product: str


def is_gpu(resource: str) -> bool:
    """Whether an extended resource is a GPU, or a slice of one."""
    return resource.startswith(_SLICE) or any(resource in vendor.resources for vendor in VENDORS)


def gpus_of(labels: Mapping[str, str], allocatable: Mapping[str, Any]) -> tuple[NodeGpu, ...]:
    """The GPUs of a node that pods may ask for, in the order of its resources' names."""
    resources = [name for name in sorted(allocatable) if is_gpu(name) and parse(allocatable[name]) > 0]
    return tuple(_named(resource, labels) for resource in resources)


def _named(resource: str, labels: Mapping[str, str]) -> NodeGpu:
    vendor = next((vendor for vendor in VENDORS if resource in vendor.resources), NVIDIA)
    known = (f"{resource}.product",) if resource.startswith(_SLICE) else vendor.labels
    label = next((label for label in known if labels.get(label)), "")
    return NodeGpu(vendor.name, resource, label, labels.get(label, ""))
