"""Adapters on a real engine behind the relay, and on a real API server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.cluster.handle import Cluster
from tests.tiny_adapter import write_tiny_adapter
from tests.tiny_engine import free_port, is_healthy, running_tiny
from tests.tiny_model import write_tiny_model
from tests.waiting import eventually, is_so
from tests.world import RESULT, RUNTIME, World, deployment, model, refused

NAMES = ("chat", "pirate", "poet")
LETTERS = {"grammar": "root ::= [a-z]+", "ignore_eos": True, "temperature": 0, "max_tokens": 8}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("adapters")
    return {
        "chat": write_tiny_model(folder / "tiny.gguf"),
        "pirate": write_tiny_adapter(folder / "pirate.gguf", seed=1),
        "poet": write_tiny_adapter(folder / "poet.gguf", seed=2),
    }


@pytest.fixture(scope="module")
def client(files: dict[str, Path]) -> Iterator[httpx.Client]:
    """The relay before the engine, as the pod has them."""
    lora = ["--lora-init-without-apply", "--lora", f"{files['pirate']},{files['poet']}"]
    with running_tiny(files["chat"], "--alias", "chat", *lora) as (_, engine):
        port = free_port()
        fields = {
            name: {"lora": [{"id": n, "scale": int(other == name)} for n, other in enumerate(NAMES[1:])]}
            for name in NAMES
        }
        settings = {
            "BUD_RELAY_ENGINE": str(engine.base_url).rstrip("/"),
            "BUD_RELAY_MODEL": "chat",
            "BUD_RELAY_FIELDS": json.dumps(fields),
            "BUD_RELAY_PORT": str(port),
        }
        relay = subprocess.Popen([sys.executable, "-m", "bud.relay"], env=os.environ | settings)
        try:
            eventually(lambda: is_so(is_healthy(port)))
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
                yield client
        finally:
            relay.send_signal(signal.SIGTERM)
            assert relay.wait(10) == 0


def said(client: httpx.Client, name: str) -> str:
    answer = client.post("/v1/completions", json={"model": name, "prompt": "Hi", **LETTERS}).raise_for_status().json()
    assert answer["model"] == name
    text: str = answer["choices"][0]["text"]
    return text


def streamed(client: httpx.Client, name: str) -> str:
    body = {"model": name, "prompt": "Hi", "stream": True, **LETTERS}
    with client.stream("POST", "/v1/completions", json=body) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = [line.removeprefix("data: ") for line in answer.iter_lines() if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    chunks = [json.loads(event) for event in events[:-1]]
    assert {chunk["model"] for chunk in chunks} == {name}
    return "".join(chunk["choices"][0]["text"] for chunk in chunks if chunk["choices"])


def test_each_name_answers_by_its_own_weights_whoever_was_asked_before(
    client: httpx.Client, files: dict[str, Path]
) -> None:
    with running_tiny(files["chat"], "--alias", "chat") as (_, alone):
        base = said(alone, "chat")
    order = ("chat", "pirate", "chat", "poet", "pirate", "chat")
    answers = [said(client, name) for name in order]
    by_name = dict(zip(order, answers, strict=True))
    assert answers == [by_name[name] for name in order]
    assert by_name["chat"] == base
    assert len(set(by_name.values())) == 3
    assert {name: streamed(client, name) for name in NAMES} == by_name


def test_every_name_is_listed_and_a_chat_names_the_adapter(client: httpx.Client) -> None:
    assert [found["id"] for found in client.get("/v1/models").json()["data"]] == list(NAMES)
    body = {"model": "pirate", "messages": [{"role": "user", "content": "Hi"}], **LETTERS}
    answer = client.post("/v1/chat/completions", json=body).raise_for_status().json()
    assert (answer["model"], answer["usage"]["completion_tokens"]) == ("pirate", 8)


def test_an_adapter_of_another_model_ends_the_engine_with_a_sentence(files: dict[str, Path], tmp_path: Path) -> None:
    other = write_tiny_adapter(tmp_path / "other.gguf", architecture="qwen3")
    command = [sys.executable, "-m", "bud.engines.tiny", "--model", str(files["chat"]), "--lora", str(other)]
    done = subprocess.run(
        [*command, "--port", str(free_port())], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 65
    assert "an adapter of another model" in done.stderr


LORA = RESULT | {"file": "lora.gguf", "adapter": {"type": "lora", "base": "team/base"}, "architecture": "llama"}
PIRATE = {"name": "pirate", "modelRef": {"name": "pirate-lora"}}


@pytest.fixture
def runtime(world: World) -> Iterator[str]:
    """A Runtime that loads adapters."""
    name = f"lora-{world.namespace}"
    adapters = {"args": ["--lora"], "each": "$(BUD_ADAPTER_FILE)", "select": {"field": "lora", "value": "Scales"}}
    world.cluster.apply(RUNTIME | {"metadata": {"name": name}, "spec": RUNTIME["spec"] | {"adapters": adapters}})
    yield name
    world.cluster.kubectl("delete", "brt", name)


def containers(world: World) -> dict[str, Any]:
    pod = world.one("deployments.apps")["spec"]["template"]["spec"]
    return {container["name"]: container for container in (*pod["containers"], *pod["initContainers"])}


def test_an_adapter_is_waited_for_loaded_and_kept(world: World, runtime: str) -> None:
    world.make_available("base")
    world.apply(deployment("chat", "base", runtimeRef={"name": runtime}, adapters=[PIRATE]))
    ready = world.await_reason("mdep", "chat", "ModelNotFound")
    assert "adapter pirate: no Model pirate-lora" in ready["message"]
    world.make_available("pirate-lora", result=LORA)
    status = world.await_phase("mdep", "chat", "Active")
    assert status["adapters"] == ["pirate"]
    assert set(containers(world)) == {"engine", "answer-check", "relay"}
    assert containers(world)["engine"]["args"][-1] == "/adapters/pirate/lora.gguf"
    before = world.one("deployments.apps")["spec"]["template"]
    more = [PIRATE, {"name": "poet", "modelRef": {"name": "poet-lora"}}]
    world.kubectl("patch", "mdep", "chat", "--type=merge", "-p", json.dumps({"spec": {"adapters": more}}))
    ready = world.await_reason("mdep", "chat", "AdapterNotReady")
    assert ready["status"] == "True" and "no Model poet-lora" in ready["message"]
    assert world.one("deployments.apps")["spec"]["template"] == before
    world.make_available("poet-lora", result=LORA)
    world.kubectl("wait", "mdep/chat", "--for=jsonpath={.status.adapters[1]}=poet", "--timeout=30s")
    world.kubectl("delete", "bmodel", "pirate-lora", "--wait=false")
    assert "now used by chat" in world.await_reason("bmodel", "pirate-lora", "InUse")["message"]
    assert world.await_phase("mdep", "chat", "Active")["adapters"] == ["pirate", "poet"]


@pytest.mark.parametrize(
    ("result", "spec", "reason"),
    [
        (LORA, {"runtimeRef": {"name": "tiny"}}, "AdaptersNotSupported"),
        (RESULT, {}, "NotAnAdapter"),
        (LORA | {"architecture": "qwen3"}, {}, "AdapterBaseMismatch"),
        (LORA, {"modelRef": {"name": "pirate-lora"}, "adapters": []}, "ModelIsAdapter"),
    ],
)
def test_an_adapter_that_cannot_work_is_stalled(
    world: World, runtime: str, result: dict[str, Any], spec: dict[str, Any], reason: str
) -> None:
    world.make_available("base", result=RESULT | {"architecture": "llama"})
    world.make_available("pirate-lora", result=result)
    wanted = deployment("chat", "base", **({"runtimeRef": {"name": runtime}, "adapters": [PIRATE]} | spec))
    world.apply(wanted)
    world.await_reason("mdep", "chat", reason)
    assert world.condition("mdep", "chat", "Stalled")["status"] == "True"


@pytest.mark.parametrize(
    ("adapters", "message"),
    [
        ([{**PIRATE, "name": "bad"}], "has the Deployment's own name"),
        ([PIRATE, PIRATE], "Duplicate value"),
        ([{**PIRATE, "name": "a=b"}], "should match"),
        ([{**PIRATE, "name": "a/b"}], "should match"),
        ([{**PIRATE, "name": f"a{n}"} for n in range(17)], "must have at most 16 items"),
        ([{"name": "a"}], "modelRef"),
    ],
)
def test_the_api_server_refuses_a_bad_list_of_adapters(kinds: Cluster, adapters: list[Any], message: str) -> None:
    assert message in refused(kinds, deployment("bad", "m", adapters=adapters))


def test_what_the_files_of_an_adapter_say_reaches_the_status(world: World) -> None:
    world.apply(model("lora"))
    world.end_download(world.one("jobs")["metadata"]["name"], message=LORA)
    status = world.await_phase("bmodel", "lora", "Available")
    assert (status["adapter"], status["architecture"]) == ({"type": "lora", "base": "team/base"}, "llama")
