"""The lean recorder by itself: what chooses it, what it keeps, and what it falls back to."""

import gc
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from opentelemetry import baggage, trace
from opentelemetry.context import Context
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import HistogramDataPoint, Metric
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, Decision, ParentBased, Sampler, TraceIdRatioBased
from opentelemetry.trace import SpanContext, SpanKind, TraceFlags, TraceState
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from rsketch_telemetry import ConfigurationError, access, environment, semconv
from rsketch_telemetry.facts import HttpOutcome, Peer, RpcCall, RpcOutcome, http_request
from rsketch_telemetry.instrumentor_settings import InstrumentorSettings
from rsketch_telemetry.lean import internals, sampling, templates
from rsketch_telemetry.lean.cells import CARDINALITY_LIMIT, Cells
from rsketch_telemetry.lean.recorder import LeanRecorder
from rsketch_telemetry.lean.span import LeanSpan
from rsketch_telemetry.otlp.frame import Item, Run, Scope, frame
from rsketch_telemetry.otlp.model import Span, decode_traces
from rsketch_telemetry.recorders import create_recorder
from rsketch_telemetry.rule_sampler import by_rules
from rsketch_telemetry.sampling import rules
from rsketch_telemetry.sdk import Providers, create_providers
from rsketch_telemetry.signal import Signal

REQUEST = http_request(method="GET", scheme="http", path="/users/12", protocol_version="1.1", host="shop.example")
OK = HttpOutcome(status_code=200, route="/users/<id>")


def providers(environ: Mapping[str, str] | None = None) -> Providers:
    """Return providers whose pipeline has nobody to send to and does not try."""
    given = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", **(environ or {})}
    with environment.presented(given):
        made = create_providers(given, {"service.name": "test"}, [])
    made.pipeline.start = lambda: None  # type: ignore[method-assign]  # nothing is to leave
    return made


def recorder(made: Providers, settings: InstrumentorSettings | None = None) -> Any:
    """Return the recorder that an instrumentor gets of these providers."""
    return create_recorder(
        "test",
        tracer_provider=made.tracers,
        meter_provider=made.meters,
        logger_provider=made.loggers,
        settings=settings,
    )


def waiting(made: Providers, signal: Signal) -> list[Item | Run]:
    """Return what waits to be sent."""
    (lane,) = (lane for lane in made.pipeline.lanes if lane.signal is signal)
    if lane.collect is not None:
        lane.collect()
    lane.settle()
    return lane.segment.peek(1 << 40, None)[1]


def spans(made: Providers) -> list[Span]:
    """Return the spans that wait to be sent, decoded."""
    request = frame(b"", "", waiting(made, Signal.TRACES))
    return list(decode_traces(ExportTraceServiceRequest.FromString(request)))


def metrics(made: Providers) -> dict[str, Metric]:
    """Return the metrics of our calls as they are now."""
    request = ExportMetricsServiceRequest.FromString(frame(b"", "", waiting(made, Signal.METRICS)))
    scopes = [scope for each in request.resource_metrics for scope in each.scope_metrics]
    return {metric.name: metric for scope in scopes for metric in scope.metrics}


@pytest.fixture
def plain() -> Iterator[Providers]:
    """Providers of a configuration that says nothing."""
    made = providers()
    yield made
    made.pipeline.shutdown(0)


@pytest.mark.parametrize(
    ("environ", "reason"),
    [
        ({}, "a plain configuration"),
        ({"RSKETCH_TELEMETRY_RECORDER": "lean"}, "RSKETCH_TELEMETRY_RECORDER=lean"),
        ({"OTEL_TRACES_SAMPLER": "always_off"}, "a plain configuration"),
        ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.1"}, "a plain configuration"),
        ({"RSKETCH_TELEMETRY_SAMPLING_RULES": "http:/users/*=0"}, "a plain configuration"),
        ({"OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "delta"}, "a plain configuration"),
        ({"OTEL_METRICS_EXEMPLAR_FILTER": "always_off"}, "a plain configuration"),
        ({"RSKETCH_TELEMETRY_BAGGAGE_KEYS": "tenant"}, "a plain configuration"),
        ({"OTEL_TRACES_EXPORTER": "none"}, "a plain configuration"),
    ],
)
def test_a_plain_configuration_chooses_the_lean_recorder(environ: dict[str, str], reason: str) -> None:
    """Whatever it serves, it serves without being asked for."""
    made = providers(environ)

    assert (made.choice.recorder, made.choice.reason) == ("lean", reason)
    assert isinstance(recorder(made), LeanRecorder)


@pytest.mark.parametrize(
    ("environ", "reason"),
    [
        ({"RSKETCH_TELEMETRY_RECORDER": "sdk"}, "RSKETCH_TELEMETRY_RECORDER=sdk"),
        ({"OTEL_TRACES_EXPORTER": "otlp,console"}, "spans also go to BatchSpanProcessor"),
        ({"OTEL_METRICS_EXPORTER": "otlp,console"}, "metrics also go to PeriodicExportingMetricReader"),
        (
            {"OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION": "base2_exponential_bucket_histogram"},
            "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION asks for other histograms",
        ),
        (
            {"OTEL_SEMCONV_STABILITY_OPT_IN": "http/dup"},
            "the names of older conventions are asked for as well (http)",
        ),
        ({"OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "63"}, "attributes of spans are limited (a span has at most 63 of them)"),
        (
            {"OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": "100"},
            "attributes of spans are limited (a value has at most 100 characters)",
        ),
        ({"OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED": "true"}, "OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED"),
    ],
)
def test_what_it_does_not_serve_chooses_the_sdk_recorder_and_says_why(environ: dict[str, str], reason: str) -> None:
    """The reason is for the banner, and names what would have to be changed."""
    made = providers(environ)
    made.meters.shutdown()
    made.tracers.shutdown()

    assert made.choice.recorder == "sdk"
    assert made.choice.reason.startswith(reason)
    assert not isinstance(recorder(made), LeanRecorder)


def test_a_lean_recorder_that_is_demanded_and_cannot_serve_is_an_error() -> None:
    """It names the setting, the reason and what can be done."""
    environ = {
        "RSKETCH_TELEMETRY_RECORDER": "lean",
        "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION": "base2_exponential_bucket_histogram",
    }

    with pytest.raises(ConfigurationError, match=r"^RSKETCH_TELEMETRY_RECORDER=lean cannot be done: OTEL_EXPORTER.*"):
        providers(environ)


def test_under_the_launcher_that_error_is_one_line_and_the_program_does_not_run() -> None:
    """A program that runs without what was demanded would be found out too late."""
    environ = {
        **os.environ,
        "RSKETCH_TELEMETRY_RECORDER": "lean",
        "OTEL_TRACES_EXPORTER": "console",
        "OTEL_SERVICE_NAME": "test",
    }
    launched = "from opentelemetry.instrumentation.auto_instrumentation import run; run()"
    program = [sys.executable, "-c", launched, sys.executable, "-c", "print('ran')"]
    ran = subprocess.run(program, env=environ, capture_output=True, text=True, timeout=60)

    assert ran.returncode == 2
    assert ran.stdout == ""
    assert ran.stderr.splitlines() == [
        (
            "telemetry: RSKETCH_TELEMETRY_RECORDER=lean cannot be done: spans also go to BatchSpanProcessor; "
            "auto and sdk can"
        )
    ]


def test_settings_of_an_instrumentor_may_choose_the_sdk_recorder(plain: Providers) -> None:
    """Those that are given in code are known only then."""
    assert not isinstance(recorder(plain, InstrumentorSettings(duplicates=frozenset({"http"}))), LeanRecorder)


def test_a_release_of_the_sdk_that_is_another_inside_is_not_stood_upon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is missing is said, and the SDK recorder serves."""
    monkeypatch.setattr(internals, "_ARGUMENTS", ("a_new_argument",))
    made = providers()

    assert made.choice.recorder == "sdk"
    assert made.choice.reason == "it does not know this release of the SDK (LookupError: a_new_argument)"


class _Mine(ParentBased):
    def should_sample(self, *args: Any, **kwargs: Any) -> Any:
        return ALWAYS_OFF.should_sample(*args, **kwargs)


@pytest.mark.parametrize("sampler", [_Mine(ALWAYS_ON), ParentBased(_Mine(ALWAYS_ON))])
def test_a_sampler_of_the_programs_is_not_known(sampler: Sampler) -> None:
    """Not even one that is derived from a known one."""
    assert sampling.known(sampler) is None


@pytest.mark.parametrize(
    "sampler",
    [
        ALWAYS_ON,
        ALWAYS_OFF,
        TraceIdRatioBased(0.5),
        ParentBased(ALWAYS_ON),
        ParentBased(ALWAYS_OFF),
        ParentBased(TraceIdRatioBased(0.5)),
        ParentBased(ALWAYS_ON, remote_parent_sampled=TraceIdRatioBased(0.5), local_parent_not_sampled=ALWAYS_ON),
        by_rules(rules("http:/users/*=0.5"), ALWAYS_ON),
        by_rules(rules("http:/orders/*=0"), ParentBased(TraceIdRatioBased(0.1))),
    ],
    ids=lambda sampler: sampler.get_description(),
)
def test_its_decisions_are_those_of_the_sampler(sampler: Sampler) -> None:
    """For roots and every kind of parent, of both kinds of spans, over many trace ids."""
    known, constant = sampling.known(sampler), sampling.follows_parent(sampler)
    assert known is not None
    begun = REQUEST.attributes()
    for trace_id in range(1, 1 << 64, (1 << 64) // 50):
        for kind in (SpanKind.SERVER, SpanKind.CLIENT):
            for parent in (None, *_parents(trace_id)):
                context = Context()
                if parent is not None:
                    context = trace.set_span_in_context(trace.NonRecordingSpan(parent), context)
                result = sampler.should_sample(context, trace_id, "n", kind, begun)
                decided = known[kind](parent, trace_id, REQUEST.attributes)

                assert decided is (result.decision is Decision.RECORD_AND_SAMPLE)
                if constant is not None:
                    assert decided is (constant if parent is None else parent.trace_flags.sampled)


def _parents(trace_id: int) -> list[SpanContext]:
    return [
        SpanContext(trace_id, 1, is_remote=remote, trace_flags=TraceFlags(flags))
        for remote in (True, False)
        for flags in (0, 1)
    ]


def test_a_span_processor_added_later_gets_the_spans_of_later_calls(
    plain: Providers, caplog: pytest.LogCaptureFixture
) -> None:
    """The lean recorder stands down for good, with one line; the durations go on in the same series."""
    seen: list[str] = []

    class Foreign(SpanProcessor):
        def on_end(self, span: Any) -> None:
            seen.append(span.name)

    serving = recorder(plain)
    serving.http_server(REQUEST, Context()).finish(OK)
    plain.tracers.add_span_processor(Foreign())
    for _ in range(2):
        serving.http_server(REQUEST, Context()).finish(OK)

    assert seen == ["GET /users/<id>"] * 2
    assert [record.getMessage() for record in caplog.records] == [
        "telemetry: the SDK recorder takes over: a span processor was added"
    ]
    (point,) = metrics(plain)[semconv.HTTP_SERVER_DURATION].histogram.data_points
    assert point.count == 3


def test_a_defect_costs_a_call_its_record_and_never_more(plain: Providers, caplog: pytest.LogCaptureFixture) -> None:
    """It is counted and said once; after the third the SDK recorder takes over."""
    serving = recorder(plain)
    serving.exemplars = None
    calls = [serving.http_server(REQUEST, Context()) for _ in range(3)]
    for call in calls:
        call.finish(OK)
    serving.http_server(REQUEST, Context()).finish(OK)

    assert [span.name for span in spans(plain)] == ["GET /users/<id>"]
    (lane,) = (lane for lane in plain.pipeline.lanes if lane.signal is Signal.TRACES)
    assert lane.tally.unencodable == 3
    assert [record.getMessage() for record in caplog.records] == [
        "a call could not be recorded; this is said once",
        "telemetry: the SDK recorder takes over: the lean one has failed repeatedly",
    ]


def test_a_defect_at_the_beginning_of_a_call_costs_nothing(plain: Providers) -> None:
    """The SDK's recorder records it."""
    serving = recorder(plain)
    serving.http = None
    serving.http_server(REQUEST, Context()).finish(OK)

    assert [span.name for span in spans(plain)] == ["GET /users/<id>"]
    (lane,) = (lane for lane in plain.pipeline.lanes if lane.signal is Signal.TRACES)
    assert lane.tally.unencodable == 0


def test_a_span_is_one_of_the_apis_and_leaves_no_garbage(plain: Providers) -> None:
    """Thousands of calls must not keep the collector busy."""
    serving = recorder(plain)
    call = serving.http_server(REQUEST, Context())
    span = trace.get_current_span(call.inner)
    call.finish(OK)
    del call

    assert isinstance(span, LeanSpan)
    assert isinstance(span, trace.Span)
    gc.collect()
    gc.disable()
    try:
        for _ in range(100):
            serving.http_server(REQUEST, Context()).finish(OK)
        assert _garbage_of_ours() == []
    finally:
        gc.enable()


def _garbage_of_ours() -> list[object]:
    """Return what only the collector frees of ours; other tests may have left something of others'."""
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        gc.collect()
        return [each for each in gc.garbage if type(each).__module__.startswith("rsketch_telemetry")]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()


def test_what_is_put_on_a_span_makes_it_the_sdks(plain: Providers) -> None:
    """With the same ids and times, and whatever the call's end adds."""
    serving = recorder(plain)
    call = serving.http_server(REQUEST, Context())
    span: Any = trace.get_current_span(call.inner)
    ids = span.get_span_context()
    span.set_attribute("tenant", "acme")
    span.add_event("paid")
    assert span.is_recording()
    assert span.attributes["url.path"] == "/users/12"
    call.finish(OK)
    span.set_attribute("late", 1)

    (found,) = spans(plain)
    assert (found.trace_id, found.span_id) == (f"{ids.trace_id:032x}", f"{ids.span_id:016x}")
    assert [event.name for event in found.events] == ["paid"]
    assert found.attributes["tenant"] == "acme"
    assert found.attributes["http.route"] == "/users/<id>"
    assert "late" not in found.attributes
    assert not span.is_recording()


@pytest.mark.parametrize("state", [None, TraceState([("a", "b")])])
def test_its_header_is_the_one_that_the_propagator_writes(plain: Providers, state: TraceState | None) -> None:
    """Of a root and of a child; a trace state is the propagator's to write."""
    above = SpanContext(0xABC << 64, 0xDEF, is_remote=True, trace_flags=TraceFlags(1), trace_state=state)
    parent = trace.set_span_in_context(trace.NonRecordingSpan(above), Context())
    for context in (Context(), parent):
        call = recorder(plain).rpc_client(RpcCall(method="a.B/C"), context)
        carrier: dict[str, str] = {}
        TraceContextTextMapPropagator().inject(carrier, call.inner)

        expected = None if "tracestate" in carrier else carrier["traceparent"]
        assert call.traceparent() == expected
        call.finish(RpcOutcome(status_code="OK"))


@pytest.mark.parametrize("number", [1, 32, 33, 130])
def test_attributes_of_the_programs_own_stay_with_the_template(plain: Providers, number: int) -> None:
    """As many as cannot meet the limit; with more it is a span of the SDK, and nothing is lost but by the limit."""
    serving = recorder(plain)
    call = serving.http_server(REQUEST, Context())
    span: Any = trace.get_current_span(call.inner)
    span.set_attributes({f"n{at}": at for at in range(number)})
    span.set_attribute("n0", "again")
    assert (span._whole is None) is (number <= 32)
    call.finish(OK)

    (found,) = spans(plain)
    ours = [name for name in found.attributes if name[0] != "n" or name.startswith("network")]
    if number < 100:
        assert found.attributes["n0"] == "again"
        assert len(found.attributes) == number + len(ours)
    else:
        assert len(found.attributes) == 128


@pytest.mark.parametrize("value", ["\ud800", 1 << 70, [1, "\udfff"]])
def test_an_attribute_that_otlp_cannot_hold_costs_no_other(plain: Providers, value: Any) -> None:
    """It is left out alone, as the SDK's way leaves it out."""
    serving = recorder(plain)
    call = serving.http_server(REQUEST, Context())
    span = trace.get_current_span(call.inner)
    span.set_attribute("odd", value)
    span.set_attribute("fine", 1)
    call.finish(OK)

    (found,) = spans(plain)
    assert "odd" not in found.attributes
    assert found.attributes["fine"] == 1
    assert found.attributes["http.route"] == "/users/<id>"


def test_a_span_can_be_read_after_its_end(plain: Providers) -> None:
    """A copy of the SDK's, which is exported no second time."""
    serving = recorder(plain)
    call = serving.http_server(REQUEST, Context())
    span: Any = trace.get_current_span(call.inner)
    call.finish(OK)

    assert span.name == "GET /users/<id>"
    assert span.attributes["http.response.status_code"] == 200
    assert span.end_time >= span.start_time
    assert len(spans(plain)) == 1


def test_two_threads_that_write_on_a_span_write_on_the_same(plain: Providers) -> None:
    """The moment in which it becomes the SDK's is one."""
    serving = recorder(plain)
    for _ in range(50):
        call = serving.http_server(REQUEST, Context())
        span = trace.get_current_span(call.inner)
        barrier = threading.Barrier(4)

        def write(number: int, span: trace.Span = span, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            span.set_attribute(f"n{number}", number)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(write, range(4)))
        call.finish(OK)

    assert all({f"n{number}" for number in range(4)} <= set(span.attributes) for span in spans(plain))


def test_a_span_that_ends_while_another_thread_writes_on_it_is_sent_once(plain: Providers) -> None:
    """Whichever comes first, and from however many threads its end comes."""
    serving = recorder(plain)
    with ThreadPoolExecutor(4) as pool:
        for _ in range(300):
            call = serving.http_server(REQUEST, Context())
            span = trace.get_current_span(call.inner)
            start = threading.Barrier(4)
            acts = (
                lambda call=call: call.finish(OK),
                lambda call=call: call.finish(OK),
                lambda span=span: span.add_event("paid"),
                lambda span=span: span.set_attribute("tenant", "acme"),
            )
            list(pool.map(lambda act, start=start: (start.wait(10), act()), acts))

    found = spans(plain)
    assert len(found) == len({span.span_id for span in found}) == 300
    (point,) = metrics(plain)[semconv.HTTP_SERVER_DURATION].histogram.data_points
    assert point.count == 300


def test_a_span_that_its_access_line_is_written_on_is_sent_as_it_ended(
    plain: Providers, caplog: pytest.LogCaptureFixture
) -> None:
    """A filter or a handler of the program's may look at the current span, or try to write on it."""
    serving = recorder(plain)

    def look(_: logging.LogRecord) -> bool:
        span: Any = trace.get_current_span()
        span.add_event("late")
        return str(span.name) == "GET /users/<id>"

    access.LOGGER.addFilter(look)
    try:
        with caplog.at_level(logging.INFO, access.LOGGER_NAME):
            serving.http_server(REQUEST, Context()).finish(OK)
    finally:
        access.LOGGER.removeFilter(look)

    (found,) = spans(plain)
    assert (found.name, found.events) == ("GET /users/<id>", ())
    assert [record.getMessage() for record in caplog.records if record.name == access.LOGGER_NAME]


@pytest.mark.parametrize("what", ["line", "exception"])
def test_logging_that_fails_costs_no_call_its_record(
    plain: Providers, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often: it is the program's logging, or a processor of its log records."""

    def failing(*_: object, **__: object) -> None:
        raise ValueError(what)

    serving = recorder(plain)
    if what == "line":
        monkeypatch.setattr(access.LOGGER, "level", logging.INFO)
        monkeypatch.setattr(access.LOGGER, "filters", [failing])
        access.LOGGER.manager._clear_cache()  # type: ignore[attr-defined]  # as setLevel does
    else:
        monkeypatch.setattr(serving, "_exception", failing)
    for _ in range(5):
        error = HttpOutcome(status_code=500, route="/users/<id>", exception=KeyError("tea"))
        serving.http_server(REQUEST, Context()).finish(error)
    access.LOGGER.manager._clear_cache()  # type: ignore[attr-defined]  # as above

    (lane,) = (lane for lane in plain.pipeline.lanes if lane.signal is Signal.TRACES)
    assert lane.tally.unencodable == 0
    assert len(spans(plain)) == 5
    assert isinstance(trace.get_current_span(serving.http_server(REQUEST, Context()).inner), LeanSpan)


def test_what_is_in_flight_when_it_stands_down_is_counted_out_of_the_same_series(plain: Providers) -> None:
    """Or one series would stay too high for good, and another fall below nothing."""
    serving = recorder(plain)
    call = RpcCall(method="shop.Till/Ring", server_address=None, server_port=None)
    before = serving.rpc_server(call, Context())
    plain.tracers.add_span_processor(SpanProcessor())
    after = serving.rpc_server(call, Context())
    (point,) = metrics(plain)[semconv.RSKETCH_RPC_CALLS].sum.data_points
    assert point.as_int == 2

    before.finish(RpcOutcome(status_code="OK"))
    after.finish(RpcOutcome(status_code="OK"))

    (point,) = metrics(plain)[semconv.RSKETCH_RPC_CALLS].sum.data_points
    assert point.as_int == 0


def test_without_traces_a_defect_is_counted_nowhere_and_harms_nothing() -> None:
    """There is no lane that could count it."""
    made = providers({"OTEL_TRACES_EXPORTER": "none"})
    serving = recorder(made)
    serving.exemplars = None
    serving.http_server(REQUEST, Context()).finish(OK)

    assert made.pipeline.unencodable(Signal.TRACES) == 0


def test_a_small_queue_is_not_overrun_by_what_has_not_been_counted_yet() -> None:
    """What comes in is moved before it is more than the queue holds."""
    sizes = {"OTEL_BSP_MAX_QUEUE_SIZE": "8", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "8"}
    made = providers({**sizes, "OTEL_BSP_SCHEDULE_DELAY": "3600000"})
    # With a thread, as without one nothing is left for later.
    del made.pipeline.start
    try:
        serving = recorder(made)
        (lane,) = (lane for lane in made.pipeline.lanes if lane.signal is Signal.TRACES)
        for _ in range(3):
            serving.http_server(REQUEST, Context()).finish(OK)

        assert len(lane.segment) == 3
    finally:
        made.pipeline.shutdown(0)


def test_instrumented_again_and_again_it_has_one_way_into_the_pipeline(plain: Providers) -> None:
    """A test suite instruments a thousand times in one process."""
    (lane,) = (lane for lane in plain.pipeline.lanes if lane.signal is Signal.TRACES)
    for _ in range(3):
        recorder(plain).http_server(REQUEST, Context()).finish(OK)

    assert len(lane.inlets) == 1
    assert len(spans(plain)) == 3


def test_what_comes_in_during_shutdown_is_counted(plain: Providers) -> None:
    """Spans that nobody takes any more are lost, and that is said with their number."""
    serving = recorder(plain)
    for _ in range(3):
        serving.http_server(REQUEST, Context()).finish(OK)
    plain.pipeline.shutdown(0)

    (lane,) = (lane for lane in plain.pipeline.lanes if lane.signal is Signal.TRACES)
    assert len(lane.segment) == 3


def test_baggage_that_is_listed_becomes_attributes() -> None:
    """The processor that copies it sees the span."""
    made = providers({"RSKETCH_TELEMETRY_BAGGAGE_KEYS": "tenant"})
    serving = recorder(made)
    serving.http_server(REQUEST, baggage.set_baggage("tenant", "acme", Context())).finish(OK)
    serving.http_server(REQUEST, Context()).finish(OK)

    assert [span.attributes.get("tenant") for span in spans(made)] == ["acme", None]


def test_a_generator_of_ids_of_the_programs_is_asked() -> None:
    """One of another package may put meaning into them."""
    made = providers()

    class Counting:
        def generate_trace_id(self) -> int:
            return 0xABC

        def generate_span_id(self) -> int:
            return 0xDEF

    made.tracers.id_generator = Counting()  # type: ignore[assignment]  # all that is asked of one
    recorder(made).http_server(REQUEST, Context()).finish(OK)

    (found,) = spans(made)
    assert (found.trace_id, found.span_id) == (f"{0xABC:032x}", f"{0xDEF:016x}")


def test_facts_without_end_do_not_fill_the_memory(plain: Providers) -> None:
    """What callers invent is kept nowhere, or only so long."""
    serving = recorder(plain)
    for number in range(templates._KEPT + 100):
        request = http_request(method=f"M{number}", scheme="http", path="/", user_agent=f"agent {number}")
        serving.http_server(request, Context()).finish(HttpOutcome(status_code=404))
        call = RpcCall(method=semconv.OTHER, method_original=f"invented/{number}")
        serving.rpc_server(call, Context()).finish(RpcOutcome(status_code="UNIMPLEMENTED", peer=Peer("::1", number)))

    assert len(serving.encoded) <= templates._KEPT
    assert len(serving.http) == len(serving.rpc_served) == 0
    assert len(metrics(plain)[semconv.HTTP_SERVER_DURATION].histogram.data_points) == 1


def _cells(*, delta: bool = False) -> Cells:
    return Cells(Scope(b""), delta=delta, exemplars=(False, True), found=lambda: None)


def _point(cells: Cells) -> HistogramDataPoint:
    (item,) = cells.items()
    (point,) = Metric.FromString(item.body).histogram.data_points
    return point


def test_a_measurement_on_a_bound_belongs_below_it() -> None:
    """Buckets include their upper bound, as the SDK's do."""
    cells = _cells()
    series = cells.duration(semconv.HTTP_SERVER_DURATION, {"a": "b"})
    for elapsed_ns in (5_000_000, 5_000_001, 0, 10_000_000_000, 10_000_000_001):
        series.record(elapsed_ns, 0, None)

    point = _point(cells)
    assert list(point.bucket_counts) == [2, 1, *[0] * 11, 1, 1]
    assert point.count == 5
    assert (point.min, point.max) == (0.0, 10.000000001)
    assert point.sum == pytest.approx(20.010000002)


def test_nothing_measured_in_threads_is_lost_or_counted_twice() -> None:
    """While others collect, in both temporalities."""
    for delta in (False, True):
        cells = _cells(delta=delta)
        series = cells.duration(semconv.HTTP_SERVER_DURATION, {})
        counted: list[int] = []
        done = threading.Event()

        def collect(cells: Cells = cells, counted: list[int] = counted, done: threading.Event = done) -> None:
            while not done.is_set():
                counted.extend(_counts(cells))

        collector = threading.Thread(target=collect)
        collector.start()

        def measure(_: int, series: Any = series) -> None:
            for number in range(5000):
                series.record(number, number, bytes(28))

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(measure, range(4)))
        done.set()
        collector.join()
        counted.extend(_counts(cells))

        assert (sum(counted) if delta else counted[-1]) == 20_000


def _counts(cells: Cells) -> list[int]:
    return [point.count for item in cells.items() for point in Metric.FromString(item.body).histogram.data_points]


def test_too_many_series_share_one() -> None:
    """The specification's limit and its attribute."""
    cells = _cells()
    for number in range(CARDINALITY_LIMIT + 50):
        cells.duration(semconv.HTTP_SERVER_DURATION, {"n": number}).record(1, 1, None)

    (item,) = cells.items()
    points = Metric.FromString(item.body).histogram.data_points
    assert len(points) == CARDINALITY_LIMIT + 1
    (overflow,) = [point for point in points if point.attributes[0].key == "otel.metric.overflow"]
    assert overflow.count == 50


def test_a_delta_without_a_measurement_is_no_point() -> None:
    """And an exemplar is sent once."""
    cells = _cells(delta=True)
    cells.duration(semconv.HTTP_SERVER_DURATION, {}).record(1, 1, bytes(28))

    assert len(_point(cells).exemplars) == 1
    assert list(cells.items()) == []


def test_a_forked_child_counts_from_nothing(plain: Providers) -> None:
    """What its parent counted, and has open, is its parent's; and the child's calls are counted."""
    serving = recorder(plain)
    open_call = serving.rpc_server(RpcCall(method="a.B/C"), Context())
    serving.http_server(REQUEST, Context()).finish(OK)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            serving.http_server(REQUEST, Context()).finish(OK)
            found = metrics(plain)
            counts = [point.count for point in found[semconv.HTTP_SERVER_DURATION].histogram.data_points]
            os.write(writer, repr((counts, len(spans(plain)), semconv.RSKETCH_RPC_CALLS in found)).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    with os.fdopen(reader) as said:
        assert said.read() == "([1], 1, False)"
    open_call.finish(RpcOutcome(status_code="OK"))


def forked_while_held(lock: Any, act: Callable[[], int]) -> int:
    """Fork while another thread holds *lock*; return what *act* returns in the child, which waits for nothing long."""
    held, over = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            held.set()
            over.wait(10)

    with ThreadPoolExecutor(1) as pool:
        pool.submit(hold)
        held.wait(10)
        child = os.fork()
        if not child:
            signal.alarm(5)
            code = 1
            try:
                code = act()
            finally:
                os._exit(code)
        over.set()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_call_that_a_forked_child_ends_is_the_childs(plain: Providers) -> None:
    """It is measured there, and no lock is waited for that a thread of the parent's held."""
    serving = recorder(plain, InstrumentorSettings(opt_in_metrics=frozenset({semconv.HTTP_ACTIVE_REQUESTS})))
    serving.http_server(REQUEST, Context()).finish(OK)
    call = serving.http_server(REQUEST, Context())

    def end() -> int:
        call.finish(OK)
        (point,) = metrics(plain)[semconv.HTTP_SERVER_DURATION].histogram.data_points
        return int(point.count) + 6

    assert forked_while_held(serving.cells._lock, end) == 7


def test_a_fork_while_another_thread_ends_a_span_leaves_no_lock_behind(plain: Providers) -> None:
    """Whoever holds it is not in the child."""
    serving = recorder(plain)

    def serve() -> int:
        serving.http_server(REQUEST, Context()).finish(HttpOutcome(status_code=500, exception=KeyError("tea")))
        return 7

    assert forked_while_held(serving.lock, serve) == 7


def test_ids_of_a_forked_child_are_its_own(plain: Providers) -> None:
    """Those that were drawn before the fork are its parent's."""
    serving = recorder(plain)

    def ids() -> str:
        span = trace.get_current_span(serving.http_server(REQUEST, Context()).inner)
        return f"{span.get_span_context().trace_id:032x}"

    ids()
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.write(writing, "".join(ids() for _ in range(40)).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, encoding="ascii") as said:
        theirs = said.read()
    os.waitpid(child, 0)
    found = {theirs[at : at + 32] for at in range(0, len(theirs), 32)}

    assert len(found) == 40
    assert found.isdisjoint({ids() for _ in range(40)})


def test_a_full_segment_drops_the_oldest_counts_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    """Each drop is counted; the line comes with the pipeline's next turn."""
    made = providers({"OTEL_BSP_MAX_QUEUE_SIZE": "10", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "10"})
    serving = recorder(made)
    for _ in range(100):
        serving.http_server(REQUEST, Context()).finish(OK)
    assert len(spans(made)) == 10
    (lane,) = (lane for lane in made.pipeline.lanes if lane.signal is Signal.TRACES)
    for _ in range(2):
        made.pipeline._reporter.full(lane)

    assert lane.segment.evicted == 90
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [
        "telemetry: more spans than can be sent: the oldest are dropped from now on, and counted as queue_full"
    ]
