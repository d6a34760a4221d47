"""What answers tell of who gave them, in headers. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

_HEADERS = (
    ("provider", b"x-conduit-provider"),
    ("model_version", b"x-conduit-model-version"),
    ("virtual_key_id", b"x-conduit-virtual-key-id"),
    ("processing_time_ms", b"x-conduit-processing-time-ms"),
    ("cost", b"x-conduit-cost"),
)
_SAFE = "".join(map(chr, range(0x21, 0x7F))).replace("%", "")


def in_headers(metadata: Mapping[str, Any]) -> list[tuple[bytes, bytes]]:
    """`conduit_metadata` as headers, but for the request's id, which has a header of its own.

    What is not known when the headers are sent, such as the cost of a stream, is left out. Characters beyond ASCII are
    written as in an address.
    """
    return [(header, _plain(str(value))) for name, header in _HEADERS if (value := metadata[name]) is not None]


def _plain(value: str) -> bytes:
    # Every request passes here, and nearly every value is plain.
    if value.isascii() and value.isprintable() and "%" not in value:
        return value.encode()
    return quote(value, safe=_SAFE).encode()
