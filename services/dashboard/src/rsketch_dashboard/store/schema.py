"""
The tables. Every kind of row is in *segments*: tables of the same shape with a number, dropped whole when they are old.

`spans`, `logs` and `points` have segments of their own, each with the dictionary of what its rows intern: attributes,
resources and a header (the operation of a span, the logger of a record, the metric of a point). Dropping a segment so
drops all that nobody refers to any more. Ids are never used twice in a file, which lets queries read views that unite
all segments. Segment 0 of the spans is different: it holds what outlives its segment, see `retention`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

__all__ = ["FAMILIES", "KEPT", "VERSION", "Family", "Limits", "create_fixed", "create_segment", "create_views"]

VERSION: Final = 1
"""Of the tables; a file of another version is moved aside."""

KEPT: Final = 0
"""The number of the segment of spans that outlive their own."""

_ATTRIBUTES = "id INTEGER, key VARCHAR, value VARCHAR, type VARCHAR, raw BLOB"
_RESOURCES = (
    "id INTEGER, service VARCHAR, namespace VARCHAR, version VARCHAR, instance VARCHAR, revision VARCHAR, "
    "attributes VARCHAR, raw BLOB, schema_url VARCHAR"
)
_SCOPE = "resource INTEGER, service VARCHAR, scope VARCHAR, scope_version VARCHAR, scope_raw BLOB, schema_url VARCHAR"


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """
    The tables that are filled and dropped together.

    Attributes:
        name: `spans`, `logs` or `points`, which is also the table of its rows.
        header: The table of what rows have in common.
        attributes: The table of interned attributes.
        resources: The table of resources.
        tables: All of them, each with its columns.
        segment_rows: After how many rows the next segment begins.
        segment_bytes: After how much of what was sent, in case rows are large: what is in one segment goes at once.
    """

    name: str
    header: str
    attributes: str
    resources: str
    tables: Mapping[str, str]
    segment_rows: int
    segment_bytes: int = 64 * 1024 * 1024


def _family(name: str, header: str, stem: str, segment_rows: int, tables: Mapping[str, str]) -> Family:
    attributes, resources = f"{stem}_attributes", f"{stem}_resources"
    return Family(
        name=name,
        header=header,
        attributes=attributes,
        resources=resources,
        tables=MappingProxyType({**tables, attributes: _ATTRIBUTES, resources: _RESOURCES}),
        segment_rows=segment_rows,
    )


FAMILIES: Final = MappingProxyType(
    {
        "spans": _family(
            "spans",
            "operations",
            "span",
            100_000,
            {
                "spans": (
                    "trace_id UHUGEINT, span_id UBIGINT, parent_id UBIGINT, start_ns BIGINT, duration_ns BIGINT, "
                    "operation INTEGER, status UTINYINT, entry BOOLEAN, flags UINTEGER, attributes INTEGER[], rest BLOB"
                ),
                "operations": f"id INTEGER, {_SCOPE}, kind UTINYINT, name VARCHAR, health BOOLEAN",
            },
        ),
        "logs": _family(
            "logs",
            "loggers",
            "log",
            50_000,
            {
                "logs": (
                    "sequence BIGINT, time_ns BIGINT, observed_ns BIGINT, severity UTINYINT, severity_text VARCHAR, "
                    "trace_id UHUGEINT, span_id UBIGINT, logger INTEGER, body VARCHAR, event_name VARCHAR, "
                    "flags UINTEGER, attributes INTEGER[], rest BLOB"
                ),
                "loggers": f"id INTEGER, {_SCOPE}",
            },
        ),
        "points": _family(
            "points",
            "metrics",
            "point",
            200_000,
            {
                "points": (
                    "time_ns BIGINT, start_ns BIGINT, metric INTEGER, attributes INTEGER[], flags UINTEGER, "
                    "value DOUBLE, is_int BOOLEAN, count UBIGINT, sum DOUBLE, min DOUBLE, max DOUBLE, "
                    "buckets UBIGINT[], rest BLOB"
                ),
                "exemplars": (
                    "metric INTEGER, attributes INTEGER[], time_ns BIGINT, value DOUBLE, trace_id UHUGEINT, "
                    "span_id UBIGINT"
                ),
                "metrics": (
                    f"id INTEGER, {_SCOPE}, name VARCHAR, description VARCHAR, unit VARCHAR, type VARCHAR, "
                    "temporality UTINYINT, monotonic BOOLEAN, bounds DOUBLE[]"
                ),
            },
        ),
    }
)
"""
The families by name. In their columns:

`entry` says that a span may have its parent elsewhere: it has none, or its kind is SERVER or CONSUMER. `type` of an
attribute is one of `s b i d` (string, boolean, integer, double), whose text is in `value`, or `j`: then `value` is JSON
for people and `raw` the encoded AnyValue. `rest` is the encoded message with whatever no column holds; NULL for none.
`time_ns` of a log record is when it was observed, or received, where its own time is unknown.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """
    How much is kept; whichever is reached first drops the oldest segment.

    Attributes:
        spans: Rows, and likewise `logs` and `points`.
        bytes: Of the file that are in use.
        hours: Since the last row of a segment arrived.
        kept: Spans that outlive their segment, beside the others.
        spare: Bytes of the disk that stay free, in which a segment can still be dropped; with less nothing is taken.
    """

    spans: int = 1_000_000
    logs: int = 500_000
    points: int = 2_000_000
    bytes: int = 512 * 1024 * 1024
    hours: float = 24.0
    kept: int = 20_000
    spare: int = 64 * 1024 * 1024


def create_fixed() -> str:
    """Return the statements that create what is not in segments."""
    return """
        CREATE TABLE meta (key VARCHAR, value VARCHAR);
        CREATE TABLE segments (family VARCHAR, number INTEGER, opened_ns BIGINT, written_ns BIGINT);
        CREATE TABLE red (
            minute BIGINT, service VARCHAR, name VARCHAR, kind UTINYINT, count UBIGINT, errors UBIGINT, sum_ns DOUBLE,
            max_ns BIGINT, buckets MAP(SMALLINT, UBIGINT)
        );
    """


def create_segment(family: Family, number: int) -> str:
    """Return the statements that create the tables of one segment."""
    return ";".join(f"CREATE TABLE {table}_{number} ({columns})" for table, columns in family.tables.items())


def create_views(family: Family, numbers: list[int]) -> str:
    """Return the statements that make each view unite the segments *numbers*."""
    return ";".join(
        f"CREATE OR REPLACE VIEW {table} AS "
        + " UNION ALL ".join(f"SELECT * FROM {table}_{number}" for number in numbers)
        for table in family.tables
    )
