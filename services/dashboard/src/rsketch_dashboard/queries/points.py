"""The points of one metric that a view is about: which series they belong to, in which steps they are shown."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb

from rsketch_dashboard.errors import NotFoundError
from rsketch_dashboard.queries.attributes import Pair, pairs, values_of
from rsketch_dashboard.queries.parameters import Parameters, Window
from rsketch_dashboard.queries.spans import Selection, attribute_ids

__all__ = ["TEMPORALITIES", "Header", "Points", "Series", "Steps", "choose"]

TEMPORALITIES = ("UNSPECIFIED", "DELTA", "CUMULATIVE")

_STEPS = 60
_COMBINATIONS = 1000
"""How many series are looked at, those with the most points: of a metric with more no page shows the rest."""
_FEWER = {"histogram": 500, "exponential_histogram": 100}
"""The same for what takes longer, for each of its buckets is looked at."""
_BACK_NS = 300 * 10**9
"""How far before the window a series' last count is looked for; it is also when Prometheus takes one for gone."""
_HELD_INTERVALS = 3
_SINGLE = 20_000


@dataclass(frozen=True, slots=True)
class Header:
    """A row of `metrics`: one metric of one process in one segment."""

    service: str
    namespace: str
    process: bytes
    scope: str
    unit: str
    kind: str
    monotonic: bool
    delta: bool
    bounds: tuple[float, ...]
    description: str

    @property
    def shape(self) -> tuple[str, bool, tuple[float, ...]]:
        """What must be equal for points to be shown together."""
        return self.kind, self.monotonic, self.bounds


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """What has the same attributes and comes from the same process; `delta` where its points are increases already."""

    service: str
    attributes: tuple[Pair, ...]
    delta: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """
    How a window is cut; times in nanoseconds.

    Attributes:
        since: From when on points are looked at: a while before the first step.
        until: The end of the window.
        gap: For how many steps a value holds without a new one.
    """

    first: int
    length: int
    count: int
    since: int
    until: int
    gap: int

    def of(self, time: str) -> str:
        """Return the number of the step of a column of times, as SQL."""
        # Rounded down also before the first step, where the division by itself would round up.
        return f"(({time} - {self.since_step}) // {self.length} - {(self.first - self.since_step) // self.length})"

    @property
    def since_step(self) -> int:
        """The start of the step in which `since` is."""
        return self.first - -(-(self.first - self.since) // self.length) * self.length


@dataclass(slots=True, kw_only=True)
class Points:
    """
    The points, chosen.

    Attributes:
        header: What the newest of them are of.
        series: By the numbers of metric and attributes, which differ from segment to segment.
        where: Conditions on the view `points`, called p.
        truncated: Whether there is more than is looked at: series, other buckets, or single points.
    """

    connection: duckdb.DuckDBPyConnection
    header: Header
    jobs: tuple[str, ...]
    headers: Sequence[int]
    series: Mapping[tuple[int, tuple[int, ...]], Series]
    steps: Steps
    where: Selection
    truncated: bool

    def distinct(self) -> list[Series]:
        """Return the series, each once."""
        return list(dict.fromkeys(self.series.values()))

    def by_step(self, columns: str, *, source: str = "points p") -> Iterator[tuple[Series, tuple[Any, ...]]]:
        """
        Yield what *columns* aggregate to for each series, start and step, in the order of time.

        A row begins with the start, the step and the time of its last point.
        """
        rows = self.connection.execute(
            f"""
            SELECT p.metric, p.attributes, p.start_ns, {self.steps.of("p.time_ns")} AS step, max(p.time_ns) AS last,
                   {columns}
            FROM {source} {self.where.where} GROUP BY p.metric, p.attributes, p.start_ns, step
            ORDER BY last, p.start_ns
            """,
            self.where.parameters,
        ).fetchall()
        yield from self._known(rows)

    def single(self, columns: str) -> Iterator[tuple[Series, tuple[Any, ...]]]:
        """Yield *columns* of single points likewise, the latest of them if there are very many."""
        rows = self.connection.execute(
            f"""
            SELECT p.metric, p.attributes, p.start_ns, {self.steps.of("p.time_ns")} AS step, p.time_ns, {columns}
            FROM points p {self.where.where} ORDER BY p.time_ns DESC LIMIT {_SINGLE}
            """,
            self.where.parameters,
        ).fetchall()
        self.truncated |= len(rows) == _SINGLE
        yield from self._known(rows[::-1])

    def _known(self, rows: Sequence[Sequence[Any]]) -> Iterator[tuple[Series, tuple[Any, ...]]]:
        for number, attributes, *rest in rows:
            one = self.series.get((number, tuple(attributes)))
            if one is not None:
                yield one, tuple(rest)


@dataclass(frozen=True, slots=True)
class _Combination:
    """Points with the same header and attributes in one segment: how many, and from when to when."""

    header: int
    attributes: tuple[int, ...]
    count: int
    first: int
    last: int


def choose(connection: duckdb.DuckDBPyConnection, asked: Parameters, name: str) -> Points:
    """
    Return the points of a metric in the window that is asked for.

    Points of one name that differ in their type or in their buckets cannot be shown together: most win.

    Raises:
        NotFoundError: No metric of this name has been sent.
    """
    headers = _headers(connection, asked, name)
    if not headers:
        raise NotFoundError(f"no such metric is here: {name[:100]}")
    found, more = _combinations(connection, asked, list(headers))
    shape = _prevailing(headers, found)
    alike = [number for number, header in headers.items() if header.shape == shape]
    known = [each for each in found if headers[each.header].shape == shape][: _FEWER.get(shape[0], _COMBINATIONS)]
    more |= len(known) < len(found)
    steps = _steps(asked.window, known)
    where = _where(connection, asked, alike)
    where.add("p.time_ns >= ? AND p.time_ns < ?", steps.since, steps.until)
    if more:
        where.add(
            "(p.metric, p.attributes) IN (SELECT (unnest(?::INTEGER[]), unnest(?::INTEGER[][])))",
            [each.header for each in known],
            [list(each.attributes) for each in known],
        )
    return Points(
        connection=connection,
        header=headers[max(alike)],
        jobs=tuple({f"{each.namespace}/{each.service}".lstrip("/"): None for each in headers.values()}),
        headers=alike,
        series=_series(connection, headers, known),
        steps=steps,
        where=where,
        truncated=more,
    )


def _headers(connection: duckdb.DuckDBPyConnection, asked: Parameters, name: str) -> dict[int, Header]:
    rows = connection.execute(
        """
        SELECT m.id, m.service, r.namespace, r.raw, m.scope, m.unit, m.type, coalesce(m.monotonic, false),
               m.temporality, m.bounds, m.description
        FROM metrics m JOIN point_resources r ON r.id = m.resource
        WHERE m.name = ? AND (? = '' OR m.service = ?) AND (? = '' OR r.instance = ?)
        """,
        [name, asked.service, asked.service, asked.run, asked.run],
    ).fetchall()
    delta = TEMPORALITIES.index("DELTA")
    return {
        row[0]: Header(
            service=row[1],
            namespace=row[2],
            process=row[3],
            scope=row[4],
            unit=row[5],
            kind=row[6],
            monotonic=row[7],
            delta=row[8] == delta,
            bounds=tuple(row[9] or ()),
            description=row[10],
        )
        for row in rows
    }


def _where(connection: duckdb.DuckDBPyConnection, asked: Parameters, headers: Sequence[int]) -> Selection:
    # Bit 0 of the flags: nothing was recorded.
    found = Selection(["p.flags & 1 = 0"])
    found.add("p.metric IN (SELECT unnest(?::INTEGER[]))", list(headers))
    for key, value in asked.attributes:
        found.add("list_has_any(p.attributes, ?)", attribute_ids(connection, "point_attributes", key, value))
    return found


def _combinations(
    connection: duckdb.DuckDBPyConnection, asked: Parameters, headers: Sequence[int]
) -> tuple[list[_Combination], bool]:
    """Return the combinations with the most points, and whether there are more."""
    found = _where(connection, asked, headers)
    if window := asked.window:
        found.add("p.time_ns >= ? AND p.time_ns < ?", window.from_us * 1000 - _BACK_NS, window.to_us * 1000)
    rows = connection.execute(
        f"SELECT p.metric, p.attributes, count(*), min(p.time_ns), max(p.time_ns) FROM points p {found.where} "
        f"GROUP BY p.metric, p.attributes ORDER BY count(*) DESC, p.metric, p.attributes LIMIT {_COMBINATIONS + 1}",
        found.parameters,
    ).fetchall()
    listed = [_Combination(row[0], tuple(row[1]), *row[2:]) for row in rows]
    return listed[:_COMBINATIONS], len(listed) > _COMBINATIONS


def _prevailing(headers: Mapping[int, Header], found: Sequence[_Combination]) -> tuple[str, bool, tuple[float, ...]]:
    points: Counter[tuple[str, bool, tuple[float, ...]]] = Counter()
    for each in found:
        points[headers[each.header].shape] += each.count
    # Without points in the window, what was said last is what it is.
    return points.most_common(1)[0][0] if points else headers[max(headers)].shape


def _steps(window: Window | None, found: Sequence[_Combination]) -> Steps:
    """Cut the window into steps that are no shorter than the usual time between two points of a series."""
    intervals = sorted((each.last - each.first) // (each.count - 1) for each in found if each.count > 1)
    interval = intervals[len(intervals) // 2] if intervals else 0
    if window is None:
        first, last = min((each.first for each in found), default=0), max((each.last for each in found), default=0)
        window = Window(first // 1000, last // 1000 + 1)
    length = (window.to_us - window.from_us) * 1000
    begin, step, count = window.steps(max(1, min(_STEPS, -(-length // max(interval, 1)))))
    return Steps(
        first=begin * 1000,
        length=step * 1000,
        count=count,
        since=window.from_us * 1000 - _BACK_NS,
        until=window.to_us * 1000,
        gap=max(1, math.ceil(_HELD_INTERVALS * interval / (step * 1000))),
    )


def _series(
    connection: duckdb.DuckDBPyConnection, headers: Mapping[int, Header], found: Sequence[_Combination]
) -> dict[tuple[int, tuple[int, ...]], Series]:
    values = values_of(connection, "point_attributes", (each.attributes for each in found))
    by_identity: dict[tuple[Any, ...], Series] = {}
    series = {}
    for each in found:
        header = headers[each.header]
        said = tuple(sorted(pairs(values, each.attributes), key=lambda pair: pair[0]))
        identity = (header.process, header.scope, header.delta, repr(said))
        one = by_identity.setdefault(identity, Series(header.service, said, header.delta))
        series[each.header, each.attributes] = one
    return series
