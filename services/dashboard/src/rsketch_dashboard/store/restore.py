"""
Rows back as the OTLP messages that they came in.

Nothing is lost that a program would miss, but not every byte comes back: items are grouped anew by resource and scope;
numbers of kinds, statuses and severities that OTLP does not know are 0; an attribute or a body without a value, and
ids that are all zero, are the same as none. Of exemplars the value is a double, the attributes that a view filtered
away are not kept, and one whose series has no later point has nowhere to be.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import duckdb
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import InstrumentationScope, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.metrics.v1 import metrics_pb2
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from rsketch_dashboard.store.schema import FAMILIES, Family
from rsketch_dashboard.store.values import decoded

__all__ = ["logs", "points", "spans"]

Row = Sequence[Any]

_HEADERS: Final = {
    "spans": "h.name, h.kind",
    "logs": "NULL",
    "points": "h.name, h.description, h.unit, h.type, h.temporality, h.monotonic, h.bounds",
}
_EXEMPLAR_BACK_NS = 600 * 10**9
"""How long before its point an exemplar may have been measured."""


def spans(connection: duckdb.DuckDBPyConnection, where: str, parameters: Sequence[Any]) -> ExportTraceServiceRequest:
    """Return the spans, called s, for which *where* holds, in the order of their start."""
    rows = connection.execute(
        f"""
        SELECT s.operation, s.attributes, s.trace_id, s.span_id, s.parent_id, s.start_ns, s.duration_ns, s.status,
               s.flags, s.rest
        FROM spans s WHERE {where} ORDER BY s.start_ns, s.span_id
        """,
        list(parameters),
    ).fetchall()
    request = ExportTraceServiceRequest()
    known = _known(connection, FAMILIES["spans"], rows)
    scopes = known.scopes(request.resource_spans.add, lambda of_resource: of_resource.scope_spans.add())
    for operation, attributes, *values in rows:
        name, kind = known.headers[operation].more
        span = scopes(operation).spans.add()
        _fill_span(span, values)
        span.name, span.kind = name, kind
        span.attributes.extend(known.pairs(attributes))
    return request


def _fill_span(span: Span, values: Row) -> None:
    trace_id, span_id, parent, start, duration, status, flags, rest = values
    if rest:
        span.ParseFromString(rest)
    span.trace_id, span.span_id = trace_id.to_bytes(16), span_id.to_bytes(8)
    span.parent_span_id = parent.to_bytes(8) if parent else b""
    span.start_time_unix_nano, span.end_time_unix_nano, span.flags = start, start + duration, flags
    if status:
        span.status.code = status
    elif not span.status.message:
        # An empty one is the same as none.
        span.ClearField("status")


def logs(connection: duckdb.DuckDBPyConnection, where: str, parameters: Sequence[Any]) -> ExportLogsServiceRequest:
    """Return the log records, called l, for which *where* holds, in the order of their time."""
    rows = connection.execute(
        f"""
        SELECT l.logger, l.attributes, l.time_ns, l.observed_ns, l.severity, l.severity_text, l.trace_id, l.span_id,
               l.body, l.event_name, l.flags, l.rest
        FROM logs l WHERE {where} ORDER BY l.time_ns, l.sequence
        """,
        list(parameters),
    ).fetchall()
    request = ExportLogsServiceRequest()
    known = _known(connection, FAMILIES["logs"], rows)
    scopes = known.scopes(request.resource_logs.add, lambda of_resource: of_resource.scope_logs.add())
    for logger, attributes, *values in rows:
        record = scopes(logger).log_records.add()
        _fill_record(record, values)
        record.attributes.extend(known.pairs(attributes))
    return request


def _fill_record(record: LogRecord, values: Row) -> None:
    time, observed, severity, severity_text, trace_id, span_id, body, event_name, flags, rest = values
    if rest:
        record.ParseFromString(rest)
    # There it says that the record had no time of its own.
    record.time_unix_nano = 0 if record.observed_time_unix_nano else time
    record.observed_time_unix_nano = observed
    record.severity_number, record.severity_text = severity, severity_text
    record.trace_id = trace_id.to_bytes(16) if trace_id else b""
    record.span_id = span_id.to_bytes(8) if span_id else b""
    record.event_name, record.flags = event_name, flags
    if body and not record.HasField("body"):
        record.body.string_value = body


def points(connection: duckdb.DuckDBPyConnection, where: str, parameters: Sequence[Any]) -> ExportMetricsServiceRequest:
    """Return the points, called p, for which *where* holds, in the order of their time, with their exemplars."""
    rows = connection.execute(
        f"""
        SELECT p.metric, p.attributes, p.time_ns, p.start_ns, p.flags, p.value, p.is_int, p.count, p.sum, p.min, p.max,
               p.buckets, p.rest
        FROM points p WHERE {where} ORDER BY p.time_ns
        """,
        list(parameters),
    ).fetchall()
    request = ExportMetricsServiceRequest()
    known = _known(connection, FAMILIES["points"], rows)
    scopes = known.scopes(request.resource_metrics.add, lambda of_resource: of_resource.scope_metrics.add())
    exemplars = _exemplars(connection, rows)
    metrics: dict[tuple[int, Any], metrics_pb2.Metric] = {}
    for number, attributes, *values in rows:
        scope, said = scopes(number), known.headers[number].more
        # Bounds are of a point; points that differ in them alone are of one metric.
        key = (id(scope), said[:-1])
        if key not in metrics:
            metrics[key] = _metric(scope.metrics.add(), said)
        point = _POINTS[said[3]](metrics[key], values, said[-1])
        point.time_unix_nano, point.start_time_unix_nano, point.flags = values[0], values[1], values[2]
        point.attributes.extend(known.pairs(attributes))
        for exemplar in exemplars.pop((number, tuple(attributes), values[0]), ()):
            point.exemplars.append(exemplar)
    return request


def _metric(metric: metrics_pb2.Metric, said: Row) -> metrics_pb2.Metric:
    metric.name, metric.description, metric.unit, kind, temporality, monotonic, _ = said
    data = getattr(metric, kind)
    data.SetInParent()
    if kind not in ("gauge", "summary"):
        data.aggregation_temporality = temporality
    if kind == "sum":
        metric.sum.is_monotonic = bool(monotonic)
    return metric


def _number(metric: metrics_pb2.Metric, values: Row, _: object) -> metrics_pb2.NumberDataPoint:
    *_, value, is_int, _, _, _, _, _, rest = values
    point = (metric.sum if metric.HasField("sum") else metric.gauge).data_points.add()
    if value is not None and not is_int:
        point.as_double = value
    elif value is not None:
        point.as_int = metrics_pb2.NumberDataPoint.FromString(rest).as_int if rest else int(value)
    return point


def _histogram(metric: metrics_pb2.Metric, values: Row, bounds: Sequence[float]) -> metrics_pb2.HistogramDataPoint:
    point = metric.histogram.data_points.add()
    point.explicit_bounds.extend(bounds or ())
    point.bucket_counts.extend(values[-2] or ())
    _fill_totals(point, values)
    return point


def _exponential(metric: metrics_pb2.Metric, values: Row, _: object) -> metrics_pb2.ExponentialHistogramDataPoint:
    point = metric.exponential_histogram.data_points.add()
    point.ParseFromString(values[-1] or b"")
    _fill_totals(point, values)
    return point


def _summary(metric: metrics_pb2.Metric, values: Row, _: object) -> metrics_pb2.SummaryDataPoint:
    point = metric.summary.data_points.add()
    point.ParseFromString(values[-1] or b"")
    point.count, point.sum = values[5], values[6]
    return point


_POINTS: Final[Mapping[str, Callable[..., Any]]] = {
    "gauge": _number,
    "sum": _number,
    "histogram": _histogram,
    "exponential_histogram": _exponential,
    "summary": _summary,
}


def _fill_totals(point: Any, values: Row) -> None:
    point.count = values[5]
    for name, value in zip(("sum", "min", "max"), values[6:9], strict=True):
        if value is not None:
            setattr(point, name, value)


def _exemplars(
    connection: duckdb.DuckDBPyConnection, rows: Sequence[Row]
) -> dict[tuple[int, tuple[int, ...], int], list[metrics_pb2.Exemplar]]:
    """Return the exemplars of points by metric, attributes and time: each belongs to the next point of its series."""
    if not rows:
        return {}
    first, last = rows[0][2], rows[-1][2]
    found = connection.execute(
        """
        WITH series AS (
            SELECT DISTINCT metric, attributes, time_ns FROM points
            WHERE time_ns BETWEEN $since AND $last AND metric IN (SELECT unnest($metrics::INTEGER[]))
        )
        SELECT p.metric, p.attributes, p.time_ns, e.time_ns, e.value, e.trace_id, e.span_id
        FROM exemplars e ASOF JOIN series p
            ON e.metric = p.metric AND e.attributes = p.attributes AND e.time_ns <= p.time_ns
        WHERE e.time_ns BETWEEN $since AND $last AND p.time_ns >= $first
        ORDER BY e.time_ns
        """,
        {
            "since": first - _EXEMPLAR_BACK_NS,
            "first": first,
            "last": last,
            "metrics": list({row[0] for row in rows}),
        },
    ).fetchall()
    exemplars: dict[tuple[int, tuple[int, ...], int], list[metrics_pb2.Exemplar]] = {}
    for metric, attributes, point_time, time, value, trace_id, span_id in found:
        exemplar = metrics_pb2.Exemplar(
            time_unix_nano=time,
            as_double=value,
            trace_id=trace_id.to_bytes(16) if trace_id else b"",
            span_id=span_id.to_bytes(8) if span_id else b"",
        )
        exemplars.setdefault((metric, tuple(attributes), point_time), []).append(exemplar)
    return exemplars


@dataclass(frozen=True, slots=True)
class _Header:
    resource: int
    scope: bytes
    schema_url: str
    more: tuple[Any, ...]


@dataclass(slots=True)
class _Known:
    """What rows refer to by numbers."""

    headers: Mapping[int, _Header]
    resources: Mapping[int, tuple[bytes, str]]
    attributes: Mapping[int, KeyValue]

    def pairs(self, numbers: Iterable[int]) -> Iterator[KeyValue]:
        """Yield attributes."""
        return (self.attributes[number] for number in numbers if number in self.attributes)

    def scopes(self, add_resource: Callable[[], Any], add_scope: Callable[[Any], Any]) -> Callable[[int], Any]:
        """Return a function that returns the scope of a header in the request, and adds it where it is not there."""
        by_resource: dict[Any, Any] = {}
        by_scope: dict[Any, Any] = {}

        def scope_of(number: int) -> Any:
            header = self.headers[number]
            resource = self.resources[header.resource]
            key = (resource, header.scope, header.schema_url)
            if key not in by_scope:
                if resource not in by_resource:
                    of_resource = by_resource[resource] = add_resource()
                    of_resource.resource.CopyFrom(Resource.FromString(resource[0]))
                    of_resource.schema_url = resource[1]
                of_scope = by_scope[key] = add_scope(by_resource[resource])
                of_scope.scope.CopyFrom(InstrumentationScope.FromString(header.scope))
                of_scope.schema_url = header.schema_url
            return by_scope[key]

        return scope_of


def _known(connection: duckdb.DuckDBPyConnection, family: Family, rows: Sequence[Row]) -> _Known:
    """Return what rows refer to; they begin with the numbers of the header and of the attributes."""
    headers = connection.execute(
        f"""
        SELECT h.id, h.resource, h.scope_raw, h.schema_url, {_HEADERS[family.name]} FROM {family.header} h
        WHERE h.id IN (SELECT unnest(?::INTEGER[]))
        """,
        [list({row[0] for row in rows})],
    ).fetchall()
    resources = connection.execute(
        f"SELECT id, raw, schema_url FROM {family.resources} WHERE id IN (SELECT unnest(?::INTEGER[]))",
        [list({row[1] for row in headers})],
    ).fetchall()
    attributes = connection.execute(
        f"SELECT id, key, value, type, raw FROM {family.attributes} WHERE id IN (SELECT unnest(?::INTEGER[]))",
        [list({number for row in rows for number in row[1]})],
    ).fetchall()
    return _Known(
        headers={
            row[0]: _Header(row[1], row[2], row[3], tuple(_hashable(each) for each in row[4:])) for row in headers
        },
        resources={number: (raw, schema_url) for number, raw, schema_url in resources},
        attributes={
            number: KeyValue(key=key, value=decoded(text, kind, raw)) for number, key, text, kind, raw in attributes
        },
    )


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
