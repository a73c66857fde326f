"""
The map: which service calls which, and what else they call.

A call is an entry span under a CLIENT or PRODUCER span, or such a span that nobody continues. A service that calls
itself over the network, as one process with an HTTP and a gRPC half does, is shown as its halves: one box with a loop
would say nothing.
"""

from collections.abc import Mapping, Sequence
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
    names = _number_nodes(connection, ())
    edges = _between(connection, found, names, halved=False)
    halves = tuple({edge.source for edge in edges if edge.source == edge.target})
    if halves:
        names = _number_nodes(connection, halves)
        edges = _between(connection, found, names, halved=True)
    nodes = _served(connection, found, names)
    for edge, kind in _beyond(connection, found, names, halved=bool(halves)):
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


def _number_nodes(connection: duckdb.DuckDBPyConnection, halves: Sequence[str]) -> dict[int, str]:
    """
    Number the nodes in the temporary table `named`, by operation; return their names.

    Numbers, as a join holds each row of a side in memory: four bytes where a name takes sixteen.
    """
    connection.execute(
        f"""
        CREATE OR REPLACE TEMP TABLE named AS
        SELECT id, kind, node, service, dense_rank() OVER (ORDER BY node)::INTEGER AS number,
               dense_rank() OVER (ORDER BY service)::INTEGER AS whole
        FROM (SELECT *, CASE WHEN service IN (SELECT unnest(?::VARCHAR[])) THEN service || {_PROTOCOL} ELSE service END
              AS node FROM operations)
        """,
        [list(halves)],
    )
    rows = connection.execute(
        "SELECT DISTINCT number, node FROM named UNION SELECT DISTINCT -whole, service FROM named"
    ).fetchall()
    return dict(rows)


def _served(connection: duckdb.DuckDBPyConnection, found: Selection, names: Mapping[int, str]) -> dict[str, Json]:
    rows = connection.execute(
        f"""
        SELECT o.number, count(*), count(*) FILTER (m.status = 2), quantile_disc(m.duration_ns, 0.95)
        FROM (SELECT s.operation, s.duration_ns, s.status, s.entry FROM spans s {found.where}) m
        JOIN named o ON o.id = m.operation WHERE m.entry GROUP BY o.number
        """,
        found.parameters,
    ).fetchall()
    return {names[node]: _node(names[node], "service", (count, errors, p95)) for node, count, errors, p95 in rows}


def _between(
    connection: duckdb.DuckDBPyConnection, found: Selection, names: Mapping[int, str], *, halved: bool
) -> list[_Edge]:
    # Only calls are parents here, and only entries children: that halves what is joined.
    rows = connection.execute(
        f"""
        WITH mine AS NOT MATERIALIZED ({_MINE} {found.where}),
        callers AS NOT MATERIALIZED ({_callers("m.span", halved=halved)}),
        called AS NOT MATERIALIZED (
            SELECT m.parent, m.duration_ns, m.status, o.number, o.kind
            FROM mine m JOIN named o ON o.id = m.operation WHERE m.entry AND m.parent IS NOT NULL
        )
        SELECT p.number, c.number, any_value(c.kind), count(*), count(*) FILTER (c.status = 2),
               quantile_disc(c.duration_ns, 0.95)
        FROM called c JOIN callers p ON p.span = c.parent
        GROUP BY p.number, c.number ORDER BY count(*) DESC LIMIT {_MOST}
        """,
        found.parameters,
    ).fetchall()
    return [
        _Edge(names[source], names[target], kind, (count, errors, p95))
        for source, target, kind, count, errors, p95 in rows
    ]


_MINE = """
    SELECT hash(s.trace_id, s.span_id) AS span,
           CASE WHEN s.parent_id <> 0 THEN hash(s.trace_id, s.parent_id) END AS parent,
           s.operation, s.duration_ns, s.status, s.entry, s.attributes
    FROM spans s
"""
# A span's id is one of its trace's alone. Eight bytes for both are what a join has to keep.


def _callers(columns: str, *, halved: bool) -> str:
    """Return the query for spans that call, each with its node: in a half, that of the entry above it."""
    calls = f"FROM mine m JOIN named o ON o.id = m.operation AND o.kind IN {_CALLING}"
    if not halved:
        return f"SELECT {columns}, m.operation, o.number {calls}"
    return f"""
        SELECT {columns}, m.operation, coalesce(e.number, -o.whole) AS number {calls}
        LEFT JOIN (SELECT m.span, o.number FROM mine m JOIN named o ON o.id = m.operation WHERE m.entry) e
        ON e.span = m.parent
    """


def _beyond(
    connection: duckdb.DuckDBPyConnection, found: Selection, names: Mapping[int, str], *, halved: bool
) -> list[tuple[_Edge, str]]:
    """Return the calls to what sends no spans itself, each with what kind of thing that is."""
    rows = connection.execute(
        f"""
        WITH mine AS NOT MATERIALIZED ({_MINE} {found.where}),
        callers AS NOT MATERIALIZED ({_callers("m.span, m.duration_ns, m.status, m.attributes", halved=halved)})
        SELECT p.number, any_value(p.attributes), count(*), count(*) FILTER (p.status = 2),
               quantile_disc(p.duration_ns, 0.95)
        FROM callers p ANTI JOIN (SELECT parent FROM mine WHERE parent IS NOT NULL) c ON c.parent = p.span
        GROUP BY p.number, p.operation LIMIT {_MOST}
        """,
        found.parameters,
    ).fetchall()
    # One call stands for all of its operation: to look into each would cost more than the rest of the map.
    values = values_of(connection, "span_attributes", (row[1] for row in rows))
    merged: dict[tuple[str, str, str], _Measured] = {}
    for number, numbers, count, errors, p95 in rows:
        source = names[number]
        target, kind = _peer({key: str(value) for key, value in (values[n] for n in numbers if n in values)})
        before = merged.get((source, target, kind), (0, 0, 0))
        merged[source, target, kind] = (before[0] + count, before[1] + errors, max(before[2] or 0, p95))
    return [(_Edge(source, target, _CALLING[0], total), kind) for (source, target, kind), total in merged.items()]


def _peer(attributes: dict[str, str]) -> tuple[str, str]:
    return next(((attributes[key], kind) for key, kind in _PEERS if attributes.get(key)), ("unknown", "external"))
