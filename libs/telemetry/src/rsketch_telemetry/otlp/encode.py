"""
Finished objects of the SDK as encoded OTLP items, one item at a time.

Spans, log records and resources are written here field by field; upstream's encoder says the same of them, but builds
message objects for it, which takes five times as long. Metrics, of which there are few, are left to it, and it is
imported with the first of them.

The numbers are those of the fields in opentelemetry/proto/{trace,logs,common,resource}/v1.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.sdk._logs import ReadableLogRecord, ReadWriteLogRecord
from opentelemetry.sdk.metrics.export import MetricsData
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceState

from rsketch_telemetry.otlp import wire
from rsketch_telemetry.otlp.frame import Item, Scope

if TYPE_CHECKING:
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
    from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric

__all__ = ["LeftOut", "log_item", "metric_items", "metric_requests", "resource_message", "span_item"]

LeftOut = Callable[[Exception], None]
"""Called for each attribute that OTLP cannot hold: the item is encoded without it."""

_MAX_SCOPES: Final = 1024
_TRACE_ID_BYTES, _SPAN_ID_BYTES = 16, 8
_TRACE_ID: Final = wire.tag(1) + wire.varint(_TRACE_ID_BYTES)
_SPAN_ID: Final = wire.tag(2) + wire.varint(_SPAN_ID_BYTES)
_PARENT_ID: Final = wire.tag(4) + wire.varint(_SPAN_ID_BYTES)
_KINDS: Final = {kind.value: wire.uint64(6, kind.value + 1) for kind in SpanKind}
_STATUSES: Final = {code.value: wire.field(15, wire.uint64(3, code.value)) for code in StatusCode}
_HAS_IS_REMOTE, _IS_REMOTE = 0x100, 0x200
_HERE, _REMOTE = wire.fixed32(16, _HAS_IS_REMOTE), wire.fixed32(16, _HAS_IS_REMOTE | _IS_REMOTE)
"""Where a span's parent is: in this process, as far as is known, or in another."""


def span_item(span: ReadableSpan, left_out: LeftOut | None = None) -> Item:
    """Return a finished span. Raises whatever comes of a value, other than an attribute's, that OTLP cannot hold."""
    context, parent = span.get_span_context(), span.parent
    if context is None:
        raise ValueError("a span without a context")
    body = b"".join(
        (
            _ids(context),
            _trace_state(context.trace_state),
            _PARENT_ID + parent.span_id.to_bytes(_SPAN_ID_BYTES, "big") if parent else b"",
            wire.text(5, span.name),
            _KINDS[span.kind._value_],
            wire.fixed64(7, span.start_time) if span.start_time else b"",
            wire.fixed64(8, span.end_time) if span.end_time else b"",
            _attributes(9, span.attributes, left_out),
            wire.uint64(10, span.dropped_attributes),
            # To look at the lists themselves takes a lock and a copy of each.
            *([wire.field(11, _event(event, left_out)) for event in span.events] if span._events else ()),
            wire.uint64(12, span.dropped_events),
            *([wire.field(13, _link(link, left_out)) for link in span.links] if span._links else ()),
            wire.uint64(14, span.dropped_links),
            _status(span.status),
            _REMOTE if parent and parent.is_remote else _HERE,
        )
    )
    return Item(_scope(span.instrumentation_scope), body)


def log_item(record: ReadableLogRecord | ReadWriteLogRecord, left_out: LeftOut | None = None) -> Item:
    """Return a log record. Raises whatever comes of a value, other than an attribute's, that OTLP cannot hold."""
    said = record.log_record
    severity = said.severity_number
    trace_id, span_id, flags = said.trace_id, said.span_id, said.trace_flags
    if trace_id is None or span_id is None or flags is None:
        raise ValueError("a log record without ids")
    body = b"".join(
        (
            wire.fixed64(1, said.timestamp) if said.timestamp else b"",
            wire.uint64(2, severity.value) if severity is not None else b"",
            wire.text(3, said.severity_text or ""),
            wire.field(5, wire.any_value(said.body)),
            _attributes(6, said.attributes, left_out),
            wire.uint64(7, record.dropped_attributes),
            wire.fixed32(8, flags),
            wire.field(9, trace_id.to_bytes(_TRACE_ID_BYTES, "big")) if trace_id else b"",
            wire.field(10, span_id.to_bytes(_SPAN_ID_BYTES, "big")) if span_id else b"",
            wire.fixed64(11, said.observed_timestamp) if said.observed_timestamp else b"",
            wire.text(12, said.event_name or ""),
        )
    )
    return Item(_scope(record.instrumentation_scope), body)


def resource_message(resource: Resource, left_out: LeftOut | None = None) -> bytes:
    """Return the encoded `Resource`."""
    return _attributes(1, resource.attributes, left_out)


def _ids(context: SpanContext) -> bytes:
    trace_id = context.trace_id.to_bytes(_TRACE_ID_BYTES, "big")
    return _TRACE_ID + trace_id + _SPAN_ID + context.span_id.to_bytes(_SPAN_ID_BYTES, "big")


def _trace_state(state: TraceState | None) -> bytes:
    return wire.text(3, ",".join([f"{key}={value}" for key, value in state.items()])) if state else b""


def _event(event: Event, left_out: LeftOut | None) -> bytes:
    return b"".join(
        (
            wire.fixed64(1, event.timestamp),
            wire.text(2, event.name),
            _attributes(3, event.attributes, left_out),
            wire.uint64(4, event.dropped_attributes),
        )
    )


def _link(link: Link, left_out: LeftOut | None) -> bytes:
    return b"".join(
        (
            _ids(link.context),
            _attributes(4, link.attributes, left_out),
            wire.uint64(5, link.dropped_attributes),
            wire.fixed32(6, _HAS_IS_REMOTE | _IS_REMOTE if link.context.is_remote else _HAS_IS_REMOTE),
        )
    )


def _status(status: Status | None) -> bytes:
    if status is None:
        return b""
    code: int = status.status_code._value_
    if not status.description:
        return _STATUSES[code]
    return wire.field(15, wire.text(2, status.description) + wire.uint64(3, code))


def _attributes(number: int, values: Mapping[str, Any] | None, left_out: LeftOut | None) -> bytes:
    if not values:
        return b""
    # The SDK's own mappings take a lock for each value.
    plain = values.copy() if hasattr(values, "copy") else dict(values)
    try:
        return wire.attributes(number, plain)
    except Exception:  # noqa: BLE001 - a class of the program's may raise what it likes
        return b"".join(_one_by_one(number, plain, left_out))


def _one_by_one(number: int, values: Mapping[str, Any], left_out: LeftOut | None) -> Iterator[bytes]:
    for key, value in values.items():
        try:
            yield wire.attribute(number, key, value)
        except Exception as error:  # noqa: BLE001 - as above
            if left_out is not None:
                left_out(error)


_scopes: dict[int, tuple[InstrumentationScope | None, Scope]] = {}
"""By identity, as hashing one takes longer than encoding a span; what is in here keeps its identity for itself."""


def _scope(scope: InstrumentationScope | None) -> Scope:
    known = _scopes.get(id(scope))
    if known is None:
        if len(_scopes) >= _MAX_SCOPES:
            _scopes.clear()
        known = _scopes[id(scope)] = (scope, Scope(*_encoded_scope(scope)))
    return known[1]


def _encoded_scope(scope: InstrumentationScope | None) -> tuple[bytes, str]:
    if scope is None:
        return b"", ""
    message = wire.text(1, scope.name) + wire.text(2, scope.version or "") + _attributes(3, scope.attributes, None)
    return message, scope.schema_url or ""


def metric_items(data: MetricsData, refused: Callable[[Exception], None] | None = None) -> Iterator[Item]:
    """
    Yield each metric of one collection.

    Args:
        refused: Called for each metric that OTLP cannot hold. None raises what the encoder raises, for all of them.
    """
    for request in [_encoded(data)] if refused is None else metric_requests(data, refused):
        for resource_metrics in request.resource_metrics:
            for scope_metrics in resource_metrics.scope_metrics:
                scope = Scope(scope_metrics.scope.SerializeToString(), scope_metrics.schema_url)
                for metric in scope_metrics.metrics:
                    yield Item(scope, metric.SerializeToString(), _points(metric))


def metric_requests(data: MetricsData, refused: Callable[[Exception], None]) -> "list[ExportMetricsServiceRequest]":
    """Return one collection encoded, without the metrics that OTLP cannot hold: *refused* is called for each."""
    try:
        return [_encoded(data)]
    except Exception:  # noqa: BLE001 - the encoder raises what it likes, for all metrics because of one
        return list(_metric_by_metric(data, refused))


def _encoded(data: MetricsData) -> "ExportMetricsServiceRequest":
    # Imported late: a program's start need not wait for protobuf, and one that measures nothing never needs it.
    from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics

    return encode_metrics(data)


def _metric_by_metric(
    data: MetricsData, refused: Callable[[Exception], None]
) -> "Iterator[ExportMetricsServiceRequest]":
    for of_resource in data.resource_metrics:
        for of_scope in of_resource.scope_metrics:
            for metric in of_scope.metrics:
                alone = replace(of_resource, scope_metrics=[replace(of_scope, metrics=[metric])])
                try:
                    request = _encoded(MetricsData(resource_metrics=[alone]))
                except Exception as error:  # noqa: BLE001 - as above
                    refused(error)
                else:
                    yield request


def _points(metric: "Metric") -> int:
    kind = metric.WhichOneof("data")
    return len(getattr(metric, kind).data_points) if kind else 0
