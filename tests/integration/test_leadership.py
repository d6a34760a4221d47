"""Two operators over one real API server: one writes, the other takes over when it stops, dies or hangs."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.cluster.handle import Cluster
from tests.operator_process import OperatorProcess, operator_process
from tests.waiting import eventually
from tests.world import World, deployment

LEASE = ("-n", "default", "lease", "bud-operator")


@dataclass
class Candidate:
    """An operator with a name of its own to the API server, so that the audit log tells the two apart."""

    process: OperatorProcess
    user: str
    cluster: Cluster

    def writes(self) -> int:
        """Writes that the API server let pass, those to the Lease aside."""
        return len([w for w in self.cluster.writes(self.user) if w.resource != "leases" and w.code < 300])

    def ready(self) -> str:
        return httpx.get(f"http://127.0.0.1:{self.process.port}/readyz").text.strip()


@pytest.fixture
def pair(kinds: Cluster, shared_operator: OperatorProcess, tmp_path: Path) -> Iterator[tuple[Candidate, Candidate]]:
    """The one that leads, then the one that stands by."""
    if shared_operator.running:
        shared_operator.stop()
    with ExitStack() as stack:
        found = []
        for name in ("first", "second"):
            kubeconfig = _account(kinds, name, tmp_path)
            options = ("--lease-namespace", "default")
            process = stack.enter_context(operator_process(kubeconfig, tmp_path / f"{name}.log", *options))
            found.append(Candidate(process, f"system:serviceaccount:default:{name}", kinds))
            eventually(lambda: _says(found[0], "ok, leading"))
        yield found[0], found[1]
    kinds.kubectl("delete", *LEASE)


def _account(cluster: Cluster, name: str, folder: Path) -> Path:
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": "default"}}
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": f"test-{name}"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": "default"}],
    }
    cluster.apply(account, binding)
    config: dict[str, Any] = yaml.safe_load(cluster.kubeconfig.read_text())
    token = cluster.kubectl("-n", "default", "create", "token", name).strip()
    config["users"][0]["user"] = {"token": token}
    path = folder / f"{name}.kubeconfig"
    path.write_text(json.dumps(config))
    return path


def _says(candidate: Candidate, text: str) -> None:
    assert candidate.ready() == text, candidate.ready()


def _ended(process: OperatorProcess) -> int:
    status = process.poll()
    assert status is not None, "still running"
    return status


def test_only_the_leader_writes_and_a_stop_hands_over_at_once(
    pair: tuple[Candidate, Candidate], kinds: Cluster
) -> None:
    leader, standby = pair
    world = World.create(kinds)
    world.serve("chat")
    assert standby.ready() == "ok, standing by"
    assert leader.writes() > 0 and standby.writes() == 0
    leader.process.stop()
    eventually(lambda: _says(standby, "ok, leading"), within=5)
    world.kubectl("delete", "services", "--all")
    world.one("services")
    world.clear()


def test_a_killed_leader_is_replaced_and_what_it_left_half_done_is_finished(
    pair: tuple[Candidate, Candidate], kinds: Cluster
) -> None:
    leader, standby = pair
    world = World.create(kinds)
    world.make_available("tiny")
    leader.process.stop(signal.SIGKILL)
    world.apply(*(deployment(f"d{i}", "tiny") for i in range(10)))
    eventually(lambda: _says(standby, "ok, leading"))
    for i in range(10):
        world.await_phase("mdep", f"d{i}", "Active")
    world.clear()


def test_a_leader_that_hung_ends_when_it_wakes_and_writes_nothing_more(
    pair: tuple[Candidate, Candidate], kinds: Cluster
) -> None:
    leader, standby = pair
    world = World.create(kinds)
    world.serve("chat")
    leader.process.send(signal.SIGSTOP)
    eventually(lambda: _says(standby, "ok, leading"))
    before = leader.writes()
    world.kubectl("delete", "services", "--all")
    world.one("services")
    leader.process.send(signal.SIGCONT)
    assert eventually(lambda: _ended(leader.process)) == 1
    assert re.search("Lease|another operator", leader.process.log)
    assert leader.writes() == before
    world.clear()
