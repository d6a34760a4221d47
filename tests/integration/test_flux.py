"""Models and Deployments from Git, applied, waited for, corrected and pruned by Flux's own kustomize-controller."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.handle import Cluster
from tests.integration import flux
from tests.integration.chart import ROOT, SYSTEM
from tests.integration.flux import Repository
from tests.waiting import eventually
from tests.world import World, deployment, model


@pytest.fixture(scope="module")
def flux_runs(kinds: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    flux.install(kinds)
    with flux.controller(kinds, tmp_path_factory.mktemp("flux") / "log"):
        yield


@pytest.fixture
def git(world: World, flux_runs: None) -> Iterator[Repository]:
    with flux.repository(world.cluster, world.namespace) as made:
        yield made
        made.kubectl("delete", "kustomization", made.name, "--ignore-not-found", "--timeout=60s")


def version(world: World, kind: str, name: str) -> str:
    found: str = world.get(kind, name)["metadata"]["resourceVersion"]
    return found


def test_flux_waits_corrects_reports_and_prunes(world: World, git: Repository) -> None:
    git.commit(model("tiny"), deployment("chat", "tiny", replicas=1))
    git.follow()
    world.one("mdep")
    world.one("bmodel")
    world.await_phase("bmodel", "tiny", "Downloading")
    world.await_phase("mdep", "chat", "Pending")
    git.await_ready("Unknown", "Reconciliation in progress")
    world.finish_download("tiny")
    world.await_phase("mdep", "chat", "Active")
    git.await_ready("True", "Applied revision: main@sha1:")

    before = len(world.writes()), version(world, "mdep", "chat"), version(world, "bmodel", "tiny")
    for token in ("1", "2"):
        git.reconcile(token)
    assert (len(world.writes()), version(world, "mdep", "chat"), version(world, "bmodel", "tiny")) == before

    world.kubectl("patch", "mdep", "chat", "--type=merge", "--patch", '{"spec": {"replicas": 2}}')
    world.kubectl("wait", "mdep/chat", "--for=jsonpath={.status.ready}=2/2", "--timeout=60s")
    git.reconcile("3")
    world.kubectl("wait", "mdep/chat", "--for=jsonpath={.status.ready}=1/1", "--timeout=60s")

    git.commit(model("tiny"), model("bad", {"source": {"local": {"hostPath": "/etc"}}}))
    ready = git.await_ready("False", "failed early due to stalled resources")
    assert ready["reason"] == "HealthCheckFailed"
    assert f"Model/{world.namespace}/bad status: 'Failed'" in ready["message"]
    assert "/etc" in world.condition("bmodel", "bad", "Stalled")["message"]

    git.await_ready("True", git.commit(model("tiny")))
    assert not world.find("mdep")
    assert [item["metadata"]["name"] for item in world.find("bmodel")] == ["tiny"]
    git.kubectl("delete", "kustomization", git.name, "--timeout=60s")
    eventually(lambda: nothing_left(world))


def test_flux_installs_the_operator_from_this_very_tree(kinds: Cluster, git: Repository) -> None:
    files = [path for folder in ("crds", "manifests") for path in (ROOT / folder).glob("*.yaml")]
    revision = git.commit_files({str(path.relative_to(ROOT)): path.read_text() for path in files})
    git.follow(path="./manifests", targetNamespace=SYSTEM, prune=False)
    git.await_ready("True", revision)
    git.reconcile("again")
    operator = kinds.get("deployment.apps/bud-operator", "--namespace", SYSTEM)
    assert operator["status"]["readyReplicas"] == 2
    kinds.kubectl("delete", "namespace", SYSTEM, "--wait=false")


def nothing_left(world: World) -> None:
    left = world.kubectl("get", "mdep,bmodel,deployments.apps,services,jobs,pvc", "--output=name")
    assert not left, left
