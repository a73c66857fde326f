"""
What a Sanic request says, as facts.

Reads only: Sanic's own properties for scheme, client and forwarded headers cache what they return, and a middleware
that changes the headers afterwards would then see the old values.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from opentelemetry.context import Context
from opentelemetry.propagators.textmap import Getter
from sanic.compat import Header
from sanic.exceptions import MethodNotAllowed
from sanic.headers import parse_forwarded, parse_xforwarded
from sanic.request import Request
from sanic_routing.exceptions import NoMethod, NotFound

from rsketch_telemetry import facts
from rsketch_telemetry.facts import HttpRequest
from rsketch_telemetry.instrumentor_settings import InstrumentorSettings

__all__ = ["Extract", "http_request", "other_methods_route", "parent_context", "path", "route"]

Extract = Callable[[Header, Context, Getter[Header]], Context]
"""The global propagator's `extract`."""

_SCHEMES = {"http": "http", "https": "https", "ws": "http", "wss": "https"}


def http_request(request: Request, settings: InstrumentorSettings) -> HttpRequest:
    """Return the facts of a request that is not routed yet."""
    headers, forwarded = request.headers, _forwarded(request)
    connection = request.conn_info
    peer = (connection.client_ip, connection.client_port) if connection and connection.client_ip else None
    return facts.http_request(
        method=request.method,
        scheme=_scheme(request, forwarded),
        path=path(request),
        query=_raw_url(request)[1],
        protocol_version=request.version,
        host=forwarded.get("host") or headers.getone("host", None),
        client_address=forwarded.get("for", "").strip("[]") or (peer[0] if peer else None),
        peer=peer,
        user_agent=headers.getone("user-agent", None),
        known_methods=settings.known_methods,
        allowed_query_keys=settings.allowed_query_keys,
    )


def parent_context(request: Request, extract: Extract) -> Context:
    """Return the caller's context; an empty one without, whatever span was current where the server was started."""
    return extract(request.headers, Context(), _HEADERS)


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


def _scheme(request: Request, forwarded: Mapping[str, Any]) -> str:
    """Return `http` or `https`: a client must not be able to invent values of a metric attribute."""
    if forwarded.get("proto") in _SCHEMES:
        return _SCHEMES[forwarded["proto"]]
    # Sanic does not learn of TLS from an ASGI server; its scope says it.
    scope = getattr(request.transport, "scope", None)
    if scope is not None:
        return _SCHEMES.get(scope.get("scheme"), "http")
    return "https" if request.conn_info is not None and request.conn_info.ssl else "http"


def _forwarded(request: Request) -> Mapping[str, Any]:
    """Return what a proxy says, if the application's configuration trusts one."""
    config = request.app.config
    if not (config.FORWARDED_SECRET or config.REAL_IP_HEADER or config.PROXIES_COUNT):
        return {}
    return parse_forwarded(request.headers, config) or parse_xforwarded(request.headers, config) or {}


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
