"""The gateway's description of itself is valid, and holds of the gateway."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from bud.gateway.asks import ASKS, FORMS
from tests.integration.gateway.described import explore
from tests.integration.gateway.reference import Reference


@pytest.fixture(scope="module")
def described(reference: Reference) -> dict[str, Any]:
    found: dict[str, Any] = reference.ask("/openapi.json", secret=None).json()
    return found


def test_the_description_is_valid(described: dict[str, Any]) -> None:
    assert [fault.message for fault in OpenAPIV31SpecValidator(described).iter_errors()] == []


def test_it_has_every_path(described: dict[str, Any]) -> None:
    inference = {f"/v1/{endpoint}" for endpoint in (*ASKS, *FORMS)}
    others = {"/v1/models", "/v1/models/{model}", "/v1/realtime", "/v1/realtime/connect"}
    assert set(described["paths"]) == inference | others | {"/healthz", "/readyz", "/metrics"}


def test_its_forms_have_a_file(described: dict[str, Any]) -> None:
    for name in ("Transcription", "Translation"):
        form = described["components"]["schemas"][name]
        assert "file" in form["required"] and form["properties"]["file"]["format"] == "binary"


def test_requests_made_up_from_it_find_no_fault(reference: Reference, tmp_path: Path) -> None:
    said = explore(reference, tmp_path, phases="fuzzing", examples=1, seconds=120)
    assert "Tested: 16" in said


def test_what_an_endpoint_does_not_know_may_be_anything(reference: Reference) -> None:
    odd = {"n": [1], "max_tokens": "x", "max_completion_tokens": {}, "max_output_tokens": [], "document": 5}
    for endpoint, body in (
        ("classify", {"input": ["a"], **odd}),
        ("embeddings", {"input": "a", **odd, "prompt": 5}),
        (
            "chat/completions",
            {"messages": [{"role": "user", "content": "x"}], "document": 5, "prompt": 5, "max_output_tokens": "x"},
        ),
        ("documents", {**odd, "document": {"type": "image_url", "image_url": "https://x/y"}}),
    ):
        asked = {"model": "gpt-4", **body}
        found = reference.ask(f"/v1/{endpoint}", asked, secret="bud_limited")
        assert found.status_code == 200, found.text
        assert reference.last == asked
