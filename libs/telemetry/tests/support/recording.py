"""Providers that keep what they get in memory, for tests of whatever records with them."""

import asyncio
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from opentelemetry._logs import LogRecord
from opentelemetry.instrumentation.instrumentor import BaseInstrumentor  # type: ignore[attr-defined] # it is untyped
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader, Metric
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind
from rsketch_telemetry.instrumentor_settings import InstrumentorSettings

__all__ = ["Instrumented", "Recording", "attributes", "seconds_of", "until"]

T = TypeVar("T", bound=BaseInstrumentor)


class Recording:
    """Providers of one test, and what they have seen."""

    def __init__(self) -> None:
        self.spans = InMemorySpanExporter()
        self.logs = InMemoryLogRecordExporter()  # type: ignore[no-untyped-call] # the SDK's
        self._reader = InMemoryMetricReader()
        self.tracer_provider = TracerProvider(shutdown_on_exit=False)
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self.spans))
        self.meter_provider = MeterProvider([self._reader], shutdown_on_exit=False)
        self.logger_provider = LoggerProvider(shutdown_on_exit=False)
        self.logger_provider.add_log_record_processor(SimpleLogRecordProcessor(self.logs))
        self.tracer = self.tracer_provider.get_tracer("test")

    @property
    def providers(self) -> dict[str, Any]:
        """The providers, by the names of the arguments that take them."""
        return {
            "tracer_provider": self.tracer_provider,
            "meter_provider": self.meter_provider,
            "logger_provider": self.logger_provider,
        }

    def close(self) -> None:
        """Shut the providers down."""
        self.tracer_provider.shutdown()
        self.meter_provider.shutdown()
        self.logger_provider.shutdown()

    def ended(self, kind: SpanKind) -> list[ReadableSpan]:
        """Return the spans of one kind that have ended."""
        return [span for span in self.spans.get_finished_spans() if span.kind is kind]

    def collected(self) -> list[Metric]:
        """Collect, and return the metrics; an exemplar is in the first collection after it only."""
        data = self._reader.get_metrics_data()
        resources = data.resource_metrics if data is not None else ()
        return [metric for resource in resources for scope in resource.scope_metrics for metric in scope.metrics]

    def histogram(self, name: str) -> list[HistogramDataPoint]:
        """Collect, and return the points of the histogram *name*."""
        points = [point for metric in self.collected() if metric.name == name for point in metric.data.data_points]
        return [point for point in points if isinstance(point, HistogramDataPoint)]

    def records(self) -> list[LogRecord]:
        """Return the log records."""
        return [entry.log_record for entry in self.logs.get_finished_logs()]


class Instrumented(Recording, Generic[T]):
    """Providers that an instrumentor records with."""

    def __init__(self, instrumentor: T) -> None:
        super().__init__()
        self.instrumentor = instrumentor

    def instrument(self, settings: InstrumentorSettings | None = None) -> None:
        """Instrument with these providers, until `close()` at the latest."""
        self.instrumentor.instrument(**self.providers, settings=settings)

    def close(self) -> None:
        """Undo it, and shut the providers down."""
        if self.instrumentor.is_instrumented_by_opentelemetry:
            self.instrumentor.uninstrument()
        super().close()


def attributes(of: Any) -> dict[str, Any]:
    """Return the attributes of a span, a point or a log record as a dict."""
    return dict(of.attributes or {})


def seconds_of(span: ReadableSpan) -> float:
    """Return how long a span that has ended took."""
    assert span.start_time is not None
    assert span.end_time is not None
    return (span.end_time - span.start_time) / 1e9


async def until(condition: Callable[[], object]) -> None:
    """Wait until *condition* holds, at most ten seconds."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.002)
