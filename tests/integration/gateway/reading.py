"""A small runtime of `/v1/documents`: Debian's tesseract reads pictures, PDFium reads PDFs (facts, lines 12-18)."""

from __future__ import annotations

import asyncio
import base64
import binascii
import struct
import time
import zlib
from typing import Any
from urllib.parse import unquote_to_bytes

import pypdfium2
from aiohttp import web

from tests import fetched

_PNG = b"\x89PNG\r\n\x1a\n"
_DOTS = 300 / 72
"""Tesseract wants 300 dots per inch; a PDF's unit is a 72nd."""


def require() -> None:
    """Sees to it that tesseract is there."""
    fetched.require(["tesseract"], ["tesseract-ocr", "tesseract-ocr-eng"])


async def read(request: web.Request, body: dict[str, Any]) -> web.Response:
    """Takes data URIs only: it reaches no other place."""
    assert request.path == "/v1/documents"
    original = body["document"]
    head, _, text = original[original["type"]].partition(",")
    assert head.startswith("data:"), "only data URIs are read"
    data = base64.b64decode(text) if head.endswith(";base64") else unquote_to_bytes(text)
    pages = _pages(data) if data.startswith(b"%PDF") else [await _seen(data)]
    whole = "\n\n".join(pages)
    wanted = body.get("options", {}).get("to_formats", ["md"])
    assert {*wanted} <= {"md", "text"}
    return web.json_response(
        {
            "id": f"doc_{binascii.crc32(data):08x}",
            "object": "document",
            "created": int(time.time()),
            "model": body["model"],
            "document_id": f"{binascii.crc32(data):08x}",
            "pages": [{"page_number": number, "markdown": page} for number, page in enumerate(pages, 1)],
            "usage_info": {"pages_processed": len(pages), "size_bytes": len(data), "filename": "document"},
            "document": {f"{name}_content": whole for name in wanted},
        }
    )


def _pages(data: bytes) -> list[str]:
    with pypdfium2.PdfDocument(data) as document:
        return [page.get_textpage().get_text_bounded().strip() for page in document]


async def _seen(data: bytes) -> str:
    program = await asyncio.create_subprocess_exec(
        "tesseract", "stdin", "stdout", "-l", "eng", "--dpi", "300",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    text, _ = await program.communicate(data)
    assert program.returncode == 0
    return text.decode().strip()


def pdf(*pages: str) -> bytes:
    """A PDF with a line of text on each page (ISO 32000-1, 7.5)."""
    kids = " ".join(f"{4 + 2 * number} 0 R" for number in range(len(pages)))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for number, text in enumerate(pages):
        drawn = f"BT /F1 24 Tf 40 100 Td ({text}) Tj ET"
        objects.append(
            "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 400 200] /Resources << /Font << /F1 3 0 R >> >> "
            f"/Contents {5 + 2 * number} 0 R >>"
        )
        objects.append(f"<< /Length {len(drawn)} >>\nstream\n{drawn}\nendstream")
    out, places = bytearray(b"%PDF-1.4\n"), []
    for number, text in enumerate(objects, 1):
        places.append(len(out))
        out += f"{number} 0 obj\n{text}\nendobj\n".encode()
    rows = "".join(f"{place:010} 00000 n \n" for place in places)
    size = len(objects) + 1
    tail = f"xref\n0 {size}\n0000000000 65535 f \n{rows}trailer << /Size {size} /Root 1 0 R >>\nstartxref\n{len(out)}\n%%EOF\n"
    return bytes(out) + tail.encode()


def png(text: str) -> bytes:
    """A picture of a line of text, in gray (https://www.w3.org/TR/png-3/)."""
    with pypdfium2.PdfDocument(pdf(text)) as document:
        drawn = document[0].render(scale=_DOTS, grayscale=True)
        width, height, data = drawn.width, drawn.height, bytes(drawn.buffer)
        rows = b"".join(b"\0" + data[at : at + width] for at in range(0, height * drawn.stride, drawn.stride))

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return _PNG + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
