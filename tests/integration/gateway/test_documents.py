"""Documents through the gateway, read by tesseract and PDFium."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.gateway_process import KEY, GatewayProcess, key, project, provider, running_gateway
from tests.integration.gateway import reading
from tests.integration.gateway.upstream import running


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    reading.require()
    offers = [{"name": "reader", "upstreamName": "tesseract", "pricing": {"perRequest": "0.01"}}]
    with running(reading.read) as runtime:
        objects = (project(), key(), provider("debian", runtime.url, models=offers))
        with running_gateway(tmp_path_factory.mktemp("documents") / "objects", *objects) as started:
            yield started


def extracted(gateway: GatewayProcess, kind: str, media: str, data: bytes, *formats: str) -> dict[str, Any]:
    address = f"data:{media};base64,{base64.b64encode(data).decode()}"
    body = {
        "model": "reader",
        "document": {"type": kind, kind: address},
        "task": "extract",
        "prompt": "Extract all text",
        "options": {"to_formats": formats},
    }
    headers = {"Authorization": f"Bearer {KEY}"}
    found = httpx.post(f"{gateway.url}/v1/documents", json=body, headers=headers, timeout=60)
    assert found.status_code == 200, found.text
    told: dict[str, Any] = found.json()
    assert (told["object"], told["model"], told["id"][:4]) == ("document", "reader", "doc_")
    assert told["conduit_metadata"]["cost"] == 0.01
    assert told["usage_info"]["size_bytes"] == len(data)
    return told


def test_a_picture_is_read(gateway: GatewayProcess) -> None:
    told = extracted(gateway, "image_url", "image/png", reading.png("Invoice number 4711"), "md", "text")
    assert told["pages"] == [{"page_number": 1, "markdown": "Invoice number 4711"}]
    assert told["document"] == {"md_content": "Invoice number 4711", "text_content": "Invoice number 4711"}


def test_a_pdf_is_read_page_by_page(gateway: GatewayProcess) -> None:
    data = reading.pdf("The quick brown fox", "jumps over the lazy dog")
    told = extracted(gateway, "document_url", "application/pdf", data, "md")
    assert [page["markdown"] for page in told["pages"]] == ["The quick brown fox", "jumps over the lazy dog"]
    assert (told["usage_info"]["pages_processed"], list(told["document"])) == (2, ["md_content"])
