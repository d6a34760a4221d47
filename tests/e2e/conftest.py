"""A real node with the operator installed by its chart, as a user installs it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import image
from tests.cluster import tools
from tests.cluster.handle import Cluster
from tests.integration.weights.programs import Origin, origin
from tests.tiny_model import write_tiny_model
from tests.world import World

NODE_CACHE_BYTES = 900_000
SYSTEM = "bud-system"
_CHART = Path(__file__).parents[2] / "charts/bud-operator"


def helm(cluster: Cluster, *arguments: str) -> None:
    """Helm, on the release in namespace bud-system."""
    command = [str(tools.path("helm")), *arguments, "--namespace", SYSTEM]
    subprocess.run(command, check=True, env=cluster.environment(), stdout=subprocess.DEVNULL, timeout=300)


@pytest.fixture(scope="session")
def release(node_cluster: Cluster, pytestconfig: pytest.Config) -> list[str]:
    """What `helm install` takes to install the chart with the image made from this tree."""
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        built = image.image(say=lambda line: print(f"\n[image] {line}", end="", flush=True, file=sys.stderr))
    node_cluster.load_image(built.archive)
    values = f"image.repository={image.REPOSITORY},image.tag={built.tag}"
    # Room for one tiny model, not for two.
    cache = f"settings.nodeCache.path={node_cluster.state}/node-cache,settings.nodeCache.size={NODE_CACHE_BYTES}"
    return ["bud-operator", str(_CHART), "--set", values, "--set-string", cache, "--wait"]


@pytest.fixture(scope="session")
def installed(node_cluster: Cluster, release: list[str]) -> Cluster:
    """The cluster with the chart's release in namespace bud-system; the operator has only the chart's rights."""
    helm(node_cluster, "install", *release, "--create-namespace")
    return node_cluster


@pytest.fixture
def world(installed: Cluster) -> Iterator[World]:
    """A namespace that enforces Pod Security level restricted, served by the operator."""
    made = World.create(installed)
    installed.kubectl("label", "namespace", made.namespace, "pod-security.kubernetes.io/enforce=restricted")
    yield made
    made.clear()


@pytest.fixture
def files(installed: Cluster, tmp_path: Path) -> Iterator[Origin]:
    """A strict web server and Hub that pods reach."""
    root = tmp_path / "origin"
    root.mkdir()
    with origin(root, address=installed.host_address) as server:
        yield server


@pytest.fixture(scope="session")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.gguf").read_bytes()
