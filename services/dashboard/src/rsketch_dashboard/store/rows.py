"""
OTLP requests as rows. Pure but for the dictionary that it fills.

A row has the values of its family's table in their order. What cannot be a row (ids of the wrong length, times beyond
the year 2262) is rejected by itself, as OTLP has it: the rest of the request is taken.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import repeat
from typing import Any

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.metrics.v1 import metrics_pb2
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from rsketch_dashboard.store.dictionary import Dictionary, is_health_check
from rsketch_dashboard.store.values import encoded
from rsketch_dashboard.store.wire import EncodedTraces

__all__ = ["KINDS", "STATUSES", "Outcome", "Row", "log_rows", "point_rows", "span_rows"]

Row = tuple[Any, ...]

KINDS = ("UNSPECIFIED", "INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER")
STATUSES = ("UNSET", "OK", "ERROR")
_COLUMNS_OF_SPAN: tuple[Any, ...] = (
    *("trace_id", "span_id", "parent_span_id", "name", "kind", "flags"),
    *("start_time_unix_nano", "end_time_unix_nano", "attributes"),
)
_CODE_ALONE = 2
"""Bytes of an encoded status that has no message."""
_ENTRY_KINDS = frozenset({Span.SPAN_KIND_SERVER, Span.SPAN_KIND_CONSUMER})
_TOO_LATE_NS = 2**63
_EXACT = 2**53
"""Above it not every integer is a double."""


@dataclass(slots=True)
class Outcome:
    """
    What became of one request.

    Attributes:
        rows: By table, in the order of its columns.
        taken: Items that are in them: spans, log records or points.
        rejected: Items that are not.
        reason: Why the first of those was rejected.
        size: Of the request, in bytes.
    """

    rows: dict[str, list[Row]] = field(default_factory=dict)
    taken: int = 0
    rejected: int = 0
    reason: str = ""
    size: int = 0

    def reject(self, reason: str) -> None:
        """Count an item that cannot be a row."""
        self.rejected += 1
        self.reason = self.reason or reason


def span_rows(encoded_request: bytes, words: Dictionary) -> Outcome:
    """Return the spans of an encoded `ExportTraceServiceRequest` as rows."""
    found = Outcome()
    rows: list[Row] = []
    # This loop is what a stored span costs; see docs/dashboard.md for how much of it is what.
    integer, number_of = int.from_bytes, words.attributes.__getitem__
    for of_resource in EncodedTraces.FromString(encoded_request).resource_spans:
        resource = words.resource(of_resource.resource, of_resource.schema_url)
        for of_scope in of_resource.scope_spans:
            operations: dict[tuple[str, int], int] = {}
            for span in of_scope.spans:
                trace_id, span_id, parent = span.trace_id, span.span_id, span.parent_span_id
                start, end = span.start_time_unix_nano, span.end_time_unix_nano
                if not (start and end):
                    start, end = _known_times(start, end)
                trace_number, span_number = integer(trace_id), integer(span_id)
                if not (
                    (trace_number and span_number and len(trace_id) == 16 and len(span_id) == 8)
                    and (not parent or len(parent) == 8)
                    and (start < _TOO_LATE_NS and end < _TOO_LATE_NS)
                ):
                    found.reject(_wrong_span(trace_id, span_id, parent))
                    continue
                name, kind = span.name, span.kind
                operation = operations.get((name, kind))
                if operation is None:
                    known = kind if 0 <= kind < len(KINDS) else 0
                    operation = operations[name, kind] = words.header(
                        resource, of_scope.scope, of_scope.schema_url, known, name, is_health_check(name)
                    )
                status = _status(span.status)
                rows.append(
                    (
                        trace_number,
                        span_number,
                        integer(parent),
                        start,
                        end - start,
                        operation,
                        status,
                        not parent or kind in _ENTRY_KINDS,
                        span.flags,
                        list(map(number_of, span.attributes)),
                        _rest_of_span(span),
                    )
                )
    found.rows["spans"], found.taken = rows, len(rows)
    return found


def _known_times(start: int, end: int) -> tuple[int, int]:
    """Return when a span started and ended, of which not both were said: it has no duration then."""
    start = start or end or time.time_ns()
    return start, start


def _wrong_span(trace_id: bytes, span_id: bytes, parent: bytes) -> str:
    """Return what keeps a span from being stored."""
    if len(trace_id) != 16 or not any(trace_id):
        return "a trace id is not 16 bytes, or all zero"
    if len(span_id) != 8 or not any(span_id):
        return "a span id is not 8 bytes, or all zero"
    if parent and len(parent) != 8:
        return "a parent span id is not 8 bytes"
    return "a time is beyond the year 2262"


@lru_cache(maxsize=256)
def _status(encoded_status: bytes) -> int:
    code = Status.FromString(encoded_status).code
    return code if 0 <= code < len(STATUSES) else 0


def _rest_of_span(span: Any) -> bytes | None:
    """Return what no column has of a span, whose messages are encoded, as an encoded span; None for nothing."""
    if not (
        span.events
        or span.links
        or span.trace_state
        or len(span.status) > _CODE_ALONE
        or span.dropped_attributes_count
        or span.dropped_events_count
        or span.dropped_links_count
    ):
        return None
    rest = Span.FromString(span.SerializeToString())
    for name in _COLUMNS_OF_SPAN:
        rest.ClearField(name)
    rest.status.ClearField("code")
    return rest.SerializeToString()


def log_rows(request: ExportLogsServiceRequest, words: Dictionary, first: int) -> Outcome:
    """
    Return the log records of a request as rows.

    Args:
        first: The sequence number of the first one.
    """
    found = Outcome()
    rows: list[Row] = []
    for of_resource in request.resource_logs:
        resource = words.resource(of_resource.resource.SerializeToString(), of_resource.schema_url)
        for of_scope in of_resource.scope_logs:
            logger = words.header(resource, of_scope.scope.SerializeToString(), of_scope.schema_url)
            for record in of_scope.log_records:
                if wrong := _wrong_record(record):
                    found.reject(wrong)
                else:
                    rows.append(_log_row(record, logger, words, first + len(rows)))
    found.rows["logs"], found.taken = rows, len(rows)
    return found


def _wrong_record(record: LogRecord) -> str:
    if record.trace_id and len(record.trace_id) != 16:
        return "a trace id is not 16 bytes"
    if record.span_id and len(record.span_id) != 8:
        return "a span id is not 8 bytes"
    late = max(record.time_unix_nano, record.observed_time_unix_nano) >= _TOO_LATE_NS
    return "a time is beyond the year 2262" if late else ""


def _log_row(record: LogRecord, logger: int, words: Dictionary, sequence: int) -> Row:
    body, kind, _ = encoded(record.body)
    severity = record.severity_number
    # What the columns cannot say: that there was no time of its own, and a body that is no text.
    rest = LogRecord(dropped_attributes_count=record.dropped_attributes_count)
    if kind != "s" and record.HasField("body"):
        rest.body.CopyFrom(record.body)
    if not record.time_unix_nano:
        rest.observed_time_unix_nano = record.observed_time_unix_nano or 1
    return (
        sequence,
        record.time_unix_nano or record.observed_time_unix_nano or time.time_ns(),
        record.observed_time_unix_nano,
        severity if 0 <= severity <= 24 else 0,
        record.severity_text,
        int.from_bytes(record.trace_id) or None,
        int.from_bytes(record.span_id) or None,
        logger,
        body if record.HasField("body") else "",
        record.event_name,
        record.flags,
        _attributes(record.attributes, words),
        rest.SerializeToString() or None,
    )


def point_rows(request: ExportMetricsServiceRequest, words: Dictionary) -> Outcome:
    """Return the points of a request as rows, and the exemplars among them."""
    found = Outcome(rows={"points": [], "exemplars": []})
    for of_resource in request.resource_metrics:
        resource = words.resource(of_resource.resource.SerializeToString(), of_resource.schema_url)
        for of_scope in of_resource.scope_metrics:
            scope = of_scope.scope.SerializeToString()
            for metric in of_scope.metrics:
                for point, header, values in _points(metric):
                    if max(point.time_unix_nano, point.start_time_unix_nano) >= _TOO_LATE_NS:
                        found.reject("a time is beyond the year 2262")
                        continue
                    about = (metric.name, metric.description, metric.unit, *header)
                    number = words.header(resource, scope, of_scope.schema_url, *about)
                    _add_point(found, point, number, values, words)
    found.taken = len(found.rows["points"])
    return found


_Point = Any
"""One of OTLP's four kinds of data points; they share times, attributes and flags."""


def _points(metric: metrics_pb2.Metric) -> Iterable[tuple[_Point, Row, Row]]:
    """Yield each point of a metric with its type, temporality, monotonicity and bounds, and its values."""
    match metric.WhichOneof("data"):
        case "gauge":
            header: Row = ("gauge", 0, None, None)
            return ((point, header, _number_values(point)) for point in metric.gauge.data_points)
        case "sum":
            header = ("sum", _temporality(metric.sum), metric.sum.is_monotonic, None)
            return ((point, header, _number_values(point)) for point in metric.sum.data_points)
        case "histogram":
            return map(_histogram, metric.histogram.data_points, repeat(_temporality(metric.histogram)))
        case "exponential_histogram":
            header = ("exponential_histogram", _temporality(metric.exponential_histogram), None, None)
            points = metric.exponential_histogram.data_points
            return ((point, header, _histogram_values(point, None, _rest_of_exponential(point))) for point in points)
        case "summary":
            return map(_summary, metric.summary.data_points)
        case _:
            return ()


def _histogram(point: metrics_pb2.HistogramDataPoint, temporality: int) -> tuple[_Point, Row, Row]:
    header = ("histogram", temporality, None, list(point.explicit_bounds))
    return point, header, _histogram_values(point, list(point.bucket_counts), None)


def _summary(point: metrics_pb2.SummaryDataPoint) -> tuple[_Point, Row, Row]:
    rest = metrics_pb2.SummaryDataPoint(quantile_values=point.quantile_values).SerializeToString()
    return point, ("summary", 0, None, None), (None, None, point.count, point.sum, None, None, None, rest)


def _temporality(data: Any) -> int:
    """Return the temporality of a metric's data; of one that is not known yet, unspecified."""
    known = 0 <= data.aggregation_temporality <= metrics_pb2.AGGREGATION_TEMPORALITY_CUMULATIVE
    return int(data.aggregation_temporality) if known else 0


def _number_values(point: metrics_pb2.NumberDataPoint) -> Row:
    kind = point.WhichOneof("value")
    if kind is None:
        return (None, None, None, None, None, None, None, None)
    exact = kind == "as_double" or abs(point.as_int) <= _EXACT
    rest = None if exact else metrics_pb2.NumberDataPoint(as_int=point.as_int).SerializeToString()
    return (float(getattr(point, kind)), kind == "as_int", None, None, None, None, None, rest)


def _histogram_values(point: _Point, buckets: list[int] | None, rest: bytes | None) -> Row:
    optional = (getattr(point, name) if point.HasField(name) else None for name in ("sum", "min", "max"))
    return (None, None, point.count, *optional, buckets, rest)


def _rest_of_exponential(point: metrics_pb2.ExponentialHistogramDataPoint) -> bytes:
    return metrics_pb2.ExponentialHistogramDataPoint(
        scale=point.scale,
        zero_count=point.zero_count,
        zero_threshold=point.zero_threshold,
        positive=point.positive,
        negative=point.negative,
    ).SerializeToString()


def _add_point(found: Outcome, point: _Point, metric: int, values: Row, words: Dictionary) -> None:
    attributes = _attributes(point.attributes, words)
    row = (point.time_unix_nano or time.time_ns(), point.start_time_unix_nano, metric, attributes, point.flags, *values)
    found.rows["points"].append(row)
    # A summary has none.
    for exemplar in getattr(point, "exemplars", ()):
        if exemplar.time_unix_nano < _TOO_LATE_NS and len(exemplar.trace_id) in (0, 16):
            value = exemplar.as_int if exemplar.WhichOneof("value") == "as_int" else exemplar.as_double
            ids = int.from_bytes(exemplar.trace_id) or None, int.from_bytes(exemplar.span_id[:8]) or None
            found.rows["exemplars"].append((metric, attributes, exemplar.time_unix_nano, float(value), *ids))


def _attributes(pairs: Iterable[KeyValue], words: Dictionary) -> list[int]:
    return [words.attributes[pair.SerializeToString()] for pair in pairs]
