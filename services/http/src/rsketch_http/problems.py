"""
What a caller is told when something goes wrong: any exception becomes one problem document (RFC 9457).

Pure rules. The text of a foreign exception never reaches a caller; that of the gRPC service does where the status says
that the caller is at fault, because it then names what to mend.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import grpc
from sanic.exceptions import SanicException

from rsketch_http.errors import RefusedError

__all__ = ["CONTENT_TYPE", "GRPC_STATUSES", "Problem", "from_exception", "title"]

CONTENT_TYPE = "application/problem+json"

GRPC_STATUSES: Mapping[grpc.StatusCode, int] = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    # Not 499: a caller of ours that has left gets no answer at all, so it was the upstream that gave the call up.
    grpc.StatusCode.CANCELLED: 503,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}
"""HTTP statuses of gRPC statuses; those that are missing are 500."""

_CLIENT_CLOSED_REQUEST = 499

# The names of RFC 9110, which Python has only from 3.13 on, and the one that the RFC does not know.
_TITLES: Mapping[int, str] = {
    413: "Content Too Large",
    422: "Unprocessable Content",
    _CLIENT_CLOSED_REQUEST: "Client Closed Request",
}

_DETAILS: Mapping[int, str] = {
    400: "The request is malformed.",
    401: "Credentials are missing or not valid.",
    403: "This is not allowed.",
    404: "There is nothing at this path.",
    405: "This method is not supported here; the Allow header lists those that are.",
    408: "The request did not arrive in time.",
    409: "The request conflicts with the present state.",
    413: "The request is larger than this service accepts.",
    415: "The body must be application/json.",
    417: "The Expect header asks for something that is not supported.",
    429: "There are too many requests.",
    _CLIENT_CLOSED_REQUEST: "The request was cancelled.",
    500: "Something went wrong here; it has been logged.",
    501: "The greeting service does not support this.",
    503: "The service cannot answer now.",
    504: "The greeting service did not answer in time.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """
    One problem.

    Attributes:
        status: HTTP status, 400 to 599.
        detail: What happened, for people.
        fields: What is wrong with each named part of the input.
        headers: Response headers that belong to it, such as Allow.
        unexpected: Whether it is a fault of ours that belongs into the log.
    """

    status: int
    detail: str
    fields: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    unexpected: bool = False

    def document(self, *, instance: str | None, trace_id: str | None) -> dict[str, Any]:
        """Return the members of the problem document; those that are empty are left out."""
        return {
            "type": "about:blank",
            "title": title(self.status),
            "status": self.status,
            "detail": self.detail,
            **({"instance": instance} if instance else {}),
            **({"trace_id": trace_id} if trace_id else {}),
            **({"fields": dict(self.fields)} if self.fields else {}),
        }


def title(status: int) -> str:
    """Return the name of an HTTP status."""
    return _TITLES.get(status) or HTTPStatus(status).phrase


def from_exception(exception: BaseException) -> Problem:
    """Return the problem that a caller sees for *exception*."""
    match exception:
        case RefusedError():
            return Problem(status=exception.status, detail=exception.detail, fields=exception.fields)
        case grpc.aio.AioRpcError():
            return _from_rpc(exception)
        case SanicException():
            return _from_sanic(exception)
        case asyncio.CancelledError():
            return _plain(_CLIENT_CLOSED_REQUEST)
        case _:
            return _plain(500, unexpected=True)


def _plain(status: int, *, headers: Mapping[str, str] | None = None, unexpected: bool = False) -> Problem:
    detail = _DETAILS.get(status) or f"{title(status)}."
    return Problem(status=status, detail=detail, headers=headers or {}, unexpected=unexpected)


def _from_rpc(error: grpc.aio.AioRpcError) -> Problem:
    status = GRPC_STATUSES.get(error.code(), 500)
    if status == 500:
        return Problem(status=status, detail="The greeting service failed.")
    told = error.details() if 400 <= status < 500 else None
    return Problem(status=status, detail=told) if told else _plain(status)


def _from_sanic(exception: SanicException) -> Problem:
    # Header values are str or int there; a 5xx of Sanic other than its own timeouts is a bug in a handler.
    headers = {name: str(value) for name, value in (exception.headers or {}).items()}
    status = exception.status_code or 500
    return _plain(status, headers=headers, unexpected=status == 500)
