"""From a source to a completion by a real engine, and back: downloads, faults, healing, scaling, upgrades."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests import forwarding
from tests.cluster.failure import Failed
from tests.integration.weights.origin import TOKEN
from tests.integration.weights.programs import Origin, running, sha256
from tests.tiny_adapter import write_tiny_adapter
from tests.tiny_engine import free_port
from tests.tiny_model import write_tiny_model
from tests.waiting import contains, eventually
from tests.world import World, deployment, model

SMALL = {"resources": {"cpu": "50m", "memory": "256Mi"}, "runtimeRef": {"name": "tiny"}}
PATIENCE = 120.0


def from_url(files: Origin, **more: Any) -> dict[str, Any]:
    return {"source": {"url": {"url": f"{files.url}/tiny.gguf"}}, "storage": {"size": "50Mi"}, **more}


def completion(world: World, name: str, **more: Any) -> dict[str, Any]:
    """One real answer through the Service."""
    url: str = world.get("mdep", name)["status"]["endpointURL"]
    service = url.removeprefix("http://").partition(".")[0]
    question = {
        "model": name,
        "messages": [{"role": "user", "content": "hello"}],
        "max_tokens": 5,
        "ignore_eos": True,
        **more,
    }
    with forwarding.port_forward(world.cluster, service, namespace=world.namespace) as base:
        answer = httpx.post(f"{base}/v1/chat/completions", json=question, timeout=30, trust_env=False)
    answer.raise_for_status()
    found: dict[str, Any] = answer.json()
    return found


def active(world: World, name: str) -> dict[str, Any]:
    return world.await_phase("mdep", name, "Active", within=PATIENCE)


def test_a_model_by_url_is_downloaded_served_scaled_and_deleted(world: World, files: Origin, gguf: bytes) -> None:
    files.put("tiny.gguf", gguf)
    spec = from_url(files, sha256={"tiny.gguf": sha256(gguf)})
    world.apply(model("tiny", spec), deployment("chat", "tiny", **SMALL))
    status = active(world, "chat")
    assert (status["ready"], status["runtime"]) == ("1/1", "tiny")
    found = world.get("bmodel", "tiny")["status"]
    assert (found["verification"], found["bytes"], found["format"], found["file"]) == (
        "verified",
        len(gguf),
        "gguf",
        "tiny.gguf",
    )
    answer = completion(world, "chat")
    assert answer["model"] == "chat"
    assert answer["usage"]["completion_tokens"] == 5
    world.kubectl("scale", "mdep/chat", "--replicas=2")
    world.kubectl("wait", "mdep/chat", "--for=jsonpath={.status.ready}=2/2", "--timeout=60s")
    world.kubectl("delete", "mdep/chat", "bmodel/tiny", "--timeout=60s")
    eventually(lambda: world.gone("deployments.apps,services,pvc,jobs,pods"), within=PATIENCE)


def test_a_model_and_its_adapter_answer_by_their_names(
    world: World, files: Origin, gguf: bytes, tmp_path: Path
) -> None:
    files.put("tiny.gguf", gguf)
    files.put("pirate.gguf", write_tiny_adapter(tmp_path / "pirate.gguf").read_bytes())
    lora = {"source": {"url": {"url": f"{files.url}/pirate.gguf"}}, "storage": {"size": "50Mi"}}
    adapters = [{"name": "pirate", "modelRef": {"name": "pirate-lora"}}]
    world.apply(
        model("tiny", from_url(files)),
        model("pirate-lora", lora),
        deployment("chat", "tiny", **SMALL, adapters=adapters),
    )
    assert active(world, "chat")["adapters"] == ["pirate"]
    letters = {"grammar": "root ::= [a-z]+", "temperature": 0, "max_tokens": 8}
    answers = [completion(world, "chat", model=name, **letters) for name in ("chat", "pirate", "chat")]
    assert [answer["model"] for answer in answers] == ["chat", "pirate", "chat"]
    base, pirate, again = (answer["choices"][0]["message"]["content"] for answer in answers)
    assert base == again != pirate


def test_a_model_from_a_hub_with_a_token(world: World, files: Origin, gguf: bytes) -> None:
    files.put("team/private-tiny/tiny.gguf", gguf)
    hub = {"source": {"huggingFace": {"repo": "team/private-tiny", "endpoint": files.url}}, "storage": {"size": "50Mi"}}
    world.apply(model("tiny", {**hub, "credentialsSecretRef": {"name": "hub"}}))
    ready = world.await_reason("bmodel", "tiny", "ContainerConfigInvalid", within=PATIENCE)
    assert 'secret "hub" not found' in ready["message"]
    world.kubectl("create", "secret", "generic", "hub", "--from-literal=token=wrong")
    ready = world.await_reason("bmodel", "tiny", "Unauthorized", within=PATIENCE)
    assert "credentialsSecretRef" in ready["message"]
    world.kubectl("delete", "secret", "hub")
    world.kubectl("create", "secret", "generic", "hub", f"--from-literal=token={TOKEN}")
    world.kubectl("delete", "jobs", "--all")
    status = world.await_phase("bmodel", "tiny", "Available", within=PATIENCE)
    assert re.fullmatch("[0-9a-f]{40}", status["revision"])
    assert status["verification"] == "verified"


def test_a_model_from_an_object_store(world: World, gguf: bytes, tmp_path: Path) -> None:
    port, address = free_port(), world.cluster.host_address
    moto = [str(Path(forwarding.SCRIPTS, "moto_server")), "-H", "0.0.0.0", "-p", str(port)]
    with running(moto, port=port, cwd=tmp_path):
        base = f"http://127.0.0.1:{port}/models"
        httpx.put(base, trust_env=False).raise_for_status()
        httpx.put(f"{base}/tiny/tiny.gguf", content=gguf, trust_env=False).raise_for_status()
        world.kubectl(
            "create",
            "secret",
            "generic",
            "s3",
            "--from-literal=AWS_ACCESS_KEY_ID=a",
            "--from-literal=AWS_SECRET_ACCESS_KEY=b",
        )
        cloud = {"uri": "s3://models/tiny", "endpoint": f"http://{address}:{port}", "region": "us-east-1"}
        world.apply(
            model(
                "tiny",
                {"source": {"cloud": cloud}, "credentialsSecretRef": {"name": "s3"}, "storage": {"size": "50Mi"}},
            )
        )
        status = world.await_phase("bmodel", "tiny", "Available", within=PATIENCE)
    assert (status["bytes"], status["file"]) == (len(gguf), "tiny.gguf")


def test_weights_that_are_already_on_a_claim_are_hashed_and_served_where_they_are(
    world: World, files: Origin, gguf: bytes
) -> None:
    files.put("tiny.gguf", gguf)
    world.apply(model("first", from_url(files)))
    claim = world.await_phase("bmodel", "first", "Available", within=PATIENCE)["copies"][0]["claimName"]
    local = {"source": {"local": {"pvc": claim, "path": "tiny.gguf"}}}
    world.apply(model("second", local), deployment("chat", "second", **SMALL))
    active(world, "chat")
    assert completion(world, "chat")["usage"]["completion_tokens"] == 5
    digests = {world.get("bmodel", name)["status"]["digest"] for name in ("first", "second")}
    assert len(digests) == 1


@pytest.mark.parametrize(
    ("fault", "sha256_given", "reason", "remedy"),
    [
        ({"status": 404}, None, "NotFound", "spec.source.url"),
        ({"status": 403}, None, "Forbidden", "credentialsSecretRef"),
        ({"status": 401}, None, "Unauthorized", "credentialsSecretRef"),
        ({}, {"tiny.gguf": "0" * 64}, "HashMismatch", "spec.sha256"),
        ({}, {"other.gguf": "0" * 64}, None, "other.gguf"),
    ],
)
def test_weights_that_cannot_be_had_are_told_with_the_remedy(
    world: World,
    files: Origin,
    gguf: bytes,
    fault: dict[str, Any],
    sha256_given: dict[str, str] | None,
    reason: str | None,
    remedy: str,
) -> None:
    files.put("tiny.gguf", gguf)
    files.faults({"/tiny.gguf": fault})
    world.apply(model("tiny", from_url(files, **({"sha256": sha256_given} if sha256_given else {}))))
    world.await_phase("bmodel", "tiny", "Error", within=PATIENCE)
    ready = world.condition("bmodel", "tiny")
    assert reason in (None, ready["reason"])
    assert remedy in ready["message"]
    assert world.condition("bmodel", "tiny", "Stalled")["status"] == "True"
    eventually(lambda: contains(world.events("tiny"), ("Warning", ready["reason"])))


def test_a_download_whose_pod_is_killed_goes_on_where_it_was(world: World, files: Origin, tmp_path: Path) -> None:
    data = files.put("tiny.gguf", write_tiny_model(tmp_path / "big.gguf", size_mb=40).read_bytes())
    files.faults({"/tiny.gguf": {"hold_at": len(data) // 2}})
    world.apply(model("tiny", from_url(files, storage={"size": "100Mi"})))
    progress = eventually(lambda: _progress(world), within=PATIENCE)
    assert progress["bytesTotal"] == len(data)
    world.kubectl("delete", "pods", "-l", "bud.studio/owner-kind=Model", "--force", "--grace-period=0")
    files.faults({})
    world.await_phase("bmodel", "tiny", "Available", within=PATIENCE)
    ranges = [row["Range"] for row in files.log("/tiny.gguf")]
    assert re.fullmatch(r"bytes=[1-9][0-9]*-.*", str(ranges[-1])), ranges


def test_a_runtime_of_ones_own_serves_on_a_node_with_the_gpus_asked_for(
    world: World, files: Origin, gguf: bytes
) -> None:
    builtin = world.get("brt", "tiny")["spec"]
    name = f"mine-{world.namespace}"
    mine = {
        "apiVersion": "bud.studio/v1alpha1",
        "kind": "Runtime",
        "metadata": {"name": name},
        "spec": builtin | {"accelerator": "GPU"},
    }
    world.cluster.apply(mine)
    files.put("tiny.gguf", gguf)
    resources = {"cpu": "50m", "memory": "256Mi", "gpu": 2, "gpuType": "h200"}
    try:
        world.apply(
            model("tiny", from_url(files)), deployment("chat", "tiny", runtimeRef={"name": name}, resources=resources)
        )
        world.await_reason("mdep", "chat", "GPUTypeNotFound", within=PATIENCE)
        world.cluster.add_fake_gpus(product="NVIDIA-H200", gpus=2)
        assert active(world, "chat")["resources"]["gpu"] == 2
        assert completion(world, "chat")["usage"]["completion_tokens"] == 5
    finally:
        world.kubectl("delete", "brt", name)


def test_an_engine_that_ends_is_not_ready_until_it_answered_again(world: World, files: Origin, gguf: bytes) -> None:
    files.put("tiny.gguf", gguf)
    world.apply(model("tiny", from_url(files)), deployment("chat", "tiny", **SMALL))
    active(world, "chat")
    pod = world.find_by("bud.studio/owner-kind=Deployment")[0]["metadata"]["name"]
    # The container may be gone before the command that ended it has told its own exit.
    with suppress(Failed):
        world.kubectl("exec", pod, "-c", "engine", "--", "python", "-c", "import os; os.kill(1, 15)")

    def again() -> None:
        found = world.get("pod", pod)["status"]
        states = {c["name"]: c for c in found["containerStatuses"] + found["initContainerStatuses"]}
        assert states["engine"]["restartCount"] == 1
        assert states["answer-check"]["ready"] and states["engine"]["ready"]

    eventually(again, within=PATIENCE)
    active(world, "chat")
    assert completion(world, "chat")["usage"]["completion_tokens"] == 5


def test_an_engine_that_cannot_start_is_told(world: World, files: Origin, gguf: bytes) -> None:
    files.put("tiny.gguf", gguf)
    world.apply(model("tiny", from_url(files)), deployment("chat", "tiny", **SMALL, args=["--no-such-flag"]))
    ready = world.await_reason("mdep", "chat", "EngineCrashed", within=PATIENCE)
    assert "no-such-flag" in ready["message"]
    world.kubectl("patch", "mdep", "chat", "--type=merge", '-p={"spec":{"args":[]}}')
    active(world, "chat")


def test_an_image_that_does_not_exist_is_told(world: World, files: Origin, gguf: bytes) -> None:
    files.put("tiny.gguf", gguf)
    world.apply(model("tiny", from_url(files)), deployment("chat", "tiny", **SMALL, image="localhost/none:1"))
    ready = world.await_reason("mdep", "chat", "ImagePullFailed", within=PATIENCE)
    assert "localhost/none:1" in ready["message"]


def _progress(world: World) -> dict[str, Any]:
    found: dict[str, Any] = world.get("bmodel", "tiny").get("status", {}).get("progress") or {}
    assert found.get("bytesDone"), found
    return found
