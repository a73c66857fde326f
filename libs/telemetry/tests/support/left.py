"""What leaves by the pipeline of the library's own providers, where the lean recorder serves, in the SDK's forms."""

import os
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.metrics.v1 import metrics_pb2
from opentelemetry.proto.trace.v1 import trace_pb2
from opentelemetry.sdk.metrics import Exemplar
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    NumberDataPoint,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util import instrumentation
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState
from rsketch_telemetry import environment
from rsketch_telemetry.lean.span import RANDOM
from rsketch_telemetry.otlp.frame import Item, Run, frame
from rsketch_telemetry.pipeline import Lane
from rsketch_telemetry.recorders import VARIABLE
from rsketch_telemetry.sdk import create_providers
from rsketch_telemetry.signal import Signal

__all__ = ["Finished", "Left"]

_NOWHERE = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "RSKETCH_TELEMETRY_PROCESS_METRICS": "false"}


class Finished(Protocol):
    """What keeps spans."""

    def get_finished_spans(self) -> tuple[ReadableSpan, ...]:
        """Return those that have ended."""


class Left:
    """
    Providers whose instrumentors record with the lean recorder, and whose pipeline sends nothing.

    Attributes:
        metric_items: The metrics of all collections so far, encoded.
        complete: Whether there is a span for each call that is measured; nobody has seen what was not sampled.
    """

    complete = False

    def __init__(self) -> None:
        # As the SDK's own providers read it.
        environ = {**os.environ, **_NOWHERE, VARIABLE: "lean"}
        with environment.presented(environ):
            made = create_providers(environ, {}, [])
        # What has come in waits until it is asked for.
        made.pipeline.start = lambda: None  # type: ignore[method-assign]  # nothing is to leave
        self._lanes = {lane.signal: lane for lane in made.pipeline.lanes}
        self._span_items: list[Item | Run] = []
        self._spans: list[ReadableSpan] = []
        self.metric_items: list[Item | Run] = []
        self.tracers, self.meters, self.loggers = made.tracers, made.meters, made.loggers

    @property
    def spans(self) -> Finished:
        """What keeps the spans."""
        return self

    def get_finished_spans(self) -> tuple[ReadableSpan, ...]:
        """Return those that have ended."""
        items = _taken(self._lanes[Signal.TRACES])
        request = ExportTraceServiceRequest.FromString(frame(b"", "", items))
        self._spans += _spans(request, self.tracers.resource)
        self._span_items += items
        return tuple(self._spans)

    def span_items(self) -> list[Item | Run]:
        """Return the spans that have ended, encoded."""
        self.get_finished_spans()
        return self._span_items

    def collect(self) -> list[Metric]:
        """Collect."""
        lane = self._lanes[Signal.METRICS]
        assert lane.collect is not None
        lane.collect()
        items = _taken(lane)
        self.metric_items += items
        request = ExportMetricsServiceRequest.FromString(frame(b"", "", items))
        return [
            _metric(metric)
            for each in request.resource_metrics
            for scope in each.scope_metrics
            for metric in scope.metrics
        ]


def _taken(lane: Lane) -> list[Item | Run]:
    lane.settle()
    mark, items = lane.segment.peek(1 << 60, None)
    lane.segment.discard(mark)
    return items


def _spans(request: ExportTraceServiceRequest, resource: Resource) -> list[ReadableSpan]:
    return [
        _span(span, resource, _scope(part.scope, part.schema_url))
        for each in request.resource_spans
        for part in each.scope_spans
        for span in part.spans
    ]


def _scope(scope: InstrumentationScope, schema_url: str) -> instrumentation.InstrumentationScope:
    return instrumentation.InstrumentationScope(
        scope.name, scope.version, schema_url, _attributes(scope.attributes) or None
    )


_IS_REMOTE = trace_pb2.SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK


def _span(span: trace_pb2.Span, resource: Resource, scope: instrumentation.InstrumentationScope) -> ReadableSpan:
    state = TraceState.from_header([span.trace_state])
    remote = bool(span.flags & _IS_REMOTE)
    # They are not exported. Only spans that are sampled are, and callers of the tests do not say that ids are random.
    flags = TraceFlags.SAMPLED if remote else TraceFlags.SAMPLED | RANDOM
    return ReadableSpan(
        name=span.name,
        context=_context(span.trace_id, span.span_id, state, remote=False, flags=flags),
        parent=_context(span.trace_id, span.parent_span_id, state, remote=remote) if span.parent_span_id else None,
        resource=resource,
        attributes=_attributes(span.attributes),
        events=[Event(each.name, _attributes(each.attributes), each.time_unix_nano) for each in span.events],
        links=[_link(each) for each in span.links],
        kind=SpanKind(span.kind - 1),
        status=Status(StatusCode(span.status.code), span.status.message or None),
        start_time=span.start_time_unix_nano,
        end_time=span.end_time_unix_nano,
        instrumentation_scope=scope,
    )


def _link(link: trace_pb2.Span.Link) -> Link:
    state = TraceState.from_header([link.trace_state])
    remote = bool(link.flags & _IS_REMOTE)
    return Link(_context(link.trace_id, link.span_id, state, remote=remote), _attributes(link.attributes))


def _context(
    trace_id: bytes, span_id: bytes, state: TraceState, *, remote: bool, flags: int = TraceFlags.SAMPLED
) -> SpanContext:
    return SpanContext(_number(trace_id), _number(span_id), remote, TraceFlags(flags), state)


def _number(identity: bytes) -> int:
    return int.from_bytes(identity, "big")


def _attributes(pairs: Iterable[KeyValue]) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    match kind:
        case None:
            return None
        case "array_value":
            return tuple(_value(each) for each in value.array_value.values)
        case "kvlist_value":
            return _attributes(value.kvlist_value.values)
    return getattr(value, kind)


def _metric(metric: metrics_pb2.Metric) -> Metric:
    return Metric(metric.name, metric.description, metric.unit, _data(metric))


def _data(metric: metrics_pb2.Metric) -> Sum | Gauge | Histogram:
    if metric.HasField("gauge"):
        return Gauge([_number_point(each) for each in metric.gauge.data_points])
    if metric.HasField("sum"):
        temporality = AggregationTemporality(metric.sum.aggregation_temporality)
        return Sum([_number_point(each) for each in metric.sum.data_points], temporality, metric.sum.is_monotonic)
    temporality = AggregationTemporality(metric.histogram.aggregation_temporality)
    return Histogram([_histogram_point(each) for each in metric.histogram.data_points], temporality)


def _number_point(point: metrics_pb2.NumberDataPoint) -> NumberDataPoint:
    return NumberDataPoint(
        _attributes(point.attributes),
        point.start_time_unix_nano,
        point.time_unix_nano,
        point.as_int if point.HasField("as_int") else point.as_double,
        _exemplars(point.exemplars),
    )


def _histogram_point(point: metrics_pb2.HistogramDataPoint) -> HistogramDataPoint:
    return HistogramDataPoint(
        attributes=_attributes(point.attributes),
        start_time_unix_nano=point.start_time_unix_nano,
        time_unix_nano=point.time_unix_nano,
        count=point.count,
        sum=point.sum,
        bucket_counts=list(point.bucket_counts),
        explicit_bounds=list(point.explicit_bounds),
        min=point.min,
        max=point.max,
        exemplars=_exemplars(point.exemplars),
    )


def _exemplars(sent: Iterable[metrics_pb2.Exemplar]) -> Sequence[Exemplar]:
    return [
        Exemplar(
            _attributes(each.filtered_attributes),
            each.as_int if each.HasField("as_int") else each.as_double,
            each.time_unix_nano,
            _number(each.span_id) or None,
            _number(each.trace_id) or None,
        )
        for each in sent
    ]
