"""Finished objects of the SDK as encoded OTLP items, by upstream's encoder, one item at a time."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace

from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk.metrics.export import MetricsData
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanContext

from rsketch_telemetry.otlp.frame import Item, Scope

__all__ = ["log_item", "metric_items", "metric_requests", "resource_message", "span_item"]


def span_item(span: ReadableSpan) -> Item:
    """Return a finished span. Raises whatever the encoder raises on a value that OTLP cannot hold."""
    # Without its resource, which is framed once a request: encoding it again takes longer than the span does.
    alone = copy.copy(span)
    alone._resource = Resource.get_empty()
    scope_spans = encode_spans([alone]).resource_spans[0].scope_spans[0]
    scope = Scope(scope_spans.scope.SerializeToString(), scope_spans.schema_url)
    return Item(scope, scope_spans.spans[0].SerializeToString())


def log_item(record: ReadableLogRecord) -> Item:
    """Return a log record. Raises whatever the encoder raises on a value that OTLP cannot hold."""
    scope_logs = encode_logs([record]).resource_logs[0].scope_logs[0]
    scope = Scope(scope_logs.scope.SerializeToString(), scope_logs.schema_url)
    return Item(scope, scope_logs.log_records[0].SerializeToString())


def metric_items(data: MetricsData, refused: Callable[[Exception], None] | None = None) -> Iterator[Item]:
    """
    Yield each metric of one collection.

    Args:
        refused: Called for each metric that OTLP cannot hold. None raises what the encoder raises, for all of them.
    """
    for request in [encode_metrics(data)] if refused is None else metric_requests(data, refused):
        for resource_metrics in request.resource_metrics:
            for scope_metrics in resource_metrics.scope_metrics:
                scope = Scope(scope_metrics.scope.SerializeToString(), scope_metrics.schema_url)
                for metric in scope_metrics.metrics:
                    yield Item(scope, metric.SerializeToString(), _points(metric))


def metric_requests(data: MetricsData, refused: Callable[[Exception], None]) -> list[ExportMetricsServiceRequest]:
    """Return one collection encoded, without the metrics that OTLP cannot hold: *refused* is called for each."""
    try:
        return [encode_metrics(data)]
    except Exception:  # noqa: BLE001 - the encoder raises what it likes, for all metrics because of one
        return list(_one_by_one(data, refused))


def _one_by_one(data: MetricsData, refused: Callable[[Exception], None]) -> Iterator[ExportMetricsServiceRequest]:
    for of_resource in data.resource_metrics:
        for of_scope in of_resource.scope_metrics:
            for metric in of_scope.metrics:
                alone = replace(of_resource, scope_metrics=[replace(of_scope, metrics=[metric])])
                try:
                    request = encode_metrics(MetricsData(resource_metrics=[alone]))
                except Exception as error:  # noqa: BLE001 - as above
                    refused(error)
                else:
                    yield request


def _points(metric: Metric) -> int:
    kind = metric.WhichOneof("data")
    return len(getattr(metric, kind).data_points) if kind else 0


def resource_message(resource: Resource) -> bytes:
    """Return the encoded `Resource`."""
    # The encoder has no public function for a resource alone: it encodes a span that has nothing else.
    bare = ReadableSpan(
        name="", resource=resource, context=SpanContext(1, 1, is_remote=False), start_time=1, end_time=1
    )
    return encode_spans([bare]).resource_spans[0].resource.SerializeToString()
