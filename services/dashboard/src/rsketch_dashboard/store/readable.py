"""
Views for people who write SQL: the schema `otel`, with ids, times and names as one reads them.

They stand on the views that unite the segments and name no segment, so they hold whatever comes and goes. An attribute
is looked up by a macro that is a table (`otel.spans_with('http.route')`): as a map in a column each span's attributes
would have to be put together, also where nobody asks for them, which takes more memory than the database has.
"""

import hashlib
from dataclasses import dataclass
from typing import Final

import duckdb

from rsketch_dashboard.store.rows import KINDS, STATUSES

__all__ = ["MACROS", "READABLE", "Readable", "create_readable", "is_current", "renew"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Readable:
    """
    A view.

    Attributes:
        name: Within the schema.
        description: For people.
        columns: SQL expressions by name.
        source: What the columns are of.
        attributes: The view of the attributes that a row refers to as `row.attributes`; empty for none.
    """

    name: str
    description: str
    columns: tuple[tuple[str, str], ...]
    source: str
    attributes: str = ""


def _hex(column: str, digits: int) -> str:
    return f"lower(lpad(to_hex({column}), {digits}, '0'))"


def _time(column: str) -> str:
    return f"make_timestamp({column} // 1000)"


def _named(column: str, names: tuple[str, ...]) -> str:
    listed = ", ".join(f"'{name}'" for name in names)
    return f"[{listed}][{column} + 1]"


_SEVERITY = " ".join(
    [
        "CASE",
        *(
            f"WHEN row.severity >= {floor} THEN '{name}'"
            for name, floor in (("FATAL", 21), ("ERROR", 17), ("WARN", 13), ("INFO", 9), ("DEBUG", 5), ("TRACE", 1))
        ),
        "END",
    ]
)

READABLE: Final = (
    Readable(
        name="spans",
        description="One row a span; times are UTC. parent_span_id is NULL for a root.",
        columns=(
            ("trace_id", _hex("row.trace_id", 32)),
            ("span_id", _hex("row.span_id", 16)),
            ("parent_span_id", f"CASE WHEN row.parent_id <> 0 THEN {_hex('row.parent_id', 16)} END"),
            ("start", _time("row.start_ns")),
            ("duration_ms", "row.duration_ns / 1e6"),
            ("service", "header.service"),
            ("name", "header.name"),
            ("kind", _named("header.kind", KINDS)),
            ("status", _named("row.status", STATUSES)),
            ("run", "resource.instance"),
            ("version", "resource.version"),
            ("scope", "header.scope"),
        ),
        source=(
            "main.spans row JOIN main.operations header ON header.id = row.operation "
            "JOIN main.span_resources resource ON resource.id = header.resource"
        ),
        attributes="main.span_attributes",
    ),
    Readable(
        name="logs",
        description="One row a log record; trace_id and span_id are NULL outside a span.",
        columns=(
            ("time", _time("row.time_ns")),
            ("severity", _SEVERITY),
            ("service", "header.service"),
            ("logger", "header.scope"),
            ("body", "row.body"),
            ("event_name", "row.event_name"),
            ("trace_id", _hex("row.trace_id", 32)),
            ("span_id", _hex("row.span_id", 16)),
            ("run", "resource.instance"),
        ),
        source=(
            "main.logs row JOIN main.loggers header ON header.id = row.logger "
            "JOIN main.log_resources resource ON resource.id = header.resource"
        ),
        attributes="main.log_attributes",
    ),
    Readable(
        name="points",
        description=(
            "One row a point of a metric as it was sent: of cumulative ones the total since start. "
            "buckets has one count more than bounds."
        ),
        columns=(
            ("time", _time("row.time_ns")),
            ("start", f"CASE WHEN row.start_ns <> 0 THEN {_time('row.start_ns')} END"),
            ("name", "header.name"),
            ("unit", "header.unit"),
            ("type", "header.type"),
            ("temporality", "['UNSPECIFIED', 'DELTA', 'CUMULATIVE'][header.temporality + 1]"),
            ("service", "header.service"),
            ("value", "row.value"),
            ("count", "row.count"),
            ("sum", "row.sum"),
            ("min", "row.min"),
            ("max", "row.max"),
            ("bounds", "header.bounds"),
            ("buckets", "row.buckets"),
            ("run", "resource.instance"),
        ),
        source=(
            "main.points row JOIN main.metrics header ON header.id = row.metric "
            "JOIN main.point_resources resource ON resource.id = header.resource"
        ),
        attributes="main.point_attributes",
    ),
    Readable(
        name="exemplars",
        description="Single measurements of a metric, with the span in which they were made.",
        columns=(
            ("time", _time("row.time_ns")),
            ("name", "header.name"),
            ("unit", "header.unit"),
            ("service", "header.service"),
            ("value", "row.value"),
            ("trace_id", _hex("row.trace_id", 32)),
            ("span_id", _hex("row.span_id", 16)),
        ),
        source="main.exemplars row JOIN main.metrics header ON header.id = row.metric",
    ),
)

MACROS: Final = tuple(f"{view.name}_with" for view in READABLE if view.attributes)
"""Each takes the key of an attribute, and yields the rows of its view that have it with one more column."""


def create_readable() -> str:
    """Return the statements that create the schema; where it is there already, they bring it up to date."""
    statements = ["CREATE SCHEMA IF NOT EXISTS otel"]
    for view in READABLE:
        columns = ", ".join(f'{expression} AS "{name}"' for name, expression in view.columns)
        statements.append(f"CREATE OR REPLACE VIEW otel.{view.name} AS SELECT {columns} FROM {view.source}")
        if view.attributes:
            # Unnested in the list of columns: a lateral join would keep every row until it has seen the last one.
            statements.append(
                f"CREATE OR REPLACE MACRO otel.{view.name}_with(wanted) AS TABLE "
                f"SELECT found.* EXCLUDE (used), attribute.value AS attribute "
                f"FROM (SELECT {columns}, unnest(row.attributes) AS used FROM {view.source}) found "
                f"JOIN {view.attributes} attribute ON attribute.id = found.used AND attribute.key = wanted"
            )
    return ";\n".join(statements)


def is_current(connection: duckdb.DuckDBPyConnection) -> bool:
    """Return whether a file has the views of this version of the program; opening it should not write needlessly."""
    return connection.execute("SELECT value FROM meta WHERE key = 'readable'").fetchone() == (_digest(),)


def renew(connection: duckdb.DuckDBPyConnection) -> None:
    """Create the views; the views that unite the segments must be there."""
    connection.execute(create_readable())
    connection.execute("DELETE FROM meta WHERE key = 'readable'")
    connection.execute("INSERT INTO meta VALUES ('readable', ?)", [_digest()])


def _digest() -> str:
    return hashlib.sha256(create_readable().encode()).hexdigest()[:16]
