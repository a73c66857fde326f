"""
The one model of decoded telemetry: a span, a metric point and a log record as plain values.

Pure: it takes an OTLP request and returns values; it opens nothing and keeps nothing. It judges nothing either: what is
missing or odd in a request is missing or odd in the values, so that tests and rules see exactly what was sent.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1 import common_pb2
from opentelemetry.proto.logs.v1 import logs_pb2
from opentelemetry.proto.metrics.v1 import metrics_pb2
from opentelemetry.proto.resource.v1 import resource_pb2
from opentelemetry.proto.trace.v1 import trace_pb2

__all__ = [
    "Attributes",
    "Buckets",
    "Event",
    "Exemplar",
    "Link",
    "LogRecord",
    "MetricPoint",
    "Resource",
    "Scope",
    "Span",
    "Value",
    "decode_logs",
    "decode_metrics",
    "decode_traces",
]

Value: TypeAlias = "str | bool | int | float | bytes | list[Value] | dict[str, Value] | None"
"""A decoded attribute value or log body; None where the sender left it empty."""

Attributes: TypeAlias = Mapping[str, Value]
"""Attributes by key. Of a key that was sent twice the last value counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """What the telemetry is about: one process of one service."""

    attributes: Attributes
    schema_url: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """The instrumentation library that made the telemetry."""

    name: str = ""
    version: str = ""
    schema_url: str = ""
    attributes: Attributes


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened at one moment of a span; `time_ns` is nanoseconds since the epoch."""

    name: str
    time_ns: int
    attributes: Attributes


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A reference from a span to another span; ids as in `Span`."""

    trace_id: str
    span_id: str
    attributes: Attributes


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """
    One span.

    Attributes:
        trace_id: 32 lower-case hexadecimal digits.
        span_id: 16 lower-case hexadecimal digits.
        parent_span_id: As `span_id`; empty for a root span.
        kind: `INTERNAL`, `SERVER`, `CLIENT`, `PRODUCER`, `CONSUMER` or `UNSPECIFIED`.
        start_ns: Nanoseconds since the epoch.
        end_ns: Nanoseconds since the epoch.
        status: `UNSET`, `OK` or `ERROR`.
        flags: The W3C trace flags in the lowest byte, OTLP's is-remote bits above them.
        dropped: Attributes, events and links that the sender says it dropped.
    """

    trace_id: str
    span_id: str
    parent_span_id: str
    name: str
    kind: str
    start_ns: int
    end_ns: int
    attributes: Attributes
    status: str
    status_message: str
    trace_state: str
    flags: int
    events: tuple[Event, ...]
    links: tuple[Link, ...]
    dropped: int
    resource: Resource
    scope: Scope


@dataclass(frozen=True, slots=True, kw_only=True)
class Exemplar:
    """One measurement kept as an example; the ids are empty where it was made outside a sampled span."""

    value: int | float | None
    time_ns: int
    trace_id: str
    span_id: str
    attributes: Attributes


@dataclass(frozen=True, slots=True, kw_only=True)
class Buckets:
    """One side of an exponential histogram: counts of consecutive buckets, the first of them at index `offset`."""

    offset: int
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricPoint:
    """
    One point of one metric. What the metric's type does not have is None or empty.

    Attributes:
        unit: As sent, in UCUM.
        type: `gauge`, `sum`, `histogram`, `exponential_histogram` or `summary`.
        temporality: `DELTA`, `CUMULATIVE` or `UNSPECIFIED`; empty for a gauge and a summary, which have none.
        monotonic: Whether a sum only rises.
        start_ns: Nanoseconds since the epoch; 0 where the sender gave none.
        time_ns: Nanoseconds since the epoch.
        flags: Bit 0 says that no value was recorded.
        value: Of a gauge or a sum.
        bounds: Upper bounds of a histogram's buckets, in `unit`; the last bucket has none.
        bucket_counts: One more than `bounds`.
        quantiles: Pairs of quantile and value, of a summary.
    """

    name: str
    description: str
    unit: str
    type: str
    temporality: str
    monotonic: bool | None
    attributes: Attributes
    start_ns: int
    time_ns: int
    flags: int
    value: int | float | None = None
    count: int | None = None
    sum: float | None = None
    min: float | None = None
    max: float | None = None
    bounds: tuple[float, ...] = ()
    bucket_counts: tuple[int, ...] = ()
    scale: int | None = None
    zero_count: int | None = None
    positive: Buckets | None = None
    negative: Buckets | None = None
    quantiles: tuple[tuple[float, float], ...] = ()
    exemplars: tuple[Exemplar, ...] = ()
    resource: Resource
    scope: Scope


@dataclass(frozen=True, slots=True, kw_only=True)
class LogRecord:
    """
    One log record.

    Attributes:
        time_ns: Nanoseconds since the epoch; 0 where the sender did not know.
        observed_ns: When it was collected; nanoseconds since the epoch.
        severity_number: 1 to 24; 0 where it was not given.
        trace_id: As in `Span`; empty outside a span, like `span_id`.
    """

    time_ns: int
    observed_ns: int
    severity_number: int
    severity_text: str
    body: Value
    event_name: str
    attributes: Attributes
    trace_id: str
    span_id: str
    flags: int
    dropped: int
    resource: Resource
    scope: Scope


def decode_traces(request: ExportTraceServiceRequest) -> list[Span]:
    """Return the spans of a request in the order they were sent."""
    return [
        _span(span, resource, scope)
        for by_resource in request.resource_spans
        for resource in [_resource(by_resource.resource, by_resource.schema_url)]
        for by_scope in by_resource.scope_spans
        for scope in [_scope(by_scope.scope, by_scope.schema_url)]
        for span in by_scope.spans
    ]


def decode_metrics(request: ExportMetricsServiceRequest) -> list[MetricPoint]:
    """Return the points of all metrics of a request in the order they were sent."""
    return [
        point
        for by_resource in request.resource_metrics
        for resource in [_resource(by_resource.resource, by_resource.schema_url)]
        for by_scope in by_resource.scope_metrics
        for scope in [_scope(by_scope.scope, by_scope.schema_url)]
        for metric in by_scope.metrics
        for point in _points(metric, resource, scope)
    ]


def decode_logs(request: ExportLogsServiceRequest) -> list[LogRecord]:
    """Return the log records of a request in the order they were sent."""
    return [
        _log_record(record, resource, scope)
        for by_resource in request.resource_logs
        for resource in [_resource(by_resource.resource, by_resource.schema_url)]
        for by_scope in by_resource.scope_logs
        for scope in [_scope(by_scope.scope, by_scope.schema_url)]
        for record in by_scope.log_records
    ]


def _resource(resource: resource_pb2.Resource, schema_url: str) -> Resource:
    return Resource(attributes=_attributes(resource.attributes), schema_url=schema_url)


def _scope(scope: common_pb2.InstrumentationScope, schema_url: str) -> Scope:
    return Scope(
        name=scope.name, version=scope.version, schema_url=schema_url, attributes=_attributes(scope.attributes)
    )


def _attributes(pairs: Iterable[common_pb2.KeyValue]) -> dict[str, Value]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(sent: common_pb2.AnyValue) -> Value:
    match sent.WhichOneof("value"):
        case "string_value":
            return sent.string_value
        case "bool_value":
            return sent.bool_value
        case "int_value":
            return sent.int_value
        case "double_value":
            return sent.double_value
        case "bytes_value":
            return sent.bytes_value
        case "array_value":
            return [_value(one) for one in sent.array_value.values]
        case "kvlist_value":
            return {pair.key: _value(pair.value) for pair in sent.kvlist_value.values}
        case _:
            # Empty, or a reference into a profile's table of strings, which OTLP says to read as empty here.
            return None


def _names(items: Iterable[tuple[str, int]], prefix: str) -> dict[int, str]:
    return {number: name.removeprefix(prefix) for name, number in items}


# Protobuf's enums are open: a number that is not in these tables is shown as it is.
_KINDS = _names(trace_pb2.Span.SpanKind.items(), "SPAN_KIND_")
_STATUSES = _names(trace_pb2.Status.StatusCode.items(), "STATUS_CODE_")
_TEMPORALITIES = _names(metrics_pb2.AggregationTemporality.items(), "AGGREGATION_TEMPORALITY_")


def _span(span: trace_pb2.Span, resource: Resource, scope: Scope) -> Span:
    return Span(
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_span_id=span.parent_span_id.hex(),
        name=span.name,
        kind=_KINDS.get(span.kind, str(span.kind)),
        start_ns=span.start_time_unix_nano,
        end_ns=span.end_time_unix_nano,
        attributes=_attributes(span.attributes),
        status=_STATUSES.get(span.status.code, str(span.status.code)),
        status_message=span.status.message,
        trace_state=span.trace_state,
        flags=span.flags,
        events=tuple(_event(event) for event in span.events),
        links=tuple(_link(link) for link in span.links),
        dropped=span.dropped_attributes_count + span.dropped_events_count + span.dropped_links_count,
        resource=resource,
        scope=scope,
    )


def _event(event: trace_pb2.Span.Event) -> Event:
    return Event(name=event.name, time_ns=event.time_unix_nano, attributes=_attributes(event.attributes))


def _link(link: trace_pb2.Span.Link) -> Link:
    return Link(trace_id=link.trace_id.hex(), span_id=link.span_id.hex(), attributes=_attributes(link.attributes))


def _points(metric: metrics_pb2.Metric, resource: Resource, scope: Scope) -> Iterable[MetricPoint]:
    match metric.WhichOneof("data"):
        case "gauge":
            return [_number(metric, point, resource, scope) for point in metric.gauge.data_points]
        case "sum":
            return [_number(metric, point, resource, scope) for point in metric.sum.data_points]
        case "histogram":
            return [_histogram(metric, point, resource, scope) for point in metric.histogram.data_points]
        case "exponential_histogram":
            return [_exponential(metric, point, resource, scope) for point in metric.exponential_histogram.data_points]
        case "summary":
            return [_summary(metric, point, resource, scope) for point in metric.summary.data_points]
        case _:
            return []


def _temporality(number: int) -> str:
    return _TEMPORALITIES.get(number, str(number))


def _number(
    metric: metrics_pb2.Metric, point: metrics_pb2.NumberDataPoint, resource: Resource, scope: Scope
) -> MetricPoint:
    is_sum = metric.HasField("sum")
    return MetricPoint(
        name=metric.name,
        description=metric.description,
        unit=metric.unit,
        type="sum" if is_sum else "gauge",
        temporality=_temporality(metric.sum.aggregation_temporality) if is_sum else "",
        monotonic=metric.sum.is_monotonic if is_sum else None,
        attributes=_attributes(point.attributes),
        start_ns=point.start_time_unix_nano,
        time_ns=point.time_unix_nano,
        flags=point.flags,
        value=_measured(point),
        exemplars=_exemplars(point.exemplars),
        resource=resource,
        scope=scope,
    )


def _histogram(
    metric: metrics_pb2.Metric, point: metrics_pb2.HistogramDataPoint, resource: Resource, scope: Scope
) -> MetricPoint:
    return MetricPoint(
        name=metric.name,
        description=metric.description,
        unit=metric.unit,
        type="histogram",
        temporality=_temporality(metric.histogram.aggregation_temporality),
        monotonic=None,
        attributes=_attributes(point.attributes),
        start_ns=point.start_time_unix_nano,
        time_ns=point.time_unix_nano,
        flags=point.flags,
        count=point.count,
        sum=point.sum if point.HasField("sum") else None,
        min=point.min if point.HasField("min") else None,
        max=point.max if point.HasField("max") else None,
        bounds=tuple(point.explicit_bounds),
        bucket_counts=tuple(point.bucket_counts),
        exemplars=_exemplars(point.exemplars),
        resource=resource,
        scope=scope,
    )


def _exponential(
    metric: metrics_pb2.Metric, point: metrics_pb2.ExponentialHistogramDataPoint, resource: Resource, scope: Scope
) -> MetricPoint:
    return MetricPoint(
        name=metric.name,
        description=metric.description,
        unit=metric.unit,
        type="exponential_histogram",
        temporality=_temporality(metric.exponential_histogram.aggregation_temporality),
        monotonic=None,
        attributes=_attributes(point.attributes),
        start_ns=point.start_time_unix_nano,
        time_ns=point.time_unix_nano,
        flags=point.flags,
        count=point.count,
        sum=point.sum if point.HasField("sum") else None,
        min=point.min if point.HasField("min") else None,
        max=point.max if point.HasField("max") else None,
        scale=point.scale,
        zero_count=point.zero_count,
        positive=Buckets(offset=point.positive.offset, counts=tuple(point.positive.bucket_counts)),
        negative=Buckets(offset=point.negative.offset, counts=tuple(point.negative.bucket_counts)),
        exemplars=_exemplars(point.exemplars),
        resource=resource,
        scope=scope,
    )


def _summary(
    metric: metrics_pb2.Metric, point: metrics_pb2.SummaryDataPoint, resource: Resource, scope: Scope
) -> MetricPoint:
    return MetricPoint(
        name=metric.name,
        description=metric.description,
        unit=metric.unit,
        type="summary",
        temporality="",
        monotonic=None,
        attributes=_attributes(point.attributes),
        start_ns=point.start_time_unix_nano,
        time_ns=point.time_unix_nano,
        flags=point.flags,
        count=point.count,
        sum=point.sum,
        quantiles=tuple((each.quantile, each.value) for each in point.quantile_values),
        resource=resource,
        scope=scope,
    )


def _measured(point: metrics_pb2.NumberDataPoint | metrics_pb2.Exemplar) -> int | float | None:
    match point.WhichOneof("value"):
        case "as_int":
            return point.as_int
        case "as_double":
            return point.as_double
        case _:
            return None


def _exemplars(sent: Iterable[metrics_pb2.Exemplar]) -> tuple[Exemplar, ...]:
    return tuple(
        Exemplar(
            value=_measured(exemplar),
            time_ns=exemplar.time_unix_nano,
            trace_id=exemplar.trace_id.hex(),
            span_id=exemplar.span_id.hex(),
            attributes=_attributes(exemplar.filtered_attributes),
        )
        for exemplar in sent
    )


def _log_record(record: logs_pb2.LogRecord, resource: Resource, scope: Scope) -> LogRecord:
    return LogRecord(
        time_ns=record.time_unix_nano,
        observed_ns=record.observed_time_unix_nano,
        severity_number=record.severity_number,
        severity_text=record.severity_text,
        body=_value(record.body),
        event_name=record.event_name,
        attributes=_attributes(record.attributes),
        trace_id=record.trace_id.hex(),
        span_id=record.span_id.hex(),
        flags=record.flags,
        dropped=record.dropped_attributes_count,
        resource=resource,
        scope=scope,
    )
