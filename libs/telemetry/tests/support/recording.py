"""
Providers that keep what they get in memory, for tests of whatever records with them.

They are the SDK's own. With `Recording.made_by = "lean"`, which `pytest --recorder=lean` sets, they are those that the
library makes where the lean recorder serves: what leaves by the pipeline is decoded then, and put into the SDK's forms.

What a test records is checked against the telemetry contract when its recording is closed, so a whole run of the tests
emits nothing that the checker rejects. A test whose telemetry is wrong on purpose says so: `Recording.exempt`.
"""

import asyncio
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Generic, Literal, TypeVar

from left import Finished, Left
from opentelemetry._logs import LogRecord
from opentelemetry.context import Context
from opentelemetry.instrumentation.instrumentor import BaseInstrumentor  # type: ignore[attr-defined] # it is untyped
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader, Metric
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import DEFAULT_ON, Decision, Sampler, SamplingResult
from opentelemetry.trace import Link, SpanKind, TraceState
from opentelemetry.util.types import Attributes
from rsketch_telemetry.conformance import Allowances, Violation, check
from rsketch_telemetry.instrumentor_settings import InstrumentorSettings
from rsketch_telemetry.otlp.encode import log_item, metric_items, resource_message, span_item
from rsketch_telemetry.otlp.frame import Item, Run, frame
from rsketch_telemetry.otlp.model import (
    LogRecord as ModelLogRecord,
)
from rsketch_telemetry.otlp.model import (
    MetricPoint,
    Span,
    decode_logs,
    decode_metrics,
    decode_traces,
)
from rsketch_telemetry.recorder import Recorder
from rsketch_telemetry.recorders import create_recorder

__all__ = ["Instrumented", "Recording", "attributes", "checked", "rejected", "seconds_of", "until"]

OURS = ("rsketch_telemetry.", "rsketch-telemetry")
"""Scopes, and the resource's distribution, whose telemetry must keep to the contract; a test may make other spans."""

_unchecked: list["Recording"] = []

T = TypeVar("T", bound=BaseInstrumentor)


class Recording:
    """Providers of one test, and what they have seen; checked when it is closed."""

    made_by: ClassVar[Literal["sdk", "lean"]] = "sdk"

    def __init__(self) -> None:
        self._exempt: dict[str, str] = {}
        self._allowed = Allowances()
        _unchecked.append(self)
        self._kept: _Sdk | Left = _Sdk() if self.made_by == "sdk" else Left()
        self.spans = self._kept.spans
        self.logs = InMemoryLogRecordExporter()  # type: ignore[no-untyped-call] # the SDK's
        self.tracer_provider = self._kept.tracers
        self.meter_provider = self._kept.meters
        self.logger_provider = self._kept.loggers
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

    def create_recorder(self, settings: InstrumentorSettings | None = None) -> Recorder:
        """Return what an instrumentor of these providers records with."""
        return create_recorder("rsketch_telemetry.test", **self.providers, settings=settings)

    def close(self) -> None:
        """Shut the providers down, and fail the test where it recorded what the contract does not allow."""
        if self not in _unchecked:
            return
        _unchecked.remove(self)
        self.collected()
        self.tracer_provider.shutdown()
        self.meter_provider.shutdown()
        self.logger_provider.shutdown()
        said = "\n".join(sorted({str(violation) for violation in self.violations()}))
        assert not said, f"this test recorded telemetry that the contract does not allow:\n{said}"

    def exempt(self, reason: str, *rules: str) -> None:
        """
        Leave out some rules, for telemetry that is wrong on purpose.

        Args:
            reason: Why it is; for the reader of the test.
            rules: Ids of the rules; none leaves out all of them.
        """
        assert reason, "a test that is not checked says why"
        self._exempt |= dict.fromkeys(rules or ("*",), reason)

    def allow(self, *, methods: Sequence[str] = (), query_keys: Sequence[str] = ()) -> None:
        """Say what the settings under test allow beside the default."""
        self._allowed = Allowances(
            methods=self._allowed.methods | set(methods), query_keys=self._allowed.query_keys | set(query_keys)
        )

    def violations(self) -> list[Violation]:
        """Return what is wrong with what was recorded until the last collection."""
        if "*" in self._exempt:
            return []
        found = check(
            self.decoded_spans(),
            self.decoded_points(),
            self.decoded_logs(),
            allowed=self._allowed,
            complete=self._kept.complete,
        )
        return [violation for violation in rejected(found) if violation.rule not in self._exempt]

    def decoded_spans(self) -> list[Span]:
        """Return the spans as a receiver of OTLP sees them."""
        return decode_traces(ExportTraceServiceRequest.FromString(self._framed(self._kept.span_items())))

    def decoded_points(self) -> list[MetricPoint]:
        """Return the points of all collections so far."""
        return decode_metrics(ExportMetricsServiceRequest.FromString(self._framed(self._kept.metric_items)))

    def decoded_logs(self) -> list[ModelLogRecord]:
        """Return the log records likewise."""
        body = self._framed([log_item(record) for record in self.logs.get_finished_logs()])
        return decode_logs(ExportLogsServiceRequest.FromString(body))

    def _framed(self, items: Sequence[Item | Run]) -> bytes:
        resource = self.tracer_provider.resource
        return frame(resource_message(resource), resource.schema_url, items) if items else b""

    def ended(self, kind: SpanKind) -> list[ReadableSpan]:
        """Return the spans of one kind that have ended."""
        return [span for span in self.spans.get_finished_spans() if span.kind is kind]

    def collected(self) -> list[Metric]:
        """Collect, and return the metrics; an exemplar is in the first collection after it only."""
        return self._kept.collect()

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
        effective = settings or InstrumentorSettings.from_env(os.environ)
        self.allow(methods=sorted(effective.known_methods), query_keys=sorted(effective.allowed_query_keys))
        self.instrumentor.instrument(**self.providers, settings=settings)

    def close(self) -> None:
        """Undo it, and shut the providers down."""
        if self.instrumentor.is_instrumented_by_opentelemetry:
            self.instrumentor.uninstrument()
        super().close()


class _Sdk:
    """
    The SDK's providers.

    Attributes:
        metric_items: The metrics of all collections so far, encoded.
    """

    def __init__(self) -> None:
        self._sampler = _Noting()
        self._reader = InMemoryMetricReader()
        self.metric_items: list[Item | Run] = []
        self.spans: Finished = InMemorySpanExporter()
        self.tracers = TracerProvider(sampler=self._sampler, shutdown_on_exit=False)
        self.tracers.add_span_processor(SimpleSpanProcessor(self.spans))
        self.meters = MeterProvider([self._reader], shutdown_on_exit=False)
        self.loggers = LoggerProvider(shutdown_on_exit=False)

    @property
    def complete(self) -> bool:
        """Whether there is a span for each call that is measured."""
        return not self._sampler.dropped

    def span_items(self) -> list[Item | Run]:
        """Return the spans that have ended, encoded."""
        return [span_item(span) for span in self.spans.get_finished_spans()]

    def collect(self) -> list[Metric]:
        """Collect."""
        data = self._reader.get_metrics_data()
        if data is None:
            return []
        self.metric_items += metric_items(data)
        return [metric for each in data.resource_metrics for scope in each.scope_metrics for metric in scope.metrics]


class _Noting(Sampler):
    """The SDK's default sampler, and whether it dropped a span: then metrics count more calls than there are spans."""

    def __init__(self) -> None:
        self.dropped = False

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        """Decide as the SDK does by default."""
        result = DEFAULT_ON.should_sample(parent_context, trace_id, name, kind, attributes, links, trace_state)
        self.dropped = self.dropped or result.decision is Decision.DROP
        return result

    def get_description(self) -> str:
        """Return a name."""
        return "the default, noted"


def rejected(found: Sequence[Violation]) -> list[Violation]:
    """Return the violations that fail a test: ours, and more than advice."""
    return [violation for violation in found if violation.scope.startswith(OURS) and not violation.advice]


@contextmanager
def checked() -> Iterator[None]:
    """Close whatever was recorded meanwhile and left open, so that it is checked all the same."""
    before = list(_unchecked)
    yield
    for recording in [each for each in _unchecked if each not in before]:
        recording.close()


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
