"""Where a download runs: only where the Deployments that will use its weights can. Pure.

A volume of a class with WaitForFirstConsumer comes to be where its first pod is scheduled, which is the download's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bud.engines.gpu import Gpus, exact_gpus, means
from bud.engines.pod import Document
from bud.kube.gpus import NodeGpu
from bud.model.view import Need, View

_NAME = r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
_KEY = re.compile(rf"([a-z0-9]([-a-z0-9.]{{0,251}}[a-z0-9])?/)?{_NAME}")
_VALUE = re.compile(rf"({_NAME})?")


def placement(view: View) -> Document:
    """Fields of the download's pod: one term of node affinity for each Deployment that says something of nodes, and
    all their tolerations.

    A volume that is bound decides by itself where its pods run.
    """
    fields: Document = {}
    bound = view.volume is not None and view.volume.data.phase == "Bound"
    if not bound and (terms := _terms(view.needs)):
        required = {"nodeSelectorTerms": terms}
        fields["affinity"] = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}
    if tolerations := _tolerations(view.needs):
        fields["tolerations"] = tolerations
    return fields


def need(spec: Mapping[str, Any], gpus: Sequence[NodeGpu]) -> Need:
    """What a Deployment asks of nodes, `gpus` being those of the cluster. Of GPUs it asks for, any product that its
    pods may come to run on; of a type that no node is seen to have, the product of exactly that name."""
    asked: Mapping[str, Any] = spec.get("resources") or {}
    name = asked.get("gpuType")
    if not asked.get("gpu"):
        return Need(spec)
    fit = [gpu for gpu in gpus if name is None or (gpu.product and means(name, gpu.product))]
    if not fit and name is not None and _VALUE.fullmatch(name):
        exact = exact_gpus(name)
        return Need(spec, exact.products, exact.taints)
    labels = sorted({gpu.label for gpu in fit if gpu.label})
    return Need(
        spec,
        tuple((label, tuple(sorted({gpu.product for gpu in fit if gpu.label == label}))) for label in labels),
        tuple(sorted({taint for gpu in fit for taint in Gpus(gpu.vendor, gpu.resource).taints})),
    )


def _terms(needs: Iterable[Need]) -> list[Document]:
    """Any of them will do; a Deployment that runs anywhere runs there too."""
    terms: list[Document] = []
    for one in needs:
        chosen = _chosen(one.spec.get("nodeSelector") or {})
        for products in one.gpu_labels or ((),):
            labels = [*chosen, products] if products else chosen
            term = {"matchExpressions": [_expression(key, values) for key, values in labels]}
            if labels and term not in terms:
                terms.append(term)
    return terms


def _chosen(selector: Mapping[str, str]) -> list[tuple[str, tuple[str, ...]]]:
    """What is no label is refused in the Deployment's own pods, and told there; it must not hold up the download."""
    return [(k, (v,)) for k, v in sorted(selector.items()) if _KEY.fullmatch(k) and _VALUE.fullmatch(v)]


def _expression(key: str, values: tuple[str, ...]) -> Document:
    return {"key": key, "operator": "In", "values": list(values)}


def _tolerations(needs: Iterable[Need]) -> list[Document]:
    out: list[Document] = []
    for one in needs:
        taints = [{"key": key, "operator": "Exists"} for key in one.gpu_taints]
        for toleration in [*(one.spec.get("tolerations") or ()), *taints]:
            if toleration not in out and _is_valid(toleration):
                out.append(dict(toleration))
    return out


def _is_valid(toleration: Mapping[str, Any]) -> bool:
    key, exists = toleration.get("key"), toleration.get("operator") == "Exists"
    if toleration.get("tolerationSeconds") is not None and toleration.get("effect") != "NoExecute":
        return False
    if exists and toleration.get("value"):
        return False
    return bool(_KEY.fullmatch(key)) if key else exists
