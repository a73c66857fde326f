"""
The contract behind the OTLP receiver: what it hands on, and what a handler may answer.

Tests, checks, fault modes and displays are handlers. A handler never sees a socket, a compressed body or JSON: it gets
a decoded request and says whether it was taken.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

import grpc
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2

from rsketch_telemetry.signal import Signal

__all__ = [
    "Answer",
    "Export",
    "Handler",
    "PartialSuccess",
    "Refusal",
    "Request",
    "Response",
    "ask",
    "create_request",
    "create_response",
    "service",
]

_log = logging.getLogger(__name__)

Request: TypeAlias = (
    trace_service_pb2.ExportTraceServiceRequest
    | metrics_service_pb2.ExportMetricsServiceRequest
    | logs_service_pb2.ExportLogsServiceRequest
)
Response: TypeAlias = (
    trace_service_pb2.ExportTraceServiceResponse
    | metrics_service_pb2.ExportMetricsServiceResponse
    | logs_service_pb2.ExportLogsServiceResponse
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """
    One request as it arrived.

    Attributes:
        request: The decoded message; its type follows from `signal`.
        protocol: `grpc`, `http/protobuf` or `http/json`.
        headers: Request headers or gRPC metadata by lower-case name; binary metadata is left out. May hold credentials.
    """

    signal: Signal
    request: Request
    protocol: str
    headers: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class PartialSuccess:
    """
    The request was taken but for some items, which the sender must not send again.

    Attributes:
        rejected: Number of spans, data points or log records not taken; 0 with a message is a warning.
        message: Why, for people.
    """

    rejected: int
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """
    Nothing of the request was taken.

    Attributes:
        code: The gRPC status; over HTTP it becomes the status that OTLP pairs with it.
        message: Why, for people.
        retry_after_seconds: When to come again: `RetryInfo` in the status, over HTTP also `Retry-After`; None for
            no such hint.
        http_status: Answered over HTTP in place of the one that belongs to `code`.
    """

    code: grpc.StatusCode
    message: str = ""
    retry_after_seconds: float | None = None
    http_status: int | None = None


Answer: TypeAlias = PartialSuccess | Refusal | None
"""None says that everything was taken."""


class Handler(Protocol):
    """Whatever stands behind the receiver."""

    def handle(self, export: Export, /) -> Awaitable[Answer]:
        """
        Take one request and say what became of it.

        It runs on the receiver's event loop, several at a time. The sender waits for the answer, so a slow handler is
        a slow collector. What it raises is answered as INTERNAL or 500 without its text, and logged.
        """
        ...


async def ask(handler: Handler, export: Export) -> Answer:
    """Return what *handler* answers to *export*, and INTERNAL where it raises."""
    try:
        return await handler.handle(export)
    except Exception:  # noqa: BLE001 - whatever a handler does, the sender gets an answer
        _log.exception("the OTLP handler failed on %s", export.signal.value)
        return Refusal(code=grpc.StatusCode.INTERNAL, message="the handler failed")


def service(signal: Signal) -> str:
    """Return the full name of the gRPC service that takes *signal*."""
    return _SERVICES[signal]


def create_request(signal: Signal) -> Request:
    """Return an empty request message of *signal*."""
    return _REQUESTS[signal]()


def create_response(signal: Signal, partial: PartialSuccess | None) -> Response:
    """Return the response for a request that was taken; without *partial* it says that all of it was."""
    response = _RESPONSES[signal]()
    if partial is not None:
        setattr(response.partial_success, _REJECTED[signal], partial.rejected)
        response.partial_success.error_message = partial.message
    return response


_SERVICES = {
    Signal.TRACES: trace_service_pb2.DESCRIPTOR.services_by_name["TraceService"].full_name,
    Signal.METRICS: metrics_service_pb2.DESCRIPTOR.services_by_name["MetricsService"].full_name,
    Signal.LOGS: logs_service_pb2.DESCRIPTOR.services_by_name["LogsService"].full_name,
}
_REQUESTS: Mapping[Signal, Callable[[], Request]] = {
    Signal.TRACES: trace_service_pb2.ExportTraceServiceRequest,
    Signal.METRICS: metrics_service_pb2.ExportMetricsServiceRequest,
    Signal.LOGS: logs_service_pb2.ExportLogsServiceRequest,
}
_RESPONSES: Mapping[Signal, Callable[[], Response]] = {
    Signal.TRACES: trace_service_pb2.ExportTraceServiceResponse,
    Signal.METRICS: metrics_service_pb2.ExportMetricsServiceResponse,
    Signal.LOGS: logs_service_pb2.ExportLogsServiceResponse,
}
_REJECTED = {
    Signal.TRACES: "rejected_spans",
    Signal.METRICS: "rejected_data_points",
    Signal.LOGS: "rejected_log_records",
}
