"""LangChain's OpenAI models against a real engine behind the gateway."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import fetched
from tests.gateway_process import KEY, GatewayProcess

LIBRARIES = Path(__file__).parent / "libraries"
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def told(served: GatewayProcess) -> dict[str, Any]:
    """What the script found, in a process of its own: its libraries are none of the development environment's."""
    path = os.pathsep.join(map(str, (fetched.libraries(LIBRARIES / "langchain.lock"), ROOT)))
    done = subprocess.run(
        [sys.executable, LIBRARIES / "langchain_client.py", f"{served.url}/v1", KEY],
        env=os.environ | {"PYTHONPATH": path, "LANGSMITH_TRACING": "false"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_chat_is_answered_with_its_usage(told: dict[str, Any]) -> None:
    content, usage, model = told["answered"]
    assert re.fullmatch("[a-z]{8}", content)
    assert (usage["output_tokens"], model) == (8, "llama-3.2-1b")


def test_a_stream_has_pieces_and_usage(told: dict[str, Any]) -> None:
    pieces, content, usage = told["streamed"]
    assert pieces > 2
    assert re.fullmatch("[a-z]{8}", content)
    assert usage["output_tokens"] == 8


def test_a_bound_tool_is_called_and_its_result_goes_back(told: dict[str, Any]) -> None:
    (call,) = told["calls"]
    assert (call["name"], call["args"]["unit"] in ("celsius", "fahrenheit")) == ("get_current_weather", True)
    assert told["results"] == [f"21 {call['args']['unit']}"]
    assert told["after"] == "ai"


def test_a_bound_tool_is_called_in_a_stream(told: dict[str, Any]) -> None:
    (call,) = told["streamed_calls"]
    assert (call["name"], call["args"]["unit"] in ("celsius", "fahrenheit")) == ("get_current_weather", True)


def test_structured_output_keeps_to_the_schema(told: dict[str, Any]) -> None:
    assert told["structured"]["unit"] in ("celsius", "fahrenheit")


def test_embeddings(told: dict[str, Any]) -> None:
    assert told["vectors"] == [64, 64]
