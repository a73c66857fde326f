"""The list of traces and the scatter of their latencies: entry spans, newest or slowest first, each with its trace."""

from collections.abc import Sequence
from itertools import islice
from typing import Any

import duckdb

from rsketch_dashboard.queries.parameters import Parameters
from rsketch_dashboard.queries.spans import Selection, select, trace_hex
from rsketch_dashboard.store.rows import KINDS, STATUSES

__all__ = ["SCATTERED", "rows_of", "scatter", "traces"]

Json = dict[str, Any]

SCATTERED = 2000
_CANDIDATES = 6
"""Entry spans that are looked at for each trace that is listed: a trace may have several."""
_MOST_CANDIDATES = 8 * 8 * _CANDIDATES
_FACET = 20


def traces(connection: duckdb.DuckDBPyConnection, asked: Parameters) -> Json:
    """Return the newest traces, or with `sort=duration` the slowest, that have an entry span as asked."""
    slowest = asked.other("sort", ("newest", "duration")) == "duration"
    found = select(connection, asked, entries=True)
    if not found.possible:
        return {"traces": [], "more": False, **_facets(connection, asked, None)}
    order = "s.duration_ns DESC" if slowest else "s.start_ns DESC"
    listed = _listed(connection, found, order, asked.limit + 1)
    shown = rows_of(connection, list(listed)[: asked.limit])
    for row in shown:
        # The next page begins there: the trace itself may have begun long before the span that it is listed by.
        start_ns = listed[int(row["trace_id"], 16)]
        row |= {"listed_us": start_ns // 1000, "listed_ns": str(start_ns)}
    return {"traces": shown, "more": len(listed) > asked.limit, **_facets(connection, asked, found)}


def _listed(connection: duckdb.DuckDBPyConnection, found: Selection, order: str, wanted: int) -> dict[int, int]:
    """Return the first *wanted* traces in the order of their entry spans, each with the start of that one."""
    most, listed = _CANDIDATES * wanted, dict[int, int]()
    while len(listed) < wanted and most <= _MOST_CANDIDATES * wanted:
        rows = connection.execute(
            f"SELECT s.trace_id, s.start_ns FROM spans s {found.where} ORDER BY {order} LIMIT {most}", found.parameters
        ).fetchall()
        listed = {}
        for trace, start_ns in rows:
            listed.setdefault(trace, start_ns)
        if len(rows) < most:
            break
        most *= 8
    return dict(islice(listed.items(), wanted))


def rows_of(connection: duckdb.DuckDBPyConnection, ids: Sequence[int]) -> list[Json]:
    """Return what a list shows of each trace, in the order of *ids*."""
    if not ids:
        return []
    # As text: of a list of numbers the database guesses a type, and takes 128 bits for doubles.
    found = connection.execute(
        """
        WITH mine AS MATERIALIZED (
            SELECT s.trace_id, s.span_id, s.parent_id, s.start_ns, s.duration_ns, s.status, s.entry, s.operation,
                   s.attributes
            FROM spans s WHERE s.trace_id IN (SELECT unnest(?::VARCHAR[])::UHUGEINT)
        ), whole AS (
            SELECT m.trace_id, count(DISTINCT m.span_id) AS spans,
                   count(DISTINCT m.span_id) FILTER (m.status = 2) AS errors,
                   list(DISTINCT o.service) AS services,
                   -- The root, or what is closest to one while that has not arrived.
                   arg_min(m.span_id, (m.parent_id <> 0, NOT m.entry, m.start_ns)) AS root
            FROM mine m JOIN operations o ON o.id = m.operation GROUP BY m.trace_id
        )
        SELECT w.trace_id, any_value(o.name), any_value(o.service), any_value(o.kind), any_value(m.start_ns),
               any_value(m.duration_ns), max(m.status), any_value(w.spans), any_value(w.errors),
               any_value(w.services), any_value(m.attributes), bool_or(m.parent_id <> 0)
        FROM whole w JOIN mine m ON m.trace_id = w.trace_id AND m.span_id = w.root
        JOIN operations o ON o.id = m.operation GROUP BY w.trace_id
        """,
        [[str(number) for number in ids]],
    ).fetchall()
    codes = _codes(connection, [row[10] for row in found])
    logs = _log_counts(connection, ids)
    rows = {row[0]: _row(row, codes, logs) for row in found}
    return [rows[trace] for trace in ids if trace in rows]


def _row(row: Sequence[Any], codes: dict[int, str], logs: dict[int, int]) -> Json:
    trace, name, service, kind, start_ns, duration_ns, status, spans, errors, services, attributes, orphan = row
    return {
        "trace_id": trace_hex(trace),
        "root": name,
        "service": service,
        "kind": KINDS[kind],
        "start_us": start_ns // 1000,
        "duration_ns": duration_ns,
        "status": STATUSES[status],
        "spans": spans,
        "errors": errors,
        "services": sorted(services),
        "code": next((codes[number] for number in attributes if number in codes), None),
        "orphan": orphan,
        "logs": logs.get(trace, 0),
    }


def _codes(connection: duckdb.DuckDBPyConnection, attributes: Sequence[Sequence[int]]) -> dict[int, str]:
    """Return the status codes among attributes by their numbers."""
    numbers = list({number for each in attributes for number in each})
    found = connection.execute(
        "SELECT id, value FROM span_attributes WHERE id IN (SELECT unnest(?::INTEGER[])) "
        "AND key IN ('http.response.status_code', 'rpc.status_code', 'http.status_code', 'rpc.grpc.status_code')",
        [numbers],
    ).fetchall()
    return dict(found)


def _log_counts(connection: duckdb.DuckDBPyConnection, ids: Sequence[int]) -> dict[int, int]:
    found = connection.execute(
        """
        SELECT trace_id, count(*) FROM logs WHERE trace_id IN (SELECT unnest(?::VARCHAR[])::UHUGEINT) GROUP BY trace_id
        """,
        [[str(number) for number in ids]],
    ).fetchall()
    return dict(found)


def _facets(connection: duckdb.DuckDBPyConnection, asked: Parameters, found: Selection | None) -> Json:
    """Return how many entry spans there are of each service, operation and status, where that is asked for."""
    if asked.other("facets") != "1":
        return {}
    rows = [] if found is None else _counted(connection, found)
    return {
        "facets": {
            "services": _most([(service, count) for service, _, _, count in rows]),
            "operations": _most([(name, count) for _, name, _, count in rows]),
            "statuses": _most([(STATUSES[status], count) for _, _, status, count in rows]),
        }
    }


def _counted(connection: duckdb.DuckDBPyConnection, found: Selection) -> list[tuple[str, str, int, int]]:
    return connection.execute(
        f"""
        WITH counted AS (
            SELECT s.operation, s.status, count(*) AS count FROM spans s {found.where} GROUP BY s.operation, s.status
        )
        SELECT o.service, o.name, c.status, sum(c.count)::BIGINT FROM counted c JOIN operations o ON o.id = c.operation
        GROUP BY o.service, o.name, c.status
        """,
        found.parameters,
    ).fetchall()


def _most(counted: Sequence[tuple[str, int]]) -> list[Json]:
    totals: dict[str, int] = {}
    for value, count in counted:
        totals[value] = totals.get(value, 0) + count
    ordered = sorted(totals.items(), key=lambda each: (-each[1], each[0]))
    return [{"value": value, "count": count} for value, count in ordered[:_FACET]]


def scatter(connection: duckdb.DuckDBPyConnection, asked: Parameters) -> Json:
    """
    Return when entry spans began and how long they took, at most `SCATTERED` of them.

    Where there are more, a sample is returned that keeps every error and the slowest, which are what one looks for.
    """
    found = select(connection, asked, entries=True)
    if not found.possible:
        return {"points": [], "operations": [], "total": 0, "sampled": False}
    counted = connection.execute(f"SELECT count(*) FROM spans s {found.where}", found.parameters).fetchone()
    total = counted[0] if counted else 0
    # A hash of the span's own id: the same spans are chosen each time, so dots do not dance as others arrive.
    rank = "CASE WHEN s.status = 2 THEN 0 ELSE hash(s.span_id) END"
    share = SCATTERED / max(total, 1)
    chosen = "" if total <= SCATTERED else f"{'AND' if found.conditions else 'WHERE'} {rank} <= {int(share * 2**64)}"
    rows = connection.execute(
        f"""
        WITH chosen AS (
            SELECT s.start_ns, s.duration_ns, s.status, s.operation, s.trace_id FROM spans s {found.where} {chosen}
            ORDER BY s.status = 2 DESC, s.start_ns DESC LIMIT {SCATTERED}
        )
        SELECT c.start_ns // 1000, c.duration_ns, c.status = 2, o.service || ' ' || o.name, c.trace_id
        FROM chosen c JOIN operations o ON o.id = c.operation
        """,
        found.parameters,
    ).fetchall()
    names = list(dict.fromkeys(name for _, _, _, name, _ in rows))
    places = {name: at for at, name in enumerate(names)}
    points = [[start, took, int(failed), places[name], trace_hex(trace)] for start, took, failed, name, trace in rows]
    return {"points": points, "operations": names, "total": total, "sampled": total > SCATTERED}
