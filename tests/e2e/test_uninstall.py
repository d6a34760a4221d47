"""The operator is uninstalled from under a served model, and installed again."""

from __future__ import annotations

from pathlib import Path

from bud.model.plan import FINALIZER
from tests.cluster.handle import Cluster
from tests.e2e.conftest import SYSTEM, helm
from tests.e2e.test_serving import PATIENCE, SMALL, active, completion, from_url
from tests.integration.weights.programs import Origin
from tests.tiny_model import write_tiny_model
from tests.waiting import eventually
from tests.world import World, deployment, model


def test_helm_takes_the_operator_away_and_brings_it_back_while_a_model_answers(
    world: World, installed: Cluster, release: list[str], files: Origin, tmp_path: Path
) -> None:
    files.put("tiny.gguf", write_tiny_model(tmp_path / "tiny.gguf").read_bytes())
    world.apply(model("tiny", from_url(files)), deployment("chat", "tiny", **SMALL))
    world.apply(model("spare", {"source": {"url": {"url": f"{files.url}/later.gguf"}}}))
    active(world, "chat")
    world.await_reason("bmodel", "spare", "NotFound", within=PATIENCE)
    before, asked = uids(world), files.log("/tiny.gguf")

    helm(installed, "uninstall", "bud-operator", "--wait")
    # The gateway's pods serve on for a while, lest a caller be cut off.
    eventually(lambda: _nothing_left(installed))
    assert not any(item["metadata"].get("finalizers") for item in world.find("bmodel"))
    assert completion(world, "chat")["usage"]["completion_tokens"] == 5
    world.kubectl("delete", "bmodel", "spare", "--timeout=30s")

    helm(installed, "install", *release)
    eventually(lambda: held(world))
    active(world, "chat")
    assert uids(world) == before
    assert files.log("/tiny.gguf") == asked
    assert completion(world, "chat")["usage"]["completion_tokens"] == 5


def uids(world: World) -> set[str]:
    """The pods that serve, and the claim that keeps the weights."""
    claim = world.get("bmodel", "tiny")["status"]["copies"][0]["claimName"]
    pods = world.find_by("bud.studio/owner-kind=Deployment")
    return {item["metadata"]["uid"] for item in [*pods, world.get("pvc", claim)]}


def held(world: World) -> None:
    assert FINALIZER in world.get("bmodel", "tiny")["metadata"].get("finalizers", [])


def _nothing_left(cluster: Cluster) -> None:
    left = cluster.get("deployments.apps,jobs,roles,pods", "-n", SYSTEM)["items"]
    assert not left, [item["metadata"]["name"] for item in left]
