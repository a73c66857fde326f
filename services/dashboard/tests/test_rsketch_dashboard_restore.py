"""Rows back as messages: what is exported, imported again, is what was there."""

import gzip
import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, InstrumentationScope, KeyValue, KeyValueList
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.metrics.v1 import metrics_pb2
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from otlp_json import identified, logs, metrics, number, record, span, traces
from rsketch_dashboard import DashboardConfig, exchange, serve
from rsketch_dashboard.errors import QueryError
from rsketch_dashboard.queries.export import export
from rsketch_dashboard.queries.parameters import Parameters
from rsketch_dashboard.store import Store
from rsketch_telemetry.otlp.receiver import Request
from stored import NOW, requests, stored

EVERYTHING = Parameters.of({}, NOW // 1000)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
TIMES = st.integers(1, 2**63 - 1)
NUMBERS = st.floats(allow_nan=False)


def _value(depth: int = 2) -> st.SearchStrategy[AnyValue]:
    plain = st.one_of(
        TEXT.map(lambda value: AnyValue(string_value=value)),
        st.booleans().map(lambda value: AnyValue(bool_value=value)),
        st.integers(-(2**63), 2**63 - 1).map(lambda value: AnyValue(int_value=value)),
        NUMBERS.map(lambda value: AnyValue(double_value=value)),
        st.binary(max_size=4).map(lambda value: AnyValue(bytes_value=value)),
    )
    if not depth:
        return plain
    nested = _value(depth - 1)
    return st.one_of(
        plain,
        st.lists(nested, max_size=3).map(lambda values: AnyValue(array_value=ArrayValue(values=values))),
        st.lists(_pair(nested), max_size=3).map(lambda values: AnyValue(kvlist_value=KeyValueList(values=values))),
    )


def _pair(value: st.SearchStrategy[AnyValue]) -> st.SearchStrategy[KeyValue]:
    return st.builds(lambda key, value: KeyValue(key=key, value=value), TEXT, value)


ATTRIBUTES = st.lists(_pair(_value()), max_size=3)
TRACE_IDS = st.integers(1, 2**128 - 1).map(lambda value: value.to_bytes(16))
SPAN_IDS = st.integers(1, 2**64 - 1).map(lambda value: value.to_bytes(8))
COUNTS = st.integers(0, 2**32 - 1)

SPANS = st.builds(
    Span,
    trace_id=TRACE_IDS,
    span_id=SPAN_IDS,
    parent_span_id=st.one_of(st.just(b""), SPAN_IDS),
    name=TEXT,
    kind=st.integers(0, 5),
    start_time_unix_nano=TIMES,
    end_time_unix_nano=TIMES,
    attributes=ATTRIBUTES,
    trace_state=TEXT,
    flags=COUNTS,
    dropped_attributes_count=COUNTS,
    events=st.lists(st.builds(Span.Event, name=TEXT, time_unix_nano=TIMES, attributes=ATTRIBUTES), max_size=2),
    links=st.lists(st.builds(Span.Link, trace_id=TRACE_IDS, span_id=SPAN_IDS, attributes=ATTRIBUTES), max_size=2),
    status=st.one_of(st.none(), st.builds(Status, code=st.integers(1, 2), message=TEXT)),
)
RECORDS = st.builds(
    LogRecord,
    time_unix_nano=st.one_of(st.just(0), TIMES),
    observed_time_unix_nano=TIMES,
    severity_number=st.integers(0, 24),
    severity_text=TEXT,
    body=st.one_of(st.none(), _value().filter(lambda value: value != AnyValue(string_value=""))),
    event_name=TEXT,
    attributes=ATTRIBUTES,
    trace_id=st.one_of(st.just(b""), TRACE_IDS),
    span_id=st.one_of(st.just(b""), SPAN_IDS),
    flags=COUNTS,
    dropped_attributes_count=COUNTS,
)
_OF_A_POINT = {
    "time_unix_nano": TIMES,
    "start_time_unix_nano": TIMES,
    "attributes": ATTRIBUTES,
    "flags": st.integers(0, 1),
}
_TOTALS = {
    "count": st.integers(0, 2**64 - 1),
    "sum": st.one_of(st.none(), NUMBERS),
    "min": st.one_of(st.none(), NUMBERS),
    "max": st.one_of(st.none(), NUMBERS),
}
_BUCKETS = st.lists(st.integers(0, 2**64 - 1), max_size=4)
NUMBER_POINTS = st.one_of(
    st.builds(metrics_pb2.NumberDataPoint, as_int=st.integers(-(2**63), 2**63 - 1), **_OF_A_POINT),
    st.builds(metrics_pb2.NumberDataPoint, as_double=NUMBERS, **_OF_A_POINT),
    st.builds(metrics_pb2.NumberDataPoint, **_OF_A_POINT),
)
HISTOGRAM_POINTS = st.builds(
    metrics_pb2.HistogramDataPoint,
    explicit_bounds=st.lists(NUMBERS, max_size=3),
    bucket_counts=_BUCKETS,
    **_OF_A_POINT,
    **_TOTALS,
)
_SIDE = st.builds(metrics_pb2.ExponentialHistogramDataPoint.Buckets, offset=st.integers(-9, 9), bucket_counts=_BUCKETS)
EXPONENTIAL_POINTS = st.builds(
    metrics_pb2.ExponentialHistogramDataPoint,
    scale=st.integers(-10, 20),
    zero_count=st.integers(0, 9),
    zero_threshold=NUMBERS,
    positive=_SIDE,
    negative=_SIDE,
    **_OF_A_POINT,
    **_TOTALS,
)
SUMMARY_POINTS = st.builds(
    metrics_pb2.SummaryDataPoint,
    count=st.integers(0, 2**64 - 1),
    sum=NUMBERS,
    quantile_values=st.lists(
        st.builds(metrics_pb2.SummaryDataPoint.ValueAtQuantile, quantile=NUMBERS, value=NUMBERS), max_size=2
    ),
    **_OF_A_POINT,
)
METRICS = st.one_of(
    st.builds(lambda points: {"gauge": metrics_pb2.Gauge(data_points=points)}, st.lists(NUMBER_POINTS, max_size=2)),
    st.builds(
        lambda points, temporality, monotonic: {
            "sum": metrics_pb2.Sum(data_points=points, aggregation_temporality=temporality, is_monotonic=monotonic)
        },
        st.lists(NUMBER_POINTS, max_size=2),
        st.integers(0, 2),
        st.booleans(),
    ),
    st.builds(
        lambda points, temporality: {
            "histogram": metrics_pb2.Histogram(data_points=points, aggregation_temporality=temporality)
        },
        st.lists(HISTOGRAM_POINTS, max_size=2),
        st.integers(0, 2),
    ),
    st.builds(
        lambda points, temporality: {
            "exponential_histogram": metrics_pb2.ExponentialHistogram(
                data_points=points, aggregation_temporality=temporality
            )
        },
        st.lists(EXPONENTIAL_POINTS, max_size=2),
        st.integers(0, 2),
    ),
    st.builds(
        lambda points: {"summary": metrics_pb2.Summary(data_points=points)}, st.lists(SUMMARY_POINTS, max_size=2)
    ),
)
METRIC = st.builds(
    lambda name, description, unit, data: metrics_pb2.Metric(name=name, description=description, unit=unit, **data),
    TEXT,
    TEXT,
    TEXT,
    METRICS,
)
RESOURCES = st.builds(Resource, attributes=ATTRIBUTES, dropped_attributes_count=COUNTS)
SCOPES = st.builds(InstrumentationScope, name=TEXT, version=TEXT, attributes=ATTRIBUTES)


@st.composite
def _sent(draw: st.DrawFn) -> list[Request]:
    said: list[Request] = []
    for _ in range(draw(st.integers(1, 2))):
        spans, records, instruments = (draw(st.lists(each, max_size=3)) for each in (SPANS, RECORDS, METRIC))
        resource, scope, url = draw(RESOURCES), draw(SCOPES), draw(TEXT)
        traced = ExportTraceServiceRequest()
        traced.resource_spans.add(resource=resource, schema_url=url).scope_spans.add(
            scope=scope, schema_url=url, spans=spans
        )
        logged = ExportLogsServiceRequest()
        logged.resource_logs.add(resource=resource).scope_logs.add(scope=scope, schema_url=url, log_records=records)
        measured = ExportMetricsServiceRequest()
        measured.resource_metrics.add(resource=resource).scope_metrics.add(scope=scope, metrics=instruments)
        said += [traced, logged, measured]
    return said


def _items(said: Iterable[Request]) -> list[Any]:
    """Return every item by itself with what it belongs to, in an order that does not depend on how they were sent."""
    found: list[list[bytes]] = []
    for request in said:
        for of_resource in _parts(request, "resource"):
            for of_scope in _parts(of_resource, "scope"):
                about = [
                    of_resource.resource.SerializeToString(),
                    of_resource.schema_url.encode(),
                    of_scope.scope.SerializeToString(),
                    of_scope.schema_url.encode(),
                ]
                found += [[*about, *item] for item in _single(of_scope)]
    return sorted(found)


def _parts(message: Any, prefix: str) -> Any:
    return next((value for field, value in message.ListFields() if field.name.startswith(f"{prefix}_")), ())


def _single(of_scope: Any) -> Iterator[list[bytes]]:
    for item in [*getattr(of_scope, "spans", ()), *getattr(of_scope, "log_records", ())]:
        yield [item.SerializeToString(deterministic=True)]
    for metric in getattr(of_scope, "metrics", ()):
        kind = metric.WhichOneof("data")
        for point in getattr(metric, kind).data_points:
            alone = metrics_pb2.Metric()
            alone.CopyFrom(metric)
            getattr(alone, kind).ClearField("data_points")
            yield [alone.SerializeToString(deterministic=True), point.SerializeToString(deterministic=True)]


def _exported(store: Store) -> list[Request]:
    return list(export(store.reading, EVERYTHING))  # type: ignore[arg-type]  # what it yields are requests


# Not shrunk: each attempt opens two databases.
@settings(max_examples=15, deadline=None, phases=[Phase.reuse, Phase.generate], suppress_health_check=list(HealthCheck))
@given(said=_sent())
def test_what_is_exported_is_what_was_sent(tmp_path_factory: pytest.TempPathFactory, said: list[Request]) -> None:
    """Spans, records and points come back whole, as messages and through JSON and another store."""
    with stored(tmp_path_factory.mktemp("first")) as store:
        store.append(said)
        first = _exported(store)
    text = b"".join(map(exchange.line, first))
    with stored(tmp_path_factory.mktemp("second")) as store:
        store.append([each.request for each in exchange.read(text, "")])
        second = _exported(store)

    assert _items(first) == _items(said)
    assert _items(second) == _items(said)


def test_exemplars_come_back_with_the_point_that_had_them(tmp_path: Path) -> None:
    """An exemplar belongs to the next point of its series, also where others were sent in between."""
    point = metrics_pb2.HistogramDataPoint(count=1, bucket_counts=[1, 0], explicit_bounds=[1.0], time_unix_nano=NOW)
    exemplar = point.exemplars.add(as_double=0.25, time_unix_nano=NOW - 5, trace_id=b"t" * 16, span_id=b"s" * 8)
    said = ExportMetricsServiceRequest()
    histogram = said.resource_metrics.add().scope_metrics.add().metrics.add(name="wait", unit="s").histogram
    histogram.data_points.extend([point, point, point])
    for at, each in enumerate(histogram.data_points):
        each.time_unix_nano = NOW + at * 10**9
        each.exemplars[0].time_unix_nano = exemplar.time_unix_nano + at * 10**9
    with stored(tmp_path) as store:
        store.append([said])
        found = _exported(store)

    assert _items(found) == _items([said])


def test_an_export_is_in_parts_however_uneven_the_times(tmp_path: Path) -> None:
    """Several thousand spans, a clock that is years behind among them, are several requests, each span once."""
    trace = identified("trace")
    spans = [span(f"{at}", trace=trace, at=NOW + at, ms=1, id=identified(str(at), 8)) for at in range(3500)]
    spans.append(span("old", trace=trace, at=10**9, ms=1))
    with stored(tmp_path, traces("shop", spans)) as store:
        found = _exported(store)

    assert max(exchange.count(each) for each in found) <= 2000
    assert sum(exchange.count(each) for each in found) == 3501


def test_an_export_of_a_selection_has_whole_traces_and_their_logs(tmp_path: Path) -> None:
    """Asked for an operation, the other spans and the log records of its traces come too, and nothing else."""
    one, other = identified("one"), identified("other")
    said = [
        traces(
            "shop",
            [
                span("GET /a", trace=one, at=NOW, ms=5, id=identified("root", 8)),
                span("query", trace=one, at=NOW, ms=1, parent=identified("root", 8), kind="CLIENT"),
                span("GET /b", trace=other, at=NOW, ms=5),
            ],
        ),
        logs("shop", [record("mine", NOW, trace=one), record("its", NOW, trace=other)]),
        metrics("shop", [number("load", 0.5, NOW)]),
    ]
    with stored(tmp_path, *said) as store:
        found = list(export(store.reading, Parameters.of({"operation": ["GET /a"]}, NOW // 1000)))
        service = list(export(store.reading, Parameters.of({"service": ["shop"]}, NOW // 1000)))

    text = b"".join(map(exchange.line, found)).decode()
    assert '"query"' in text
    assert '"mine"' in text
    assert "GET /b" not in text
    assert "its" not in text
    assert "resourceMetrics" not in text
    assert any(isinstance(each, ExportMetricsServiceRequest) for each in service)


def test_ids_are_hexadecimal_and_bytes_are_not() -> None:
    """OTLP's JSON has ids in hexadecimal, everything else as protobuf has it."""
    said = requests(traces("shop", [span("a", trace=identified("t"), at=NOW, ms=1, parent=identified("p", 8))]))[0]
    pair = said.resource_spans[0].scope_spans[0].spans[0].attributes.add(key="traceId")  # type: ignore[union-attr]  # it is one of traces
    pair.value.bytes_value = b"\x00\xff"
    (found,) = exchange.as_json(said)["resourceSpans"][0]["scopeSpans"][0]["spans"]

    assert found["traceId"] == identified("t")
    assert found["parentSpanId"] == identified("p", 8)
    assert found["kind"] == 2
    assert found["attributes"] == [{"key": "traceId", "value": {"bytesValue": "AP8="}}]


@pytest.mark.parametrize(
    ("sent", "encoding", "message"),
    [
        (b'{"resourceSpans": []}\nnonsense\n', "", "line 2: accepts OTLP as JSON"),
        (b'{"resourceSpans": []}\n\n{"spans": 1}', "", "line 3: accepts an object with resourceSpans"),
        (b'{"resourceSpans": [{"scopeSpans": 7}]}', "", "the body: its traces are not those of OTLP's JSON"),
        (b"[1]", "", "the body: accepts an object with"),
        (b"{}", "br", "content-encoding: accepts gzip and identity"),
        (b"\x1f\x8bnonsense", "", "not gzip"),
        (gzip.compress(b"{}", mtime=0)[:-4], "gzip", "not one whole gzip member"),
        (b"[" * 100_000, "", "line 1: accepts OTLP as JSON"),
    ],
)
def test_what_is_malformed_is_refused_with_its_place(sent: bytes, encoding: str, message: str) -> None:
    """The error names the line, or the body where that is one object."""
    with pytest.raises(QueryError, match=message):
        exchange.read(sent, encoding)


def test_too_much_is_refused_before_it_is_unpacked() -> None:
    """A small body that unpacks to more than is taken is not unpacked to the end."""
    with pytest.raises(QueryError, match="at most 64 MB"):
        exchange.read(gzip.compress(b" " * (65 * 1024 * 1024), 9), "gzip")


def test_a_number_that_json_has_not_goes_through_as_text(tmp_path: Path) -> None:
    """NaN and infinity are written as protobuf's JSON has them, which is JSON."""
    said = requests(metrics("shop", [number("a", 1.0, NOW), number("b", 1.0, NOW)]))[0]
    first, second = said.resource_metrics[0].scope_metrics[0].metrics  # type: ignore[union-attr]  # it is one of metrics
    first.gauge.data_points[0].as_double = math.nan
    second.gauge.data_points[0].as_double = -math.inf
    with stored(tmp_path) as store:
        store.append([said])
        text = b"".join(map(exchange.line, _exported(store)))

    values = [
        metric["gauge"]["dataPoints"][0]["asDouble"]
        for each in map(json.loads, text.splitlines())
        for metric in each["resourceMetrics"][0]["scopeMetrics"][0]["metrics"]
    ]
    assert sorted(values) == ["-Infinity", "NaN"]


async def test_a_file_goes_from_one_dashboard_to_another(tmp_path: Path) -> None:
    """What one dashboard exports over HTTP, another imports, gzipped or not; a bad line stores nothing."""
    trace = identified("trace")
    said = [
        traces("shop", [span("GET /a", trace=trace, at=NOW, ms=5)]),
        logs("shop", [record("hello", NOW, trace=trace)]),
        metrics("shop", [number("load", 0.5, NOW)]),
    ]
    lines = "\n".join(map(json.dumps, said)).encode()
    config = DashboardConfig(grpc_port=0, http_port=0, file=tmp_path / "a.duckdb", idle_seconds=0)
    async with (
        serve(config) as dashboard,
        httpx.AsyncClient(base_url=dashboard.url, trust_env=False, timeout=30) as client,
    ):
        bad = await client.post("/api/import", content=lines + b"\nnonsense")
        empty = (await client.get("/api/export")).content
        good = await client.post("/api/import", content=gzip.compress(lines), headers={"content-encoding": "gzip"})
        exported = await client.get("/api/export")
        alone = await client.get(f"/api/trace/{trace}/export")
        missing = await client.get(f"/api/trace/{identified('no')}/export")
        wrong = await client.get("/api/export?last=soon")

    assert (bad.status_code, bad.json()["error"][:7]) == (400, "line 4:")
    assert empty == b""
    assert good.json() == {"spans": 1, "logs": 1, "points": 1, "rejected": 0}
    assert "attachment" in exported.headers["content-disposition"]
    assert [next(iter(json.loads(line))) for line in exported.content.splitlines()] == [
        "resourceSpans",
        "resourceLogs",
        "resourceMetrics",
    ]
    assert set(alone.json()) == {"resourceSpans", "resourceLogs"}
    assert alone.json()["resourceSpans"][0]["scopeSpans"][0]["spans"][0]["traceId"] == trace
    assert (missing.status_code, wrong.status_code) == (404, 400)
