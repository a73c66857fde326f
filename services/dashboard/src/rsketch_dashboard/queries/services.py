"""Which services have sent something, their runs, and the map of who calls whom."""

from collections.abc import Sequence
from typing import Any

import duckdb

from rsketch_dashboard.queries.attributes import values_of
from rsketch_dashboard.queries.parameters import Parameters
from rsketch_dashboard.queries.spans import select
from rsketch_dashboard.store.rows import KINDS

__all__ = ["names", "runs", "service_map", "services"]

Json = dict[str, Any]

_CALLING = (KINDS.index("CLIENT"), KINDS.index("PRODUCER"))
_PEERS = (
    ("db.system.name", "database"),
    ("db.system", "database"),
    ("messaging.system", "queue"),
    ("peer.service", "external"),
    ("server.address", "external"),
    ("rpc.service", "external"),
)
"""Attributes of a call that name what is called, where that sends nothing itself; the first that is there counts."""


def names(connection: duckdb.DuckDBPyConnection) -> Json:
    """Return the names of all services that have sent anything, and from when to when spans are."""
    rows = connection.execute(
        """
        SELECT service FROM span_resources UNION SELECT service FROM log_resources
        UNION SELECT service FROM point_resources ORDER BY service
        """
    ).fetchall()
    span = connection.execute("SELECT min(start_ns) // 1000, max(start_ns) // 1000 FROM spans").fetchone()
    oldest, newest = span or (None, None)
    return {"services": [name for (name,) in rows], "oldest_us": oldest, "newest_us": newest}


def services(connection: duckdb.DuckDBPyConnection) -> Json:
    """Return every service that has sent spans, with when and how many."""
    rows = connection.execute(
        """
        WITH counted AS (
            SELECT operation, count(*) AS spans, min(start_ns) AS first, max(start_ns) AS last
            FROM spans GROUP BY operation
        )
        SELECT o.service, sum(c.spans)::BIGINT, min(c.first) // 1000, max(c.last) // 1000, count(DISTINCT r.instance)
        FROM counted c JOIN operations o ON o.id = c.operation JOIN span_resources r ON r.id = o.resource
        GROUP BY o.service ORDER BY o.service
        """
    ).fetchall()
    names = ("name", "spans", "first_us", "last_us", "runs")
    return {"services": [dict(zip(names, row, strict=True)) for row in rows]}


def runs(connection: duckdb.DuckDBPyConnection, asked: Parameters) -> Json:
    """Return each run, which is one start of one process of a service, newest first."""
    rows = connection.execute(
        f"""
        WITH counted AS (
            SELECT operation, count(*) AS spans, count(*) FILTER (status = 2) AS errors,
                   min(start_ns) AS first, max(start_ns) AS last
            FROM spans GROUP BY operation
        )
        SELECT r.instance, r.service, any_value(r.version), nullif(any_value(r.revision), ''),
               min(c.first) // 1000, max(c.last) // 1000, sum(c.spans)::BIGINT, sum(c.errors)::BIGINT
        FROM counted c JOIN operations o ON o.id = c.operation JOIN span_resources r ON r.id = o.resource
        WHERE r.instance <> '' AND (? = '' OR r.service = ?)
        GROUP BY r.instance, r.service ORDER BY min(c.first) DESC LIMIT {asked.limit}
        """,
        [asked.service, asked.service],
    ).fetchall()
    names = ("run", "service", "version", "revision", "first_us", "last_us", "spans", "errors")
    return {"runs": [dict(zip(names, row, strict=True)) for row in rows]}


def service_map(connection: duckdb.DuckDBPyConnection, asked: Parameters) -> Json:
    """
    Return services, what else they call, and the calls between them.

    A call is a span of one service under a span of another one, or a CLIENT or PRODUCER span that nobody continues.
    """
    found = select(connection, asked, entries=False)
    if not found.possible:
        return {"nodes": [], "edges": []}
    nodes = {name: _node(name, "service", *rest) for name, *rest in _served(connection, found.where, found.parameters)}
    edges = _between(connection, found.where, found.parameters)
    for source, target, kind, *measured in _beyond(connection, found.where, found.parameters):
        nodes.setdefault(target, _node(target, kind, *measured))
        edges.append((source, target, _CALLING[0], *measured))
    for source, target, *_ in edges:
        for name in (source, target):
            nodes.setdefault(name, _node(name, "service", 0, 0, None))
    return {
        "nodes": sorted(nodes.values(), key=lambda node: (node["type"] != "service", -node["count"], node["name"])),
        "edges": [
            {"from": source, "to": target, "kind": KINDS[kind], "count": count, "errors": errors, "p95_ns": p95}
            for source, target, kind, count, errors, p95 in edges
        ],
    }


def _node(name: str, kind: str, count: int, errors: int, p95: float | None) -> Json:
    return {"id": name, "name": name, "type": kind, "count": count, "errors": errors, "p95_ns": p95}


def _served(connection: duckdb.DuckDBPyConnection, where: str, parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
    return connection.execute(
        f"""
        WITH mine AS (SELECT s.operation, s.duration_ns, s.status, s.entry FROM spans s {where})
        SELECT o.service, count(*) FILTER (m.entry), count(*) FILTER (m.entry AND m.status = 2),
               quantile_disc(m.duration_ns, 0.95) FILTER (m.entry)
        FROM mine m JOIN operations o ON o.id = m.operation GROUP BY o.service
        """,
        list(parameters),
    ).fetchall()


def _between(connection: duckdb.DuckDBPyConnection, where: str, parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
    # Only calls are parents here, and only entries children: that halves what is joined.
    return connection.execute(
        f"""
        WITH mine AS (
            SELECT s.span_id, s.trace_id, s.parent_id, s.operation, s.duration_ns, s.status, s.entry
            FROM spans s {where}
        ),
        callers AS (
            SELECT m.trace_id, m.span_id, o.service FROM mine m JOIN operations o ON o.id = m.operation
            WHERE o.kind IN {_CALLING}
        ),
        called AS (
            SELECT m.trace_id, m.parent_id, m.duration_ns, m.status, o.service, o.kind
            FROM mine m JOIN operations o ON o.id = m.operation WHERE m.entry AND m.parent_id <> 0
        )
        SELECT p.service, c.service, any_value(c.kind), count(*), count(*) FILTER (c.status = 2),
               quantile_disc(c.duration_ns, 0.95)
        FROM called c JOIN callers p ON p.span_id = c.parent_id AND p.trace_id = c.trace_id
        GROUP BY p.service, c.service ORDER BY count(*) DESC LIMIT 500
        """,
        list(parameters),
    ).fetchall()


def _beyond(connection: duckdb.DuckDBPyConnection, where: str, parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Return calls to what sends no spans itself: source, target, kind of target, count, errors, p95."""
    rows = connection.execute(
        f"""
        WITH mine AS (
            SELECT s.span_id, s.parent_id, s.operation, s.duration_ns, s.status, s.attributes FROM spans s {where}
        ),
        continued AS (SELECT DISTINCT parent_id FROM mine WHERE parent_id <> 0)
        SELECT o.service, any_value(m.attributes), count(*), count(*) FILTER (m.status = 2),
               quantile_disc(m.duration_ns, 0.95)
        FROM mine m JOIN operations o ON o.id = m.operation ANTI JOIN continued c ON c.parent_id = m.span_id
        WHERE o.kind IN {_CALLING} GROUP BY o.service, m.operation LIMIT 500
        """,
        list(parameters),
    ).fetchall()
    # One call stands for all of its operation: to look into each would cost more than the rest of the map.
    values = values_of(connection, "span_attributes", (row[1] for row in rows))
    merged: dict[tuple[str, str, str], list[Any]] = {}
    for service, numbers, count, errors, p95 in rows:
        target, kind = _peer({key: str(value) for key, value in (values[n] for n in numbers if n in values)})
        total = merged.setdefault((service, target, kind), [0, 0, 0])
        total[0] += count
        total[1] += errors
        total[2] = max(total[2], p95)
    return [(*key, *total) for key, total in merged.items()]


def _peer(attributes: dict[str, str]) -> tuple[str, str]:
    return next(((attributes[key], kind) for key, kind in _PEERS if attributes.get(key)), ("unknown", "external"))
