"""
The semantic-convention names that rsketch-telemetry emits: one table, version 1.45.0.

The installed `opentelemetry-semantic-conventions` lags behind the published conventions, so the names stand here.
See https://opentelemetry.io/docs/specs/semconv/http/ and https://opentelemetry.io/docs/specs/semconv/rpc/.
"""

from typing import Final

SCHEMA_URL: Final = "https://opentelemetry.io/schemas/1.45.0"

DURATION_UNIT: Final = "s"
DURATION_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)

OTHER: Final = "_OTHER"
"""What an unknown method is called where its own name would be unbounded."""

ERROR_TYPE: Final = "error.type"
EXCEPTION_MESSAGE: Final = "exception.message"
EXCEPTION_STACKTRACE: Final = "exception.stacktrace"
EXCEPTION_TYPE: Final = "exception.type"

CLIENT_ADDRESS: Final = "client.address"
NETWORK_PEER_ADDRESS: Final = "network.peer.address"
NETWORK_PEER_PORT: Final = "network.peer.port"
NETWORK_PROTOCOL_VERSION: Final = "network.protocol.version"
SERVER_ADDRESS: Final = "server.address"
SERVER_PORT: Final = "server.port"
USER_AGENT_ORIGINAL: Final = "user_agent.original"

HTTP_REQUEST_HEADER: Final = "http.request.header."
HTTP_RESPONSE_HEADER: Final = "http.response.header."
"""Prefixes: the lower-case name of a header follows."""
HTTP_REQUEST_METHOD: Final = "http.request.method"
HTTP_REQUEST_METHOD_ORIGINAL: Final = "http.request.method_original"
HTTP_RESPONSE_STATUS_CODE: Final = "http.response.status_code"
HTTP_ROUTE: Final = "http.route"
URL_PATH: Final = "url.path"
URL_QUERY: Final = "url.query"
URL_SCHEME: Final = "url.scheme"

RPC_REQUEST_HEADER: Final = "rpc.request.header."
RPC_RESPONSE_HEADER: Final = "rpc.response.header."
RPC_RESPONSE_TRAILER: Final = "rpc.response.trailer."
"""Prefixes: the name of a metadata entry follows."""
RPC_METHOD: Final = "rpc.method"
RPC_METHOD_ORIGINAL: Final = "rpc.method_original"
RPC_STATUS_CODE: Final = "rpc.status_code"
RPC_SYSTEM_NAME: Final = "rpc.system.name"
RPC_SYSTEM_GRPC: Final = "grpc"

HTTP_SERVER_DURATION: Final = "http.server.request.duration"
RPC_CLIENT_DURATION: Final = "rpc.client.call.duration"
RPC_SERVER_DURATION: Final = "rpc.server.call.duration"

HTTP_ACTIVE_REQUESTS: Final = "http.server.active_requests"
RSKETCH_RPC_CALLS: Final = "rsketch.rpc.server.active_calls"
RSKETCH_WEBSOCKETS: Final = "rsketch.http.server.websockets"

EXCEPTION_EVENT: Final = "exception"
HTTP_SERVER_EXCEPTION: Final = "http.server.request.exception"
RPC_CLIENT_EXCEPTION: Final = "rpc.client.call.exception"
RPC_SERVER_EXCEPTION: Final = "rpc.server.call.exception"

HTTP_METHODS: Final = frozenset(
    {"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"}
)
"""The methods of RFC 9110, PATCH (RFC 5789) and QUERY; `OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS` replaces them."""

RPC_SERVER_ERRORS: Final = frozenset(
    {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
)
"""The gRPC statuses that are an error of the server; the others are the caller's."""
