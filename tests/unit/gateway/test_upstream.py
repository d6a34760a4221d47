"""Where providers are, and what those that speak OpenAI's format are sent."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import orjson
import pytest

from bud.api.provider import ProviderSpec
from bud.gateway.catalog import Target
from bud.gateway.providers import reached
from bud.gateway.translate.wire import Sent
from bud.gateway.upstream import sent

AZURE = "https://n.openai.azure.com"
HI: Any = [{"role": "user", "content": "hi"}]


def spec(kind: str, **more: Any) -> ProviderSpec:
    return ProviderSpec.model_validate({"kind": kind, "models": [{"name": "m"}], **more})


@pytest.mark.parametrize(
    ("kind", "more", "url", "header"),
    [
        ("OpenAI", {}, "https://api.openai.com/v1", "Authorization"),
        ("OpenAI", {"baseURL": "http://a/v1/"}, "http://a/v1", "Authorization"),
        ("AzureOpenAI", {"baseURL": f"{AZURE}/openai/v1/"}, f"{AZURE}/openai/v1", "api-key"),
        ("AzureOpenAI", {"baseURL": AZURE}, f"{AZURE}/openai/v1", "api-key"),
        ("AzureOpenAI", {"baseURL": AZURE, "apiVersion": "preview"}, f"{AZURE}/openai/v1|?api-version=preview", "api-key"),
        ("AzureOpenAI", {"baseURL": AZURE, "apiVersion": "2024-10-21"}, f"{AZURE}/openai/deployments/gpt%2F4|?api-version=2024-10-21", "api-key"),
        ("AzureOpenAI", {"baseURL": f"{AZURE}/openai", "apiVersion": "2024-10-21"}, f"{AZURE}/openai/deployments/gpt%2F4|?api-version=2024-10-21", "api-key"),
        ("Anthropic", {}, "https://api.anthropic.com/v1", "x-api-key"),
        ("Google", {}, "https://generativelanguage.googleapis.com/v1beta", "x-goog-api-key"),
        ("Bedrock", {"region": "eu-west-1"}, "https://bedrock-runtime.eu-west-1.amazonaws.com", "Authorization"),
        ("Bedrock", {"region": "cn-north-1"}, "https://bedrock-runtime.cn-north-1.amazonaws.com.cn", "Authorization"),
    ],
)  # fmt: skip
def test_a_kind_has_its_address_and_its_header(kind: str, more: Any, url: str, header: str) -> None:
    found = reached(spec(kind, **more), {"apiKey": "k"})
    assert found.url("gpt/4") + (f"|{found.query}" if found.query else "") == url
    assert found.headers[header].removeprefix("Bearer ") == "k"
    assert set(found.headers) == {header}


@pytest.mark.parametrize(
    ("kind", "more", "body", "wanted"),
    [
        ("OpenAI", {}, {"max_tokens": 5}, {"max_completion_tokens": 5}),
        ("OpenAI", {}, {"max_tokens": 5, "max_completion_tokens": 7}, {"max_completion_tokens": 7}),
        ("XAI", {}, {"max_tokens": 5}, {"max_completion_tokens": 5}),
        ("AzureOpenAI", {"baseURL": AZURE}, {"max_tokens": 5}, {"max_completion_tokens": 5}),
        (
            "AzureOpenAI",
            {"baseURL": AZURE, "apiVersion": "2024-06-01"},
            {"max_completion_tokens": 5},
            {"max_tokens": 5},
        ),
        ("Together", {}, {"max_completion_tokens": 5}, {"max_tokens": 5}),
        ("Fireworks", {}, {"max_tokens": 9, "max_completion_tokens": 5}, {"max_tokens": 5}),
        ("OpenAICompatible", {"baseURL": "http://a"}, {"max_completion_tokens": 5}, {"max_tokens": 5}),
        (
            "OpenAICompatible",
            {"baseURL": "http://a"},
            {"max_completion_tokens": None, "max_tokens": 5},
            {"max_tokens": 5},
        ),
        ("OpenAI", {}, {"max_tokens": None}, {}),
        ("OpenAI", {}, {"x": 1}, {"x": 1}),
    ],
)
def test_the_bound_of_an_answer_has_the_name_that_the_kind_wants(kind: str, more: Any, body: Any, wanted: Any) -> None:
    found = reached(spec(kind, **more), {})
    target = Target("t", "p", "m", (found.url("m"),), most=found.most, functions=found.functions)
    asked = {"model": "m", "messages": HI, **body}
    told = sent("chat/completions", asked, orjson.dumps(asked), target=target, id="1", now=0)
    assert _read(told) == {"model": "m", "messages": HI, **wanted}


def test_a_stream_is_asked_by_the_targets_name_for_its_usage() -> None:
    asked = {"model": "m", "messages": HI, "stream": True}
    told = sent("chat/completions", asked, b"", target=Target("t", "p", "theirs", ("u",)), id="1", now=0)
    assert _read(told) == asked | {"model": "theirs", "stream_options": {"include_usage": True}}


def test_what_needs_no_change_passes_byte_by_byte() -> None:
    text = b'{ "model":"m",  "messages":[{"role":"user","content":"hi"}], "max_tokens": 5, "functions": null }'
    told = sent("chat/completions", orjson.loads(text), text, target=Target("t", "p", "m", ("u",)), id="1", now=0)
    assert told.body is text and told.reader is None


def test_no_translation_is_loaded_without_such_a_provider() -> None:
    code = "import sys, bud.gateway.__main__; print(sorted(m for m in sys.modules if 'botocore' in m or m.startswith('bud.gateway.translate.')))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "['bud.gateway.translate.answer', 'bud.gateway.translate.wire']"


def _read(told: Sent) -> Any:
    assert isinstance(told.body, bytes)
    return orjson.loads(told.body)
