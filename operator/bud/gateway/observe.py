"""What is told of requests: metrics always, traces and lines in the log where they are wanted."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from bud.gateway.metrics import Metrics
from bud.gateway.request import Request
from bud.gateway.tracing import Tracing

log = logging.getLogger("bud.gateway.access")


class Observer:
    """Sees each request begin and end."""

    def __init__(self, *, access_log: bool = False, tracing: Tracing | None = None) -> None:
        self.metrics = Metrics()
        self._access_log = access_log
        self._tracing = tracing or Tracing()

    def began(self, request: Request) -> None:
        """A request has come."""
        self.metrics.in_flight += 1
        request.trace = self._tracing.begin(request)

    def ended(self, request: Request, *, now: float) -> None:
        """A request has ended at `now`, in epoch seconds: all that is to be known of it stands in its facts."""
        self.metrics.in_flight -= 1
        self.metrics.ended(request.facts, began=request.began, now=now)
        request.trace.ended(now=now)
        if self._access_log:
            told = line(request, now=now)
            log.info(" ".join(f"{name}={value}" for name, value in told.items()), extra=told)

    async def close(self) -> None:
        """Lets what is under way to elsewhere arrive, for some seconds at most."""
        await asyncio.to_thread(self._tracing.close)


def line(request: Request, *, now: float) -> dict[str, Any]:
    """What the log says of a request: nothing that its caller wrote but its id, which has no spaces."""
    facts = request.facts
    told: dict[str, Any] = {
        "request_id": request.id,
        "endpoint": facts.endpoint,
        "status": facts.status,
        "duration_ms": round((now - request.began) * 1000, 1),
        "project": facts.project,
        "model": facts.model,
        "provider": facts.provider,
        "limit": facts.limit,
    }
    if facts.first_at is not None:
        told["first_ms"] = round((facts.first_at - request.began) * 1000, 1)
    if facts.usage is not None:
        told |= {"input_tokens": facts.usage.input, "output_tokens": facts.usage.output, "cost": facts.cost}
    return {name: value for name, value in told.items() if value not in ("", None)}
