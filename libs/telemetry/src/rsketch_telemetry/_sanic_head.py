"""
What can be told of a request whose head Sanic refuses, for which there never is a request of Sanic's.

Only what was read for certain counts. A line that is no request line may be anything, a password or another protocol's
greeting, so nothing of it is kept.
"""

import re
from typing import NamedTuple

from sanic.compat import Header
from sanic.http import Http

from rsketch_telemetry import _sanic_request
from rsketch_telemetry.facts import HttpRequest
from rsketch_telemetry.instrumentor_settings import InstrumentorSettings

__all__ = ["Head", "http_request", "read"]

_MAX_HEAD = 16 * 1024
_MAX_TARGET = 1024
_METHOD = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}")
_TARGET = re.compile(
    r"(?:[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*)?(?P<path>[/*][^?#]*|)(?:\?(?P<query>[^#]*))?(?:#.*)?", re.DOTALL
)
_VERSIONS = {"HTTP/1.0": "1.0", "HTTP/1.1": "1.1"}


class Head(NamedTuple):
    """
    The readable part of a head.

    Attributes:
        method: Empty where there is none.
        path: Empty where there is none.
        query: Without its question mark.
    """

    method: str
    path: str
    query: str
    version: str | None
    headers: Header


def read(received: bytes | bytearray) -> Head:
    """Read what came of a head: all of it, or what a slow or boundless client has sent so far."""
    raw, end, _ = bytes(received[:_MAX_HEAD]).partition(b"\r\n\r\n")
    line, *lines = raw.decode(errors="surrogateescape").split("\r\n")
    whole_line = bool(lines or end)
    if lines and not end:
        # Cut in the middle: half a host is another host.
        lines.pop()
    return Head(*_request_line(line, whole=whole_line), _headers(lines))


def http_request(head: Head, stream: Http, settings: InstrumentorSettings, waited_seconds: float) -> HttpRequest:
    """Return the facts of a request of which only its *head* is known, received on the connection of *stream*."""
    request = _sanic_request.facts_of(
        method=head.method,
        path=head.path,
        query=head.query,
        version=head.version,
        headers=head.headers,
        connection=stream.protocol.conn_info,
        scope=None,
        config=stream.protocol.app.config,
        settings=settings,
        waited_seconds=waited_seconds,
    )
    return request if head.method else _sanic_request.nameless(request)


def _request_line(line: str, *, whole: bool) -> tuple[str, str, str, str | None]:
    method, _, rest = line.partition(" ")
    target, space, version = rest.partition(" ")
    found = _TARGET.fullmatch(target)
    if not rest or not found or not _METHOD.fullmatch(method):
        return "", "", "", None
    if not (whole or space or len(target) > _MAX_TARGET):
        # The rest of the target has not come.
        return method, "", "", None
    return method, found["path"], found["query"] or "", _VERSIONS.get(version)


def _headers(lines: list[str]) -> Header:
    pairs = (line.partition(":") for line in lines)
    return Header([(name.lower(), value.strip()) for name, colon, value in pairs if colon and _METHOD.fullmatch(name)])
