"""The JSON API of the page: each path asks one query, with the parameters in the query string."""

import time
from collections.abc import Callable, Coroutine
from typing import Any

import duckdb
from rsketch_telemetry.otlp.receiver import App
from sanic import HTTPResponse, Request
from sanic.response import json

from rsketch_dashboard.errors import DashboardError, NotFoundError, QueryError
from rsketch_dashboard.live import Live
from rsketch_dashboard.queries import logs, overview, services, trace, traces
from rsketch_dashboard.queries.desk import Desk
from rsketch_dashboard.queries.parameters import Parameters

__all__ = ["add_api"]

_Handler = Callable[..., Coroutine[Any, Any, HTTPResponse | None]]
_Connection = duckdb.DuckDBPyConnection

_FRESH = {"cache-control": "no-store"}


def add_api(app: App, desk: Desk, live: Live, status: Callable[[], dict[str, Any]]) -> None:
    """Serve the API; *status* returns what is known of the dashboard itself."""

    async def answer_status(_: Request) -> HTTPResponse:
        return _reply({**status(), **await desk.ask(services.names)})

    async def answer_trace(_: Request, trace_id: str) -> HTTPResponse:
        return _reply(await desk.ask(lambda connection: trace.trace(connection, trace_id)))

    routes: dict[str, _Handler] = {
        "/api/status": answer_status,
        "/api/live": _streaming(live),
        "/api/services": _asked(desk, lambda connection, _: services.services(connection)),
        "/api/runs": _asked(desk, services.runs),
        "/api/overview": _asked(desk, lambda connection, asked: overview.overview(connection, asked, _now_us()), "15m"),
        "/api/traces": _asked(desk, traces.traces),
        "/api/scatter": _asked(desk, traces.scatter),
        "/api/trace/<trace_id:str>": answer_trace,
        "/api/map": _asked(desk, services.service_map, "15m"),
        "/api/logs": _asked(desk, logs.logs, limit=200),
    }
    for path, handler in routes.items():
        app.add_route(_said(handler), path, name=path)


def _asked(
    desk: Desk, query: Callable[[_Connection, Parameters], dict[str, Any]], last: str = "", limit: int = 50
) -> _Handler:
    """Return a handler that reads the query string and answers with what *query* returns."""

    async def answer(request: Request) -> HTTPResponse:
        asked = Parameters.of(dict(request.args), _now_us(), last=last, limit=limit)
        return _reply(await desk.ask(lambda connection: query(connection, asked)))

    return answer


def _streaming(live: Live) -> _Handler:
    async def stream(request: Request) -> None:
        response = await request.respond(content_type="text/event-stream", headers=_FRESH)
        async for event in live.events():
            await response.send(event)

    return stream


def _said(handler: _Handler) -> _Handler:
    """Return *handler* with its errors as one line of JSON."""

    async def answer(request: Request, **path: str) -> HTTPResponse | None:
        try:
            return await handler(request, **path)
        except NotFoundError as error:
            return _reply({"error": str(error)}, 404)
        except QueryError as error:
            return _reply({"error": str(error)}, 400)
        except DashboardError as error:
            return _reply({"error": str(error)}, 503)

    return answer


def _reply(content: dict[str, Any], status: int = 200) -> HTTPResponse:
    return json(content, status, headers=_FRESH)


def _now_us() -> int:
    return time.time_ns() // 1000
