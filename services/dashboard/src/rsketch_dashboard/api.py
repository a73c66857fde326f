"""The JSON API of the page: each path asks one query, with the parameters in the query string."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import aclosing
from typing import Any

import duckdb
from rsketch_telemetry.otlp.receiver import Answer, App, Export, PartialSuccess, Refusal, Signal
from sanic import HTTPResponse, Request
from sanic.response import json

from rsketch_dashboard import exchange
from rsketch_dashboard.errors import DashboardError, NotFoundError, QueryError
from rsketch_dashboard.live import Live
from rsketch_dashboard.queries import (
    compare,
    doctor,
    export,
    logs,
    metrics,
    overview,
    service_map,
    services,
    sql,
    trace,
    traces,
)
from rsketch_dashboard.queries.desk import Desk
from rsketch_dashboard.queries.parameters import Parameters

__all__ = ["add_api"]

_Handler = Callable[..., Coroutine[Any, Any, HTTPResponse | None]]
_Connection = duckdb.DuckDBPyConnection

Handler = Callable[[Export], Coroutine[Any, Any, Answer]]
"""Stores one request and answers when that is done."""

_IMPORTED = {Signal.TRACES: "spans", Signal.LOGS: "logs", Signal.METRICS: "points"}
_TRIES = 5
_FRESH = {"cache-control": "no-store"}


def add_api(app: App, desk: Desk, live: Live, status: Callable[[], dict[str, Any]], handle: Handler) -> None:
    """
    Serve the API.

    Args:
        status: Returns what is known of the dashboard itself.
        handle: Stores a request that is imported.
    """

    async def answer_status(_: Request) -> HTTPResponse:
        return _reply({**status(), **await desk.ask(services.names)})

    async def answer_trace(_: Request, trace_id: str) -> HTTPResponse:
        return _reply(await desk.ask(lambda connection: trace.trace(connection, trace_id)))

    async def answer_export_of_trace(_: Request, trace_id: str) -> HTTPResponse:
        spans, records = await desk.ask(lambda connection: export.export_trace(connection, trace_id))
        found = {**exchange.as_json(spans), **exchange.as_json(records)}
        return json(found, headers=_attached(f"trace-{trace_id.lower()}.json"))

    async def answer_import(request: Request) -> HTTPResponse:
        encoding = request.headers.get("content-encoding", "")
        # In a thread: to parse a large file takes seconds.
        exports = await asyncio.to_thread(exchange.read, request.body, encoding)
        return _reply(await _imported(exports, handle))

    async def answer_sql(request: Request) -> HTTPResponse:
        query = sql.read_query(request.body)
        return _reply(
            await desk.ask(lambda connection: sql.sql(connection, query), seconds=sql.SECONDS, at_one_time=False)
        )

    routes: dict[str, _Handler] = {
        "/api/status": answer_status,
        "/api/live": _streaming(live),
        "/api/services": _asked(desk, lambda connection, _: services.services(connection)),
        "/api/runs": _asked(desk, services.runs),
        "/api/overview": _asked(desk, lambda connection, asked: overview.overview(connection, asked, _now_us()), "15m"),
        "/api/traces": _asked(desk, traces.traces),
        "/api/scatter": _asked(desk, traces.scatter),
        "/api/trace/<trace_id:str>": answer_trace,
        "/api/trace/<trace_id:str>/export": answer_export_of_trace,
        "/api/export": _exported(desk),
        "/api/map": _asked(desk, service_map.service_map, "15m"),
        "/api/metrics": _asked(desk, metrics.metrics),
        "/api/metric": _asked(desk, metrics.metric, "15m"),
        "/api/compare": _asked(desk, compare.compare),
        "/api/compare/runs": _asked(desk, compare.compare_runs),
        "/api/logs": _asked(desk, logs.logs, limit=200),
        "/api/doctor": _asked(desk, lambda connection, asked: doctor.doctor(connection, asked, _now_us())),
        "/api/sql/schema": _asked(desk, lambda connection, _: sql.schema(connection)),
    }
    for path, handler in routes.items():
        app.add_route(_said(handler), path, name=path)
    for path, handler in {"/api/import": answer_import, "/api/sql": answer_sql}.items():
        app.add_route(_said(handler), path, methods=["POST"], name=path)


def _asked(
    desk: Desk, query: Callable[[_Connection, Parameters], dict[str, Any]], last: str = "", limit: int = 50
) -> _Handler:
    """Return a handler that reads the query string and answers with what *query* returns."""

    async def answer(request: Request) -> HTTPResponse:
        asked = Parameters.of(dict(request.args), _now_us(), last=last, limit=limit)
        return _reply(await desk.ask(lambda connection: query(connection, asked)))

    return answer


def _exported(desk: Desk) -> _Handler:
    async def stream(request: Request) -> None:
        asked = Parameters.of(dict(request.args), _now_us())
        parts = desk.each(lambda reading: map(exchange.line, export.export(reading, asked)))
        response = await request.respond(content_type="application/x-ndjson", headers=_attached("telemetry.jsonl"))
        async for part in parts:
            await response.send(part)
        await response.eof()

    return stream


async def _imported(exports: Sequence[Export], handle: Handler) -> dict[str, int]:
    """Store what was imported; return how much of it was. Raises DashboardError where the rest is not taken."""
    stored = {"spans": 0, "logs": 0, "points": 0, "rejected": 0}
    for number, each in enumerate(exports):
        answer = await _patiently(each, handle)
        if isinstance(answer, Refusal):
            raise DashboardError(f"{answer.message}; {number} of {len(exports)} requests were stored")
        rejected = answer.rejected if isinstance(answer, PartialSuccess) else 0
        stored[_IMPORTED[each.signal]] += exchange.count(each.request) - rejected
        stored["rejected"] += rejected
    return stored


async def _patiently(export: Export, handle: Handler) -> Answer:
    answer = await handle(export)
    for _ in range(_TRIES):
        if not isinstance(answer, Refusal):
            break
        await asyncio.sleep(answer.retry_after_seconds or 1.0)
        answer = await handle(export)
    return answer


def _attached(name: str) -> dict[str, str]:
    return {**_FRESH, "content-disposition": f'attachment; filename="{name}"'}


def _streaming(live: Live) -> _Handler:
    async def stream(request: Request) -> None:
        response = await request.respond(content_type="text/event-stream", headers=_FRESH)
        # Closed here and now, and not when it is collected: the page may have gone, and no longer counts as one.
        async with aclosing(live.events()) as events:
            async for event in events:
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
