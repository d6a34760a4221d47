"""When requests are traced, and what of the caller's context is taken."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from bud.gateway import otlp
from bud.gateway.otlp import Recording
from bud.gateway.tracing import context, from_environment

PARENT = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.mark.parametrize(
    ("headers", "taken"),
    [
        ({}, {}),
        ({b"traceparent": PARENT}, {"traceparent": PARENT.decode()}),
        (
            {b"traceparent": PARENT, b"tracestate": b"a=1,b=2"},
            {"traceparent": PARENT.decode(), "tracestate": "a=1,b=2"},
        ),
        ({b"traceparent": PARENT, b"tracestate": b"x" * 513}, {"traceparent": PARENT.decode()}),
        ({b"traceparent": PARENT, b"tracestate": b"a=1\r\nb: c"}, {"traceparent": PARENT.decode()}),
        ({b"tracestate": b"a=1"}, {}),
        ({b"traceparent": PARENT.upper()}, {}),
        ({b"traceparent": PARENT + b"-"}, {}),
    ],
)
def test_only_what_is_a_context_is_taken(headers: dict[bytes, bytes], taken: dict[str, str]) -> None:
    assert context(headers) == taken


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a", "OTEL_SDK_DISABLED": "true"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a", "OTEL_TRACES_EXPORTER": "none"},
    ],
)
def test_without_an_address_nothing_is_recorded(environment: dict[str, str]) -> None:
    assert not isinstance(from_environment(environment), Recording)


def test_its_libraries_are_not_loaded_where_nothing_is_recorded() -> None:
    code = "import sys, bud.gateway.__main__ as m; m.from_environment({}); print([n for n in sys.modules if 'opentelemetry' in n])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_end_waits_only_so_long_for_a_receiver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(otlp, "_CLOSE_SECONDS", 0.05)
    may_end, ended = threading.Event(), list[bool]()

    class Stuck(BatchSpanProcessor):
        def shutdown(self) -> None:
            may_end.wait(20)
            ended.append(True)
            super().shutdown()  # type: ignore[no-untyped-call]  # so the SDK has it

    provider = TracerProvider(shutdown_on_exit=False)
    Recording(Stuck(InMemorySpanExporter()), provider.get_tracer("test")).close()
    assert not ended
    may_end.set()
