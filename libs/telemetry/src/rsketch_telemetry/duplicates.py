"""
The names of older conventions, beside the current ones, while dashboards and alerts are moved over.

Only for `OTEL_SEMCONV_STABILITY_OPT_IN=http/dup,rpc/dup`. The old names are those of semantic conventions 1.20, which
the instrumentors of others still write by default. `rpc.method` keeps its new meaning: one name cannot have both.
See https://opentelemetry.io/docs/specs/semconv/non-normative/http-migration/.
"""

from typing import Final

from rsketch_telemetry import semconv
from rsketch_telemetry.facts import Attributes

__all__ = ["OLD_BUCKETS_MS", "OLD_METRICS", "old_http", "old_rpc"]

OLD_METRICS: Final = {
    semconv.HTTP_SERVER_DURATION: "http.server.duration",
    semconv.RPC_CLIENT_DURATION: "rpc.client.duration",
    semconv.RPC_SERVER_DURATION: "rpc.server.duration",
}
"""Histograms in milliseconds, by the current one's name."""
OLD_BUCKETS_MS: Final = (0.0, 5.0, 10.0, 25.0, 50.0, 75.0, 100.0, 250.0, 500.0, 750.0, 1e3, 2.5e3, 5e3, 7.5e3, 1e4)

_HTTP = {
    semconv.HTTP_REQUEST_METHOD: "http.method",
    semconv.HTTP_RESPONSE_STATUS_CODE: "http.status_code",
    semconv.HTTP_ROUTE: "http.route",
    semconv.NETWORK_PEER_ADDRESS: "net.peer.ip",
    semconv.NETWORK_PEER_PORT: "net.peer.port",
    semconv.NETWORK_PROTOCOL_VERSION: "http.flavor",
    semconv.URL_SCHEME: "http.scheme",
    semconv.USER_AGENT_ORIGINAL: "http.user_agent",
}
_RPC = {
    semconv.NETWORK_PEER_ADDRESS: "net.peer.ip",
    semconv.NETWORK_PEER_PORT: "net.peer.port",
    semconv.RPC_SYSTEM_NAME: "rpc.system",
    semconv.SERVER_ADDRESS: "net.peer.name",
    semconv.SERVER_PORT: "net.peer.port",
}
_GRPC_NUMBERS = {
    name: number
    for number, name in enumerate(
        (
            "OK",
            "CANCELLED",
            "UNKNOWN",
            "INVALID_ARGUMENT",
            "DEADLINE_EXCEEDED",
            "NOT_FOUND",
            "ALREADY_EXISTS",
            "PERMISSION_DENIED",
            "RESOURCE_EXHAUSTED",
            "FAILED_PRECONDITION",
            "ABORTED",
            "OUT_OF_RANGE",
            "UNIMPLEMENTED",
            "INTERNAL",
            "UNAVAILABLE",
            "DATA_LOSS",
            "UNAUTHENTICATED",
        )
    )
}


def old_http(attributes: Attributes) -> Attributes:
    """Return the old names of an HTTP request's *attributes*, whichever of them there are."""
    old: Attributes = {_HTTP[name]: value for name, value in attributes.items() if name in _HTTP}
    if semconv.URL_PATH in attributes:
        query = attributes.get(semconv.URL_QUERY)
        old["http.target"] = f"{attributes[semconv.URL_PATH]}?{query}" if query else attributes[semconv.URL_PATH]
    if semconv.SERVER_ADDRESS in attributes:
        port = attributes.get(semconv.SERVER_PORT)
        old["http.host"] = (
            f"{attributes[semconv.SERVER_ADDRESS]}:{port}" if port else attributes[semconv.SERVER_ADDRESS]
        )
    return old


def old_rpc(attributes: Attributes) -> Attributes:
    """Return the old names of an RPC's *attributes*, whichever of them there are."""
    old: Attributes = {_RPC[name]: value for name, value in attributes.items() if name in _RPC}
    method = attributes.get(semconv.RPC_METHOD)
    if isinstance(method, str) and "/" in method:
        old["rpc.service"] = method.partition("/")[0]
    status = attributes.get(semconv.RPC_STATUS_CODE)
    if isinstance(status, str) and status in _GRPC_NUMBERS:
        old["rpc.grpc.status_code"] = _GRPC_NUMBERS[status]
    return old
