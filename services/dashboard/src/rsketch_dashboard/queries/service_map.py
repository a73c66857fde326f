"""
The map: which service calls which, and what else they call.

A call is an entry span under a CLIENT or PRODUCER span, or such a span that nobody continues. A service that calls
itself over the network, as one process with an HTTP and a gRPC half does, is shown as its halves: one box with a loop
would say nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import duckdb

from rsketch_dashboard.queries.attributes import values_of
from rsketch_dashboard.queries.parameters import Parameters
from rsketch_dashboard.queries.spans import Selection, select
from rsketch_dashboard.store.rows import KINDS

__all__ = ["service_map"]

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
_MOST = 500
# An HTTP span is called after its method, and an RPC's has a slash but no blank.
_PROTOCOL = """
    CASE WHEN regexp_matches(name, '^[A-Z]+( /|$)') THEN ' · HTTP'
         WHEN regexp_matches(name, '^[^ ]+/[^ ]+$') THEN ' · gRPC' ELSE '' END
"""

_Measured = tuple[int, int, float | None]
"""Number of calls, number of failed ones, p95 in nanoseconds."""


@dataclass(frozen=True, slots=True)
class _Edge:
    source: str
    target: str
    kind: int
    measured: _Measured


def service_map(connection: duckdb.DuckDBPyConnection, asked: Parameters) -> Json:
    """Return the nodes and the edges of the map, each with its calls, errors and p95."""
    found = select(connection, asked, entries=False)
    if not found.possible:
        return {"nodes": [], "edges": []}
    edges = _between(connection, found, ())
    halves = tuple({edge.source for edge in edges if edge.source == edge.target})
    if halves:
        edges = _between(connection, found, halves)
    nodes = _served(connection, found, halves)
    for edge, kind in _beyond(connection, found, halves):
        nodes.setdefault(edge.target, _node(edge.target, kind, edge.measured))
        edges.append(edge)
    for edge in edges:
        for name in (edge.source, edge.target):
            nodes.setdefault(name, _node(name, "service", (0, 0, None)))
    return {
        "nodes": sorted(nodes.values(), key=lambda node: (node["type"] != "service", -node["count"], node["name"])),
        "edges": [_edge(edge) for edge in edges],
    }


def _node(name: str, kind: str, measured: _Measured) -> Json:
    count, errors, p95 = measured
    # What a half is called is for the eye; to ask for its traces takes the name that the service has.
    service = name.removesuffix(" · HTTP").removesuffix(" · gRPC")
    return {
        "id": name,
        "name": name,
        "service": service,
        "type": kind,
        "count": count,
        "errors": errors,
        "p95_ns": p95,
    }


def _edge(edge: _Edge) -> Json:
    count, errors, p95 = edge.measured
    return {
        "from": edge.source,
        "to": edge.target,
        "kind": KINDS[edge.kind],
        "count": count,
        "errors": errors,
        "p95_ns": p95,
    }


def _common(found: Selection, columns: str, halves: Sequence[str]) -> tuple[str, list[Any]]:
    """Return what all three queries begin with: operations with the node of each, and the spans that are asked for."""
    node = f"CASE WHEN service IN (SELECT unnest(?::VARCHAR[])) THEN service || {_PROTOCOL} ELSE service END"
    text = f"""
        WITH named AS MATERIALIZED (SELECT id, kind, service, {node} AS node FROM operations),
        mine AS (SELECT {columns} FROM spans s {found.where})
    """
    return text, [list(halves), *found.parameters]


def _served(connection: duckdb.DuckDBPyConnection, found: Selection, halves: Sequence[str]) -> dict[str, Json]:
    common, parameters = _common(found, "s.operation, s.duration_ns, s.status, s.entry", halves)
    rows = connection.execute(
        f"""
        {common}
        SELECT o.node, count(*), count(*) FILTER (m.status = 2), quantile_disc(m.duration_ns, 0.95)
        FROM mine m JOIN named o ON o.id = m.operation WHERE m.entry GROUP BY o.node
        """,
        parameters,
    ).fetchall()
    return {name: _node(name, "service", (count, errors, p95)) for name, count, errors, p95 in rows}


def _between(connection: duckdb.DuckDBPyConnection, found: Selection, halves: Sequence[str]) -> list[_Edge]:
    # Only calls are parents here, and only entries children: that halves what is joined.
    columns = "s.span_id, s.trace_id, s.parent_id, s.operation, s.duration_ns, s.status, s.entry"
    common, parameters = _common(found, columns, halves)
    rows = connection.execute(
        f"""
        {common},
        callers AS ({_callers("m.trace_id, m.span_id", halves)}),
        called AS (
            SELECT m.trace_id, m.parent_id, m.duration_ns, m.status, o.node, o.kind
            FROM mine m JOIN named o ON o.id = m.operation WHERE m.entry AND m.parent_id <> 0
        )
        SELECT p.node, c.node, any_value(c.kind), count(*), count(*) FILTER (c.status = 2),
               quantile_disc(c.duration_ns, 0.95)
        FROM called c JOIN callers p ON p.span_id = c.parent_id AND p.trace_id = c.trace_id
        GROUP BY p.node, c.node ORDER BY count(*) DESC LIMIT {_MOST}
        """,
        parameters,
    ).fetchall()
    return [_Edge(source, target, kind, (count, errors, p95)) for source, target, kind, count, errors, p95 in rows]


def _callers(columns: str, halves: Sequence[str]) -> str:
    """Return the query for spans that call, each with its node: in a half, that of the entry above it."""
    calls = f"FROM mine m JOIN named o ON o.id = m.operation AND o.kind IN {_CALLING}"
    if not halves:
        return f"SELECT {columns}, m.operation, o.node {calls}"
    return f"""
        SELECT {columns}, m.operation, coalesce(e.node, o.service) AS node {calls}
        LEFT JOIN (SELECT m.span_id, o.node FROM mine m JOIN named o ON o.id = m.operation WHERE m.entry) e
        ON e.span_id = m.parent_id
    """


def _beyond(connection: duckdb.DuckDBPyConnection, found: Selection, halves: Sequence[str]) -> list[tuple[_Edge, str]]:
    """Return the calls to what sends no spans itself, each with what kind of thing that is."""
    columns = "s.span_id, s.parent_id, s.operation, s.duration_ns, s.status, s.entry, s.attributes"
    common, parameters = _common(found, columns, halves)
    rows = connection.execute(
        f"""
        {common},
        continued AS (SELECT DISTINCT parent_id FROM mine WHERE parent_id <> 0),
        callers AS ({_callers("m.span_id, m.duration_ns, m.status, m.attributes", halves)})
        SELECT p.node, any_value(p.attributes), count(*), count(*) FILTER (p.status = 2),
               quantile_disc(p.duration_ns, 0.95)
        FROM callers p ANTI JOIN continued c ON c.parent_id = p.span_id GROUP BY p.node, p.operation LIMIT {_MOST}
        """,
        parameters,
    ).fetchall()
    # One call stands for all of its operation: to look into each would cost more than the rest of the map.
    values = values_of(connection, "span_attributes", (row[1] for row in rows))
    merged: dict[tuple[str, str, str], _Measured] = {}
    for source, numbers, count, errors, p95 in rows:
        target, kind = _peer({key: str(value) for key, value in (values[n] for n in numbers if n in values)})
        before = merged.get((source, target, kind), (0, 0, 0))
        merged[source, target, kind] = (before[0] + count, before[1] + errors, max(before[2] or 0, p95))
    return [(_Edge(source, target, _CALLING[0], total), kind) for (source, target, kind), total in merged.items()]


def _peer(attributes: dict[str, str]) -> tuple[str, str]:
    return next(((attributes[key], kind) for key, kind in _PEERS if attributes.get(key)), ("unknown", "external"))
