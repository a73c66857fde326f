"""Health and readiness endpoints; none of them reveals more than it must."""

from datetime import UTC, datetime
from importlib.metadata import version

from sanic import HTTPResponse, Request
from sanic.response import json as json_response
from sanic.response import text

from rsketch_http.problems import Problem
from rsketch_http.readiness import Readiness
from rsketch_http.responses import problem_response

__all__ = ["HealthApi"]

_NO_STORE = {"cache-control": "no-store"}


class HealthApi:
    """
    Handlers of the health endpoints.

    Args:
        readiness: What `/readyz` answers.
        with_version: Whether health answers carry the version of this distribution.
    """

    def __init__(self, readiness: Readiness, *, with_version: bool) -> None:
        self._readiness = readiness
        self._version = {"version": version("rsketch-http")} if with_version else {}

    async def health_text(self, request: Request) -> HTTPResponse:
        """Answer `OK`."""
        return text("OK", headers=_NO_STORE)

    async def health(self, request: Request) -> HTTPResponse:
        """Answer with status, service and time."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        body = {"status": "ok", "service": "rsketch-http", "timestamp": now, **self._version}
        return json_response(body, headers=_NO_STORE)

    async def health_v1(self, request: Request) -> HTTPResponse:
        """Answer as `health` does; a route of its own in traces."""
        return await self.health(request)

    async def livez(self, request: Request) -> HTTPResponse:
        """Answer as long as the event loop turns."""
        return json_response({"status": "ok"}, headers=_NO_STORE)

    async def readyz(self, request: Request) -> HTTPResponse:
        """Answer whether this process should be sent requests now."""
        reason = await self._readiness.reason()
        if reason is None:
            return json_response({"status": "ready"}, headers=_NO_STORE)
        return problem_response(request, Problem(status=503, detail=f"Not ready: {reason}.", headers=_NO_STORE))
