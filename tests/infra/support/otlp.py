"""Exports of one item over OTLP/gRPC, sent once, for tests that must know what the answer was."""

import secrets
import time

import grpc
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from rsketch_telemetry.otlp.handler import Request, create_request, service
from rsketch_telemetry.signal import Signal

__all__ = ["ITEM", "attempt", "one_item", "one_span"]

ITEM = "order"
"""The name of what is sent."""
_SECONDS = 10.0
_SIGNALS = {type(create_request(signal)): signal for signal in Signal}


def attempt(address: str, request: Request) -> grpc.StatusCode:
    """Send a request to `host:port` and return the answer; OK says that it is acknowledged."""
    method = f"/{service(_SIGNALS[type(request)])}/Export"
    with grpc.insecure_channel(address) as channel:
        try:
            channel.unary_unary(method, request_serializer=type(request).SerializeToString)(request, timeout=_SECONDS)
        except grpc.RpcError as error:
            return error.code()
    return grpc.StatusCode.OK


def one_span(trace_id: str) -> ExportTraceServiceRequest:
    """Return an export of one span of a trace."""
    request = ExportTraceServiceRequest()
    sender = request.resource_spans.add()
    sender.resource.attributes.add(key="service.name").value.string_value = "shop"
    now = time.time_ns()
    sender.scope_spans.add().spans.add(
        trace_id=bytes.fromhex(trace_id),
        span_id=secrets.token_bytes(8),
        name=ITEM,
        start_time_unix_nano=now - 1_000_000,
        end_time_unix_nano=now,
    )
    return request


def one_item(signal: Signal) -> Request:
    """Return an export of one span, data point or log record."""
    match request := create_request(signal):
        case ExportTraceServiceRequest():
            return one_span(secrets.token_hex(16))
        case ExportMetricsServiceRequest():
            metric = request.resource_metrics.add().scope_metrics.add().metrics.add(name=ITEM)
            metric.gauge.data_points.add(as_int=1, time_unix_nano=time.time_ns())
        case ExportLogsServiceRequest():
            record = request.resource_logs.add().scope_logs.add().log_records.add(time_unix_nano=time.time_ns())
            record.body.string_value = ITEM
    return request
