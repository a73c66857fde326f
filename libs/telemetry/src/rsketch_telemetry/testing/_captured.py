"""What a block has recorded: the providers that it is recorded with, and the decoded results."""
# ruff: noqa: TID251 - providers of the SDK, of its own and the process's, are what this is about

import asyncio
import copy
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any, Final

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk._logs import (
    LoggerProvider,
    LogRecordProcessor,
    ReadableLogRecord,
    ReadWriteLogRecord,
)
from opentelemetry.sdk.metrics import MeterProvider, TraceBasedExemplarFilter
from opentelemetry.sdk.metrics.export import MetricReader, MetricsData
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace import Span as SdkSpan
from opentelemetry.sdk.trace.sampling import ALWAYS_ON

from rsketch_telemetry import environment
from rsketch_telemetry.instrumentor_settings import InstrumentorSettings
from rsketch_telemetry.otlp.encode import metric_requests
from rsketch_telemetry.otlp.model import (
    LogRecord,
    MetricPoint,
    Span,
    Value,
    decode_logs,
    decode_metrics,
    decode_traces,
)
from rsketch_telemetry.otlp.store import NotArrivedError, TelemetryStore
from rsketch_telemetry.recorder import Recorder
from rsketch_telemetry.sdk_recorder import SdkRecorder
from rsketch_telemetry.version import __version__

__all__ = ["Captured", "PointReader"]

_MOST_EXEMPLARS: Final = 64
_MOST_CHARACTERS: Final = 200
_MOST_UNREADABLE: Final = 16
"""Things that OTLP cannot hold; a metric is one each time that the points are read."""


class Captured:
    """
    What has been recorded since the block began. It may be read after the block as well.

    Attributes:
        tracer_provider: What the block records spans with; for code that takes a provider. So for the other two.
    """

    def __init__(self, settings: InstrumentorSettings, parent: "Captured | None" = None) -> None:
        self.parent = parent
        self._settings = settings
        self._recorders: dict[str, Recorder] = {}
        self._spans: list[Span] = []
        self._logs: list[LogRecord] = []
        self._unreadable: deque[str] = deque(maxlen=_MOST_UNREADABLE)
        # Reentrant: a finalizer that logs may run while this thread holds it.
        self._lock = threading.RLock()
        self._listeners: list[Callable[[], None]] = []
        self._ending = 0
        reader = PointReader(self.note_unreadable)
        self.readers = [reader]
        # The SDK's constructors read the environment, where telemetry may be switched off for tests.
        with environment.presented({}):
            resource = _resource()
            self.tracer_provider = TracerProvider(sampler=ALWAYS_ON, resource=resource, shutdown_on_exit=False)
            self.meter_provider = MeterProvider(
                [reader], resource, exemplar_filter=TraceBasedExemplarFilter(), shutdown_on_exit=False
            )
            self.logger_provider = LoggerProvider(resource, shutdown_on_exit=False)
        self.tracer_provider.add_span_processor(SpanSink(lambda: self))
        self.logger_provider.add_log_record_processor(LogSink(lambda: self))

    @property
    def spans(self) -> list[Span]:
        """The spans that have ended, in the order they did."""
        with self._lock:
            return list(self._spans)

    @property
    def logs(self) -> list[LogRecord]:
        """The log records: those of the instrumentors, and what went through `logging` during the block."""
        with self._lock:
            return list(self._logs)

    @property
    def points(self) -> list[MetricPoint]:
        """The metric points as they stand now, one a stream, counted from the beginning of the block."""
        return [point for reader in tuple(self.readers) for point in reader.points()]

    def span(
        self, name: str | None = None, attributes: Mapping[str, Value] | None = None, *, kind: str | None = None
    ) -> Span:
        """
        Return the one span that has this name, these attributes among others, and this kind, such as `SERVER`.

        Raises:
            NotArrivedError: There is none, or there are several; the message lists all spans, points and logs.
        """
        wanted = _Wanted(name, attributes or {}, kind)
        found = [span for span in self.spans if wanted.matches(span)]
        if len(found) != 1:
            raise NotArrivedError(f"{len(found) or 'no'} {wanted}; what was captured:\n{self.summary()}")
        return found[0]

    def point(self, name: str, attributes: Mapping[str, Value] | None = None) -> MetricPoint:
        """
        Return the one point of the metric *name* that has these attributes among others.

        Raises:
            NotArrivedError: As `span`.
        """
        wanted = _Wanted(name, attributes or {}, None, noun="point")
        found = [point for point in self.points if wanted.matches(point)]
        if len(found) != 1:
            raise NotArrivedError(f"{len(found) or 'no'} {wanted}; what was captured:\n{self.summary()}")
        return found[0]

    async def await_span(
        self,
        name: str | None = None,
        attributes: Mapping[str, Value] | None = None,
        *,
        kind: str | None = None,
        timeout_seconds: float = 5.0,
    ) -> Span:
        """
        Return the first such span, waiting for its end: a server's span ends after its client has the response.

        Its metric points and log records are there as well by then.

        Raises:
            NotArrivedError: None has ended within *timeout_seconds*; the message lists what there is.
        """
        loop, arrived = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(arrived.set)

        wanted = _Wanted(name, attributes or {}, kind)
        deadline = time.monotonic() + timeout_seconds
        with self._listening(wake):
            while (found := self._first(wanted)) is None:
                try:
                    await asyncio.wait_for(arrived.wait(), deadline - time.monotonic())
                except TimeoutError:
                    raise self._not_arrived(wanted, timeout_seconds) from None
                arrived.clear()
        return found

    def wait_span(
        self,
        name: str | None = None,
        attributes: Mapping[str, Value] | None = None,
        *,
        kind: str | None = None,
        timeout_seconds: float = 5.0,
    ) -> Span:
        """Do as `await_span`, for tests that are not coroutines: the server runs in another thread."""
        arrived = threading.Event()
        wanted = _Wanted(name, attributes or {}, kind)
        deadline = time.monotonic() + timeout_seconds
        with self._listening(arrived.set):
            while (found := self._first(wanted)) is None:
                if not arrived.wait(max(0.0, deadline - time.monotonic())):
                    raise self._not_arrived(wanted, timeout_seconds)
                arrived.clear()
        return found

    def assert_conformant(self, *, scope: str = "") -> None:
        """
        Check what was captured against the semantic conventions, as `python -m rsketch_telemetry check` does.

        Args:
            scope: What the names of the scopes begin with that are checked, such as `rsketch_telemetry`. All by
                default, so also what instrumentors of others have recorded.

        Raises:
            AssertionError: Something violates them; the message has a line for each violation, with its rule and link.
        """
        from rsketch_telemetry.conformance import check

        found = check(
            [each for each in self.spans if each.scope.name.startswith(scope)],
            [each for each in self.points if each.scope.name.startswith(scope)],
            [each for each in self.logs if each.scope.name.startswith(scope)],
        )
        violations = [str(each) for each in found if not each.advice]
        if violations:
            raise AssertionError("\n".join(["telemetry violates the semantic conventions:", *violations]))

    def summary(self) -> str:
        """Return a few lines on what was captured: each kind of item with its count."""
        store = TelemetryStore()
        store.spans, store.points, store.logs = self.spans, self.points, self.logs
        lost = [f"not readable, as OTLP cannot hold it: {what}" for what in dict.fromkeys(self._unreadable)]
        return "\n".join([store.summary(), *lost])

    def recorder(self, scope: str) -> Recorder:
        """Return what an instrumentor records with, by the name of its scope."""
        if scope not in self._recorders:
            self._recorders[scope] = SdkRecorder(
                scope,
                tracer_provider=self.tracer_provider,
                meter_provider=self.meter_provider,
                logger_provider=self.logger_provider,
                settings=self._settings,
            )
        return self._recorders[scope]

    def is_within(self, other: "Captured") -> bool:
        """Return whether this is *other* or was opened inside it."""
        return self is other or (self.parent is not None and self.parent.is_within(other))

    def take(self, decode: Callable[[], tuple[list[Span], list[LogRecord]]]) -> None:
        """Keep what *decode* returns, and wake up who waits."""
        try:
            spans, logs = decode()
        except Exception as error:  # noqa: BLE001 - a value that cannot be encoded must not fail the program under test
            self.note_unreadable(error)
            return
        with self._lock:
            self._spans += spans
            self._logs += logs
        self._notify()

    def note_unreadable(self, error: Exception) -> None:
        """Remember what `summary` says of an item that cannot be encoded."""
        self._unreadable.append(f"{type(error).__name__}: {str(error)[:_MOST_CHARACTERS]}")

    @contextmanager
    def settling(self) -> Iterator[None]:
        """Let nobody find a span inside the block, which goes on to record what belongs to it."""
        with self._lock:
            self._ending += 1
        try:
            yield
        finally:
            with self._lock:
                self._ending -= 1
            self._notify()

    def close(self) -> None:
        """End the providers; what was captured stays."""
        for reader in self.readers:
            reader.close()
        self.tracer_provider.shutdown()
        self.meter_provider.shutdown()
        self.logger_provider.shutdown()

    def _notify(self) -> None:
        for listener in tuple(self._listeners):
            listener()

    @contextmanager
    def _listening(self, listener: Callable[[], None]) -> Iterator[None]:
        self._listeners.append(listener)
        try:
            yield
        finally:
            self._listeners.remove(listener)

    def _first(self, wanted: "_Wanted") -> Span | None:
        with self._lock:
            return None if self._ending else next((span for span in self._spans if wanted.matches(span)), None)

    def _not_arrived(self, wanted: "_Wanted", seconds: float) -> NotArrivedError:
        return NotArrivedError(f"no {wanted} has ended within {seconds:g} s; what was captured:\n{self.summary()}")


class _Wanted:
    """What a span or a point must have."""

    def __init__(self, name: str | None, attributes: Mapping[str, Value], kind: str | None, noun: str = "span") -> None:
        self._name = name
        self._attributes = attributes
        self._kind = kind
        self._noun = noun

    def matches(self, item: Span | MetricPoint) -> bool:
        if self._name is not None and item.name != self._name:
            return False
        if self._kind is not None and getattr(item, "kind", None) != self._kind:
            return False
        absent = object()
        return all(item.attributes.get(key, absent) == value for key, value in self._attributes.items())

    def __str__(self) -> str:
        parts = [f"{self._kind} {self._noun}" if self._kind else self._noun]
        parts += [repr(self._name)] if self._name is not None else []
        parts += [f"with {dict(self._attributes)}"] if self._attributes else []
        return " ".join(parts)


class SpanSink(SpanProcessor):
    """Gives each span that ends to a capture; *target* says to which, None to none."""

    def __init__(self, target: Callable[[], Captured | None]) -> None:
        self._target = target

    def on_start(self, span: SdkSpan, parent_context: Context | None = None) -> None:
        """Do nothing: only finished spans are captured."""

    def on_end(self, span: ReadableSpan) -> None:
        captured = self._target()
        if captured is not None:
            captured.take(lambda: (decode_traces(encode_spans([span])), []))


class LogSink(LogRecordProcessor):
    """Gives each log record to a capture; *target* as in `SpanSink`."""

    def __init__(self, target: Callable[[], Captured | None]) -> None:
        self._target = target

    def on_emit(self, log_record: ReadWriteLogRecord) -> None:
        captured = self._target()
        if captured is not None:
            captured.take(lambda: ([], decode_logs(encode_logs([_readable(log_record)]))))

    def shutdown(self) -> None:
        """Do nothing: nothing is held."""

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Return True: nothing waits."""
        return True


def _readable(record: ReadWriteLogRecord) -> ReadableLogRecord:
    return ReadableLogRecord(
        log_record=copy.copy(record.log_record),
        resource=record.resource or Resource.get_empty(),
        instrumentation_scope=record.instrumentation_scope,
        limits=record.limits,
    )


class PointReader(MetricReader):
    """
    Keeps the last point of each stream, with all exemplars: the SDK hands each exemplar out once.

    Args:
        refused: Called for each metric that cannot be encoded.
    """

    def __init__(self, refused: Callable[[Exception], None]) -> None:
        super().__init__()
        self._refused = refused
        self._points: dict[tuple[str, str, str], MetricPoint] = {}
        self._closed = False

    def points(self) -> list[MetricPoint]:
        """Return the points as they stand now; once closed, as they stood then."""
        if not self._closed:
            self.collect()
        return list(self._points.values())

    def close(self) -> None:
        """Collect for the last time."""
        self.points()
        self._closed = True

    def _receive_metrics(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **_: object) -> None:
        for request in metric_requests(metrics_data, self._refused):
            for point in decode_metrics(request):
                key = (point.scope.name, point.name, repr(sorted(point.attributes.items())))
                before = self._points.get(key)
                self._points[key] = _with_exemplars(point, before) if before else point

    def shutdown(self, timeout_millis: float = 30_000, **_: object) -> None:
        """Do nothing: nothing runs."""


def _with_exemplars(point: MetricPoint, before: MetricPoint) -> MetricPoint:
    known = (*before.exemplars, *(each for each in point.exemplars if each not in before.exemplars))
    # Its fields are frozen for whoever reads it; this is still its making.
    fields: dict[str, Any] = {name: getattr(point, name) for name in MetricPoint.__slots__}
    return MetricPoint(**fields | {"exemplars": known[-_MOST_EXEMPLARS:]})


def _resource() -> Resource:
    """Return what the program would say of itself had it been configured without a word on its name."""
    return Resource(
        {
            "service.instance.id": str(uuid.uuid4()),
            "service.name": "unknown_service:test",
            "telemetry.distro.name": "rsketch-telemetry",
            "telemetry.distro.version": __version__,
            "telemetry.sdk.language": "python",
            "telemetry.sdk.name": "opentelemetry",
            "telemetry.sdk.version": version("opentelemetry-sdk"),
        }
    )
