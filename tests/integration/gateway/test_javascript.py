"""The official JavaScript SDK, the latest and version 4, with the reference's own snippets against a real engine."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import fetched
from tests.gateway_process import KEY, GatewayProcess
from tests.integration.gateway.conftest import CHATS
from tests.integration.gateway.upstream import Upstream
from tests.waiting import eventually

HERE = Path(__file__).parent / "javascript"
Json = dict[str, Any]


class Client:
    """A Node.js process with one version of the SDK; `old` is version 4."""

    def __init__(self, folder: Path, package: str, url: str) -> None:
        self.old = package != "openai"
        self._process = subprocess.Popen(
            ["node", "client.mjs", package],
            cwd=folder,
            env=os.environ | {"BASE_URL": url},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def does(self, what: str, key: str = KEY) -> Any:
        """What came of one thing that the script knows."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": what, "key": key}) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        assert "told" in answer, answer["failed"]
        return answer["told"]

    def end(self) -> None:
        self._process.communicate()


@pytest.fixture(scope="module", params=["openai", "openai4"], ids=["the latest", "version 4"])
def client(
    request: pytest.FixtureRequest, served: GatewayProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Client]:
    folder = tmp_path_factory.mktemp("javascript")
    (folder / "node_modules").symlink_to(fetched.node_modules(HERE))
    shutil.copy(HERE / "client.mjs", folder)
    made = Client(folder, request.param, f"{served.url}/v1")
    yield made
    made.end()


def test_the_lock_names_no_place_and_has_hashes() -> None:
    packages = json.loads((HERE / "package-lock.json").read_text())["packages"]
    assert [name for name, told in packages.items() if name and "integrity" not in told] == []
    assert "://" not in re.sub(r'"(url|funding)": .*', "", (HERE / "package-lock.json").read_text())


def test_a_chat(client: Client) -> None:
    told = client.does("chat")
    assert (told["object"], told["model"], told["usage"]["completion_tokens"]) == ("chat.completion", "gpt-4", 8)
    assert re.fullmatch("[a-z]{8}", told["choices"][0]["message"]["content"])


def test_a_stream_ends_with_usage_and_metadata(client: Client) -> None:
    told = client.does("stream")
    assert re.fullmatch("[a-z]{8}", told["said"])
    assert (told["last"]["usage"]["completion_tokens"], told["last"]["model"]) == (8, "gpt-4")
    assert told["last"]["conduit_metadata"]["cost"] > 0


def test_an_aborted_stream_ends_the_models_work(client: Client, strict: Upstream) -> None:
    before = strict.hung_up
    assert client.does("abort") == {"chunks": 3}

    def ended() -> None:
        assert strict.hung_up == before + 1

    eventually(ended, within=20)


def test_the_older_functions(client: Client) -> None:
    (choice,) = client.does("functions")["choices"]
    assert choice["finish_reason"] == "function_call"
    called = {"name": "get_current_weather", "arguments": '{"location": "Boston, MA"}'}
    assert choice["message"] == {"role": "assistant", "content": None, "function_call": called}


def test_tools_and_their_results(client: Client) -> None:
    told = client.does("tools")
    (choice,) = told["completion"]["choices"]
    (call,) = choice["message"]["tool_calls"]
    assert (choice["finish_reason"], call["function"]["name"]) == ("tool_calls", "get_current_weather")
    assert json.loads(call["function"]["arguments"])["unit"] in ("celsius", "fahrenheit")
    assert told["next"]["object"] == "chat.completion"


def test_tools_in_a_stream(client: Client) -> None:
    told = client.does("tools_streamed")
    assert told["name"] == "get_current_weather"
    assert json.loads(told["given"])["unit"] in ("celsius", "fahrenheit")


def test_pictures(client: Client) -> None:
    assert client.does("vision")["model"] == "gpt-4-vision-preview"


def test_a_name_finds_its_provider(client: Client) -> None:
    found = [(one["model"], one["conduit_metadata"]["provider"]) for one in client.does("routing")]
    assert found == [("gpt-4", "openai-compatible"), ("claude-3-sonnet", "anthropic")]


def test_parameters_of_one_provider(client: Client) -> None:
    assert client.does("anthropic")["choices"][0]["message"]["content"] == "hi there"


def test_errors_are_told_as_the_reference_reads_them(client: Client) -> None:
    limited = f"bud_limited_{'old' if client.old else 'new'}"
    assert client.does("error", limited) == {"lines": []}
    told = client.does("error", limited)
    assert (told["status"], told["type"], told["class"]) == (429, "rate_limit_error", "RateLimitError")
    assert 1 <= int(told["after"]) <= 86400
    read = told["after"] if client.old else ""  # the latest has Headers, which know no members
    assert told["lines"] == [f"Rate limited, retrying in {read} seconds"]


def test_a_wrong_key(client: Client) -> None:
    told = client.does("error", "bud_wrong")
    assert (told["lines"], told["class"]) == (["Invalid API key"], "AuthenticationError")
    assert (told["status"], told["type"], told["code"]) == (401, "authentication_error", "invalid_api_key")


def test_an_unknown_model(client: Client) -> None:
    told = client.does("unknown")
    assert told.pop("message") == "404 The model 'invalid-model' does not exist"
    assert told == {
        "class": "NotFoundError",
        "status": 404,
        "type": "invalid_request_error",
        "param": "model",
        "code": "model_not_found",
    }


def test_a_batch(client: Client) -> None:
    assert [one["success"] for one in client.does("batch")] == [True] * 3


def test_the_metadata(client: Client) -> None:
    told = client.does("metadata")
    assert (told["requestId"], told["provider"], told["model"]) == (told["id"], "openai-compatible", "gpt-4")
    assert told["tokensUsed"] > 0 and told["cost"] > 0 and told["processingTime"] >= 0


def test_embeddings_as_numbers_and_as_base64(client: Client) -> None:
    told = client.does("embeddings")
    assert [len(one["embedding"]) for one in told["plain"]["data"]] == [64, 64]
    assert (told["plain"]["model"], told["apart"] < 1e-6) == ("text-embedding-3-large", True)


def test_sound_is_spoken_and_understood(client: Client) -> None:
    told = client.does("sound")
    assert (told["text"], told["conduit_metadata"]["model_version"]) == ("one two three", "whisper-1")


def test_models(client: Client) -> None:
    told = client.does("models")
    assert {*CHATS, "text-embedding-3-large", "claude-3-sonnet"} < set(told["ids"])
    assert told["one"]["pricing"] == {"input_tokens_per_1k": 0.5, "output_tokens_per_1k": 1.0}
