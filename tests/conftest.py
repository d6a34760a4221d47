"""Clusters for all tests. `KEEP=1` in the environment leaves them up afterwards.

Tests wait more than they compute, so two processes share them (pytest-xdist), each with clusters of its own. What needs
a node stays in one process, since a node takes long to come up; and so does each file of the others, for its fixtures.
"""

import os
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from tests.cluster import layout, running
from tests.cluster.handle import Cluster


class _ByClusters(LoadScopeScheduling):  # type: ignore[misc]  # xdist carries no types
    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "e2e" if "/e2e/" in file else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    return _ByClusters(config, log)


@pytest.fixture(scope="session")
def control_cluster(pytestconfig: pytest.Config) -> Iterator[Cluster]:
    """A control plane with fake nodes, and an audit log: for tests that need no pod to truly run."""
    yield from _cluster("control", pytestconfig)


@pytest.fixture(scope="session")
def node_cluster(pytestconfig: pytest.Config) -> Iterator[Cluster]:
    """A cluster whose pods truly run. Only this one may be missing: without root, and then it is said aloud."""
    if os.geteuid() and not running.needs_no_root():
        pytest.skip("NO END-TO-END TEST RAN: a node needs root, or Docker with kind, or BUD_TEST_KUBECONFIG")
    yield from _cluster("node", pytestconfig)


def _cluster(tier: layout.Tier, config: pytest.Config) -> Iterator[Cluster]:
    name = f"test-{tier}-{os.getpid()}"
    capture = config.pluginmanager.getplugin("capturemanager")

    def say(line: str) -> None:
        with capture.global_and_fixture_disabled():
            print(f"\n[{tier} cluster] {line}", end="", flush=True, file=sys.stderr)

    with running.cluster(name, tier, audit=True, kept=bool(os.environ.get("KEEP")), say=say) as found:
        yield found
