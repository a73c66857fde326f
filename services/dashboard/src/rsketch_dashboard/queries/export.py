"""What is stored as OTLP requests, in parts: a million spans are never in memory together."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any

import duckdb
from google.protobuf.message import Message

from rsketch_dashboard.errors import NotFoundError
from rsketch_dashboard.queries.parameters import Parameters, ids
from rsketch_dashboard.queries.spans import Selection, select
from rsketch_dashboard.store import restore

__all__ = ["Reading", "export", "export_trace"]

_Connection = duckdb.DuckDBPyConnection
Reading = Callable[[], AbstractContextManager[_Connection]]
"""Opens a connection. For each part a new one: whoever reads slowly should not keep the store from closing."""
_Restore = Callable[[_Connection, str, Sequence[Any]], Message]

_ROWS = 1000
"""About as many items are in one request."""
_SLICES = 20_000
_TRACES = 20_000
_TRACES_TOGETHER = 200


def export_trace(connection: _Connection, text: str) -> tuple[Message, Message]:
    """
    Return the spans and the log records of a trace.

    Raises:
        QueryError: It is no trace id.
        NotFoundError: Neither a span nor a log record of it is here.
    """
    number = ids(text, 32)
    spans = restore.spans(connection, "s.trace_id = ?::UHUGEINT", [number])
    logs = restore.logs(connection, "l.trace_id = ?::UHUGEINT", [number])
    if not spans.ByteSize() and not logs.ByteSize():
        raise NotFoundError("this trace is not here: it may not have arrived yet, or be gone")
    return spans, logs


def export(reading: Reading, asked: Parameters) -> Iterator[Message]:
    """
    Yield what is in a window: spans, then log records, then points.

    Where spans are narrowed down by more than a window, whole traces are meant, with their log records: those that have
    an entry span as asked, the newest if there are very many. Points come with them only where a service or a run is
    all that is asked for: nothing else is theirs.
    """
    if _is_narrow(asked):
        yield from _traces(reading, asked)
    else:
        yield from _sliced(reading, "spans s", "s.start_ns", _window(asked, "s.start_ns"), restore.spans)
        yield from _sliced(reading, "logs l", "l.time_ns", _window(asked, "l.time_ns"), restore.logs)
    if not _is_narrow(replace(asked, service="", run="")):
        found = _window(asked, "p.time_ns")
        for condition, value in (("service = ?", asked.service), ("instance = ?", asked.run)):
            if value:
                resources = f"SELECT id FROM point_resources WHERE {condition}"
                found.add(f"p.metric IN (SELECT id FROM metrics WHERE resource IN ({resources}))", value)
        yield from _sliced(reading, "points p", "p.time_ns", found, restore.points)


def _is_narrow(asked: Parameters) -> bool:
    limits = (asked.min_ms, asked.max_ms)
    texts = (asked.service, asked.operation, asked.kind, asked.status, asked.q, asked.attributes, asked.run)
    return any(texts) or any(limit is not None for limit in limits)


def _window(asked: Parameters, time: str) -> Selection:
    found = Selection()
    if asked.window:
        found.add(f"{time} >= ? AND {time} < ?", asked.window.from_us * 1000, asked.window.to_us * 1000)
    return found


def _traces(reading: Reading, asked: Parameters) -> Iterator[Message]:
    with reading() as connection:
        found = select(connection, asked, entries=True)
        query = f"SELECT s.trace_id FROM spans s {found.where} GROUP BY s.trace_id ORDER BY max(s.start_ns) DESC"
        rows = connection.execute(f"{query} LIMIT {_TRACES}", found.parameters).fetchall() if found.possible else []
    numbers = [str(number) for (number,) in rows]
    together = [numbers[at : at + _TRACES_TOGETHER] for at in range(0, len(numbers), _TRACES_TOGETHER)]
    for restored, name in ((restore.spans, "s"), (restore.logs, "l")):
        for listed in together:
            # As text: of a list of numbers the database guesses a type, and takes 128 bits for doubles.
            condition = f"{name}.trace_id IN (SELECT unnest(?::VARCHAR[])::UHUGEINT)"
            yield from _restored(reading, restored, condition, [listed])


def _sliced(reading: Reading, source: str, time: str, found: Selection, restored: _Restore) -> Iterator[Message]:
    """Yield the rows of a view in slices of time; where one has too many rows, in slices of that."""
    query = f"SELECT min({time}), max({time}) FROM {source} {found.where}"
    with reading() as connection:
        bounds = connection.execute(query, found.parameters).fetchone()
    if bounds is None or bounds[0] is None:
        return
    for first, end in _slices(reading, source, time, found, bounds[0], bounds[1] + 1):
        part = Selection(list(found.conditions), list(found.parameters))
        part.add(f"{time} >= ? AND {time} < ?", first, end)
        yield from _restored(reading, restored, " AND ".join(part.conditions), part.parameters)


def _slices(
    reading: Reading, source: str, time: str, found: Selection, first: int, end: int
) -> Iterator[tuple[int, int]]:
    width = max(-(-(end - first) // _SLICES), 1)
    part = Selection(list(found.conditions), list(found.parameters))
    part.add(f"{time} >= ? AND {time} < ?", first, end)
    query = f"SELECT ({time} - {first}) // {width} AS slice, count(*) FROM {source} {part.where}"
    with reading() as connection:
        rows = connection.execute(f"{query} GROUP BY slice ORDER BY slice", part.parameters).fetchall()
    begin, held = first, 0
    for number, count in rows:
        start = first + number * width
        if held and held + count > _ROWS:
            yield begin, start
            begin, held = start, 0
        if count > 2 * _ROWS and width > 1:
            # Clocks that are years apart make for wide slices.
            yield from _slices(reading, source, time, found, start, start + width)
            begin = start + width
        else:
            held += count
    if held:
        yield begin, end


def _restored(reading: Reading, restored: _Restore, condition: str, parameters: Sequence[Any]) -> Iterator[Message]:
    with reading() as connection, _at_one_time(connection):
        request = restored(connection, condition, parameters)
    # A segment may have gone since the slices were cut.
    if request.ByteSize():
        yield request


@contextmanager
def _at_one_time(connection: _Connection) -> Iterator[None]:
    """See one state of the store: of a segment that goes in between, rows would outlive what they refer to."""
    connection.execute("BEGIN TRANSACTION READ ONLY")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")
