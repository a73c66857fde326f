"""Rate, errors and duration: of everything served, of each operation, and of what is called elsewhere."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import duckdb

from rsketch_dashboard.queries.parameters import Parameters, Window
from rsketch_dashboard.queries.spans import SERVED, Selection, select
from rsketch_dashboard.queries.traces import rows_of
from rsketch_dashboard.store.dictionary import is_health_check
from rsketch_dashboard.store.retention import BUCKET
from rsketch_dashboard.store.rows import KINDS

__all__ = ["overview"]

Json = dict[str, Any]

_STEPS = 40
_OPERATIONS = 200
_LISTED = 10
_MINUTE_US = 60_000_000
_CALLING = (KINDS.index("CLIENT"), KINDS.index("PRODUCER"))


@dataclass(slots=True)
class _Red:
    """What is known of one operation; durations in nanoseconds, by step where there is an index."""

    count: int = 0
    errors: int = 0
    max_ns: int = 0
    quantiles: tuple[float | None, ...] = (None, None, None)
    counts: dict[int, int] = field(default_factory=dict)
    errors_by_step: dict[int, int] = field(default_factory=dict)
    p95_by_step: dict[int, float] = field(default_factory=dict)
    # How many durations there are in each bucket of the roll-ups; only where some have been rolled up.
    buckets: dict[int, int] = field(default_factory=dict)


_Key = tuple[str, str, int]


def overview(connection: duckdb.DuckDBPyConnection, asked: Parameters, now_us: int) -> Json:
    """
    Return rate, errors and duration in the window, by operation and by step.

    What has gone with its segment is still counted, from roll-ups of a minute each, with quantiles within 6 %.
    """
    found = select(connection, asked, entries=False)
    window = asked.window or _whole(connection, found, now_us)
    first, step, count = window.steps(_STEPS)
    every = _Steps(first, step, count)
    red = _live(connection, found, every) if found.possible else {}
    if rolled_up := _rolled_up(connection, asked, window):
        _add_rolled_up(rolled_up, every, red)
        _add_live_buckets(connection, found, red)
    seconds = max((min(window.to_us, now_us) - window.from_us) / 1e6, 1.0)
    return {
        "window": {"from_us": window.from_us, "to_us": window.to_us, "step_us": step},
        "steps": [first + at * step for at in range(count)],
        "totals": _totals(connection, found, red, seconds),
        "operations": _operations(red, SERVED, every, seconds),
        "outgoing": _operations(red, _CALLING, every, seconds),
        "slowest": _listed(connection, found, "s.duration_ns DESC"),
        "failed": _listed(connection, found, "s.start_ns DESC", "s.status = 2"),
    }


@dataclass(frozen=True, slots=True)
class _Steps:
    """Steps of time; `first` and `length` in microseconds."""

    first: int
    length: int
    count: int

    def spread(self, values: Mapping[int, Any], default: Any) -> list[Any]:
        return [values.get(at, default) for at in range(self.count)]


def _whole(connection: duckdb.DuckDBPyConnection, found: Selection, now_us: int) -> Window:
    oldest = f"SELECT min(s.start_ns) // 1000 FROM spans s {found.where}"
    row = connection.execute(
        f"SELECT least(({oldest}), min(minute) * {_MINUTE_US}) FROM red", found.parameters
    ).fetchone()
    start = row[0] if row and row[0] is not None else now_us - 900_000_000
    return Window(start, max(start, now_us) + 1)


def _live(connection: duckdb.DuckDBPyConnection, found: Selection, every: _Steps) -> dict[_Key, _Red]:
    rows = connection.execute(
        f"""
        WITH mine AS (
            SELECT s.operation, s.duration_ns, s.status = 2 AS failed,
                   (s.start_ns // 1000 - {every.first}) // {every.length} AS step
            FROM spans s {found.where}
        ), named AS (
            SELECT o.service, o.name, o.kind, m.* FROM mine m JOIN operations o ON o.id = m.operation
            WHERE o.kind IN (2, 3, 4, 5)
        )
        SELECT service, name, kind, step, count(*), count(*) FILTER (failed), max(duration_ns),
               quantile_disc(duration_ns, [0.5, 0.95, 0.99])
        FROM named GROUP BY GROUPING SETS ((service, name, kind, step), (service, name, kind))
        """,
        found.parameters,
    ).fetchall()
    red: dict[_Key, _Red] = {}
    for service, name, kind, step, count, errors, max_ns, quantiles in rows:
        one = red.setdefault((service, name, kind), _Red())
        if step is None:
            one.count, one.errors, one.max_ns, one.quantiles = count, errors, max_ns, tuple(quantiles)
        else:
            one.counts[step], one.errors_by_step[step], one.p95_by_step[step] = count, errors, quantiles[1]
    return red


def _rolled_up(connection: duckdb.DuckDBPyConnection, asked: Parameters, window: Window) -> list[tuple[Any, ...]]:
    """Return what was counted before its spans were dropped; it knows neither attributes nor runs."""
    if asked.attributes or asked.run or asked.status or asked.min_ms or asked.max_ms is not None:
        return []
    rows = connection.execute(
        """
        SELECT service, name, kind, minute, count, errors, max_ns, map_keys(buckets), map_values(buckets) FROM red
        WHERE minute >= ? AND minute < ? AND kind IN (2, 5) AND (? = -1 OR kind = ?)
        AND (? = '' OR service = ?) AND (? = '' OR name = ?)
        """,
        [
            window.from_us // _MINUTE_US,
            -(-window.to_us // _MINUTE_US),
            *([KINDS.index(asked.kind) if asked.kind else -1] * 2),
            *(asked.service, asked.service, asked.operation, asked.operation),
        ],
    ).fetchall()
    return [row for row in rows if (asked.health or not is_health_check(row[1])) and asked.q.lower() in row[1].lower()]


def _add_rolled_up(rows: Iterable[tuple[Any, ...]], every: _Steps, red: dict[_Key, _Red]) -> None:
    for service, name, kind, minute, count, errors, max_ns, places, numbers in rows:
        key, step = (service, name, kind), (minute * _MINUTE_US - every.first) // every.length
        one = red.setdefault(key, _Red())
        one.count += count
        one.errors += errors
        one.max_ns = max(one.max_ns, max_ns)
        one.counts[step] = one.counts.get(step, 0) + count
        one.errors_by_step[step] = one.errors_by_step.get(step, 0) + errors
        _merge(one.buckets, dict(zip(places, numbers, strict=True)))


def _add_live_buckets(connection: duckdb.DuckDBPyConnection, found: Selection, red: dict[_Key, _Red]) -> None:
    """Add what is still there, for quantiles of both: what outlives its segment are the failed and the slow."""
    rows = connection.execute(
        f"""
        WITH mine AS (
            SELECT s.operation, {BUCKET} AS bucket, count(*) AS count FROM spans s {found.where} GROUP BY ALL
        )
        SELECT o.service, o.name, o.kind, m.bucket, sum(m.count)::BIGINT
        FROM mine m JOIN operations o ON o.id = m.operation WHERE o.kind IN {SERVED} GROUP BY ALL
        """,
        found.parameters,
    ).fetchall()
    for service, name, kind, bucket, count in rows if found.possible else ():
        # It may have come since the others were counted.
        _merge(red.setdefault((service, name, kind), _Red()).buckets, {bucket: count})
    for one in red.values():
        if one.buckets:
            one.quantiles = _quantiles(one.buckets)


def _merge(into: dict[int, int], buckets: Mapping[int, int]) -> None:
    for place, number in buckets.items():
        into[place] = into.get(place, 0) + number


def _quantiles(buckets: Mapping[int, int]) -> tuple[float, ...]:
    return tuple(_quantile(buckets, share) for share in (0.5, 0.95, 0.99))


def _quantile(buckets: Mapping[int, int], share: float) -> float:
    """Return a quantile of rolled-up durations in nanoseconds: the middle of its bucket, which spans 12 %."""
    wanted, seen = share * sum(buckets.values()), 0
    for place in sorted(buckets):
        seen += buckets[place]
        if seen >= wanted:
            return math.exp((place + 0.5) / 20 * math.log(10))
    return 0.0


def _totals(connection: duckdb.DuckDBPyConnection, found: Selection, red: Mapping[_Key, _Red], seconds: float) -> Json:
    served = [one for (_, _, kind), one in red.items() if kind in SERVED]
    requests = sum(one.count for one in served)
    row = connection.execute(
        f"""
        WITH mine AS (SELECT s.operation, s.duration_ns FROM spans s {found.where})
        SELECT count(*), quantile_disc(m.duration_ns, [0.5, 0.95, 0.99]) FILTER (
            m.operation IN (SELECT id FROM operations WHERE kind IN (2, 5))
        ) FROM mine m
        """,
        found.parameters,
    ).fetchone()
    spans, quantiles = row if row and found.possible else (0, None)
    rolled_up: dict[int, int] = {}
    for one in served:
        _merge(rolled_up, one.buckets)
    if rolled_up:
        quantiles = _quantiles(rolled_up)
    p50, p95, p99 = quantiles or (None, None, None)
    return {
        "spans": spans,
        "requests": requests,
        "errors": sum(one.errors for one in served),
        "rate": requests / seconds,
        "p50_ns": p50,
        "p95_ns": p95,
        "p99_ns": p99,
    }


def _operations(red: Mapping[_Key, _Red], kinds: Iterable[int], every: _Steps, seconds: float) -> list[Json]:
    chosen = [(key, one) for key, one in red.items() if key[2] in tuple(kinds)]
    chosen.sort(key=lambda each: (-each[1].count, each[0]))
    return [_operation(key, one, every, seconds) for key, one in chosen[:_OPERATIONS]]


def _operation(key: _Key, one: _Red, every: _Steps, seconds: float) -> Json:
    service, name, kind = key
    p50, p95, p99 = one.quantiles
    return {
        "service": service,
        "name": name,
        "kind": KINDS[kind],
        "count": one.count,
        "errors": one.errors,
        "rate": one.count / seconds,
        "p50_ns": p50,
        "p95_ns": p95,
        "p99_ns": p99,
        "max_ns": one.max_ns,
        "counts": every.spread(one.counts, 0),
        "errors_by_step": every.spread(one.errors_by_step, 0),
        "p95_by_step": every.spread(one.p95_by_step, None),
    }


def _listed(connection: duckdb.DuckDBPyConnection, found: Selection, order: str, *further: str) -> list[Json]:
    """Return the first traces in some order."""
    if not found.possible:
        return []
    where = " AND ".join(["s.entry", *found.conditions, *further])
    rows: Sequence[tuple[int]] = connection.execute(
        f"SELECT s.trace_id FROM spans s WHERE {where} ORDER BY {order} LIMIT {3 * _LISTED}", found.parameters
    ).fetchall()
    return rows_of(connection, list(dict.fromkeys(trace for (trace,) in rows))[:_LISTED])
