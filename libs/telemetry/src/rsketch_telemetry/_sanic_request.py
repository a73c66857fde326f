"""
What a Sanic request says, as facts.

Reads only: Sanic's own properties for scheme, client and forwarded headers cache what they return, and a middleware
that changes the headers afterwards would then see the old values.
"""

from collections.abc import Collection, Mapping
from contextlib import suppress
from time import monotonic
from typing import Any

from multidict import istr
from sanic.compat import Header
from sanic.config import Config
from sanic.exceptions import MethodNotAllowed
from sanic.headers import parse_forwarded, parse_xforwarded
from sanic.http import Http
from sanic.models.server_types import ConnInfo
from sanic.request import Request
from sanic.response import BaseHTTPResponse
from sanic_routing.exceptions import NoMethod, NotFound

from rsketch_telemetry import facts, semconv
from rsketch_telemetry._sanic_arrival import Arrivals
from rsketch_telemetry.facts import HttpCaller, HttpKind, HttpRequest
from rsketch_telemetry.instrumentor_settings import InstrumentorSettings
from rsketch_telemetry.redaction import redact_query

__all__ = [
    "RequestReader",
    "facts_of",
    "nameless",
    "other_methods_route",
    "path_as_sent",
    "response_headers",
    "route",
]

_Said = tuple[str, str, str | None, str | None]
"""Method, protocol version, and the headers Host and User-Agent."""

_SCHEMES = {"http": "http", "https": "https", "ws": "http", "wss": "https"}


class RequestReader:
    """
    Reads the facts of requests that are not routed yet.

    Most of them repeat from request to request, so those are kept: a recorder knows again what is the same object.
    """

    def __init__(self, settings: InstrumentorSettings, arrivals: Arrivals) -> None:
        self._settings = settings
        self._arrivals = arrivals
        self._captures = bool(settings.request_headers)
        self._kinds: dict[tuple[str, str, str], HttpKind] = {}
        self._callers: dict[tuple[str | None, str | None, str], HttpCaller] = {}

    def read(self, request: Request, path: str, stream: Any) -> HttpRequest:
        """
        Return the facts of a request.

        Args:
            path: As Sanic routes it.
            stream: Of the request.
        """
        try:
            connection: _Connection = request.conn_info.ctx.rsketch_telemetry  # type: ignore[union-attr]
        except AttributeError:
            connection = _Connection(request, self)
        if connection.reader is not self:
            # Of other settings, from before.
            connection = _Connection(request, self)
        if connection.forwarded:
            return self._read_anew(request, path, self._arrivals.waited_seconds(stream))
        headers = request.headers
        # Not `headers.get`: a class with `__getattr__`, as Sanic's is, is slow to find its own methods.
        said = (request.method, request.version, _first(headers, _HOST), _first(headers, _USER_AGENT))
        if said != connection.said:
            # Most often those of the request before on this connection.
            connection.said, connection.kind, connection.caller = said, *self._look_up(said, connection.scheme)
        # Not `in`, which first makes an error of bytes that are no integer.
        query = self._query(request) if request.raw_url.find(b"?") >= 0 else None
        captured = self._captured(headers) if self._captures else None
        if len(path) > _MAX_PLAIN or not path.isascii() or "?" in path:
            path = facts.clean_path(path)
        if self._arrivals.began or type(stream) is not Http:
            waited_seconds = self._arrivals.waited_seconds(stream)
        else:
            # As above, for almost all there are.
            waited_seconds = monotonic() - stream.protocol._time
        # Not by its class, which takes twice as long.
        said_all = (connection.kind, path, connection.caller, connection.peer, query, captured, waited_seconds)
        return _tuple(HttpRequest, said_all)

    def _read_anew(self, request: Request, path: str, waited_seconds: float) -> HttpRequest:
        return facts_of(
            method=request.method,
            path=path,
            query=_raw_url(request)[1],
            version=request.version,
            headers=request.headers,
            connection=request.conn_info,
            scope=_scope(request),
            config=request.app.config,
            settings=self._settings,
            waited_seconds=waited_seconds,
        )

    def _look_up(self, said: _Said, scheme: str) -> tuple[HttpKind, HttpCaller]:
        method, version, host, user_agent = said
        kind = self._kinds.get((method, version, scheme)) or self._kind(method, version, scheme)
        return kind, self._callers.get((host, user_agent, scheme)) or self._caller(host, user_agent, scheme)

    def _kind(self, method: str, version: str, scheme: str) -> HttpKind:
        kind = facts.http_kind(method, scheme, version, self._settings.known_methods)
        # Methods may be invented without end.
        if kind.method_original is None and len(self._kinds) < _MAX_KINDS:
            self._kinds[method, version, scheme] = kind
        return kind

    def _caller(self, host: str | None, user_agent: str | None, scheme: str) -> HttpCaller:
        caller = facts.http_caller(host, scheme, user_agent)
        if len(host or "") + len(user_agent or "") <= _MAX_KEPT_LENGTH:
            if len(self._callers) >= _MAX_CALLERS:
                self._callers.clear()
            self._callers[host, user_agent, scheme] = caller
        return caller

    def _query(self, request: Request) -> str | None:
        query = _raw_url(request)[1]
        return redact_query(query, self._settings.allowed_query_keys) if query else None

    def _captured(self, headers: Header) -> facts.Attributes:
        return _captured(semconv.HTTP_REQUEST_HEADER, headers, self._settings.request_headers, self._settings)


class _Connection:
    """
    What the requests of a connection have in common; kept with it, for a look at what the one before said.

    Attributes:
        reader: Who has made it.
        forwarded: They have nothing in common: a proxy is trusted to send those of others through it.
        said: By the request before; *kind* and *caller* are made of that.
    """

    __slots__ = ("caller", "forwarded", "kind", "peer", "reader", "said", "scheme")

    kind: HttpKind
    caller: HttpCaller

    def __init__(self, request: Request, reader: RequestReader) -> None:
        self.reader = reader
        info = request.conn_info
        address = (info.client_ip or None) if info is not None else None
        self.forwarded = _trusts_a_proxy(request.app.config)
        self.scheme = _scheme({}, _scope(request), info)
        self.peer = facts.http_peer((address, info.client_port) if address and info else None, address)
        self.said: _Said | None = None
        if info is not None:
            info.ctx.rsketch_telemetry = self


_first = Header.get
_tuple = tuple.__new__
_HOST, _USER_AGENT = istr("host"), istr("user-agent")
_MAX_PLAIN = 256
"""A path of ASCII that is no longer is fine as it is."""
_MAX_KINDS = 100
_MAX_CALLERS = 1024
_MAX_KEPT_LENGTH = 512


def facts_of(
    *,
    method: str,
    path: str,
    query: str,
    version: str | None,
    headers: Header,
    connection: ConnInfo | None,
    scope: Mapping[str, Any] | None,
    config: Config,
    settings: InstrumentorSettings,
    waited_seconds: float,
) -> HttpRequest:
    """
    Return the facts of what a client sent.

    Args:
        scope: The ASGI server's; None under Sanic's own.
    """
    forwarded = _forwarded(headers, config)
    peer = (connection.client_ip, connection.client_port) if connection and connection.client_ip else None
    return facts.http_request(
        method=method,
        scheme=_scheme(forwarded, scope, connection),
        path=path,
        query=query,
        protocol_version=version,
        host=forwarded.get("host") or headers.getone("host", None),
        client_address=forwarded.get("for", "").strip("[]") or (peer[0] if peer else None),
        peer=peer,
        user_agent=headers.getone("user-agent", None),
        headers=_captured(semconv.HTTP_REQUEST_HEADER, headers, settings.request_headers, settings),
        waited_seconds=waited_seconds,
        known_methods=settings.known_methods,
        allowed_query_keys=settings.allowed_query_keys,
    )


def nameless(request: HttpRequest) -> HttpRequest:
    """Return the facts of a request that has no method, not even an unknown one."""
    kind = HttpKind(semconv.OTHER, request.kind.scheme, request.kind.protocol_version)
    return request._replace(kind=kind)


def response_headers(response: BaseHTTPResponse, settings: InstrumentorSettings) -> facts.Attributes:
    """Return the captured headers of a response that was sent."""
    return _captured(semconv.HTTP_RESPONSE_HEADER, response.headers, settings.response_headers, settings)


def path_as_sent(request: Request) -> str:
    """Return the path where Sanic's own property raises."""
    return _raw_url(request)[0]


def route(request: Request) -> str | None:
    """Return the template that matched, such as `/users/<id:int>`; None where none did."""
    return f"/{request.route.path}" if request.route is not None else None


def other_methods_route(request: Request, error: MethodNotAllowed) -> str | None:
    """Return the template that matches the path of a 405, which Sanic leaves without a route."""
    host = request.headers.getone("host", None)
    for method in sorted(error.allowed_methods or ()):
        # Not `router.get`: it would put what a client asks for into Sanic's cache of routes.
        with suppress(NoMethod, NotFound):
            found, _, _ = request.app.router.resolve(
                path=request.path, method=method, extra={"host": host} if host else None
            )
            return f"/{found.path}"
    return None


def _raw_url(request: Request) -> tuple[str, str]:
    """Return path and query as sent."""
    path, _, query = request.raw_url.partition(b"?")
    return path.decode("utf-8", "replace"), query.partition(b"#")[0].decode("utf-8", "replace")


def _scheme(forwarded: Mapping[str, Any], scope: Mapping[str, Any] | None, connection: ConnInfo | None) -> str:
    """Return `http` or `https`: a client must not be able to invent values of a metric attribute."""
    if forwarded.get("proto") in _SCHEMES:
        return _SCHEMES[forwarded["proto"]]
    if scope is not None:
        return _SCHEMES.get(scope.get("scheme", ""), "http")
    return "https" if connection is not None and connection.ssl else "http"


def _trusts_a_proxy(config: Config) -> bool:
    return bool(config.FORWARDED_SECRET or config.REAL_IP_HEADER or config.PROXIES_COUNT)


def _scope(request: Request) -> Mapping[str, Any] | None:
    """Return an ASGI server's scope; Sanic does not learn of TLS from it."""
    return getattr(request.transport, "scope", None)


def _forwarded(headers: Header, config: Config) -> Mapping[str, Any]:
    """Return what a proxy says, if the application's configuration trusts one."""
    if not _trusts_a_proxy(config):
        return {}
    return parse_forwarded(headers, config) or parse_xforwarded(headers, config) or {}


def _captured(
    prefix: str, headers: Header, wanted: Collection[str], settings: InstrumentorSettings
) -> facts.Attributes:
    if not wanted:
        return {}
    # An application may have set a number or a cookie, which Sanic turns into text when it sends it.
    pairs = ((name, str(value)) for name, value in headers.items())
    return facts.captured(prefix, pairs, wanted, settings.masked_headers)
