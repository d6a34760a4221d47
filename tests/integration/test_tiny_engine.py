"""The tiny engine as a process: a real llama.cpp that speaks the OpenAI API."""

import json
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.tiny_engine import MODULE, free_port, running_tiny, start_tiny
from tests.tiny_model import write_tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.gguf")


@pytest.fixture(scope="module")
def client(model: Path) -> Iterator[httpx.Client]:
    with running_tiny(model, "--alias", "served-name") as (_, client):
        yield client


def test_a_chat_is_completed_under_the_models_served_name(client: httpx.Client) -> None:
    body = {"model": "anything", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5}
    answer = client.post("/v1/chat/completions", json={**body, "ignore_eos": True})
    assert answer.status_code == 200
    found = answer.json()
    assert found["model"] == "served-name"
    assert found["usage"]["completion_tokens"] == 5
    # The chat template stands in the model: "[user] Hi\n[assistant] " is 20 bytes, so 20 tokens and the first.
    assert found["usage"]["prompt_tokens"] >= 20
    assert found["choices"][0]["message"]["role"] == "assistant"


def test_a_chat_is_streamed_token_by_token(client: httpx.Client) -> None:
    # Letters only: random bytes are held back until they make a whole character.
    letters = {"grammar": "root ::= [a-z]+", "ignore_eos": True}
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 8, "stream": True}
    with client.stream("POST", "/v1/chat/completions", json={**body, **letters}) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = [line.removeprefix("data: ") for line in answer.iter_lines() if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    chunks = [json.loads(event) for event in events[:-1]]
    assert {chunk["model"] for chunk in chunks} == {"served-name"}
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"
    assert len(chunks) > 3


def test_the_models_name_is_listed(client: httpx.Client) -> None:
    assert [model["id"] for model in client.get("/v1/models").json()["data"]] == ["served-name"]


def test_metrics_count_what_was_generated(client: httpx.Client) -> None:
    def predicted() -> int:
        lines = (line.split() for line in client.get("/metrics").text.splitlines())
        return next(int(line[1]) for line in lines if line[0] == "llamacpp:tokens_predicted_total")

    before = predicted()
    client.post("/v1/completions", json={"prompt": "Hi", "max_tokens": 7, "ignore_eos": True})
    assert predicted() == before + 7


def test_embeddings_are_refused_by_a_text_engine(client: httpx.Client) -> None:
    assert client.post("/v1/embeddings", json={"input": "Hi"}).status_code == 501


def test_an_embedding_engine_embeds(model: Path) -> None:
    with running_tiny(model, "--embeddings") as (_, client):
        answer = client.post("/v1/embeddings", json={"input": "Hi"})
    assert answer.status_code == 200
    assert len(answer.json()["data"][0]["embedding"]) == 64


def test_sigterm_lets_a_stream_end_first(tmp_path: Path) -> None:
    slower = write_tiny_model(tmp_path / "slower.gguf", size_mb=40)
    body = {"prompt": "Hi", "max_tokens": 300, "ignore_eos": True, "stream": True}
    with running_tiny(slower) as (engine, client):
        with client.stream("POST", "/v1/completions", json=body) as answer:
            lines = answer.iter_lines()
            first = next(lines)
            engine.send_signal(signal.SIGTERM)
            rest = [line for line in lines if line]
        assert first.startswith("data: ")
        assert rest[-1] == "data: [DONE]"
        assert engine.wait(timeout=20) == 0


def test_sigterm_ends_an_idle_engine_at_once(model: Path) -> None:
    with running_tiny(model) as (engine, _):
        engine.send_signal(signal.SIGTERM)
        assert engine.wait(timeout=5) == 0


def test_requests_under_way_are_given_up_after_the_grace(tmp_path: Path) -> None:
    slower = write_tiny_model(tmp_path / "slower.gguf", size_mb=40)
    body = {"prompt": "Hi", "max_tokens": 2000, "ignore_eos": True, "stream": True}
    with (
        running_tiny(slower, "--grace", "1") as (engine, client),
        client.stream("POST", "/v1/completions", json=body) as answer,
    ):
        lines = answer.iter_lines()
        next(lines)
        engine.send_signal(signal.SIGTERM)
        assert engine.wait(timeout=10) == 0
        with pytest.raises(httpx.RemoteProtocolError):
            list(lines)


def test_sigterm_ends_an_engine_that_still_loads(tmp_path: Path) -> None:
    large = write_tiny_model(tmp_path / "large.gguf", size_mb=300)
    port = free_port()
    engine = start_tiny(large, port, wait=False)
    try:
        while not is_listening(port):
            assert engine.poll() is None
        engine.send_signal(signal.SIGTERM)
        assert engine.wait(timeout=5) == signal.SIGTERM
    finally:
        engine.kill()
        engine.communicate()


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_a_model_that_cannot_be_served_is_told_with_a_status_of_its_own(model: Path, tmp_path: Path) -> None:
    cut_short, other = tmp_path / "cut-short.gguf", tmp_path / "other.gguf"
    cut_short.write_bytes(model.read_bytes()[:200_000])
    other.write_bytes(b"PK\x03\x04 a zip")
    said = {name: run(path) for name, path in (("none", tmp_path / "no"), ("cut", cut_short), ("zip", other))}
    assert {name: status for name, (status, _) in said.items()} == {"none": 66, "cut": 65, "zip": 65}
    assert "No such file or directory" in said["none"][1]
    assert "damaged, cut short" in said["cut"][1]
    assert "is no GGUF file" in said["zip"][1]


def test_a_port_that_is_taken_is_told_before_the_model_is_loaded(model: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        status, said = run(model, "--port", str(taken.getsockname()[1]))
    assert status == 69
    assert "Address already in use" in said
    assert "llama" not in said


@pytest.mark.parametrize("flags", [["--port", "0"], ["--threads", "-1"], ["--no-such-flag"]])
def test_wrong_usage_is_status_two(model: Path, flags: list[str]) -> None:
    assert run(model, *flags)[0] == 2


def run(model: Path, *flags: str) -> tuple[int, str]:
    port = [] if "--port" in flags else ["--port", str(free_port())]
    command = [*MODULE, "--model", str(model), *port, *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stderr
