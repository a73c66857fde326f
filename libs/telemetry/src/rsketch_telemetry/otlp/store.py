"""A handler that keeps everything it receives in memory, decoded, and lets a test wait for what must arrive."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable
from typing import TypeVar

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from rsketch_telemetry.otlp.handler import Export
from rsketch_telemetry.otlp.model import (
    LogRecord,
    MetricPoint,
    Span,
    decode_logs,
    decode_metrics,
    decode_traces,
)

__all__ = ["NotArrivedError", "TelemetryStore"]

_Found = TypeVar("_Found")
_SHOWN = 40


class NotArrivedError(AssertionError):
    """What was waited for did not arrive in time; the message lists what did."""


class TelemetryStore:
    """
    Everything that was received so far, in order of arrival. It grows without limit: for tests.

    Attributes:
        spans: Decoded spans.
        points: Decoded metric points; of a cumulative metric one for each export.
        logs: Decoded log records.
    """

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.points: list[MetricPoint] = []
        self.logs: list[LogRecord] = []
        self._arrived = asyncio.Condition()

    async def handle(self, export: Export) -> None:
        """Keep the items of one request."""
        match export.request:
            case ExportTraceServiceRequest() as traces:
                self.spans += decode_traces(traces)
            case ExportMetricsServiceRequest() as metrics:
                self.points += decode_metrics(metrics)
            case ExportLogsServiceRequest() as logs:
                self.logs += decode_logs(logs)
        async with self._arrived:
            self._arrived.notify_all()

    async def wait_for(self, predicate: Callable[["TelemetryStore"], _Found], seconds: float = 10.0) -> _Found:
        """
        Return what *predicate* returns as soon as that is true.

        It is asked at once and again after each request that arrives.

        Raises:
            NotArrivedError: It was still not true after *seconds*.
        """
        try:
            async with asyncio.timeout(seconds), self._arrived:
                while not (found := predicate(self)):
                    await self._arrived.wait()
                return found
        except TimeoutError:
            raise NotArrivedError(f"not arrived within {seconds:g} s; what did arrive:\n{self.summary()}") from None

    def summary(self) -> str:
        """Return a few lines on what arrived: each kind of item with its count."""
        return "\n".join(
            _section(title, items)
            for title, items in (
                ("spans", (f"{span.kind} {span.name!r} {span.status}" for span in self.spans)),
                ("points", (f"{point.name} [{point.unit}] {point.type}" for point in self.points)),
                ("logs", (f"{log.severity_text} {str(log.event_name or log.body)[:100]!r}" for log in self.logs)),
            )
        )


def _section(title: str, items: Iterable[str]) -> str:
    counted = Counter(items).most_common()
    lines = [f"  {count} x {item}" for item, count in counted[:_SHOWN]]
    more = [f"  and {len(counted) - _SHOWN} more kinds"] if len(counted) > _SHOWN else []
    return "\n".join([f"{title}: {'none' if not lines else ''}".rstrip(), *lines, *more])
