"""The outcomes of requests that went well, each made once: most requests end as many others did."""

from typing import Any

from sanic.http import Http
from sanic.http.constants import Stage
from sanic.request import Request
from sanic.response import BaseHTTPResponse

from rsketch_telemetry import _sanic_request
from rsketch_telemetry.facts import Attributes, HttpOutcome
from rsketch_telemetry.instrumentor_settings import InstrumentorSettings

__all__ = ["Answers"]

# An enumeration takes a while to find its members.
_HANDLER = Stage.HANDLER
_MAX_KEPT = 4096
"""Statuses of routes; an application may have any number of either."""


class Answers:
    """The outcomes of one application's server."""

    def __init__(self, settings: InstrumentorSettings) -> None:
        self._settings = settings
        self._captures = bool(settings.response_headers)
        self._kept: dict[tuple[Any, str | None], HttpOutcome] = {}

    def plain(self, request: Request, stream: Any) -> HttpOutcome | None:
        """
        Return the outcome of a request that nothing is to be said of but its status and route.

        Returns:
            None where the response is not there or not all gone yet, its headers are captured, or no server of Sanic's
            has sent it.
        """
        if type(stream) is not Http or self._captures or not stream.protocol._can_write.is_set():
            return None
        response = stream.response
        if response is None or stream.stage is _HANDLER:
            return None
        route = request.route
        end = response.status, route.path if route is not None else None
        return self._kept.get(end) or self._new(response, request, end)

    def headers(self, response: BaseHTTPResponse) -> Attributes | None:
        """Return the captured headers of a response that was sent."""
        return _sanic_request.response_headers(response, self._settings) if self._captures else None

    def _new(self, response: BaseHTTPResponse, request: Request, end: tuple[Any, str | None]) -> HttpOutcome:
        if len(self._kept) >= _MAX_KEPT:
            self._kept.clear()
        # A 5xx that a handler returns is an error as well; its status says so.
        outcome = HttpOutcome(status_code=int(response.status), route=_sanic_request.route(request), kept=True)
        self._kept[end] = outcome
        return outcome
