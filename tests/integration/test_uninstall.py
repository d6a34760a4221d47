"""A release of the chart comes, is upgraded, goes and comes again; what people made stays, and nothing is stuck."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from bud.api import KINDS
from bud.model.plan import FINALIZER
from tests.cluster import running, tools
from tests.cluster.handle import Cluster
from tests.integration.chart import CHART, ROOT, SYSTEM, account, of_kind, run
from tests.operator_process import OperatorProcess, operator_process
from tests.waiting import eventually, is_equal
from tests.world import World, model
from tools import generate

RUNTIMES = [sys.executable, "-m", "bud.builtin", str(generate.CHART / "runtimes")]
NEW_FIELD = "sha256"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A control plane for Helm alone, which takes over nothing that others made."""
    with running.cluster("install-helm", "control", say=lambda _: None) as found:
        found.add_fake_node("node-1")
        yield found


def helm(cluster: Cluster, *arguments: str) -> str:
    return run(cluster, "helm", *arguments, "--namespace", SYSTEM)


@contextmanager
def operator(cluster: Cluster, folder: Path) -> Iterator[OperatorProcess]:
    """The operator with the rights of the release that is there, and its Lease."""
    with operator_process(account(cluster, folder), folder / "log", "--lease-namespace", SYSTEM) as process:
        yield process


def earlier_chart(folder: Path) -> str:
    """The chart as it was before a Model had the field NEW_FIELD."""
    shutil.copytree(CHART, folder / "chart")
    file = folder / "chart/files/crds/models.yaml"
    definition = yaml.safe_load(file.read_text())
    del _fields(definition)[NEW_FIELD]
    file.write_text(yaml.safe_dump(definition))
    return str(folder / "chart")


def _fields(definition: dict[str, Any]) -> dict[str, Any]:
    schema = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    fields: dict[str, Any] = schema["properties"]["spec"]["properties"]
    return fields


def kinds(cluster: Cluster) -> set[str]:
    return {item["metadata"]["name"] for item in cluster.get("crds")["items"]}


def held(world: World) -> set[str]:
    """The Models that carry our finalizer."""
    return {
        item["metadata"]["name"] for item in world.find("bmodel") if FINALIZER in item["metadata"].get("finalizers", [])
    }


def made(world: World) -> dict[str, str]:
    """What is served and kept, by uid."""
    objects = world.kubectl("get", "mdep,bmodel,deployments.apps,services,pods,pvc,jobs", "--output=json")
    return {item["metadata"]["uid"]: item["metadata"]["name"] for item in json.loads(objects)["items"]}


def release(cluster: Cluster, kubeconfig: Path) -> subprocess.Popen[str]:
    """What the hook's pod runs, with the rights that it has there."""
    hooks = run(cluster, "helm", "get", "hooks", "bud-operator", "--namespace", SYSTEM)
    job = of_kind("Job", hooks)[0]["spec"]["template"]["spec"]["containers"][0]
    assert job["command"][:2] == ["python", "-m"]
    cluster.apply(*of_kind("Role", hooks), *of_kind("RoleBinding", hooks))
    command = [sys.executable, *job["command"][1:], *job["args"], "--kubeconfig", str(kubeconfig)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def until_said(process: subprocess.Popen[str], words: str) -> None:
    assert process.stderr
    for line in process.stderr:
        if words in line:
            return
    raise AssertionError(f"ended without saying {words!r}")


def ended(process: subprocess.Popen[str]) -> str:
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    return said


def test_a_release_goes_and_comes_and_what_is_served_never_notices(cluster: Cluster, tmp_path: Path) -> None:
    early = subprocess.Popen([*RUNTIMES, "--kubeconfig", str(cluster.kubeconfig)], stderr=subprocess.PIPE, text=True)
    until_said(early, "not yet")
    helm(cluster, "install", "bud-operator", earlier_chart(tmp_path), "--create-namespace")
    ended(early)
    world = World.create(cluster)
    with operator(cluster, tmp_path) as process:
        world.serve("chat")
        world.make_available("spare")
        before = made(world)
        helm(cluster, "upgrade", "bud-operator", CHART, "--set=settings.workers=2")
        assert NEW_FIELD in _fields(cluster.get("crd", "models.bud.studio"))

        going = release(cluster, account(cluster, tmp_path))
        until_said(going, "standing by")
        assert held(world) == {"spare", "chat-weights"}
        scaled = cluster.get("deployment.apps/bud-operator", "-n", SYSTEM)
        assert scaled["spec"]["replicas"] == 0
        process.stop()
        assert "2 Models are free" in ended(going)
    assert not held(world)

    helm(cluster, "uninstall", "bud-operator")
    assert len(kinds(cluster)) == len(KINDS)
    assert made(world) == before
    world.kubectl("delete", "bmodel", "spare", "--timeout=30s")

    helm(cluster, "install", "bud-operator", CHART)
    with operator(cluster, tmp_path):
        eventually(lambda: is_equal(held(world), {"chat-weights"}))
        world.await_phase("mdep", "chat", "Active")
        assert set(made(world)) < set(before)
        world.apply(model("other"))
        eventually(lambda: is_equal(held(world), {"chat-weights", "other"}))
    documented_release(cluster)
    assert not held(world)

    helm(cluster, "upgrade", "bud-operator", CHART, "--set=crds.keep=false")
    helm(cluster, "uninstall", "bud-operator", "--wait")
    assert not kinds(cluster)


def documented_release(cluster: Cluster) -> None:
    """The commands of the guide, as they stand there."""
    guide = (ROOT / "docs/install.md").read_text()
    found = re.search(r"((?:^    .*\n)*^    .*finalizers.*\n(?:^    .*\n)*)", guide, re.MULTILINE)
    assert found
    environment = cluster.environment() | {"PATH": f"{tools.path('kubectl').parent}:/usr/bin:/bin"}
    subprocess.run(["bash", "-euo", "pipefail", "-c", found[1]], env=environment, check=True, timeout=120)
