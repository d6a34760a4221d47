"""What an answer takes over of its upstream's. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable

_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_PASSED = frozenset({"content-type", "content-disposition", "openai-model", "openai-version"})


def passed_on(headers: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    """Headers of an answer that are the caller's: none of the upstream's limits, cookies or connection.

    A value that no header may have is left out.
    """
    told = (
        (name.lower(), value.encode(errors="surrogateescape")) for name, value in headers if name.lower() in _PASSED
    )
    return [(name.encode(), value) for name, value in told if not _CONTROL.search(value)]
