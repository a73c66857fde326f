"""
The facts of one call: plain, bounded, redacted values, and their mapping to semantic-convention attributes.

An instrumentor states facts; a recorder turns them into telemetry. Only the functions here know which fact goes into
which attribute, so that every recorder says the same.
"""

import re
from base64 import b64encode
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

from rsketch_telemetry import semconv
from rsketch_telemetry.redaction import REDACTED, clean, names_secret, redact_query, scrub

__all__ = [
    "Attributes",
    "HttpCaller",
    "HttpKind",
    "HttpOutcome",
    "HttpRequest",
    "Peer",
    "RpcCall",
    "RpcOutcome",
    "captured",
    "clean_path",
    "error_name",
    "host_and_port",
    "http_caller",
    "http_kind",
    "http_peer",
    "http_request",
    "rpc_method",
]

Attributes = dict[str, str | int | tuple[str, ...]]

_HOST = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.%]+)\]|(?P<name>[A-Za-z0-9._~-]+))(?::(?P<port>\d{1,5}))?")
_DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}
_MAX_HEADER_LENGTH = 512
_MAX_HEADER_VALUES = 16
_RPC_METHOD = re.compile(r"/?(?P<full>[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+)")


@dataclass(frozen=True, slots=True, eq=False)
class HttpKind:
    """
    What makes HTTP requests alike before they end.

    Told apart by identity, as `HttpCaller` and `Peer` are: whoever states facts keeps those that repeat, and a recorder
    keeps what it has made of them.

    Attributes:
        method: One of the known methods, or `_OTHER`.
        method_original: The method as sent, where it is not a known one.
        protocol_version: `1.1`, `2`, …
    """

    method: str
    scheme: str
    protocol_version: str | None = None
    method_original: str | None = None

    def attributes(self) -> Attributes:
        """Return the span attributes."""
        return _present(
            {
                semconv.HTTP_REQUEST_METHOD: self.method,
                semconv.HTTP_REQUEST_METHOD_ORIGINAL: self.method_original,
                semconv.URL_SCHEME: self.scheme,
                semconv.NETWORK_PROTOCOL_VERSION: self.protocol_version,
            }
        )

    def metric_attributes(self) -> Attributes:
        """Return the attributes of `http.server.request.duration` that the request alone decides."""
        return _present(
            {
                semconv.HTTP_REQUEST_METHOD: self.method,
                semconv.URL_SCHEME: self.scheme,
                semconv.NETWORK_PROTOCOL_VERSION: self.protocol_version,
            }
        )

    def span_name(self, route: str | None = None) -> str:
        """Return `{method} {route}`, or the method alone without a route; `HTTP` stands for an unknown method."""
        method = "HTTP" if self.method == semconv.OTHER else self.method
        return f"{method} {route}" if route else method


@dataclass(frozen=True, slots=True, eq=False)
class HttpCaller:
    """
    What a client says of itself and of whom it asks.

    Attributes:
        server_address: The host that it asked for.
    """

    server_address: str | None = None
    server_port: int | None = None
    user_agent: str | None = None

    def attributes(self) -> Attributes:
        """Return the span attributes."""
        return _present(
            {
                semconv.SERVER_ADDRESS: self.server_address,
                semconv.SERVER_PORT: self.server_port,
                semconv.USER_AGENT_ORIGINAL: self.user_agent,
            }
        )


@dataclass(frozen=True, slots=True, eq=False)
class Peer:
    """
    The other end of a connection.

    Attributes:
        client_address: The HTTP client, as the server trusts it (forwarded headers only from trusted proxies).
    """

    address: str | None = None
    port: int | None = None
    client_address: str | None = None

    def attributes(self) -> Attributes:
        """Return the span attributes."""
        return _present(
            {
                semconv.CLIENT_ADDRESS: self.client_address,
                semconv.NETWORK_PEER_ADDRESS: self.address,
                semconv.NETWORK_PEER_PORT: self.port,
            }
        )


class HttpRequest(NamedTuple):
    """
    What is known of an HTTP request before it is routed.

    Attributes:
        path: Bounded, without its query.
        query: Already redacted; None without one.
        headers: Attributes of captured request headers, see `captured`; on the span alone.
        waited_seconds: How long ago its first byte came.
    """

    kind: HttpKind
    path: str
    caller: HttpCaller
    peer: Peer
    query: str | None = None
    headers: Attributes | None = None
    waited_seconds: float = 0.0

    def attributes(self) -> Attributes:
        """Return the span attributes known at creation, which samplers see."""
        target = _present({semconv.URL_PATH: self.path, semconv.URL_QUERY: self.query})
        said = self.caller.attributes() | self.peer.attributes()
        return (self.headers or {}) | self.kind.attributes() | target | said


@dataclass(slots=True, kw_only=True, eq=False)
class HttpOutcome:
    """
    How an HTTP request ended.

    Attributes:
        kept: Whether the same object is given again for other requests that end in the same way.
        status_code: What was sent, or None where nothing was.
        route: The template that matched, such as `/users/<id:int>`; None where none did.
        error_type: Where the response was not sent whole (client gone, exception mid-stream): a low-cardinality name.
            None otherwise: a 5xx then names itself.
        exception: What the handler raised and did not handle.
        headers: Attributes of captured response headers, see `captured`; on the span alone.
    """

    status_code: int | None
    route: str | None = None
    error_type: str | None = None
    exception: BaseException | None = None
    headers: Attributes | None = None
    kept: bool = False

    @property
    def error(self) -> str | None:
        """The value of `error.type`: the given one, the exception's for a 5xx, else the 5xx status code; or None."""
        if self.error_type is not None:
            return self.error_type
        if self.status_code is None or self.status_code < 500:
            return None
        return error_name(self.exception) if self.exception is not None else str(self.status_code)

    def without_exception(self) -> "HttpOutcome":
        """Return the same, without the exception and the frames that it refers to."""
        return replace(self, exception=None, error_type=self.error)

    def attributes(self) -> Attributes:
        """Return the attributes, the same on span and metric, that the end decides."""
        return _present(
            {
                semconv.HTTP_RESPONSE_STATUS_CODE: self.status_code,
                semconv.HTTP_ROUTE: self.route,
                semconv.ERROR_TYPE: self.error,
            }
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RpcCall:
    """
    What is known of an RPC when it starts.

    Attributes:
        method: `package.Service/Method`, or `_OTHER` for one that the server does not know.
        method_original: The method as sent, where *method* is `_OTHER`.
        server_address: Client side only: the logical host (or socket path) from the channel's target.
        metadata: Attributes of captured request metadata, see `captured`; on the span alone.
    """

    method: str
    method_original: str | None = None
    server_address: str | None = None
    server_port: int | None = None
    metadata: Attributes | None = None

    def attributes(self) -> Attributes:
        """Return the span attributes known at creation, which samplers see."""
        original = _present({semconv.RPC_METHOD_ORIGINAL: self.method_original})
        return (self.metadata or {}) | self.metric_attributes() | original

    def metric_attributes(self) -> Attributes:
        """Return the attributes of the duration histogram that the call alone decides."""
        return _present(
            {
                semconv.RPC_SYSTEM_NAME: semconv.RPC_SYSTEM_GRPC,
                semconv.RPC_METHOD: self.method,
                semconv.SERVER_ADDRESS: self.server_address,
                semconv.SERVER_PORT: self.server_port,
            }
        )

    def span_name(self) -> str:
        """Return the fully qualified method, or `grpc` for an unknown one."""
        return semconv.RPC_SYSTEM_GRPC if self.method == semconv.OTHER else self.method


@dataclass(slots=True, kw_only=True, eq=False)
class RpcOutcome:
    """
    How an RPC ended.

    Attributes:
        status_code: The gRPC status that went over the wire, by name: `OK`, `DEADLINE_EXCEEDED`, …
        exception: What the handler raised and did not turn into a status itself; on the client, the call's error.
        peer: The other end of the connection, which gRPC tells only while the call is served.
        metadata: Attributes of captured response metadata and trailers, see `captured`; on the span alone.
        kept: Whether the object comes again, as that of other RPCs.
    """

    status_code: str
    exception: BaseException | None = None
    peer: Peer | None = None
    metadata: Attributes | None = None
    kept: bool = False

    def without_exception(self) -> "RpcOutcome":
        """Return the same, without the exception and the frames that it refers to."""
        return replace(self, exception=None)

    def attributes(self, *, server: bool) -> Attributes:
        """Return the attributes, the same on span and metric, that the end decides."""
        return _present({semconv.RPC_STATUS_CODE: self.status_code, semconv.ERROR_TYPE: self.error(server=server)})

    def span_attributes(self) -> Attributes:
        """Return what the end adds to the span alone."""
        peer = self.peer.attributes() if self.peer is not None else {}
        return (self.metadata or {}) | peer

    def error(self, *, server: bool) -> str | None:
        """Return the value of `error.type`: the status, where it is an error for this side; else None."""
        failed = self.status_code in semconv.RPC_SERVER_ERRORS if server else self.status_code != "OK"
        return self.status_code if failed else None


def http_request(
    *,
    method: str,
    scheme: str,
    path: str,
    query: str = "",
    protocol_version: str | None = None,
    host: str | None = None,
    client_address: str | None = None,
    peer: tuple[str, int] | None = None,
    user_agent: str | None = None,
    headers: Attributes | None = None,
    waited_seconds: float = 0.0,
    known_methods: Collection[str] = semconv.HTTP_METHODS,
    allowed_query_keys: Collection[str] = (),
) -> HttpRequest:
    """
    Make facts of what a client sent, bounded and redacted.

    Args:
        host: The Host header; a malformed one yields no `server.*`.
        query: Without its question mark.
        peer: Address and port of the connection's other end.
        headers: What `captured` made of the request headers.
        waited_seconds: How long ago its first byte came.
    """
    return HttpRequest(
        kind=http_kind(method, scheme, protocol_version, known_methods),
        path=clean_path(path),
        caller=http_caller(host, scheme, user_agent),
        peer=http_peer(peer, client_address),
        query=redact_query(query, allowed_query_keys) if query else None,
        headers=headers,
        waited_seconds=waited_seconds,
    )


def http_kind(
    method: str, scheme: str, protocol_version: str | None, known_methods: Collection[str] = semconv.HTTP_METHODS
) -> HttpKind:
    """Return the kind of a request; the method is as it was sent."""
    if method in known_methods:
        return HttpKind(method, scheme, protocol_version)
    return HttpKind(semconv.OTHER, scheme, protocol_version, clean(method, 64))


def http_caller(host: str | None, scheme: str, user_agent: str | None) -> HttpCaller:
    """Return what the headers Host and User-Agent say."""
    address, port = host_and_port(host, scheme)
    return HttpCaller(address, port, clean(user_agent, 256) if user_agent else None)


def http_peer(peer: tuple[str, int] | None, client_address: str | None) -> Peer:
    """Return the facts of a connection's other end and of the client, where that is known to be another."""
    address, port = peer or (None, None)
    return Peer(address, port, clean(client_address, 256) if client_address else None)


def clean_path(path: str) -> str:
    """Return a path that may be recorded."""
    # Whatever took a query for a part of the path: its values must not get out that way.
    return clean(path.partition("?")[0] if "?" in path else path)


def captured(
    prefix: str,
    pairs: Iterable[tuple[str, str | bytes]],
    wanted: Collection[str],
    masked: Collection[re.Pattern[str]] = (),
) -> Attributes:
    """
    Return headers or metadata as span attributes, such as `{"http.request.header.x-shop": ("a", "b")}`.

    Args:
        prefix: One of the prefixes in `semconv`.
        pairs: All names and values as sent, a name once for each value. Bytes become base64, cut to 384 of them.
        wanted: The names to keep, in lower case.
        masked: Names whose values are replaced, beside those that promise a credential.
    """
    kept: dict[str, list[str | bytes]] = {}
    for given, value in pairs:
        name = given.lower()
        if name in wanted:
            kept.setdefault(name, []).append(value)
    return {prefix + name: _header_values(name, values, masked) for name, values in kept.items()}


def _header_values(name: str, values: list[str | bytes], masked: Collection[re.Pattern[str]]) -> tuple[str, ...]:
    if names_secret(name) or any(pattern.fullmatch(name) for pattern in masked):
        return (REDACTED,)
    return tuple(_header_value(value) for value in values[:_MAX_HEADER_VALUES])


def _header_value(value: str | bytes) -> str:
    if isinstance(value, bytes):
        # Cut before, so that what is left can be decoded: four characters stand for three bytes.
        return b64encode(value[: _MAX_HEADER_LENGTH // 4 * 3]).decode("ascii")
    return scrub(value, _MAX_HEADER_LENGTH)


def host_and_port(host: str | None, scheme: str) -> tuple[str | None, int | None]:
    """
    Split a Host header such as `shop.example:8080` or `[::1]:99`.

    Returns:
        Address without brackets and port (the scheme's own where none is named); (None, None) for a malformed header.
    """
    found = _HOST.fullmatch(host[:300]) if host else None
    if not found:
        return None, None
    port = int(found["port"]) if found["port"] else _DEFAULT_PORTS.get(scheme)
    if port is not None and port > 65535:
        return None, None
    return (found["v6"] or found["name"]).lower(), port


def rpc_method(path: str) -> tuple[str, str | None]:
    """
    Return `rpc.method` and `rpc.method_original` for a gRPC path such as `/pkg.Service/Method`.

    A path that is no method name gives `_OTHER` and the path, cut.
    """
    found = _RPC_METHOD.fullmatch(path[:300])
    return (found["full"], None) if found else (semconv.OTHER, clean(path, 256))


def error_name(error: BaseException) -> str:
    """Return the qualified class name of an exception, without `builtins.`, as `error.type` wants it."""
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _present(values: dict[str, str | int | None]) -> Attributes:
    return {name: value for name, value in values.items() if value is not None}
