"""Volumes where pods truly run: a claim of the user's, filled, served from, and found again."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.test_serving import PATIENCE, SMALL, active, completion
from tests.integration.weights.programs import Origin, sha256
from tests.tiny_model import write_tiny_model
from tests.world import World, claim_of_ones_own, deployment, model


def test_a_claim_of_the_users_is_filled_served_from_and_found_again_without_a_download(
    world: World, files: Origin, tmp_path: Path
) -> None:
    data = files.put("tiny.gguf", write_tiny_model(tmp_path / "tiny.gguf").read_bytes())
    world.apply(claim_of_ones_own("shared"))
    spec = {
        "source": {"url": {"url": f"{files.url}/tiny.gguf"}},
        "sha256": {"tiny.gguf": sha256(data)},
        "storage": {"claimName": "shared"},
    }
    world.apply(model("tiny", spec), deployment("chat", "tiny", **SMALL))
    active(world, "chat")
    assert completion(world, "chat")["usage"]["completion_tokens"] == 5
    first = world.get("bmodel", "tiny")["status"]
    assert first["file"] == f"{first['copies'][0]['path']}/tiny.gguf"
    fetched = files.log("/tiny.gguf")
    world.kubectl("delete", "mdep/chat", "bmodel/tiny", "--timeout=60s")
    world.apply(model("again", spec))
    again = world.await_phase("bmodel", "again", "Available", within=PATIENCE)
    assert (again["digest"], again["copies"]) == (first["digest"], first["copies"])
    assert files.log("/tiny.gguf") == fetched
