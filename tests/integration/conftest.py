"""A control plane with the kinds installed, an operator beside it, and fake nodes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bud.api import KINDS
from bud.api.crd import crd
from tests.cluster.handle import Cluster
from tests.operator_process import OperatorProcess, operator_process
from tests.world import RUNTIME, World, storage_class


@pytest.fixture(scope="session")
def kinds(control_cluster: Cluster) -> Cluster:
    """The control plane with our kinds, one Runtime and a node with GPUs."""
    control_cluster.apply(*(crd(kind) for kind in KINDS))
    names = [f"crd/{kind.plural}.bud.studio" for kind in KINDS]
    control_cluster.kubectl("wait", "--for=condition=Established", *names)
    control_cluster.apply(RUNTIME, storage_class("standard", default=True))
    control_cluster.add_fake_node("gpu-1", gpu_product="NVIDIA-L4", gpus=8)
    return control_cluster


@pytest.fixture(scope="session")
def shared_operator(kinds: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OperatorProcess]:
    """One operator for all tests of a session that need not stop it."""
    log = tmp_path_factory.mktemp("operator") / "log"
    with operator_process(kinds.kubeconfig, log, "--allow-host-path", "/mnt/models") as process:
        yield process


@pytest.fixture
def world(kinds: Cluster, shared_operator: OperatorProcess) -> Iterator[World]:
    """A namespace of its own, served by the operator."""
    if not shared_operator.running:
        shared_operator.start()
    made = World.create(kinds)
    yield made
    made.clear()
