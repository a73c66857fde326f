"""
Metrics: which there are, and one of them over time.

The database reduces a metric's points to the last one of each series and step; increases, rates and buckets need no
more than that, however many points there are.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import duckdb
from opentelemetry.proto.metrics.v1.metrics_pb2 import SummaryDataPoint

from rsketch_dashboard.errors import QueryError
from rsketch_dashboard.queries.attributes import Pair
from rsketch_dashboard.queries.buckets import Exponential, common_bounds, quantile
from rsketch_dashboard.queries.parameters import Parameters
from rsketch_dashboard.queries.points import TEMPORALITIES, Points, Series, choose
from rsketch_dashboard.queries.promql import promql
from rsketch_dashboard.queries.series import Increase, Sample, increases, latest, merged, rates
from rsketch_dashboard.queries.spans import Selection, attribute_ids, span_hex, trace_hex

__all__ = ["metric", "metrics"]

Json = dict[str, Any]
_ByStep = Mapping[int, float]

_SHOWN = 20
_EXEMPLARS = 500
_QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


def metrics(connection: duckdb.DuckDBPyConnection, asked: Parameters) -> Json:
    """Return every metric by its name: what it is, who sends it, and how many series it has."""
    found = Selection(["flags & 1 = 0"])
    if asked.window:
        found.add("time_ns >= ? AND time_ns < ?", asked.window.from_us * 1000, asked.window.to_us * 1000)
    rows = connection.execute(
        f"""
        WITH counted AS (
            SELECT metric, count(DISTINCT attributes) AS series, max(time_ns) AS last FROM points {found.where}
            GROUP BY metric
        )
        SELECT m.name, m.unit, m.type, m.monotonic, m.temporality, m.description, m.service, max(c.series),
               max(c.last) // 1000 AS last
        FROM counted c JOIN metrics m ON m.id = c.metric JOIN point_resources r ON r.id = m.resource
        WHERE (? = '' OR m.service = ?) AND (? = '' OR r.instance = ?) AND contains(lower(m.name), lower(?))
        GROUP BY m.name, m.unit, m.type, m.monotonic, m.temporality, m.description, m.service, m.scope, r.raw
        ORDER BY m.name, last DESC
        """,
        [*found.parameters, asked.service, asked.service, asked.run, asked.run, asked.q],
    ).fetchall()
    listed: dict[str, Json] = {}
    for name, unit, kind, monotonic, temporality, description, service, series, last in rows:
        # The newest says what it is: another version of a program may say otherwise.
        new = {"name": name, "unit": unit, "type": kind, "monotonic": bool(monotonic), "services": [], "series": 0}
        one = listed.setdefault(name, new)
        one.setdefault("temporality", _temporality(kind, temporality))
        one.setdefault("description", description)
        one.setdefault("last_us", last)
        one["services"] = sorted({*one["services"], service})
        one["series"] += series
    return {"metrics": list(listed.values())}


def _temporality(kind: str, number: int) -> str:
    return "" if kind in ("gauge", "summary") or number >= len(TEMPORALITIES) else TEMPORALITIES[number]


def metric(connection: duckdb.DuckDBPyConnection, asked: Parameters) -> Json:
    """
    Return one metric over time.

    What differs in nothing but the process is shown as one series, and with `group` all that has the same value of that
    attribute is. Sums and rates are added up then; of gauges and quantiles it is the mean.

    Raises:
        QueryError: No name is given.
        NotFoundError: No metric of this name has been sent.
    """
    name, group = asked.other("name"), asked.other("group")
    if not name:
        raise QueryError("name: accepts the name of a metric")
    points = choose(connection, asked, name)
    header, steps = points.header, points.steps
    job = points.jobs[0] if asked.service and len(points.jobs) == 1 else asked.service
    return {
        "name": name,
        "unit": header.unit,
        "type": header.kind,
        "monotonic": header.monotonic,
        "description": header.description,
        "steps": [(steps.first + at * steps.length) // 1000 for at in range(steps.count)],
        "step_us": steps.length // 1000,
        **_shown(points, group),
        "exemplars": _exemplars(points, asked),
        "attributes": _keys(points.distinct()),
        "promql": promql(name, header.unit, header.kind, monotonic=header.monotonic, job=job, group=group),
        # Last: what is shown may find that it cannot be all.
        "truncated": points.truncated,
    }


def _shown(points: Points, group: str) -> Json:
    match points.header.kind:
        case "histogram":
            bounds, found = list(points.header.bounds), _histograms(points)
            return _distribution(points, group, bounds, found)
        case "exponential_histogram":
            return _distribution(points, group, *_exponential(points))
        case "summary":
            return {"series": _biggest(points, _summaries(points), group, mean=True)}
        case "sum" if points.header.monotonic:
            return {"series": _biggest(points, _counters(points), group, mean=False)}
        case kind:
            return {"series": _biggest(points, _values(points), group, mean=kind == "gauge")}


def _counters(points: Points) -> list[tuple[Series, _ByStep]]:
    samples: dict[Series, list[Sample]] = defaultdict(list)
    deltas: dict[Series, dict[int, float]] = defaultdict(lambda: defaultdict(float))
    columns = "arg_max(p.value, p.time_ns), max(p.value), sum(p.value)"
    for one, (start, step, last, value, peak, total) in points.by_step(columns):
        if value is None or not math.isfinite(total):
            continue
        if one.delta:
            deltas[one][step] += total / (points.steps.length / 1e9)
        else:
            samples[one].append(Sample(step, start, last, (value,), peak))
    found = [(one, rates(increases(each, points.steps.since), points.steps.gap)) for one, each in samples.items()]
    return [*found, *deltas.items()]


def _values(points: Points) -> list[tuple[Series, _ByStep]]:
    """Return the last values by step; of sums that are sent as deltas, what they come to in each."""
    values: dict[Series, list[tuple[int, float]]] = defaultdict(list)
    deltas: dict[Series, dict[int, float]] = defaultdict(lambda: defaultdict(float))
    for one, (_, step, _, value, total) in points.by_step("arg_max(p.value, p.time_ns), sum(p.value)"):
        if value is None or not math.isfinite(total):
            continue
        if one.delta:
            deltas[one][step] += total
        else:
            values[one].append((step, value))
    return [*((one, latest(each, points.steps.gap)) for one, each in values.items()), *deltas.items()]


def _summaries(points: Points) -> list[tuple[Series, _ByStep]]:
    values: dict[tuple[Series, float], list[tuple[int, float]]] = defaultdict(list)
    series: dict[tuple[Series, float], Series] = {}
    for one, (_, step, _, rest) in points.by_step("arg_max(p.rest, p.time_ns)"):
        for share, value in _quantiles(rest):
            series.setdefault(
                (one, share), Series(one.service, (*one.attributes, ("quantile", share)), delta=one.delta)
            )
            values[one, share].append((step, value))
    return [(series[key], latest(each, points.steps.gap)) for key, each in values.items()]


def _quantiles(rest: bytes | None) -> list[tuple[float, float]]:
    found = SummaryDataPoint.FromString(rest or b"").quantile_values
    return [(each.quantile, each.value) for each in found if math.isfinite(each.value)]


def _histograms(points: Points) -> list[tuple[Series, list[Increase]]]:
    """Return by how much the counts of series and of their buckets rose."""
    samples: dict[Series, list[Sample]] = defaultdict(list)
    columns = "arg_max(p.count, p.time_ns), arg_max(p.buckets, p.time_ns), max(p.count)"
    for one, (start, step, last, count, buckets, peak) in points.by_step(columns):
        if not one.delta and count is not None:
            samples[one].append(Sample(step, start, last, (count, *(buckets or ())), peak))
    return [*_increases(points, samples), *_added_up(points)]


def _added_up(points: Points) -> list[tuple[Series, list[Increase]]]:
    """Return the same of series that are sent as deltas."""
    if not any(one.delta for one in points.distinct()):
        return []
    found: dict[Series, list[Increase]] = defaultdict(list)
    buckets = [f"sum(p.buckets[{at + 1}])::BIGINT" for at in range(len(points.header.bounds) + 1)]
    for one, (_, step, _, *values) in points.by_step(", ".join(["sum(p.count)::BIGINT", *buckets])):
        if one.delta:
            found[one].append(Increase(step, points.steps.length / 1e9, tuple(value or 0 for value in values), 0))
    return list(found.items())


def _exponential(points: Points) -> tuple[list[float], list[tuple[Series, list[Increase]]]]:
    """Return common bounds of exponential histograms, and by how much the counts between them rose."""
    columns = "arg_max(p.count, p.time_ns), arg_max(p.rest, p.time_ns), max(p.count)"
    rows = [each for each in points.by_step(columns) if not each[0].delta]
    if any(one.delta for one in points.distinct()):
        rows += [each for each in points.single("p.count, p.rest, p.count") if each[0].delta]
    bounds, counts = common_bounds([Exponential.decoded(rest) for _, (*_, rest, _) in rows])
    samples: dict[Series, list[Sample]] = defaultdict(list)
    found: dict[Series, list[Increase]] = defaultdict(list)
    for (one, (start, step, last, count, _, peak)), buckets in zip(rows, counts, strict=True):
        if one.delta:
            found[one].append(Increase(step, points.steps.length / 1e9, (count, *buckets), 0))
        else:
            samples[one].append(Sample(step, start, last, (count, *buckets), peak))
    return bounds, [*_increases(points, samples), *found.items()]


def _increases(points: Points, samples: Mapping[Series, Sequence[Sample]]) -> list[tuple[Series, list[Increase]]]:
    return [(one, list(increases(each, points.steps.since))) for one, each in samples.items()]


def _distribution(
    points: Points, group: str, bounds: Sequence[float], found: Sequence[tuple[Series, Sequence[Increase]]]
) -> Json:
    cells = [[0] * (len(bounds) + 1) for _ in range(points.steps.count)]
    for _, risen in found:
        for each in risen:
            if 0 <= each.step < len(cells) and len(each.values) == len(bounds) + 2:
                cells[each.step] = [int(a + b) for a, b in zip(cells[each.step], each.values[1:], strict=True)]
    counted = [
        # Deltas of one step come to one rate: each stands for the whole of it.
        (one, _per_second(points, risen) if one.delta else rates(risen, points.steps.gap))
        for one, risen in found
    ]
    return {
        "series": _biggest(points, counted, group, mean=False),
        "quantiles": {name: [quantile(bounds, cell, share) for cell in cells] for name, share in _QUANTILES.items()},
        "heatmap": {"bounds": list(bounds), "cells": cells},
    }


def _per_second(points: Points, risen: Iterable[Increase]) -> _ByStep:
    totals: dict[int, float] = defaultdict(float)
    for each in risen:
        totals[each.step] += each.values[0] / (points.steps.length / 1e9)
    return totals


def _biggest(points: Points, found: Iterable[tuple[Series, _ByStep]], group: str, *, mean: bool) -> list[Json]:
    """Return the biggest series as they are shown: those that are alike in what is asked for, as one."""
    alike: dict[str, tuple[list[Pair], set[str], list[_ByStep]]] = {}
    for one, by_step in found:
        shown = _label(one, group)
        _, services, values = alike.setdefault(repr((shown, "" if group else one.service)), (shown, set(), []))
        services.add(one.service)
        values.append(by_step)
    series: list[Json] = []
    for shown, services, values in alike.values():
        by_steps = merged(values, points.steps.count, mean=mean)
        if any(value is not None for value in by_steps):
            service = services.pop() if len(services) == 1 else ""
            series.append({"attributes": shown, "service": service, "values": by_steps})
    series.sort(key=lambda one: (-sum(abs(value or 0.0) for value in one["values"]), repr(one["attributes"])))
    points.truncated |= len(series) > _SHOWN
    return series[:_SHOWN]


def _label(one: Series, group: str) -> list[Pair]:
    if not group:
        return list(one.attributes)
    if group == "service.name":
        return [(group, one.service)]
    return [(key, value) for key, value in one.attributes if key in (group, "quantile")]


def _keys(series: Iterable[Series]) -> list[Json]:
    """Return by which attributes they can be told apart, with how many values each has."""
    values: dict[str, set[str]] = defaultdict(set)
    for one in series:
        for key, value in (("service.name", one.service), *one.attributes):
            values[key].add(repr(value))
    return [{"key": key, "values": len(each)} for key, each in sorted(values.items())]


def _exemplars(points: Points, asked: Parameters) -> list[Json]:
    """Return examples, of each step the highest: those are what one looks for."""
    steps = points.steps
    found = Selection(["trace_id IS NOT NULL", "isfinite(value)"])
    found.add("metric IN (SELECT unnest(?::INTEGER[]))", list(points.headers))
    found.add("time_ns >= ? AND time_ns < ?", steps.first, steps.until)
    for key, value in asked.attributes:
        numbers = attribute_ids(points.connection, "point_attributes", key, value)
        found.add("list_has_any(attributes, ?)", numbers)
    # A sender may repeat an example, so twice as many are looked at.
    most = max(_EXEMPLARS // steps.count, 1)
    rows = points.connection.execute(
        f"""
        SELECT arg_max((time_ns, value, trace_id, span_id), value, {2 * most}) FROM exemplars {found.where}
        GROUP BY {steps.of("time_ns")}
        """,
        found.parameters,
    ).fetchall()
    chosen = [each for (highest,) in rows for each in list(dict.fromkeys(highest))[:most]]
    return [
        {"time_us": time // 1000, "value": value, "trace_id": trace_hex(trace), "span_id": span_hex(span or 0)}
        for time, value, trace, span in sorted(chosen, key=lambda each: each[0])[:_EXEMPLARS]
    ]
