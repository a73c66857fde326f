import asyncio
import logging
from collections.abc import Callable

import pytest
from opentelemetry.context import Context
from opentelemetry.sdk.metrics.export import Histogram, HistogramDataPoint, Metric, NumberDataPoint
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.trace import SpanKind, StatusCode, get_current_span
from recording import Recording, attributes, seconds_of
from rsketch_telemetry import Telemetry, access, semconv
from rsketch_telemetry._once import Once
from rsketch_telemetry.facts import Attributes, HttpOutcome, RpcCall, RpcOutcome, http_request
from rsketch_telemetry.instrumentor_settings import InstrumentorSettings
from rsketch_telemetry.recorder import Recorder, guarded

REQUEST = http_request(method="GET", scheme="http", path="/users/12", protocol_version="1.1", host="shop.example:80")
RPC = RpcCall(method="pkg.Service/Method", server_address="shop.example", server_port=50051)
SERVED = RpcCall(method="pkg.Service/Method")


class _Recorded(Recording):
    """A recorder with providers of its own, and what came out of them."""

    def __init__(self, settings: InstrumentorSettings | None = None) -> None:
        super().__init__()
        self.recorder = self.create_recorder(settings)

    @property
    def span(self) -> ReadableSpan:
        (span,) = self.spans.get_finished_spans()
        return span

    @property
    def metric(self) -> Metric:
        (metric,) = (metric for metric in self.collected() if isinstance(metric.data, Histogram))
        return metric

    @property
    def point(self) -> HistogramDataPoint:
        (point,) = self.metric.data.data_points
        assert isinstance(point, HistogramDataPoint)
        return point

    def in_flight(self, name: str) -> list[tuple[dict[str, object], int | float]]:
        """Attributes and value of each point of an up-down counter."""
        points = [point for metric in self.collected() if metric.name == name for point in metric.data.data_points]
        return [(attributes(point), point.value) for point in points if isinstance(point, NumberDataPoint)]

    @property
    def events(self) -> list[tuple[str | None, dict[str, object]]]:
        return [(record.event_name, attributes(record)) for record in self.records()]


def test_an_http_request_is_one_server_span_and_one_duration() -> None:
    """Span and metric agree in duration and in what they say of the outcome; the exemplar points to the span."""
    recorded = _Recorded()
    call = recorded.recorder.http_server(REQUEST, Context())
    call.finish(HttpOutcome(status_code=200, route="/users/<id:int>"))
    span, point = recorded.span, recorded.point
    assert span.instrumentation_scope is not None

    assert (span.name, span.kind) == ("GET /users/<id:int>", SpanKind.SERVER)
    assert span.status.status_code is StatusCode.UNSET
    assert span.instrumentation_scope.schema_url == semconv.SCHEMA_URL
    assert point.sum == pytest.approx(seconds_of(span), abs=1e-9)
    assert dict(point.attributes or {}) == {
        "http.request.method": "GET",
        "url.scheme": "http",
        "network.protocol.version": "1.1",
        "http.response.status_code": 200,
        "http.route": "/users/<id:int>",
    }
    assert [exemplar.span_id for exemplar in point.exemplars] == [span.context.span_id]


@pytest.mark.parametrize(
    ("record", "name"),
    [
        (
            lambda r: r.http_server(REQUEST, Context()).finish(HttpOutcome(status_code=200)),
            "http.server.request.duration",
        ),
        (lambda r: r.rpc_server(SERVED, Context()).finish(RpcOutcome(status_code="OK")), "rpc.server.call.duration"),
        (lambda r: r.rpc_client(RPC, Context()).finish(RpcOutcome(status_code="OK")), "rpc.client.call.duration"),
    ],
)
def test_durations_are_in_seconds_with_the_buckets_of_the_conventions(
    record: Callable[[Recorder], None], name: str
) -> None:
    """Name, unit and buckets of the three histograms."""
    recorded = _Recorded()
    record(recorded.recorder)
    metric = recorded.metric
    (point,) = metric.data.data_points
    assert isinstance(point, HistogramDataPoint)

    assert (metric.name, metric.unit) == (name, "s")
    assert tuple(point.explicit_bounds) == (
        0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10
    )  # fmt: skip


def test_a_server_error_says_so_on_span_and_metric_and_leaves_one_exception_record() -> None:
    """The exception is one log record in the span's context, without the credential in its text."""
    recorded = _Recorded()
    call = recorded.recorder.http_server(REQUEST, Context())
    call.finish(HttpOutcome(status_code=500, route="/a", exception=KeyError("password=hunter22")))
    ((event, said),) = recorded.events

    assert recorded.span.status.status_code is StatusCode.ERROR
    assert (recorded.span.attributes or {})["error.type"] == "KeyError"
    assert (recorded.point.attributes or {})["error.type"] == "KeyError"
    assert recorded.span.events == ()
    assert event == "http.server.request.exception"
    assert said["exception.type"] == "KeyError"
    assert "hunter22" not in str(said)


def test_only_the_first_end_counts() -> None:
    """A second end changes nothing and records nothing."""
    recorded = _Recorded()
    call = recorded.recorder.http_server(REQUEST, Context())
    call.finish(HttpOutcome(status_code=200, route="/a"))
    call.finish(HttpOutcome(status_code=500, route="/b", exception=KeyError()))

    assert recorded.span.name == "GET /a"
    assert recorded.point.count == 1
    assert recorded.events == []


@pytest.mark.parametrize(
    ("status", "server", "client"),
    [
        ("OK", StatusCode.UNSET, StatusCode.UNSET),
        ("INVALID_ARGUMENT", StatusCode.UNSET, StatusCode.ERROR),
        ("UNAVAILABLE", StatusCode.ERROR, StatusCode.ERROR),
    ],
)
def test_rpc_status_by_side(status: str, server: StatusCode, client: StatusCode) -> None:
    """The caller's mistake is an error of the caller's span alone."""
    served, made = _Recorded(), _Recorded()
    served.recorder.rpc_server(SERVED, Context()).finish(RpcOutcome(status_code=status))
    made.recorder.rpc_client(RPC, Context()).finish(RpcOutcome(status_code=status))

    assert (served.span.kind, served.span.status.status_code) == (SpanKind.SERVER, server)
    assert (made.span.kind, made.span.status.status_code) == (SpanKind.CLIENT, client)
    assert (made.span.attributes or {})["rpc.status_code"] == status


def test_the_call_is_the_parent_of_what_happens_in_its_context() -> None:
    """The context of a call holds its span."""
    recorded = _Recorded()
    call = recorded.recorder.rpc_server(SERVED, Context())
    call.finish(RpcOutcome(status_code="OK"))

    assert get_current_span(call.inner).get_span_context() == recorded.span.context


class _Raising(SpanProcessor):
    def __init__(self, *, at_start: bool) -> None:
        self._at_start = at_start

    def on_start(self, span: object, parent_context: Context | None = None) -> None:
        if self._at_start:
            raise RuntimeError("processor")

    def on_end(self, span: object) -> None:
        raise RuntimeError("processor")


@pytest.mark.parametrize("at_start", [True, False])
@pytest.mark.sdk("a processor of spans that the program adds makes the SDK's recorder take over, which a line says")
def test_a_failing_processor_reaches_no_caller(at_start: bool, caplog: pytest.LogCaptureFixture) -> None:
    """What a span processor of the user raises is logged once, and the calls go on."""
    recorded = _Recorded()
    recorded.tracer_provider.add_span_processor(_Raising(at_start=at_start))
    recorder = guarded(recorded.recorder)
    for _ in range(3):
        call = recorder.http_server(REQUEST, Context())
        call.finish(HttpOutcome(status_code=200))

    assert [record.levelname for record in caplog.records] == ["ERROR"]


def test_a_failure_that_repeats_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """The one line has the traceback of the first failure, unless it is no defect, and the level asked for."""
    defect, notice = Once("failed"), Once("noticed", level=logging.WARNING, traceback=False)
    for text in ("first", "second"):
        try:
            int(text)
        except ValueError:
            defect()
            notice()

    lines = [(record.levelname, record.getMessage(), bool(record.exc_info)) for record in caplog.records]
    assert lines == [("ERROR", "failed", True), ("WARNING", "noticed", False)]
    assert "'first'" in caplog.text


def test_access_lines_are_off_until_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    """An application's log gets no line of ours unless it sets the logger's level."""
    caplog.set_level(logging.INFO)
    _Recorded().recorder.http_server(REQUEST, Context()).finish(HttpOutcome(status_code=200))

    assert caplog.records == []


def test_access_lines_are_one_a_call(caplog: pytest.LogCaptureFixture) -> None:
    """Both protocols get one line for a call served, a warning where it failed, and none for a call made."""
    caplog.set_level(logging.INFO, access.LOGGER_NAME)
    recorder = _Recorded().recorder
    recorder.http_server(REQUEST, Context()).finish(HttpOutcome(status_code=503))
    recorder.rpc_server(SERVED, Context()).finish(RpcOutcome(status_code="OK"))
    recorder.rpc_client(RPC, Context()).finish(RpcOutcome(status_code="OK"))
    lines = [(record.levelname, record.getMessage().rpartition(" ms")[0]) for record in caplog.records]

    assert [(level, line.rpartition(" ")[0]) for level, line in lines] == [
        ("WARNING", "GET /users/12 503"),
        ("INFO", "pkg.Service/Method OK"),
    ]
    assert [getattr(record, access.SECONDS) > 0 for record in caplog.records] == [True, True]


def test_access_lines_of_failures_remain_at_level_warning(caplog: pytest.LogCaptureFixture) -> None:
    """Whoever sets the logger to WARNING reads of calls that failed, for both protocols."""
    caplog.set_level(logging.WARNING, access.LOGGER_NAME)
    recorder = _Recorded().recorder
    recorder.http_server(REQUEST, Context()).finish(HttpOutcome(status_code=200))
    recorder.http_server(REQUEST, Context()).finish(HttpOutcome(status_code=503))
    recorder.rpc_server(SERVED, Context()).finish(RpcOutcome(status_code="OK"))
    recorder.rpc_server(SERVED, Context()).finish(RpcOutcome(status_code="INTERNAL"))

    assert [record.getMessage().split()[-3] for record in caplog.records] == ["503", "INTERNAL"]


@pytest.mark.parametrize(
    ("level", "on", "shown"),
    [
        (logging.INFO, True, ["INFO", "WARNING"]),
        (logging.WARNING, False, ["WARNING"]),
        (logging.ERROR, False, []),
    ],
)
def test_access_lines_begin_at_the_level_given(
    level: int, on: bool, shown: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """`log_access` shows every call, those that failed, or none; `access_log` tells and switches the first."""
    # Sees to it that the level is restored.
    caplog.set_level(logging.INFO, access.LOGGER_NAME)
    telemetry, recorder = Telemetry(None), _Recorded().recorder
    telemetry.log_access(level)
    recorder.http_server(REQUEST, Context()).finish(HttpOutcome(status_code=200))
    recorder.http_server(REQUEST, Context()).finish(HttpOutcome(status_code=503))
    assert ([record.levelname for record in caplog.records], telemetry.access_log) == (shown, on)

    telemetry.access_log = not on
    assert telemetry.access_log is not on


def test_a_path_cannot_forge_a_line(caplog: pytest.LogCaptureFixture) -> None:
    """Control characters in a path are escaped in the access line."""
    caplog.set_level(logging.INFO, access.LOGGER_NAME)
    request = http_request(method="GET", scheme="http", path="/a\nb")
    _Recorded().recorder.http_server(request, Context()).finish(HttpOutcome(status_code=None))

    assert caplog.records[0].getMessage().startswith("GET /a\\nb - ")


async def test_calls_in_parallel_do_not_mix() -> None:
    """Each of two calls under way at once keeps its own outcome."""
    recorded = _Recorded()

    async def serve(status: int) -> None:
        call = recorded.recorder.http_server(REQUEST, Context())
        await asyncio.sleep(0.01)
        call.finish(HttpOutcome(status_code=status))

    await asyncio.gather(serve(200), serve(404))
    spans = recorded.spans.get_finished_spans()

    assert {(span.attributes or {})["http.response.status_code"] for span in spans} == {200, 404}


def test_an_exception_record_has_a_body_for_people() -> None:
    """The body names the exception and its message, without the credential in it."""
    recorded = _Recorded()
    call = recorded.recorder.rpc_server(SERVED, Context())
    call.finish(RpcOutcome(status_code="UNKNOWN", exception=ValueError("token=abcdef99 is odd")))

    assert [record.body for record in recorded.records()] == ["ValueError: token=REDACTED is odd"]


def test_rpcs_in_flight_are_counted_while_they_are_served() -> None:
    """One while a call is served and none after it, also where it ends twice; calls that are made do not count."""
    recorded = _Recorded()
    call = recorded.recorder.rpc_server(SERVED, Context())
    recorded.recorder.rpc_client(RPC, Context())
    during = recorded.in_flight("rsketch.rpc.server.active_calls")
    call.finish(RpcOutcome(status_code="OK"))
    call.finish(RpcOutcome(status_code="OK"))

    assert during == [({"rpc.method": "pkg.Service/Method"}, 1)]
    assert recorded.in_flight("rsketch.rpc.server.active_calls") == [({"rpc.method": "pkg.Service/Method"}, 0)]


def test_active_requests_are_counted_only_where_asked_for() -> None:
    """The metric is opt-in; its attributes are known when the request begins."""
    silent, asked = (
        _Recorded(),
        _Recorded(InstrumentorSettings(opt_in_metrics=frozenset({"http.server.active_requests"}))),
    )
    for recorded in (silent, asked):
        recorded.recorder.http_server(REQUEST, Context())

    assert silent.in_flight("http.server.active_requests") == []
    assert asked.in_flight("http.server.active_requests") == [({"http.request.method": "GET", "url.scheme": "http"}, 1)]


def test_an_exception_is_an_event_of_its_span_only_where_asked_for() -> None:
    """`logs/dup` adds the event of old to the log record, with the same attributes."""
    recorded = _Recorded(InstrumentorSettings(exception_events=True))
    recorded.recorder.http_server(REQUEST, Context()).finish(HttpOutcome(status_code=500, exception=KeyError("k")))
    (event,) = recorded.span.events
    ((_, said),) = recorded.events

    assert event.name == "exception"
    assert dict(event.attributes or {}) == said


def test_captured_headers_are_on_the_span_and_never_on_the_metric() -> None:
    """Headers of request and response, and metadata of an RPC, are span attributes alone."""
    recorded = _Recorded()
    headers: Attributes = {"http.request.header.x-shop": ("a", "b")}
    request = http_request(method="GET", scheme="http", path="/", headers=headers)
    call = recorded.recorder.http_server(request, Context())
    call.finish(HttpOutcome(status_code=200, headers={"http.response.header.x-answer": ("c",)}))
    said = recorded.span.attributes or {}

    assert (said["http.request.header.x-shop"], said["http.response.header.x-answer"]) == (("a", "b"), ("c",))
    assert not [name for name in recorded.point.attributes or {} if "header" in name]


def test_old_names_are_recorded_beside_the_new_where_asked_for() -> None:
    """`http/dup` and `rpc/dup`: each attribute has both names, and a histogram in milliseconds stands beside ours."""
    recorded = _Recorded(InstrumentorSettings(duplicates=frozenset({"http", "rpc"})))
    recorded.recorder.http_server(REQUEST, Context()).finish(HttpOutcome(status_code=204, route="/users/<id:int>"))
    recorded.recorder.rpc_server(SERVED, Context()).finish(RpcOutcome(status_code="NOT_FOUND"))
    http, rpc = (attributes(span) for span in recorded.spans.get_finished_spans())
    metrics = {metric.name: metric for metric in recorded.collected()}
    (old_point,) = metrics["http.server.duration"].data.data_points
    (new_point,) = metrics["http.server.request.duration"].data.data_points

    assert (http["http.method"], http["http.target"], http["http.status_code"]) == ("GET", "/users/12", 204)
    assert (http["http.request.method"], http["http.host"]) == ("GET", "shop.example:80")
    assert (rpc["rpc.service"], rpc["rpc.grpc.status_code"], rpc["rpc.status_code"]) == ("pkg.Service", 5, "NOT_FOUND")
    assert rpc["rpc.method"] == "pkg.Service/Method"
    assert isinstance(old_point, HistogramDataPoint)
    assert isinstance(new_point, HistogramDataPoint)
    assert (metrics["http.server.duration"].unit, metrics["rpc.server.duration"].unit) == ("ms", "ms")
    assert old_point.sum == pytest.approx(new_point.sum * 1000)
    assert not [name for name in attributes(old_point) if name.startswith("http.request")]


def test_an_exception_has_one_record_in_its_trace() -> None:
    """What a call from within a handler raised, and then ends the handler too, is recorded with that call alone."""
    recorded = _Recorded()
    error = ValueError("refused")
    for _ in range(2):
        served = recorded.recorder.http_server(REQUEST, Context())
        made = recorded.recorder.rpc_client(RPC, served.inner)
        made.finish(RpcOutcome(status_code="UNKNOWN", exception=error))
        served.finish(HttpOutcome(status_code=500, exception=error))

    # The same object in another trace is news there.
    assert [event for event, _ in recorded.events] == ["rpc.client.call.exception"] * 2
