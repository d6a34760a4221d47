"""Times as Kubernetes writes them: RFC 3339; one without an offset is taken for UTC."""

from __future__ import annotations

import datetime


def moment(text: str) -> datetime.datetime:
    """Raises `ValueError` for what is no time."""
    found = datetime.datetime.fromisoformat(text.upper().replace("Z", "+00:00"))
    return found if found.tzinfo is not None else found.replace(tzinfo=datetime.UTC)


def seconds_between(start: str, end: str) -> float:
    """Seconds from one time to another."""
    return (moment(end) - moment(start)).total_seconds()


def after(start: str, seconds: float) -> str:
    """A time so many seconds later, to the second."""
    return (moment(start) + datetime.timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")
