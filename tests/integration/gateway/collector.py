"""A receiver of OTLP over HTTP that takes nothing but what is documented: https://opentelemetry.io/docs/specs/otlp/."""

from __future__ import annotations

import gzip
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span


@dataclass(frozen=True)
class Seen:
    """One span; `parent` is "" for the first of a trace."""

    name: str
    kind: str
    trace: str
    id: str
    parent: str
    state: str
    failed: bool
    attributes: dict[str, Any]


@dataclass
class Collector:
    """`faults` holds what it refused; `service` is the name of whoever sent last."""

    spans: list[Seen] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    service: str = ""
    text: bytes = b""

    async def __call__(self, request: web.Request, _: dict[str, Any]) -> web.StreamResponse:
        try:
            self._take(request, await request.read())
        except Exception as error:
            self.faults.append(repr(error))
            return web.Response(status=400)
        return web.Response(
            body=ExportTraceServiceResponse().SerializeToString(), content_type="application/x-protobuf"
        )

    def _take(self, request: web.Request, body: bytes) -> None:
        assert (request.method, request.path) == ("POST", "/v1/traces")
        assert request.content_type == "application/x-protobuf"
        coding = request.headers.get("content-encoding", "identity")
        assert coding in ("identity", "gzip")
        told, text = ExportTraceServiceRequest(), gzip.decompress(body) if coding == "gzip" else body
        assert told.ParseFromString(text) == len(text)
        assert told.resource_spans
        for resource in told.resource_spans:
            self.service = _attributes(resource.resource.attributes)["service.name"]
            for scope in resource.scope_spans:
                assert scope.scope.name == "bud.gateway"
                self.spans += map(_seen, scope.spans)
        self.text += text


def _seen(span: Span) -> Seen:
    assert (len(span.trace_id), len(span.span_id), len(span.parent_span_id)) in ((16, 8, 8), (16, 8, 0))
    assert any(span.trace_id) and any(span.span_id)
    assert 0 < span.start_time_unix_nano <= span.end_time_unix_nano
    return Seen(
        span.name,
        Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        span.trace_state,
        span.status.code == span.status.STATUS_CODE_ERROR,
        _attributes(span.attributes),
    )


def _attributes(given: Any) -> dict[str, Any]:
    found = {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in given}
    assert len(found) == len(given)
    return found
