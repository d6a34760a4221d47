"""Traces sent by OTLP over HTTP, with OpenTelemetry's SDK, which reads its other variables itself.

Spans wait in a bounded queue for a thread that sends them: a receiver that is slow or away costs spans, and no request
waits. Names: https://opentelemetry.io/docs/specs/semconv/http/http-spans/#http-server for what callers ask, and
https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/ for what the gateway asks.
"""

from __future__ import annotations

import asyncio
import threading
from importlib.metadata import version
from urllib.parse import urlsplit

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from bud.gateway.catalog import Target
from bud.gateway.genai import error_type, operation, provider
from bud.gateway.metrics import Facts
from bud.gateway.refusal import Refusal
from bud.gateway.request import Request
from bud.gateway.tracing import Attempt, Trace, Tracing, context

_CLOSE_SECONDS = 5.0
_METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})
_CONTEXT = TraceContextTextMapPropagator()


class Recording(Tracing):
    """Traces that are sent on."""

    def __init__(self, processor: BatchSpanProcessor, tracer: Tracer) -> None:
        self._processor = processor
        self._tracer = tracer

    @classmethod
    def open(cls) -> Recording:
        """With a queue and a thread of its own, which `close` ends."""
        resource = Resource.create()
        if str(resource.attributes["service.name"]).startswith("unknown_service"):
            resource = resource.merge(Resource({"service.name": "bud-gateway"}))
        provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        processor = BatchSpanProcessor(OTLPSpanExporter())
        provider.add_span_processor(processor)
        return cls(processor, provider.get_tracer("bud.gateway", version("bud-operator")))

    def begin(self, request: Request) -> Trace:
        asked = request.scope.get("method", "GET")
        method = asked if asked in _METHODS else "_OTHER"
        span = self._tracer.start_span(
            "HTTP" if method == "_OTHER" else method,
            _CONTEXT.extract(context(request.headers)),
            kind=SpanKind.SERVER,
            attributes={"http.request.method": method, "bud.request.id": request.id},
            start_time=_nanoseconds(request.began),
        )
        return _Recorded(self._tracer, span, request.facts)

    def close(self) -> None:
        # By itself it would wait for half a minute.
        last = threading.Thread(target=self._processor.shutdown, daemon=True)
        last.start()
        last.join(_CLOSE_SECONDS)


class _Recorded(Trace):
    def __init__(self, tracer: Tracer, span: Span, facts: Facts) -> None:
        super().__init__()
        self._tracer = tracer
        self._span = span
        self._facts = facts

    def attempt(self, target: Target, url: str) -> Attempt:
        name, where = operation(self._facts.endpoint), urlsplit(url)
        span = self._tracer.start_span(
            f"{name} {target.model}",
            set_span_in_context(self._span),
            kind=SpanKind.CLIENT,
            attributes={
                "gen_ai.operation.name": name,
                "gen_ai.provider.name": provider(target.provider),
                "gen_ai.request.model": target.model,
                "server.address": where.hostname or "",
                "server.port": where.port or (443 if where.scheme == "https" else 80),
                "bud.target": target.id,
            },
        )
        return _Asked(target, url, span=span, facts=self._facts)

    def ended(self, *, now: float) -> None:
        span, facts = self._span, self._facts
        if facts.endpoint:
            span.update_name(f"{getattr(span, 'name', '')} /v1/{facts.endpoint}")
            span.set_attribute("http.route", f"/v1/{facts.endpoint}")
            span.set_attribute("gen_ai.operation.name", operation(facts.endpoint))
        told = {"bud.project": facts.project, "gen_ai.request.model": facts.model}
        told |= {"gen_ai.provider.name": provider(facts.provider), "error.type": error_type(facts.status)}
        span.set_attributes({name: value for name, value in told.items() if value})
        span.set_attribute("http.response.status_code", facts.status)
        _tell_usage(span, facts)
        if facts.status >= 500:
            span.set_status(Status(StatusCode.ERROR))
        span.end(_nanoseconds(now))


class _Asked(Attempt):
    def __init__(self, target: Target, url: str, *, span: Span, facts: Facts) -> None:
        headers = dict[str, str]()
        _CONTEXT.inject(headers, set_span_in_context(span))
        super().__init__(target, url, headers)
        self._span = span
        self._facts = facts

    def ended(self, error: BaseException | None = None) -> None:
        if isinstance(error, Refusal):
            self.refused(error)
        elif isinstance(error, asyncio.CancelledError | GeneratorExit):
            # The caller has left, or its time is over: no fault of whoever was asked.
            self._span.set_attribute("error.type", "cancelled")
        elif error is not None:
            self._fail(type(error).__name__)
        _tell_usage(self._span, self._facts)
        self._span.end()

    def refused(self, refusal: Refusal) -> None:
        self._fail(refusal.code or str(refusal.status))

    def _fail(self, kind: str) -> None:
        self._span.set_attribute("error.type", kind)
        self._span.set_status(Status(StatusCode.ERROR))


def _tell_usage(span: Span, facts: Facts) -> None:
    if facts.usage is None:
        return
    for name, tokens in (("input", facts.usage.input), ("output", facts.usage.output)):
        if tokens is not None:
            span.set_attribute(f"gen_ai.usage.{name}_tokens", tokens)


def _nanoseconds(moment: float) -> int:
    return int(moment * 1e9)
