"""Traces of requests: one span for each, and one for each time that something upstream is asked.

Where no exporter is configured nothing is recorded, and the caller's context goes on unchanged, as
https://www.w3.org/TR/trace-context/ wants of whoever takes no part. No span holds a prompt or an answer.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bud.gateway.catalog import Target
    from bud.gateway.refusal import Refusal
    from bud.gateway.request import Request

_PARENT = re.compile(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_STATE = re.compile(rb"[ -~]{1,512}")
_NOTHING: Mapping[str, str] = MappingProxyType({})
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


class Attempt:
    """One time that a target is asked at one of its addresses, until it has `ended`; `headers` are to be sent there."""

    def __init__(self, target: Target, url: str, headers: Mapping[str, str]) -> None:
        self.target = target
        self.url = url
        self.headers = headers

    def ended(self, error: BaseException | None = None) -> None:
        """It is over, with what was raised meanwhile."""

    def refused(self, refusal: Refusal) -> None:
        """It cannot answer, and the next one may be asked."""


class Trace:
    """What becomes of one request. This one is not recorded."""

    def __init__(self, context: Mapping[str, str] = _NOTHING) -> None:
        self._context = context

    def attempt(self, target: Target, url: str) -> Attempt:
        """A target is asked at one of its addresses."""
        return Attempt(target, url, self._context)

    def ended(self, *, now: float) -> None:
        """The request has ended at `now`, in epoch seconds, and its facts are known."""


UNTOLD = Trace()


class Tracing:
    """Begins traces. These are not recorded."""

    def begin(self, request: Request) -> Trace:
        """The trace of a request, which may be part of the caller's."""
        return Trace(context(request.headers)) if b"traceparent" in request.headers else UNTOLD

    def close(self) -> None:
        """Sends what is recorded and waits for that, some seconds at most."""


def context(headers: Mapping[bytes, bytes]) -> dict[str, str]:
    """The caller's trace context, if it is one."""
    parent, state = headers.get(b"traceparent", b""), headers.get(b"tracestate", b"")
    if not _PARENT.fullmatch(parent):
        return {}
    return {"traceparent": parent.decode(), **({"tracestate": state.decode()} if _STATE.fullmatch(state) else {})}


def from_environment(environment: Mapping[str, str] = os.environ) -> Tracing:
    """As OpenTelemetry's variables say; its libraries are loaded only where an address to send to is configured.

    https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/ and .../protocol/exporter/.
    """
    off = environment.get("OTEL_SDK_DISABLED", "").lower() == "true"
    exporter = environment.get("OTEL_TRACES_EXPORTER") or "otlp"
    if off or exporter != "otlp" or not any(environment.get(name) for name in _ENDPOINTS):
        return Tracing()
    from bud.gateway.otlp import Recording  # noqa: PLC0415  see the docstring

    return Recording.open()
