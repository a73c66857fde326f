"""
Who may talk to the HTTP port: programs of this machine, and pages that this server has sent.

A page from elsewhere can make a browser send requests to loopback, and by DNS rebinding even read the answers. Both
give themselves away: by an `Origin` that is not ours, or by a `Host` that is no name of loopback. Pure but for the app.
"""

from collections.abc import Mapping

from rsketch_telemetry.otlp.receiver import App
from sanic import HTTPResponse, Request
from sanic.response import BaseHTTPResponse, json

__all__ = ["HEADERS", "allowed", "guard"]

HEADERS: Mapping[str, str] = {
    "content-security-policy": (
        "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})


def allowed(host: str | None, origin: str | None) -> bool:
    """
    Return whether a request with these headers may be answered.

    Args:
        host: The `Host` header, with its port; None where there is none: browsers always send it, and a request whose
            head could not be read has none.
        origin: The `Origin` header, None where there is none: programs send none, nor do browsers with their own GETs.
    """
    if host is None:
        return origin is None
    name, _, port = host.rpartition(":") if host.rpartition(":")[2].isdigit() else (host, "", "")
    if name.lower() not in _LOOPBACK:
        return False
    # Another server on loopback is another origin: it may serve what a stranger wrote.
    return origin is None or origin.lower() in {
        f"http://{each}:{port}" if port else f"http://{each}" for each in _LOOPBACK
    }


def guard(app: App) -> None:
    """Refuse what is not allowed, and send the headers that keep a page to itself."""

    async def check(request: Request) -> HTTPResponse | None:
        if allowed(request.headers.get("host"), request.headers.get("origin")):
            return None
        return json({"error": "this server answers requests of its own page and of programs on this machine"}, 403)

    async def protect(_: Request, response: BaseHTTPResponse) -> None:
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)

    app.register_middleware(check, "request")
    app.register_middleware(protect, "response")
