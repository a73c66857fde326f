"""The encoders on values that are odd; that they say what upstream's say is the property tests' to show."""

import subprocess
import sys
from typing import Any

import pytest
from opentelemetry._logs import LogRecord
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import InstrumentationScope as ScopeMessage
from opentelemetry.proto.trace.v1.trace_pb2 import Span as SpanMessage
from opentelemetry.sdk._logs import ReadWriteLogRecord
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, TraceFlags
from piped import piped
from rsketch_telemetry.otlp.encode import log_item, resource_message, span_item
from rsketch_telemetry.otlp.frame import frame
from rsketch_telemetry.processors import PipelineSpans
from rsketch_telemetry.signal import Signal


def _span(attributes: dict[str, Any], scope: InstrumentationScope | None = None) -> ReadableSpan:
    context = SpanContext(1, 2, is_remote=False)
    return ReadableSpan(
        "pay", context, resource=Resource.get_empty(), attributes=attributes, instrumentation_scope=scope
    )


@pytest.mark.parametrize("odd", ["\ud800", 2**64, -(2**70), object(), {"in": ["\udfff"]}, {1, 2}])
def test_an_attribute_that_otlp_cannot_hold_is_left_out_alone(odd: object) -> None:
    """The others stay, and who encodes hears of each that does not, without a line in the log."""
    left_out: list[Exception] = []
    item = span_item(_span({"first": 1, "odd": odd, "last": "x"}), left_out.append)

    assert [each.key for each in SpanMessage.FromString(item.body).attributes] == ["first", "last"]
    assert len(left_out) == 1


@pytest.mark.parametrize("change", [{"start_time": -1}, {"end_time": 2**64}, {"name": "\ud800"}, {"context": None}])
def test_a_span_that_otlp_cannot_hold_is_refused(change: dict[str, Any]) -> None:
    """What is no attribute cannot be left out."""
    given = {"name": "pay", "context": SpanContext(1, 2, is_remote=False), "resource": Resource.get_empty()}

    with pytest.raises((ValueError, OverflowError)):
        span_item(ReadableSpan(**{**given, **change}))


def test_a_body_that_holds_itself_is_refused() -> None:
    """Nor can the body of a log record."""
    endless: list[Any] = []
    endless.append(endless)

    with pytest.raises(ValueError, match="stand in each other"):
        log_item(ReadWriteLogRecord(LogRecord(body=endless), Resource.get_empty()))


def test_a_scope_is_encoded_once() -> None:
    """Items of one scope have the same object, so that framing them compares no bytes; another has another."""
    scope, other = InstrumentationScope("shop", "1", "https://schema.example"), InstrumentationScope("till")
    first, second = span_item(_span({}, scope)), span_item(_span({}, scope))

    assert first.scope is second.scope
    assert ScopeMessage.FromString(first.scope.message) == ScopeMessage(name="shop", version="1")
    assert span_item(_span({}, other)).scope != first.scope


def test_scopes_without_end_keep_their_own_names() -> None:
    """A program that makes a tracer for each call has each of its spans in its own scope."""
    for number in range(3000):
        item = span_item(_span({}, InstrumentationScope(f"scope{number}")))
        assert ScopeMessage.FromString(item.scope.message).name == f"scope{number}"


def test_a_framed_request_is_upstreams() -> None:
    """Resource, scope and span come together to the request that upstream's exporter would send."""
    resource = Resource({"service.name": "shop", "ports": [1, 2]}, "https://schema.example")
    tracers = TracerProvider(resource=resource, shutdown_on_exit=False)
    span = tracers.get_tracer("shop", "1", "https://schema.example/2", {"of": "scope"}).start_span("pay")
    span.end()
    assert isinstance(span, ReadableSpan)
    request = frame(resource_message(resource), resource.schema_url, [span_item(span)])

    assert ExportTraceServiceRequest.FromString(request) == encode_spans([span])


def test_what_is_left_out_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """Of a thousand spans with an attribute that OTLP cannot hold there is one line, and all of them leave."""
    pipeline, lane = piped(Signal.TRACES)
    spans = PipelineSpans(pipeline)
    context = SpanContext(1, 2, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))
    for _ in range(1000):
        spans.on_end(ReadableSpan("pay", context, resource=Resource.get_empty(), attributes={"count": 2**70}))
    pipeline.shutdown(5)

    assert lane.tally.exported == 1000
    (line,) = caplog.messages
    assert line.startswith("telemetry: an attribute of one of the spans cannot be encoded and is left out (ValueError:")


def test_protobuf_is_imported_with_the_first_metric() -> None:
    """Encoding spans, log records and resources needs none of it, so a program's start does not wait for it."""
    program = "import sys, rsketch_telemetry.processors; print(*sys.modules)"
    imported = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.split()

    assert "rsketch_telemetry.otlp.encode" in imported
    assert not [name for name in imported if name.startswith("google.protobuf") or name.endswith("_pb2")]
