"""Weights on the node's own disk, on a real node: served from there, and evicted by the next model when unused."""

from __future__ import annotations

from typing import Any

import pytest

from tests.e2e.test_serving import PATIENCE, SMALL, completion
from tests.integration.weights.programs import Origin
from tests.waiting import eventually
from tests.world import World, deployment, model


@pytest.fixture
def open_world(world: World) -> World:
    """Its namespace admits pods that use the node's disk."""
    level = "pod-security.kubernetes.io/enforce=privileged"
    world.cluster.kubectl("label", "--overwrite", "namespace", world.namespace, level)
    return world


def per_node(files: Origin, name: str) -> dict[str, Any]:
    return model(name, {"source": {"url": {"url": f"{files.url}/{name}.gguf"}}, "storage": {"mode": "PerNode"}})


def test_weights_on_the_node_are_served_kept_while_in_use_and_evicted_after(
    open_world: World, files: Origin, gguf: bytes
) -> None:
    world = open_world
    for name in ("first", "second"):
        files.put(f"{name}.gguf", gguf)
    world.apply(per_node(files, "first"), deployment("chat", "first", **SMALL))
    world.await_phase("mdep", "chat", "Active", within=PATIENCE)
    assert completion(world, "chat")["usage"]["completion_tokens"] == 5
    copy = world.get("bmodel", "first")["status"]["copies"][0]
    assert copy["path"].startswith(f"{world.namespace}/")
    assert len(files.log("/first.gguf")) == 1, "the engine's pod takes the copy that the Job brought"

    # The second does not fit beside a copy in use, and says so.
    world.apply(per_node(files, "second"), deployment("other", "second", **SMALL))

    def told() -> None:
        ready = world.condition("bmodel", "second")
        assert "no room for" in ready["message"], ready["message"]

    eventually(told, within=PATIENCE)
    world.kubectl("delete", "mdep/chat", "--wait=true", "--timeout=60s")
    world.await_phase("mdep", "other", "Active", within=PATIENCE)
    assert completion(world, "other")["usage"]["completion_tokens"] == 5
