"""The recorder that goes through the SDK, or whatever providers there are: it serves any configuration."""

import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Protocol

from opentelemetry import trace
from opentelemetry._logs import LoggerProvider, LogRecord, SeverityNumber, get_logger_provider
from opentelemetry.context import Context
from opentelemetry.metrics import Histogram, Meter, MeterProvider, UpDownCounter, get_meter_provider
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, TracerProvider

from rsketch_telemetry import access, semconv
from rsketch_telemetry.annotations import with_server_span
from rsketch_telemetry.duplicates import OLD_BUCKETS_MS, OLD_METRICS, old_http, old_rpc
from rsketch_telemetry.facts import Attributes, HttpOutcome, HttpRequest, RpcCall, RpcOutcome, error_name
from rsketch_telemetry.instrumentor_settings import InstrumentorSettings
from rsketch_telemetry.recorder import Call
from rsketch_telemetry.redaction import as_text, scrub
from rsketch_telemetry.version import __version__

__all__ = ["DURATIONS", "IN_FLIGHT", "SdkRecorder", "Series", "complete"]

_RECORDED_IN: Final = "__rsketch_recorded_in__"
"""Attribute of an exception: the trace that has a record of it."""


class Series(Protocol):
    """The histograms and counters of calls."""

    def in_flight(self, metric: str, change: int, attributes: Attributes) -> None:
        """Add to an up-down counter."""

    def record(self, metric: str, value: float, attributes: Attributes, context: Context) -> None:
        """Record a duration, in the metric's unit, with an exemplar that points to the span in *context*."""


class SdkRecorder:
    """
    Records through whatever tracer, meter and logger provider is given.

    Args:
        scope: Name of the instrumentation scope, the instrumentor's module.
        tracer_provider: None for the global one; so for the others.
        settings: What is recorded beyond the default.
        series: Histograms and counters; None for those of the meter provider.
    """

    def __init__(
        self,
        scope: str,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        logger_provider: LoggerProvider | None = None,
        settings: InstrumentorSettings | None = None,
        series: Series | None = None,
    ) -> None:
        self.settings = settings or InstrumentorSettings()
        tracers = tracer_provider or trace.get_tracer_provider()
        loggers = logger_provider or get_logger_provider()
        self.tracer = tracers.get_tracer(scope, __version__, semconv.SCHEMA_URL)
        self._logger = loggers.get_logger(scope, __version__, semconv.SCHEMA_URL)
        self._meter = (meter_provider or get_meter_provider()).get_meter(scope, __version__, semconv.SCHEMA_URL)
        self.series = series or _MeterSeries(self._meter)

    def http_server(self, request: HttpRequest, parent: Context) -> Call[HttpOutcome]:
        """Start a SERVER span; see `Recorder`."""
        return _HttpServerCall(self, request, parent)

    def rpc_server(self, call: RpcCall, parent: Context) -> Call[RpcOutcome]:
        """Start a SERVER span; see `Recorder`."""
        return _RpcCall(self, call, parent, server=True)

    def rpc_client(self, call: RpcCall, parent: Context) -> Call[RpcOutcome]:
        """Start a CLIENT span; see `Recorder`."""
        return _RpcCall(self, call, parent, server=False)

    def in_flight(self, metric: str, change: int, attributes: Attributes) -> None:
        """Add to an up-down counter; see `Recorder`."""
        self.series.in_flight(metric, change, attributes)

    def start_span(self, name: str, kind: SpanKind, attributes: Attributes, parent: Context, start_ns: int) -> Span:
        """Start a span whose exceptions and status are ours to say."""
        return self.tracer.start_span(
            name,
            parent,
            kind,
            attributes,
            start_time=start_ns,
            record_exception=False,
            set_status_on_exception=False,
        )

    def exception(self, event_name: str, error: BaseException, severity: SeverityNumber, context: Context) -> None:
        """Emit the one log record of an exception that nobody handled, with the first call of a trace that it ends."""
        if not _is_new(error, context):
            return
        attributes = _exception_attributes(error)
        self._logger.emit(
            LogRecord(
                timestamp=time.time_ns(),
                context=context,
                severity_number=severity,
                severity_text=severity.name,
                event_name=event_name,
                # For people: a record without a body is an empty line in most viewers.
                body=f"{attributes[semconv.EXCEPTION_TYPE]}: {attributes[semconv.EXCEPTION_MESSAGE]}",
                attributes=attributes,
            )
        )


class _MeterSeries:
    """The instruments of a meter, each made at first use: who never makes a call does not announce one for it."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._made: dict[str, Histogram] = {}
        self._open: dict[str, UpDownCounter] = {}

    def in_flight(self, metric: str, change: int, attributes: Attributes) -> None:
        counter = self._open.get(metric)
        if counter is None:
            counter = self._open[metric] = self._meter.create_up_down_counter(metric, *IN_FLIGHT[metric])
        counter.add(change, attributes)

    def record(self, metric: str, value: float, attributes: Attributes, context: Context) -> None:
        histogram = self._made.get(metric)
        if histogram is None:
            unit, description, buckets = DURATIONS[metric]
            histogram = self._made[metric] = self._meter.create_histogram(
                metric, unit, description, explicit_bucket_boundaries_advisory=buckets
            )
        histogram.record(value, attributes, context)


def _is_new(error: BaseException, context: Context) -> bool:
    """Return whether *error* has not been recorded in this trace, such as with a call from within the handler."""
    trace_id = trace.get_current_span(context).get_span_context().trace_id
    if trace_id and getattr(error, _RECORDED_IN, None) == trace_id:
        return False
    # An exception of a program may have no room for it.
    with suppress(Exception):
        setattr(error, _RECORDED_IN, trace_id)
    return True


def _exception_attributes(error: BaseException) -> dict[str, str]:
    return {
        semconv.EXCEPTION_TYPE: error_name(error),
        semconv.EXCEPTION_MESSAGE: scrub(as_text(error)),
        semconv.EXCEPTION_STACKTRACE: scrub("".join(traceback.format_exception(error))),
    }


_DESCRIPTIONS = {
    semconv.HTTP_SERVER_DURATION: "Duration of HTTP server requests.",
    semconv.RPC_SERVER_DURATION: "Measures the duration of an incoming Remote Procedure Call (RPC).",
    semconv.RPC_CLIENT_DURATION: "Measures the duration of an outgoing Remote Procedure Call (RPC).",
}
DURATIONS = {
    **{name: (semconv.DURATION_UNIT, text, semconv.DURATION_BUCKETS) for name, text in _DESCRIPTIONS.items()},
    **dict.fromkeys(OLD_METRICS.values(), ("ms", "As older conventions have it.", OLD_BUCKETS_MS)),
}
"""Unit, description and buckets of each histogram."""
IN_FLIGHT = {
    semconv.HTTP_ACTIVE_REQUESTS: ("{request}", "Number of active HTTP server requests."),
    semconv.RSKETCH_RPC_CALLS: ("{call}", "Number of RPCs being served."),
    semconv.RSKETCH_WEBSOCKETS: ("{websocket}", "Number of open websockets."),
}
"""Unit and description of each up-down counter."""


def complete(span: Span, attributes: Attributes, exception: BaseException | None, end_ns: int) -> None:
    """
    End a span with what the end of its call says.

    Args:
        attributes: Those of the end; `error.type` among them makes the span an error.
        exception: To be an event of the span; None for none.
    """
    if semconv.ERROR_TYPE in attributes:
        span.set_status(Status(StatusCode.ERROR))
    span.set_attributes(attributes)
    if exception is not None:
        span.add_event(semconv.EXCEPTION_EVENT, _exception_attributes(exception))
    span.end(end_ns)


class _Measured:
    """
    A span and a monotonic clock, so that a step of the wall clock cannot make a duration negative.

    Args:
        old: Gives the old names of attributes where those are recorded as well; None where they are not.
        waited_seconds: How long ago the call began.
    """

    def __init__(
        self,
        recorder: SdkRecorder,
        name: str,
        kind: SpanKind,
        attributes: Attributes,
        parent: Context,
        old: Callable[[Attributes], Attributes] | None,
        waited_seconds: float = 0.0,
    ) -> None:
        self._recorder = recorder
        self._old = old
        waited_ns = int(waited_seconds * 1e9)
        self._start_ns = time.time_ns() - waited_ns
        self._clock_ns = time.perf_counter_ns() - waited_ns
        first = attributes | old(attributes) if old else attributes
        self._span = recorder.start_span(name, kind, first, parent, self._start_ns)
        self.inner = trace.set_span_in_context(self._span, parent)
        if kind is SpanKind.SERVER:
            self.inner = with_server_span(self._span, self.inner)
        self._ended = False

    def _finish(
        self,
        metric: str,
        metric_attributes: Attributes,
        end_attributes: Attributes,
        span_attributes: Attributes,
        exception: BaseException | None,
    ) -> float | None:
        """
        End span and metric alike.

        Args:
            metric: Its name.
            metric_attributes: What the metric has from the start.
            end_attributes: What the end adds to both.
            span_attributes: What the end adds to the span alone.
            exception: What nobody handled; an event of the span, if those are asked for.

        Returns:
            The duration in seconds; None where it had ended before.
        """
        if self._ended:
            return None
        self._ended = True
        elapsed_ns = time.perf_counter_ns() - self._clock_ns
        try:
            self._end_span(end_attributes, span_attributes, exception, elapsed_ns)
        finally:
            # A span processor of the program's that raises costs neither the measurement nor the balance.
            self._count(-1)
            self._measure(metric, metric_attributes | end_attributes, elapsed_ns)
        return elapsed_ns / 1e9

    def _end_span(
        self, end: Attributes, span_attributes: Attributes, exception: BaseException | None, elapsed_ns: int
    ) -> None:
        last = end | span_attributes
        complete(
            self._span,
            last | self._old(last) if self._old else last,
            exception if self._recorder.settings.exception_events else None,
            self._start_ns + elapsed_ns,
        )

    def _measure(self, metric: str, attributes: Attributes, elapsed_ns: int) -> None:
        durations = self._recorder.series
        durations.record(metric, elapsed_ns / 1e9, attributes, self.inner)
        if self._old:
            durations.record(OLD_METRICS[metric], elapsed_ns / 1e6, self._old(attributes), self.inner)

    def _count(self, change: int) -> None:
        """Count the call among those in flight, where its kind is counted."""


class _HttpServerCall(_Measured):
    def __init__(self, recorder: SdkRecorder, request: HttpRequest, parent: Context) -> None:
        old = old_http if "http" in recorder.settings.duplicates else None
        attributes, waited = request.attributes(), request.waited_seconds
        super().__init__(recorder, request.kind.span_name(), SpanKind.SERVER, attributes, parent, old, waited)
        self._request = request
        self._count(1)

    def finish(self, outcome: HttpOutcome) -> None:
        if outcome.route and not self._ended:
            self._span.update_name(self._request.kind.span_name(outcome.route))
        seconds = self._finish(
            semconv.HTTP_SERVER_DURATION,
            self._request.kind.metric_attributes(),
            outcome.attributes(),
            outcome.headers or {},
            outcome.exception,
        )
        if seconds is None:
            return
        if outcome.exception is not None:
            self._recorder.exception(semconv.HTTP_SERVER_EXCEPTION, outcome.exception, SeverityNumber.ERROR, self.inner)
        access.http(self._request, outcome, seconds, self.inner)

    def _count(self, change: int) -> None:
        if semconv.HTTP_ACTIVE_REQUESTS in self._recorder.settings.opt_in_metrics:
            attributes: Attributes = {
                semconv.HTTP_REQUEST_METHOD: self._request.kind.method,
                semconv.URL_SCHEME: self._request.kind.scheme,
            }
            self._recorder.in_flight(semconv.HTTP_ACTIVE_REQUESTS, change, attributes)


class _RpcCall(_Measured):
    def __init__(self, recorder: SdkRecorder, call: RpcCall, parent: Context, *, server: bool) -> None:
        kind = SpanKind.SERVER if server else SpanKind.CLIENT
        old = old_rpc if "rpc" in recorder.settings.duplicates else None
        super().__init__(recorder, call.span_name(), kind, call.attributes(), parent, old)
        self._call = call
        self._server = server
        self._count(1)

    def finish(self, outcome: RpcOutcome) -> None:
        seconds = self._finish(
            semconv.RPC_SERVER_DURATION if self._server else semconv.RPC_CLIENT_DURATION,
            self._call.metric_attributes(),
            outcome.attributes(server=self._server),
            outcome.span_attributes(),
            outcome.exception,
        )
        if seconds is None:
            return
        if outcome.exception is not None:
            event = semconv.RPC_SERVER_EXCEPTION if self._server else semconv.RPC_CLIENT_EXCEPTION
            severity = SeverityNumber.ERROR if self._server else SeverityNumber.WARN
            self._recorder.exception(event, outcome.exception, severity, self.inner)
        if self._server:
            access.rpc(self._call, outcome, seconds, self.inner)

    def _count(self, change: int) -> None:
        if self._server:
            self._recorder.in_flight(semconv.RSKETCH_RPC_CALLS, change, {semconv.RPC_METHOD: self._call.method})
