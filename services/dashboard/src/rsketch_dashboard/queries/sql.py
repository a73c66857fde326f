"""
SQL of people: one SELECT, in five seconds, with ten thousand rows.

Four things keep it harmless. The database has no access to files and its settings are locked; the transaction is
read-only; what is asked is parsed first, and may name only functions that make tables of nothing but their arguments;
and while it runs the process may take only so much more memory, because strings are not in the database's own account.
"""

import json
import resource
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import duckdb

from rsketch_dashboard.errors import QueryError
from rsketch_dashboard.store.readable import MACROS, READABLE
from rsketch_dashboard.store.values import Json as Cell

__all__ = ["EXAMPLES", "SECONDS", "read_query", "schema", "sql"]

Json = dict[str, Any]

SECONDS = 5.0
_ROWS = 10_000
_BYTES = 8 * 1024 * 1024
_CELL = 10_000
"""Characters of a cell; what is longer is cut."""
_ELEMENTS = 2000
_BATCH = 64
_QUERY = 20_000
"""Characters of a query: to parse more may take longer than a query may."""
_NAME_PARTS = 8
_EXACT = 2**53
"""Above it not every integer is a double, which is what a page takes for a number."""
_DIGITS = 15
_HEADROOM = 512 * 1024 * 1024

_TABLES: Final = frozenset({"duckdb_columns", "duckdb_functions", "duckdb_tables", "duckdb_views", "generate_series"})
_TABLE_FUNCTIONS: Final = _TABLES | {"json_each", "json_tree", "range", "unnest", *MACROS}
_REFUSED: Final = frozenset({"nextval", "setseed", "setval", "sleep_ms", "write_log"})

EXAMPLES: Final = (
    (
        "Slowest operations",
        """\
SELECT service, name, count(*) AS calls, round(quantile_cont(duration_ms, 0.95), 1) AS p95_ms
FROM otel.spans WHERE kind = 'SERVER' GROUP BY ALL ORDER BY p95_ms DESC LIMIT 20""",
    ),
    (
        "Share of errors by route",
        """\
SELECT attribute AS route, count(*) AS calls, round(100 * avg((status = 'ERROR')::INTEGER), 2) AS failed_percent
FROM otel.spans_with('http.route') GROUP BY ALL ORDER BY failed_percent DESC, calls DESC""",
    ),
    (
        "Traces with the most spans",
        """\
SELECT trace_id, count(*) AS spans, count(DISTINCT service) AS services, round(max(duration_ms), 1) AS longest_ms
FROM otel.spans WHERE start > (SELECT max(start) FROM otel.spans) - INTERVAL 15 MINUTE
GROUP BY trace_id ORDER BY spans DESC LIMIT 20""",
    ),
    (
        "What takes the most time in all",
        """\
SELECT service, name, kind, count(*) AS calls, round(sum(duration_ms)) AS total_ms
FROM otel.spans GROUP BY ALL ORDER BY total_ms DESC LIMIT 20""",
    ),
    (
        "Errors in the logs, by the minute",
        """\
SELECT time_bucket(INTERVAL 1 MINUTE, time) AS minute, service, count(*) AS records
FROM otel.logs WHERE severity IN ('ERROR', 'FATAL') GROUP BY ALL ORDER BY minute DESC LIMIT 60""",
    ),
    (
        "Latest value of each gauge",
        """\
SELECT name, service, unit, arg_max(value, time) AS value, max(time) AS time
FROM otel.points WHERE type = 'gauge' GROUP BY name, service, unit ORDER BY name""",
    ),
)
"""Titles and queries that work with any telemetry."""


def sql(connection: duckdb.DuckDBPyConnection, query: str) -> Json:
    """
    Return what a query yields, as JSON can hold it.

    Raises:
        QueryError: It is no single SELECT, asks for what is not allowed, fails, or needs too much memory.
    """
    began = time.perf_counter()
    try:
        _check(connection, query)
        with _bounded_memory():
            columns, rows, truncated = _answer(connection, query)
    except duckdb.InterruptException:
        raise
    except MemoryError:
        raise QueryError("it needs more memory than a query may take") from None
    except duckdb.OutOfMemoryException as error:
        raise QueryError(f"it needs more memory than a query may take: {_first_line(error)}") from None
    except duckdb.Error as error:
        raise QueryError(_first_line(error)) from None
    return {
        "columns": columns,
        "rows": rows,
        "truncated": truncated,
        "elapsed_ms": round((time.perf_counter() - began) * 1000, 1),
    }


def schema(connection: duckdb.DuckDBPyConnection) -> Json:
    """Return what can be asked for: views with their columns, the macros for attributes, and examples."""
    tables = []
    for view in READABLE:
        columns = _columns(connection, f"otel.{view.name}")
        tables.append({"name": f"otel.{view.name}", "columns": columns, "description": view.description})
        if view.attributes:
            tables.append(
                {
                    "name": f"otel.{view.name}_with('<key>')",
                    "columns": [*columns, {"name": "attribute", "type": "VARCHAR"}],
                    "description": f"The rows of otel.{view.name} that have an attribute, with its value as text.",
                }
            )
    return {"tables": tables, "examples": [{"title": title, "query": query} for title, query in EXAMPLES]}


def _columns(connection: duckdb.DuckDBPyConnection, view: str) -> list[Json]:
    rows = connection.execute(f"DESCRIBE {view}").fetchall()
    return [{"name": name, "type": kind} for name, kind, *_ in rows]


def _check(connection: duckdb.DuckDBPyConnection, query: str) -> None:
    """Refuse what is no plain SELECT. Raises QueryError."""
    if len(query) > _QUERY:
        raise QueryError(f"query: accepts at most {_QUERY} characters")
    if "\0" in query:
        raise QueryError("query: accepts text without NUL")
    statements = connection.extract_statements(query)
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        raise QueryError("query: accepts one SELECT, and nothing that changes or explains anything")
    row = connection.execute("SELECT json_serialize_sql(?)", [statements[0].query]).fetchone()
    try:
        parsed = json.loads(row[0]) if row else {"error": True}
    except RecursionError:
        raise QueryError("query: is nested too deeply") from None
    if parsed.get("error"):
        raise QueryError(f"query: accepts one SELECT: {str(parsed.get('error_message', ''))[:200]}")
    for node in _nodes(parsed):
        _check_node(node)


def _check_node(node: Mapping[str, Any]) -> None:
    kind = str(node.get("type", ""))
    # A WITH may have an INSERT in it, and is still a SELECT.
    if kind.endswith("_QUERY_NODE"):
        raise QueryError("query: accepts a SELECT that changes nothing")
    if kind == "TABLE_FUNCTION":
        name = str(node.get("function", {}).get("function_name", "")).lower()
        if name not in _TABLE_FUNCTIONS:
            raise QueryError(f"query: the function {name[:80]} is not allowed in FROM")
    if kind == "FUNCTION" and str(node.get("function_name", "")).lower() in _REFUSED:
        raise QueryError(f"query: the function {node['function_name']} is not allowed")
    # To look for what has a thousand dots in its name takes a minute that cannot be interrupted.
    if len(node.get("column_names") or ()) > _NAME_PARTS:
        raise QueryError("query: a name has too many parts")


def _nodes(parsed: object) -> Iterator[Mapping[str, Any]]:
    waiting = [parsed]
    while waiting:
        node = waiting.pop()
        if isinstance(node, Mapping):
            yield node
            waiting += node.values()
        elif isinstance(node, list):
            waiting += node


def _answer(connection: duckdb.DuckDBPyConnection, query: str) -> tuple[list[Json], list[list[Cell]], bool]:
    connection.execute("BEGIN TRANSACTION READ ONLY")
    try:
        connection.execute(query)
        columns = [{"name": name, "type": str(kind)} for name, kind, *_ in connection.description or ()]
        rows: list[list[Cell]] = []
        size = 0
        while batch := connection.fetchmany(_BATCH):
            for row in batch:
                if len(rows) == _ROWS or size > _BYTES:
                    return columns, rows, True
                cells = [_cell(value) for value in row]
                size += sum(_size(cell) for cell in cells)
                rows.append(cells)
        return columns, rows, False
    finally:
        with suppress(duckdb.Error):
            connection.execute("ROLLBACK")


def _cell(value: object) -> Cell:
    """Return a value as JSON has it; what that cannot hold, and what is long, as text."""
    if not isinstance(value, list | tuple | dict):
        return _scalar(value)
    try:
        nested = _nested(value, [_ELEMENTS])
    except _TooLongError:
        return _cut(f"{str(value)[:_CELL]}…")
    text = json.dumps(nested, ensure_ascii=False)
    return nested if len(text) <= _CELL else _cut(text)


def _scalar(value: object) -> Cell:
    match value:
        case None | bool():
            return value
        case int():
            return value if abs(value) <= _EXACT else str(value)
        case float():
            return value if value - value == 0.0 else str(value)
        case str():
            return _cut(value)
        case bytes() | bytearray() | memoryview():
            return _cut(bytes(value[:_CELL]).hex())
        case Decimal():
            return float(value) if len(value.as_tuple().digits) <= _DIGITS else str(value)
        case _:
            # Times, intervals, UUIDs.
            return _cut(str(value))


class _TooLongError(Exception):
    """A list or a map has more elements than a cell shows."""


def _nested(value: object, left: list[int]) -> Cell:
    left[0] -= 1
    if left[0] < 0:
        raise _TooLongError
    match value:
        case list() | tuple():
            return [_nested(each, left) for each in value]
        case dict():
            return {str(key): _nested(each, left) for key, each in value.items()}
        case _:
            return _scalar(value)


def _cut(text: str) -> str:
    return text if len(text) <= _CELL else f"{text[:_CELL]}…"


def _size(cell: Cell) -> int:
    """Return about how long a cell is as JSON."""
    if isinstance(cell, str):
        return len(cell) + 2
    return len(json.dumps(cell, ensure_ascii=False)) if isinstance(cell, list | dict) else 8


_memory = threading.Lock()
_bounded: list[tuple[int, int]] = []
"""The limits of the process before the first of the queries that run now, once for each of them."""


@contextmanager
def _bounded_memory() -> Iterator[None]:
    """Let the process take only so much more while open: an allocation beyond fails, and with it the query."""
    used = _data_bytes()
    if used is None:
        yield
        return
    with _memory:
        _bounded.append(_bounded[0] if _bounded else resource.getrlimit(resource.RLIMIT_DATA))
        _limit_data(used + _HEADROOM, _bounded[0])
    try:
        yield
    finally:
        with _memory:
            before = _bounded.pop()
            if not _bounded:
                resource.setrlimit(resource.RLIMIT_DATA, before)


def _limit_data(wanted: int, before: tuple[int, int]) -> None:
    soft, hard = before
    limits = [limit for limit in (wanted, soft, hard) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min(limits), hard))


def _data_bytes() -> int | None:
    """Return how much memory of its own the process has; None where the system does not say."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    found = next((line.split()[1] for line in status.splitlines() if line.startswith("VmData:")), None)
    return int(found) * 1024 if found else None


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:300] if str(error) else type(error).__name__


def read_query(body: bytes) -> str:
    """Return the query in the body of a request. Raises QueryError."""
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        said = None
    query = said.get("query") if isinstance(said, dict) else None
    if not isinstance(query, str) or not query.strip():
        raise QueryError('accepts a JSON object such as {"query": "SELECT 1"}')
    try:
        query.encode()
    except UnicodeEncodeError:
        raise QueryError("query: accepts text that UTF-8 can hold") from None
    return query
