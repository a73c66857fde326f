"""
OTLP as JSON in files: one request a line out, one or many in. Pure.

It is what the Collector's file exporter writes: each line is an object with `resourceSpans`, `resourceLogs` or
`resourceMetrics` (https://opentelemetry.io/docs/specs/otel/protocol/file-exporter/).
"""

import base64
import json
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, Final

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from rsketch_telemetry.otlp import body
from rsketch_telemetry.otlp.receiver import Export, Request, Signal

from rsketch_dashboard.errors import QueryError

__all__ = ["IMPORTED", "MOST_BYTES", "as_json", "count", "line", "read"]

IMPORTED = "import"
"""The protocol of what comes from a file: whoever imports one a second time means it."""
MOST_BYTES = 64 * 1024 * 1024
"""Of a file, as it is sent and once it is decompressed."""
_GZIP = zlib.MAX_WBITS | 16
_IDS = frozenset({"traceId", "spanId", "parentSpanId"})
_SIGNALS: Final[Mapping[str, Signal]] = {
    "resourceSpans": Signal.TRACES,
    "resourceLogs": Signal.LOGS,
    "resourceMetrics": Signal.METRICS,
}


def as_json(request: Message) -> dict[str, Any]:
    """Return a request as OTLP's JSON: numbers for enumerations, and ids in hexadecimal where protobuf has base64."""
    fields = MessageToDict(request, use_integers_for_enums=True)
    waiting: list[Any] = [fields]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            for key in _IDS & node.keys():
                node[key] = base64.b64decode(node[key]).hex()
            waiting += node.values()
        elif isinstance(node, list):
            waiting += node
    return fields


def line(request: Message) -> bytes:
    """Return a request as one line of JSON."""
    return json.dumps(as_json(request), ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def count(request: Request) -> int:
    """Return how many spans, log records or points are in a request."""
    match request:
        case ExportTraceServiceRequest():
            return sum(len(each.spans) for of in request.resource_spans for each in of.scope_spans)
        case ExportLogsServiceRequest():
            return sum(len(each.log_records) for of in request.resource_logs for each in of.scope_logs)
        case ExportMetricsServiceRequest():
            metrics = (
                metric for of in request.resource_metrics for each in of.scope_metrics for metric in each.metrics
            )
            return sum(len(getattr(metric, metric.WhichOneof("data") or "gauge").data_points) for metric in metrics)


def read(sent: bytes, content_encoding: str) -> list[Export]:
    """
    Return what is in a file: one object, spread over lines or not, or one object a line.

    Everything is read before anything is returned, so that nothing of a malformed file is stored.

    Raises:
        QueryError: It is malformed, or too large; the message names the line.
    """
    plain = _decompressed(sent, content_encoding.strip().lower())
    try:
        json.loads(plain)
    except (ValueError, RecursionError):
        lines = enumerate(plain.split(b"\n"), 1)
        return [export for number, text in lines if text.strip() for export in _exports(text, f"line {number}")]
    return list(_exports(plain, "the body"))


def _exports(text: bytes, where: str) -> Iterator[Export]:
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        raise QueryError(f"{where}: accepts OTLP as JSON, an object a line") from None
    found = [signal for key, signal in _SIGNALS.items() if isinstance(fields, dict) and key in fields]
    if not found:
        raise QueryError(f"{where}: accepts an object with {', '.join(_SIGNALS)}")
    for signal in found:
        try:
            request = body.decode(signal, body.JSON, "", text, limit_bytes=MOST_BYTES)
        except (body.MalformedBodyError, body.OversizedBodyError):
            raise QueryError(f"{where}: its {signal.value} are not those of OTLP's JSON") from None
        yield Export(signal=signal, request=request, protocol=IMPORTED, headers={})


def _decompressed(sent: bytes, encoding: str) -> bytes:
    if encoding not in ("", "identity", "gzip"):
        raise QueryError("content-encoding: accepts gzip and identity")
    # Files are often compressed already, and sent without saying so.
    if encoding == "gzip" or sent.startswith(b"\x1f\x8b"):
        member = zlib.decompressobj(_GZIP)
        try:
            plain = member.decompress(sent, MOST_BYTES + 1)
        except zlib.error:
            raise QueryError("the body is not gzip") from None
        if len(plain) <= MOST_BYTES and (not member.eof or member.unused_data):
            raise QueryError("the body is not one whole gzip member")
    else:
        plain = sent
    if len(plain) > MOST_BYTES:
        raise QueryError(f"the body: accepts at most {MOST_BYTES // 2**20} MB; send it in parts")
    return plain
