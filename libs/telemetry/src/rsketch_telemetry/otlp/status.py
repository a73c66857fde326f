"""
Refusals as OTLP sends them: `google.rpc.Status`, and the HTTP status that goes with it.

Pure. Which statuses ask a sender to come again is in https://opentelemetry.io/docs/specs/otlp/#failures.
"""

import math

import grpc
from google.rpc.error_details_pb2 import RetryInfo  # type: ignore[import-untyped]  # the package has no marker
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]  # likewise

from rsketch_telemetry.otlp.handler import Refusal

__all__ = ["DETAILS", "create_status", "http_status", "retry_after"]

DETAILS = "grpc-status-details-bin"
"""Trailing metadata in which gRPC carries a serialised `Status`."""

_HTTP = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.CANCELLED: 499,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}


def create_status(refusal: Refusal) -> Status:
    """Return the `Status` of a refusal, with `RetryInfo` among its details where it says when to come again."""
    status = Status(code=refusal.code.value[0], message=refusal.message)
    if refusal.retry_after_seconds is not None:
        info = RetryInfo()
        info.retry_delay.FromNanoseconds(round(refusal.retry_after_seconds * 1e9))
        status.details.add().Pack(info)
    return status


def http_status(refusal: Refusal) -> int:
    """Return the HTTP status of a refusal: its own, else the one that belongs to its code, else 500."""
    return refusal.http_status or _HTTP.get(refusal.code, 500)


def retry_after(refusal: Refusal) -> dict[str, str]:
    """Return the `Retry-After` header of a refusal, in whole seconds and never early; nothing where it has no hint."""
    if refusal.retry_after_seconds is None:
        return {}
    return {"retry-after": str(math.ceil(refusal.retry_after_seconds))}
