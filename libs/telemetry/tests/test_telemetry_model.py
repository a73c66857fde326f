from typing import Any

import pytest
from google.protobuf import json_format
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue, KeyValueList
from opentelemetry.proto.logs.v1.logs_pb2 import SeverityNumber
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span, Status
from rsketch_telemetry.otlp.model import Buckets, MetricPoint, decode_logs, decode_metrics, decode_traces

TRACE = bytes.fromhex("0af7651916cd43dd8448eb211c80319c")
SPAN = bytes.fromhex("b7ad6b7169203331")
SCHEMA = "https://opentelemetry.io/schemas/1.45.0"


def _text(key: str, value: str) -> KeyValue:
    return KeyValue(key=key, value=AnyValue(string_value=value))


def _metrics_request(metric: dict[str, Any]) -> ExportMetricsServiceRequest:
    body = {
        "resourceMetrics": [
            {
                "resource": {"attributes": [{"key": "service.name", "value": {"stringValue": "shop"}}]},
                "scopeMetrics": [{"scope": {"name": "s", "version": "1"}, "schemaUrl": SCHEMA, "metrics": [metric]}],
            }
        ]
    }
    return json_format.ParseDict(body, ExportMetricsServiceRequest())


def _only_point(metric: dict[str, Any]) -> MetricPoint:
    (point,) = decode_metrics(_metrics_request(metric))
    return point


def test_a_span_is_decoded_with_its_resource_and_scope() -> None:
    """Ids become hexadecimal text, enums their names, and resource and scope are on the span itself."""
    request = ExportTraceServiceRequest()
    by_resource = request.resource_spans.add(schema_url="of the resource")
    by_resource.resource.attributes.append(_text("service.name", "shop"))
    by_scope = by_resource.scope_spans.add(schema_url=SCHEMA)
    by_scope.scope.name, by_scope.scope.version = "rsketch", "0.1"
    sent = by_scope.spans.add(
        trace_id=TRACE, span_id=SPAN, parent_span_id=SPAN[::-1], name="GET /x", trace_state="a=1", flags=0x301
    )
    sent.kind, sent.start_time_unix_nano, sent.end_time_unix_nano = Span.SPAN_KIND_SERVER, 5, 9
    sent.status.code, sent.status.message = Status.STATUS_CODE_ERROR, "broken"
    sent.attributes.append(_text("http.route", "/x"))
    sent.events.add(name="seen", time_unix_nano=7)
    sent.links.add(trace_id=TRACE, span_id=SPAN)
    sent.dropped_events_count = 3

    (span,) = decode_traces(request)

    assert (span.trace_id, span.span_id) == ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331")
    assert span.parent_span_id == SPAN[::-1].hex()
    assert (span.name, span.kind, span.start_ns, span.end_ns) == ("GET /x", "SERVER", 5, 9)
    assert (span.status, span.status_message, span.trace_state, span.flags) == ("ERROR", "broken", "a=1", 0x301)
    assert span.attributes == {"http.route": "/x"}
    assert [(event.name, event.time_ns) for event in span.events] == [("seen", 7)]
    assert span.links[0].span_id == SPAN.hex()
    assert span.dropped == 3
    assert span.resource.attributes == {"service.name": "shop"}
    assert span.resource.schema_url == "of the resource"
    assert (span.scope.name, span.scope.version, span.scope.schema_url) == ("rsketch", "0.1", SCHEMA)


def test_a_root_span_has_an_empty_parent_and_unknown_enums_keep_their_number() -> None:
    """Nothing is invented: no parent is an empty string, and a kind of the future is shown as it was sent."""
    request = ExportTraceServiceRequest(
        resource_spans=[ResourceSpans(scope_spans=[ScopeSpans(spans=[Span(trace_id=TRACE, span_id=SPAN)])])]
    )
    # An open enum accepts any number, though its stub does not.
    setattr(request.resource_spans[0].scope_spans[0].spans[0], "kind", 77)  # noqa: B010

    (span,) = decode_traces(request)

    assert span.parent_span_id == ""
    assert span.kind == "77"
    assert span.status == "UNSET"


@pytest.mark.parametrize(
    ("sent", "decoded"),
    [
        (AnyValue(string_value="a"), "a"),
        (AnyValue(bool_value=False), False),
        (AnyValue(int_value=-(2**63)), -(2**63)),
        (AnyValue(double_value=0.5), 0.5),
        (AnyValue(bytes_value=b"\x00\xff"), b"\x00\xff"),
        (AnyValue(array_value=ArrayValue(values=[AnyValue(int_value=1), AnyValue(string_value="b")])), [1, "b"]),
        (AnyValue(kvlist_value=KeyValueList(values=[_text("k", "v")])), {"k": "v"}),
        (AnyValue(), None),
    ],
)
def test_values_become_plain_python(sent: AnyValue, decoded: object) -> None:
    """Every kind of attribute value has one plain Python value."""
    request = ExportLogsServiceRequest()
    request.resource_logs.add().scope_logs.add().log_records.add().body.CopyFrom(sent)

    (log,) = decode_logs(request)

    assert log.body == decoded
    assert type(log.body) is type(decoded)


def test_a_histogram_keeps_bounds_counts_and_exemplars() -> None:
    """A histogram point has its temporality, bounds, counts, sum and the span of each exemplar."""
    point = _only_point(
        {
            "name": "http.server.request.duration",
            "unit": "s",
            "histogram": {
                "aggregationTemporality": 2,
                "dataPoints": [
                    {
                        "startTimeUnixNano": "1",
                        "timeUnixNano": "2",
                        "count": "3",
                        "sum": 0.75,
                        "explicitBounds": [0.1, 1],
                        "bucketCounts": ["1", "2", "0"],
                        "attributes": [{"key": "http.route", "value": {"stringValue": "/x"}}],
                        "exemplars": [{"asDouble": 0.25, "timeUnixNano": "2", "spanId": "t61rcWkgMzE="}],
                    }
                ],
            },
        }
    )

    assert (point.name, point.unit, point.type) == ("http.server.request.duration", "s", "histogram")
    assert point.temporality == "CUMULATIVE"
    assert (point.start_ns, point.time_ns) == (1, 2)
    assert (point.count, point.sum, point.min, point.max) == (3, 0.75, None, None)
    assert point.bounds == (0.1, 1.0)
    assert point.bucket_counts == (1, 2, 0)
    assert point.attributes == {"http.route": "/x"}
    assert (point.exemplars[0].value, point.exemplars[0].span_id) == (0.25, SPAN.hex())
    assert point.resource.attributes == {"service.name": "shop"}
    assert point.scope.schema_url == SCHEMA


def test_sums_and_gauges_have_a_value_of_the_type_that_was_sent() -> None:
    """An integer stays an integer, a sum says whether it only rises, a gauge has no temporality."""
    rising = _only_point(
        {"name": "n", "sum": {"aggregationTemporality": 1, "isMonotonic": True, "dataPoints": [{"asInt": "4"}]}}
    )
    gauge = _only_point({"name": "g", "gauge": {"dataPoints": [{"asDouble": 4}]}})
    empty = _only_point({"name": "g", "gauge": {"dataPoints": [{"flags": 1}]}})

    assert (rising.type, rising.temporality, rising.monotonic, rising.value) == ("sum", "DELTA", True, 4)
    assert isinstance(rising.value, int)
    assert (gauge.type, gauge.temporality, gauge.monotonic, gauge.value) == ("gauge", "", None, 4.0)
    assert isinstance(gauge.value, float)
    assert (empty.value, empty.flags) == (None, 1)


def test_exponential_histograms_and_summaries_are_decoded() -> None:
    """The two rarer types keep what is theirs: scale and buckets, quantiles."""
    exponential = _only_point(
        {
            "name": "e",
            "exponentialHistogram": {
                "dataPoints": [
                    {"count": "2", "scale": 3, "zeroCount": "1", "positive": {"offset": -1, "bucketCounts": ["1"]}}
                ]
            },
        }
    )
    summary = _only_point(
        {"name": "q", "summary": {"dataPoints": [{"count": "9", "sum": 1, "quantileValues": [{"quantile": 0.5}]}]}}
    )

    assert (exponential.type, exponential.scale, exponential.zero_count) == ("exponential_histogram", 3, 1)
    assert exponential.positive == Buckets(offset=-1, counts=(1,))
    assert (summary.type, summary.count, summary.quantiles) == ("summary", 9, ((0.5, 0.0),))


def test_a_metric_without_data_has_no_points() -> None:
    """A metric of a type that is not known here yields nothing instead of failing."""
    assert decode_metrics(_metrics_request({"name": "n"})) == []


def test_a_log_record_keeps_its_span() -> None:
    """Severity, body, event name and the ids of the span in which it was written are there."""
    request = ExportLogsServiceRequest()
    record = (
        request.resource_logs.add()
        .scope_logs.add()
        .log_records.add(
            time_unix_nano=4, observed_time_unix_nano=5, severity_text="WARN", trace_id=TRACE, span_id=SPAN, flags=1
        )
    )
    record.severity_number = SeverityNumber.SEVERITY_NUMBER_WARN
    record.body.string_value = "late"
    record.event_name = "http.server.request.exception"

    (log,) = decode_logs(request)

    assert (log.time_ns, log.observed_ns, log.severity_number, log.severity_text) == (4, 5, 13, "WARN")
    assert (log.body, log.event_name) == ("late", "http.server.request.exception")
    assert (log.trace_id, log.span_id, log.flags) == (TRACE.hex(), SPAN.hex(), 1)


def test_items_of_several_resources_keep_their_order_and_their_own_resource() -> None:
    """A request of several processes is one flat list in the order it was sent."""
    request = ExportTraceServiceRequest()
    for name in ("a", "b"):
        by_resource = request.resource_spans.add()
        by_resource.resource.attributes.append(_text("service.name", name))
        for number in (1, 2):
            by_resource.scope_spans.add().spans.add(name=f"{name}{number}")

    spans = decode_traces(request)

    assert [span.name for span in spans] == ["a1", "a2", "b1", "b2"]
    assert [span.resource.attributes["service.name"] for span in spans] == ["a", "a", "b", "b"]
