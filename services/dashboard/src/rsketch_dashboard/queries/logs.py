"""Log records: the newest that are asked for, how many there were when, and those of one trace."""

from collections.abc import Sequence
from typing import Any

import duckdb

from rsketch_dashboard.queries.attributes import pairs, values_of
from rsketch_dashboard.queries.parameters import Parameters, Window, ids
from rsketch_dashboard.queries.spans import Selection, add_attribute, span_hex, trace_hex

__all__ = ["logs", "of_trace"]

Json = dict[str, Any]

_FLOORS = {"TRACE": 1, "DEBUG": 5, "INFO": 9, "WARN": 13, "ERROR": 17, "FATAL": 21}
"""The lowest severity number of each name (https://opentelemetry.io/docs/specs/otel/logs/data-model/)."""
_COLUMNS = (
    "l.sequence, l.time_ns, l.severity, l.severity_text, l.body, l.event_name, l.trace_id, l.span_id, l.attributes, "
    "g.service, g.scope"
)
_STEPS = 60


def logs(connection: duckdb.DuckDBPyConnection, asked: Parameters) -> Json:
    """Return the newest records as asked, and a histogram of all of them by severity."""
    found = _select(connection, asked)
    if not found.possible:
        return {"logs": [], "more": False, "histogram": {"steps": [], "counts": {}}}
    page = _paged(found, asked)
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM logs l JOIN loggers g ON g.id = l.logger {page.where} "
        f"ORDER BY l.time_ns DESC, l.sequence DESC LIMIT {asked.limit + 1}",
        page.parameters,
    ).fetchall()
    return {
        "logs": _records(connection, rows[: asked.limit]),
        "more": len(rows) > asked.limit,
        "histogram": _histogram(connection, found, asked.window),
    }


def of_trace(connection: duckdb.DuckDBPyConnection, number: int, most: int) -> list[Json]:
    """Return the first *most* records of a trace, oldest first."""
    rows = connection.execute(
        f"SELECT {_COLUMNS} FROM logs l JOIN loggers g ON g.id = l.logger WHERE l.trace_id = ?::UHUGEINT "
        f"ORDER BY l.time_ns, l.sequence LIMIT {most}",
        [number],
    ).fetchall()
    return _records(connection, rows)


def _select(connection: duckdb.DuckDBPyConnection, asked: Parameters) -> Selection:
    found = Selection()
    if asked.window:
        found.add("l.time_ns >= ? AND l.time_ns < ?", asked.window.from_us * 1000, asked.window.to_us * 1000)
    if severity := asked.other("severity", tuple(_FLOORS)):
        found.add("l.severity >= ?", _FLOORS[severity])
    if trace := asked.other("trace"):
        found.add("l.trace_id = ?::UHUGEINT", ids(trace, 32))
    if asked.q:
        found.add("(contains(lower(l.body), lower(?)) OR contains(lower(l.event_name), lower(?)))", asked.q, asked.q)
    for condition, wanted in (
        ("service = ?", asked.service),
        ("resource IN (SELECT id FROM log_resources WHERE instance = ?)", asked.run),
    ):
        if wanted:
            found.add(f"l.logger IN (SELECT id FROM loggers WHERE {condition})", wanted)
    for key, value in asked.attributes:
        add_attribute(connection, found, ("logs", "log_attributes", "sequence"), key, value)
    return found


def _paged(found: Selection, asked: Parameters) -> Selection:
    page = Selection(list(found.conditions), list(found.parameters))
    if asked.before_ns is not None:
        page.add("l.time_ns < ?", asked.before_ns)
    if after := asked.whole("after_us"):
        page.add("l.time_ns > ?", after * 1000)
    return page


def _records(connection: duckdb.DuckDBPyConnection, rows: Sequence[Sequence[Any]]) -> list[Json]:
    values = values_of(connection, "log_attributes", (row[8] for row in rows))
    return [
        {
            "id": str(sequence),
            "time_us": time_ns // 1000,
            "severity": _severity(severity, text),
            "severity_number": severity,
            "body": body,
            "event_name": event_name,
            "trace_id": trace_hex(trace) if trace else "",
            "span_id": span_hex(span or 0),
            "attributes": pairs(values, attributes),
            "service": service,
            "logger": logger,
        }
        for sequence, time_ns, severity, text, body, event_name, trace, span, attributes, service, logger in rows
    ]


def _severity(number: int, text: str) -> str:
    """Return the name of a severity: that of its number, which all senders share, else what the sender calls it."""
    return next((name for name, floor in reversed(_FLOORS.items()) if number >= floor), text or "UNSPECIFIED")


def _histogram(connection: duckdb.DuckDBPyConnection, found: Selection, window: Window | None) -> Json:
    window = window or _whole(connection, found)
    if window is None:
        return {"steps": [], "counts": {}}
    first, step, count = window.steps(_STEPS)
    rows = connection.execute(
        f"""
        SELECT (l.time_ns // 1000 - {first}) // {step} AS step, l.severity // 4 * 4 + 1 AS floor, count(*)
        FROM (SELECT time_ns, greatest(severity, 1) - 1 AS severity FROM logs l {found.where}) l GROUP BY ALL
        """,
        found.parameters,
    ).fetchall()
    counts: dict[str, list[int]] = {name: [0] * count for name in ("ERROR", "WARN", "INFO", "DEBUG")}
    for at, floor, number in rows:
        if 0 <= at < count:
            counts[_shade(floor)][at] += number
    return {"steps": [first + at * step for at in range(count)], "counts": counts}


def _shade(floor: int) -> str:
    """Return the colour that a severity has in the histogram: there are four."""
    return "ERROR" if floor >= 17 else "WARN" if floor >= 13 else "INFO" if floor >= 9 else "DEBUG"


def _whole(connection: duckdb.DuckDBPyConnection, found: Selection) -> Window | None:
    row = connection.execute(
        f"SELECT min(l.time_ns) // 1000, max(l.time_ns) // 1000 FROM logs l {found.where}", found.parameters
    ).fetchone()
    return Window(row[0], row[1] + 1) if row and row[0] is not None else None
