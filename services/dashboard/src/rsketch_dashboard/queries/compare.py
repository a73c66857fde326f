"""What sets some spans apart: the slow ones, or those in a brush, against the rest; and one run against another."""

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb

from rsketch_dashboard.errors import NotFoundError, QueryError
from rsketch_dashboard.queries.parameters import Parameters
from rsketch_dashboard.queries.services import runs
from rsketch_dashboard.queries.spans import Selection, select
from rsketch_dashboard.store.rows import KINDS, STATUSES
from rsketch_dashboard.store.values import Json as Value
from rsketch_dashboard.store.values import from_text

__all__ = ["compare", "compare_runs"]

Json = dict[str, Any]

_SLOW = 0.95
_LISTED = 50
_OPERATIONS = 200
_SURE = 3.0
"""By how many standard errors shares must differ: of a thousand values that do not matter one gets there."""
_LEAST = 0.01
"""By how much shares must differ to be worth a line, however sure it is."""
_RUNS = 2


@dataclass(frozen=True, slots=True)
class _Chosen:
    """The condition that makes a span one of the selected, as SQL with its parameters."""

    condition: str
    parameters: Sequence[Any]


def compare(connection: duckdb.DuckDBPyConnection, asked: Parameters) -> Json:
    """
    Return the attributes that selected spans have more often than the rest of the same selection.

    Selected are those in a brush (`sel_from_us`, `sel_to_us`, `sel_min_ms`, `sel_max_ms`), else those that take
    `threshold_ms` or longer, else the slowest twentieth. The score of an attribute is the difference of its shares.
    What nearly every span has a value of its own for does not get there: a value must be that of several selected
    spans, and more of them than chance would give it.
    """
    found = _spans(connection, asked)
    if found is None:
        return {"selected": 0, "rest": 0, "threshold_ns": None, "attributes": []}
    threshold, chosen = _choose(connection, asked, found)
    operations = _operations(connection, found, chosen)
    total, selected = sum(row[-2] for row in operations), sum(row[-1] for row in operations)
    counted = [
        *_headers(connection, operations),
        *_attributes(connection, found, chosen),
    ]
    return {
        "selected": selected,
        "rest": total - selected,
        "threshold_ns": threshold,
        "attributes": _ranked(counted, selected, total - selected),
    }


def _spans(connection: duckdb.DuckDBPyConnection, asked: Parameters) -> Selection | None:
    """Return the spans that are compared: what was served, unless something else is asked for; None for none."""
    for entries in (False,) if asked.kind else (True, False):
        found = select(connection, asked, entries=entries)
        # An operation that is a call elsewhere has no entry spans.
        if found.possible and _one(connection, f"SELECT 1 FROM spans s {found.where} LIMIT 1", found.parameters):
            return found
        if not asked.operation:
            break
    return None


def _choose(connection: duckdb.DuckDBPyConnection, asked: Parameters, found: Selection) -> tuple[int | None, _Chosen]:
    brush = Selection()
    for name, condition, factor in (
        ("sel_from_us", "s.start_ns >= ?", 1000),
        ("sel_to_us", "s.start_ns < ?", 1000),
        ("sel_min_ms", "s.duration_ns >= ?", 10**6),
        ("sel_max_ms", "s.duration_ns <= ?", 10**6),
    ):
        value = asked.whole(name) if name.endswith("_us") else asked.number(name)
        if name in asked.others and value is not None:
            brush.add(condition, round(value * factor))
    if brush.conditions:
        return None, _Chosen(f"({' AND '.join(brush.conditions)})", brush.parameters)
    given = asked.number("threshold_ms")
    threshold = _slow(connection, found) if given is None else round(given * 1e6)
    return threshold, _Chosen("(s.duration_ns >= ?)", [threshold])


def _slow(connection: duckdb.DuckDBPyConnection, found: Selection) -> int:
    """Return from which duration on spans are the slowest twentieth, or fewer where many take equally long."""
    row = _one(connection, f"SELECT quantile_disc(s.duration_ns, {_SLOW}) FROM spans s {found.where}", found.parameters)
    most = int(row[0]) if row else 0
    above = Selection([*found.conditions, "s.duration_ns > ?"], [*found.parameters, most])
    row = _one(connection, f"SELECT min(s.duration_ns) FROM spans s {above.where}", above.parameters)
    return int(row[0]) if row and row[0] is not None else most


def _operations(connection: duckdb.DuckDBPyConnection, found: Selection, chosen: _Chosen) -> list[tuple[Any, ...]]:
    """Return operation, status, how many spans there are of both, and how many of them are selected."""
    return connection.execute(
        f"""
        SELECT s.operation, s.status, count(*), count(*) FILTER ({chosen.condition}) FROM spans s {found.where}
        GROUP BY s.operation, s.status
        """,
        [*chosen.parameters, *found.parameters],
    ).fetchall()


_Counted = tuple[str, Value, int, int]
"""A key, a value, how many spans have it, and how many of the selected."""


def _headers(connection: duckdb.DuckDBPyConnection, operations: Sequence[tuple[Any, ...]]) -> Iterable[_Counted]:
    """Yield what spans share with others of their operation or their process."""
    said = {
        number: (name, KINDS[kind], json.loads(resource))
        for number, name, kind, resource in connection.execute(
            """
            SELECT o.id, o.name, o.kind, r.attributes FROM operations o JOIN span_resources r ON r.id = o.resource
            WHERE o.id IN (SELECT unnest(?::INTEGER[]))
            """,
            [list({row[0] for row in operations})],
        ).fetchall()
    }
    for number, status, total, selected in operations:
        if number in said:
            name, kind, resource = said[number]
            yield "span.name", name, total, selected
            yield "span.kind", kind, total, selected
            yield "span.status", STATUSES[status], total, selected
            for key, value in resource:
                yield key, value, total, selected


def _attributes(connection: duckdb.DuckDBPyConnection, found: Selection, chosen: _Chosen) -> Iterable[_Counted]:
    """Yield the attributes that several selected spans have."""
    where = f"{found.where} AND {chosen.condition}" if found.conditions else f"WHERE {chosen.condition}"
    selected = dict(
        connection.execute(
            f"""
            SELECT attribute, count(*) FROM (SELECT unnest(s.attributes) AS attribute FROM spans s {where})
            GROUP BY attribute HAVING count(*) > 1
            """,
            [*found.parameters, *chosen.parameters],
        ).fetchall()
    )
    # Only these are counted among the rest: most others have a number that occurs once.
    rows = connection.execute(
        f"""
        WITH counted AS (
            SELECT attribute, count(*) AS total
            FROM (SELECT unnest(s.attributes) AS attribute FROM spans s {found.where})
            WHERE attribute IN (SELECT unnest(?::INTEGER[])) GROUP BY attribute
        )
        SELECT a.id, a.key, a.value, a.type, c.total FROM counted c JOIN span_attributes a ON a.id = c.attribute
        """,
        [*found.parameters, list(selected)],
    ).fetchall()
    for number, key, value, kind, total in rows:
        yield key, from_text(value, kind), total, selected[number]


def _ranked(counted: Iterable[_Counted], selected: int, rest: int) -> list[Json]:
    if not selected or not rest:
        return []
    totals: dict[tuple[str, str], list[Any]] = defaultdict(lambda: [None, 0, 0])
    for key, value, total, among in counted:
        one = totals[key, repr(value)]
        one[0], one[1], one[2] = value, one[1] + total, one[2] + among
    enough = max(2, min(5, selected // 2), selected // 100)
    rows = [
        {
            "key": key,
            "value": value,
            "selected": among,
            "rest": total - among,
            "selected_share": among / selected,
            "rest_share": (total - among) / rest,
            "score": round(among / selected - (total - among) / rest, 4),
        }
        for (key, _), (value, total, among) in totals.items()
        if among >= enough and _differs(among, selected, total - among, rest)
    ]
    rows.sort(key=lambda row: (-row["score"], row["key"], str(row["value"])))
    return rows[:_LISTED]


def _differs(among: int, selected: int, others: int, rest: int) -> bool:
    """Return whether a share of the selected is above that of the rest by more than chance gives."""
    difference = among / selected - others / rest
    # Spans may have arrived between the question how many there are and this one.
    share = min((among + others) / (selected + rest), 1.0)
    return difference >= max(_LEAST, _SURE * math.sqrt(share * (1 - share) * (1 / selected + 1 / rest)))


def compare_runs(connection: duckdb.DuckDBPyConnection, asked: Parameters) -> Json:
    """
    Return the operations of two runs beside each other, by default of the newest (b) and of the one before (a).

    Raises:
        QueryError: Only one is named.
        NotFoundError: One of them has sent no spans.
    """
    a, b = asked.other("a"), asked.other("b")
    if not a and not b:
        newest = list(dict.fromkeys(one["run"] for one in runs(connection, asked)["runs"]))[:_RUNS]
        if len(newest) < _RUNS:
            raise NotFoundError("there are no two runs to compare")
        b, a = newest
    elif not a or not b:
        raise QueryError("a, b: accept the service.instance.id of a run each")
    sides = {run: _run(connection, asked, run) for run in dict.fromkeys((a, b))}
    for run, operations in sides.items():
        if not operations:
            raise NotFoundError(f"no spans of this run are here: {run[:100]}")
    keys = sorted(
        {*sides[a], *sides[b]},
        key=lambda key: (-max(side[key]["count"] for side in sides.values() if key in side), key),
    )
    return {"a": a, "b": b, "operations": [_beside(key, sides[a], sides[b]) for key in keys[:_OPERATIONS]]}


_Operation = tuple[str, str, int]


def _run(connection: duckdb.DuckDBPyConnection, asked: Parameters, run: str) -> dict[_Operation, Json]:
    """Return rate, errors and duration of each operation of a run."""
    found = select(connection, asked, entries=False)
    if not found.possible:
        return {}
    resources = "SELECT id FROM span_resources WHERE instance = ?"
    found.add(f"s.operation IN (SELECT id FROM operations WHERE resource IN ({resources}))", run)
    rows = connection.execute(
        f"""
        WITH mine AS (SELECT s.operation, s.duration_ns, s.status FROM spans s {found.where})
        SELECT o.service, o.name, o.kind, count(*), count(*) FILTER (m.status = 2),
               quantile_disc(m.duration_ns, [0.5, 0.95, 0.99])
        FROM mine m JOIN operations o ON o.id = m.operation GROUP BY o.service, o.name, o.kind
        """,
        found.parameters,
    ).fetchall()
    names = ("p50_ns", "p95_ns", "p99_ns")
    return {
        (service, name, kind): {"count": count, "errors": errors, **dict(zip(names, quantiles, strict=True))}
        for service, name, kind, count, errors, quantiles in rows
    }


def _beside(key: _Operation, a: dict[_Operation, Json], b: dict[_Operation, Json]) -> Json:
    service, name, kind = key
    one, other = a.get(key), b.get(key)
    known = one and other and one["p95_ns"] > 0
    return {
        "service": service,
        "name": name,
        "kind": KINDS[kind],
        "a": one,
        "b": other,
        "p95_ratio": other["p95_ns"] / one["p95_ns"] if known and one and other else None,
    }


def _one(connection: duckdb.DuckDBPyConnection, query: str, parameters: Sequence[Any]) -> tuple[Any, ...] | None:
    return connection.execute(query, list(parameters)).fetchone()
