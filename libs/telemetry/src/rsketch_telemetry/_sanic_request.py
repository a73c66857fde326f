"""
What a Sanic request says, as facts.

Reads only: Sanic's own properties for scheme, client and forwarded headers cache what they return, and a middleware
that changes the headers afterwards would then see the old values.
"""

from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from opentelemetry.context import Context
from opentelemetry.propagators.textmap import Getter
from sanic.compat import Header
from sanic.config import Config
from sanic.exceptions import MethodNotAllowed
from sanic.headers import parse_forwarded, parse_xforwarded
from sanic.models.server_types import ConnInfo
from sanic.request import Request
from sanic.response import BaseHTTPResponse
from sanic_routing.exceptions import NoMethod, NotFound

from rsketch_telemetry import facts, semconv
from rsketch_telemetry.facts import HttpRequest
from rsketch_telemetry.instrumentor_settings import InstrumentorSettings

__all__ = [
    "Extract",
    "facts_of",
    "http_request",
    "nameless",
    "other_methods_route",
    "parent_context",
    "path",
    "response_headers",
    "route",
]

Extract = Callable[[Header, Context, Getter[Header]], Context]
"""The global propagator's `extract`."""

_SCHEMES = {"http": "http", "https": "https", "ws": "http", "wss": "https"}


def http_request(request: Request, settings: InstrumentorSettings, waited_seconds: float = 0.0) -> HttpRequest:
    """Return the facts of a request that is not routed yet, and whose first byte came *waited_seconds* ago."""
    return facts_of(
        method=request.method,
        path=path(request),
        query=_raw_url(request)[1],
        version=request.version,
        headers=request.headers,
        connection=request.conn_info,
        # Sanic does not learn of TLS from an ASGI server; its scope says it.
        scope=getattr(request.transport, "scope", None),
        config=request.app.config,
        settings=settings,
        waited_seconds=waited_seconds,
    )


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
    return replace(request, method=semconv.OTHER, method_original=None)


def response_headers(response: BaseHTTPResponse, settings: InstrumentorSettings) -> facts.Attributes:
    """Return the captured headers of a response that was sent."""
    return _captured(semconv.HTTP_RESPONSE_HEADER, response.headers, settings.response_headers, settings)


def parent_context(headers: Header, extract: Extract) -> Context:
    """Return the caller's context; an empty one without, whatever span was current where the server was started."""
    return extract(headers, Context(), _HEADERS)


def path(request: Request) -> str:
    """Return the path as Sanic routes it, also where Sanic's own property raises."""
    try:
        return request.path
    except (AttributeError, UnicodeDecodeError):
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


def _forwarded(headers: Header, config: Config) -> Mapping[str, Any]:
    """Return what a proxy says, if the application's configuration trusts one."""
    if not (config.FORWARDED_SECRET or config.REAL_IP_HEADER or config.PROXIES_COUNT):
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


class _HeaderGetter(Getter[Header]):
    """
    Joins the lines of a header that came more than once: propagators look at the first value only.

    Bytes outside ASCII come as surrogates, on which a propagator may fail: each is replaced.
    """

    def get(self, carrier: Header, key: str) -> list[str] | None:
        lines = carrier.getall(key, None)
        return [",".join(lines).encode("ascii", "replace").decode("ascii")] if lines else None

    def keys(self, carrier: Header) -> list[str]:
        return list(carrier)


_HEADERS = _HeaderGetter()
