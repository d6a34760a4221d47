"""Times as Kubernetes writes them: RFC 3339."""

from __future__ import annotations

import datetime


def seconds_between(start: str, end: str) -> float:
    """Seconds from one time to another."""
    first, last = (datetime.datetime.fromisoformat(text.replace("Z", "+00:00")) for text in (start, end))
    return (last - first).total_seconds()
