"""
The seam between instrumentors and telemetry: facts of a call go in, a span, a duration and log records come out.

Two rules hold for every recorder: the metric's value is the span's duration, and no failure in here reaches a caller.
"""

import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Protocol, TypeVar

from opentelemetry import trace
from opentelemetry._logs import LoggerProvider, LogRecord, SeverityNumber, get_logger_provider
from opentelemetry.context import Context
from opentelemetry.metrics import Histogram, MeterProvider, UpDownCounter, get_meter_provider
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, TracerProvider

from rsketch_telemetry import access, semconv
from rsketch_telemetry._once import Once
from rsketch_telemetry.annotations import with_server_span
from rsketch_telemetry.duplicates import OLD_BUCKETS_MS, OLD_METRICS, old_http, old_rpc
from rsketch_telemetry.facts import Attributes, HttpOutcome, HttpRequest, RpcCall, RpcOutcome, error_name
from rsketch_telemetry.instrumentor_settings import InstrumentorSettings
from rsketch_telemetry.redaction import as_text, scrub
from rsketch_telemetry.version import __version__

__all__ = ["Call", "Recorder", "SdkRecorder", "guarded"]

Outcome = TypeVar("Outcome", contravariant=True)

_RECORDED_IN: Final = "__rsketch_recorded_in__"
"""Attribute of an exception: the trace that has a record of it."""


class Call(Protocol[Outcome]):
    """
    One call being recorded.

    Attributes:
        context: The context with this call's span in it. Attach it around the code that serves or makes the call.
    """

    context: Context

    def end(self, outcome: Outcome) -> None:
        """End the span and record the duration; only the first end counts."""


class Recorder(Protocol):
    """Turns the facts of calls into telemetry."""

    def http_server(self, request: HttpRequest, parent: Context) -> Call[HttpOutcome]:
        """Start the record of an HTTP request whose caller's context is *parent*."""

    def rpc_server(self, call: RpcCall, parent: Context) -> Call[RpcOutcome]:
        """Start the record of an RPC served, whose caller's context is *parent*."""

    def rpc_client(self, call: RpcCall, parent: Context) -> Call[RpcOutcome]:
        """Start the record of an RPC made from the context *parent*."""

    def in_flight(self, metric: str, change: int, attributes: Attributes) -> None:
        """Add *change* to an up-down counter of things that are open, such as `semconv.RSKETCH_WEBSOCKETS`."""


class SdkRecorder:
    """
    Records through whatever tracer, meter and logger provider is given: it serves any configuration.

    Args:
        scope: Name of the instrumentation scope, the instrumentor's module.
        tracer_provider: None for the global one; so for the others.
        settings: What is recorded beyond the default.
    """

    def __init__(
        self,
        scope: str,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        logger_provider: LoggerProvider | None = None,
        settings: InstrumentorSettings | None = None,
    ) -> None:
        self.settings = settings or InstrumentorSettings()
        tracers = tracer_provider or trace.get_tracer_provider()
        loggers = logger_provider or get_logger_provider()
        self._tracer = tracers.get_tracer(scope, __version__, semconv.SCHEMA_URL)
        self._logger = loggers.get_logger(scope, __version__, semconv.SCHEMA_URL)
        self._meter = (meter_provider or get_meter_provider()).get_meter(scope, __version__, semconv.SCHEMA_URL)
        self._durations: dict[str, Histogram] = {}
        self._open: dict[str, UpDownCounter] = {}

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
        counter = self._open.get(metric)
        if counter is None:
            counter = self._open[metric] = self._meter.create_up_down_counter(metric, *_IN_FLIGHT[metric])
        counter.add(change, attributes)

    def start_span(self, name: str, kind: SpanKind, attributes: Attributes, parent: Context, start_ns: int) -> Span:
        """Start a span whose exceptions and status are ours to say."""
        return self._tracer.start_span(
            name,
            parent,
            kind,
            attributes,
            start_time=start_ns,
            record_exception=False,
            set_status_on_exception=False,
        )

    def duration(self, metric: str, value: float, attributes: Attributes, context: Context) -> None:
        """Record a duration, in the metric's unit, with an exemplar that points to the span in *context*."""
        histogram = self._durations.get(metric)
        if histogram is None:
            # Made at first use, so that a service that never makes a call does not announce a histogram for it.
            unit, description, buckets = _DURATIONS[metric]
            histogram = self._durations[metric] = self._meter.create_histogram(
                metric, unit, description, explicit_bucket_boundaries_advisory=buckets
            )
        histogram.record(value, attributes, context)

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
_DURATIONS = {
    **{name: (semconv.DURATION_UNIT, text, semconv.DURATION_BUCKETS) for name, text in _DESCRIPTIONS.items()},
    **dict.fromkeys(OLD_METRICS.values(), ("ms", "As older conventions have it.", OLD_BUCKETS_MS)),
}
"""Unit, description and buckets of each histogram."""
_IN_FLIGHT = {
    semconv.HTTP_ACTIVE_REQUESTS: ("{request}", "Number of active HTTP server requests."),
    semconv.RSKETCH_RPC_CALLS: ("{call}", "Number of RPCs being served."),
    semconv.RSKETCH_WEBSOCKETS: ("{websocket}", "Number of open websockets."),
}
"""Unit and description of each up-down counter."""


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
        self.context = trace.set_span_in_context(self._span, parent)
        if kind is SpanKind.SERVER:
            self.context = with_server_span(self._span, self.context)
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
        if semconv.ERROR_TYPE in end:
            self._span.set_status(Status(StatusCode.ERROR))
        last = end | span_attributes
        self._span.set_attributes(last | self._old(last) if self._old else last)
        if exception is not None and self._recorder.settings.exception_events:
            self._span.add_event(semconv.EXCEPTION_EVENT, _exception_attributes(exception))
        self._span.end(self._start_ns + elapsed_ns)

    def _measure(self, metric: str, attributes: Attributes, elapsed_ns: int) -> None:
        self._recorder.duration(metric, elapsed_ns / 1e9, attributes, self.context)
        if self._old:
            self._recorder.duration(OLD_METRICS[metric], elapsed_ns / 1e6, self._old(attributes), self.context)

    def _count(self, change: int) -> None:
        """Count the call among those in flight, where its kind is counted."""


class _HttpServerCall(_Measured):
    def __init__(self, recorder: SdkRecorder, request: HttpRequest, parent: Context) -> None:
        old = old_http if "http" in recorder.settings.duplicates else None
        attributes, waited = request.attributes(), request.waited_seconds
        super().__init__(recorder, request.span_name(), SpanKind.SERVER, attributes, parent, old, waited)
        self._request = request
        self._count(1)

    def end(self, outcome: HttpOutcome) -> None:
        if outcome.route and not self._ended:
            self._span.update_name(self._request.span_name(outcome.route))
        seconds = self._finish(
            semconv.HTTP_SERVER_DURATION,
            self._request.metric_attributes(),
            outcome.attributes(),
            outcome.headers,
            outcome.exception,
        )
        if seconds is None:
            return
        if outcome.exception is not None:
            self._recorder.exception(
                semconv.HTTP_SERVER_EXCEPTION, outcome.exception, SeverityNumber.ERROR, self.context
            )
        access.http(self._request, outcome, seconds, self.context)

    def _count(self, change: int) -> None:
        if semconv.HTTP_ACTIVE_REQUESTS in self._recorder.settings.opt_in_metrics:
            attributes: Attributes = {
                semconv.HTTP_REQUEST_METHOD: self._request.method,
                semconv.URL_SCHEME: self._request.scheme,
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

    def end(self, outcome: RpcOutcome) -> None:
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
            self._recorder.exception(event, outcome.exception, severity, self.context)
        if self._server:
            access.rpc(self._call, outcome, seconds, self.context)

    def _count(self, change: int) -> None:
        if self._server:
            self._recorder.in_flight(semconv.RSKETCH_RPC_CALLS, change, {semconv.RPC_METHOD: self._call.method})


class _Unrecorded:
    """Stands in for a call that could not be recorded, so that the call itself goes on."""

    def __init__(self, context: Context) -> None:
        self.context = context

    def end(self, outcome: object) -> None:
        """Do nothing."""


def guarded(recorder: Recorder) -> Recorder:
    """Return a recorder that logs one line where *recorder* fails and lets the call go on."""
    return _Guarded(recorder)


class _Guarded:
    def __init__(self, inner: Recorder) -> None:
        self._inner = inner
        # A defect, of ours or of a span processor.
        self._failed = Once("a call could not be recorded; this is said once")

    def http_server(self, request: HttpRequest, parent: Context) -> Call[HttpOutcome]:
        return self._start(lambda: self._inner.http_server(request, parent), parent)

    def rpc_server(self, call: RpcCall, parent: Context) -> Call[RpcOutcome]:
        return self._start(lambda: self._inner.rpc_server(call, parent), parent)

    def rpc_client(self, call: RpcCall, parent: Context) -> Call[RpcOutcome]:
        return self._start(lambda: self._inner.rpc_client(call, parent), parent)

    def in_flight(self, metric: str, change: int, attributes: Attributes) -> None:
        try:
            self._inner.in_flight(metric, change, attributes)
        except Exception:  # noqa: BLE001 - whatever fails in telemetry must not fail the call
            self._failed()

    def _start(self, start: Callable[[], Call[Outcome]], parent: Context) -> Call[Outcome]:
        try:
            return _GuardedCall(start(), self._failed)
        except Exception:  # noqa: BLE001 - whatever fails in telemetry must not fail the call
            self._failed()
            return _Unrecorded(parent)


class _GuardedCall(Call[Outcome]):
    def __init__(self, inner: Call[Outcome], failed: Callable[[], None]) -> None:
        self._inner = inner
        self._failed = failed
        self.context = inner.context

    def end(self, outcome: Outcome) -> None:
        try:
            self._inner.end(outcome)
        except Exception:  # noqa: BLE001 - whatever fails in telemetry must not fail the call
            self._failed()
