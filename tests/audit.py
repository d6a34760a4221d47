"""What the API server's audit log tells: who called what, and when it was answered."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import orjson


@dataclass(frozen=True, slots=True)
class Call:
    """One request that was answered; `verb` is Kubernetes' own, `start` and `end` are seconds since the epoch."""

    agent: str
    verb: str
    resource: str
    namespace: str
    name: str
    code: int
    start: float
    end: float

    @property
    def writes(self) -> bool:
        return self.verb not in ("get", "list", "watch")


class Audit:
    """The log of one cluster."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def mark(self) -> int:
        """The present end of the log, to read from later."""
        return self._file.stat().st_size

    def calls(self, since: int = 0) -> Iterator[Call]:
        """Every call that was answered since a mark."""
        with self._file.open("rb") as log:
            log.seek(since)
            for line in log:
                event = orjson.loads(line)
                if event["stage"] != "ResponseComplete":
                    continue
                target = event.get("objectRef") or {}
                yield Call(
                    agent=event.get("userAgent", ""),
                    verb=event["verb"],
                    resource="/".join(filter(None, (target.get("resource"), target.get("subresource")))),
                    namespace=target.get("namespace", ""),
                    name=target.get("name", ""),
                    code=(event.get("responseStatus") or {}).get("code", 0),
                    start=_seconds(event["requestReceivedTimestamp"]),
                    end=_seconds(event["stageTimestamp"]),
                )


def _seconds(stamp: str) -> float:
    return datetime.datetime.fromisoformat(stamp.replace("Z", "+00:00")).timestamp()
