"""Which spans a view is about, as SQL over the views `spans` (called s) and `operations` (called o)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import duckdb

from rsketch_dashboard.queries.parameters import Parameters, Window
from rsketch_dashboard.store.rows import KINDS

__all__ = ["SERVED", "Selection", "add_attribute", "attribute_ids", "select", "span_hex", "trace_hex"]

SERVED = (KINDS.index("SERVER"), KINDS.index("CONSUMER"))
"""Kinds of spans that answer somebody."""
_FEW_NUMBERS = 24
"""Up to so many it is faster to look for each of them in every row than to take all rows apart."""


@dataclass(slots=True)
class Selection:
    """
    Conditions, to be ANDed, and the parameters in them.

    Attributes:
        possible: False where no row can match, for instance because nobody ever sent the attribute that is asked for.
    """

    conditions: list[str] = field(default_factory=list)
    parameters: list[Any] = field(default_factory=list)
    possible: bool = True

    def add(self, condition: str, *parameters: Any) -> None:
        """Add one condition."""
        self.conditions.append(condition)
        self.parameters += parameters

    @property
    def where(self) -> str:
        """The conditions as a WHERE clause, or nothing."""
        return f"WHERE {' AND '.join(self.conditions)}" if self.conditions else ""


def select(connection: duckdb.DuckDBPyConnection, asked: Parameters, *, entries: bool) -> Selection:
    """
    Return the spans that *asked* is about.

    Operations are looked up first: to compare numbers in a million rows costs a tenth of a join with their names.

    Args:
        entries: Whether only spans that may have their parent elsewhere are meant.
    """
    found = Selection()
    if entries:
        found.add("s.entry")
    if asked.window:
        found.add("s.start_ns >= ? AND s.start_ns < ?", *_ns(asked.window))
    if asked.before_ns is not None:
        found.add("s.start_ns < ?", asked.before_ns)
    if asked.min_ms is not None:
        found.add("s.duration_ns >= ?", round(asked.min_ms * 1e6))
    if asked.max_ms is not None:
        found.add("s.duration_ns <= ?", round(asked.max_ms * 1e6))
    if asked.status:
        found.add("s.status = 2" if asked.status == "error" else "s.status <> 2")
    _add_operations(connection, asked, found)
    for key, value in asked.attributes:
        add_attribute(connection, found, ("spans", "span_attributes", "span_id"), key, value)
    return found


def add_attribute(
    connection: duckdb.DuckDBPyConnection, found: Selection, names: tuple[str, str, str], key: str, value: str | None
) -> None:
    """
    Add that rows have an attribute; without a value, any of that key.

    Args:
        names: Of the table, whose first letter is its alias, of that of its attributes, and of a column that is
            different in each row.
    """
    table, attributes, identity = names
    numbers = attribute_ids(connection, attributes, key, value)
    alias = table[0]
    if not numbers:
        found.possible = False
    elif len(numbers) <= _FEW_NUMBERS:
        # Each by itself: list_has_any builds a table for every row, which is ten times as slow.
        found.add(f"({' OR '.join([f'list_contains({alias}.attributes, ?)'] * len(numbers))})", *numbers)
    else:
        given = "" if value is None else "AND value = ?"
        found.add(
            f"{alias}.{identity} IN (SELECT {identity} FROM (SELECT {identity}, unnest(attributes) AS number "
            f"FROM {table}) WHERE number IN (SELECT id FROM {attributes} WHERE key = ? {given}))",
            *((key,) if value is None else (key, value)),
        )


def attribute_ids(connection: duckdb.DuckDBPyConnection, table: str, key: str, value: str | None) -> list[int]:
    """Return the numbers under which an attribute is interned: several, as each segment has its own dictionary."""
    given = "" if value is None else "AND value = ?"
    found = connection.execute(
        f"SELECT id FROM {table} WHERE key = ? {given}", [key] if value is None else [key, value]
    ).fetchall()
    return [number for (number,) in found]


def trace_hex(number: int) -> str:
    """Return a trace id as OTLP's JSON has it."""
    return f"{number:032x}"


def span_hex(number: int) -> str:
    """Return a span id as OTLP's JSON has it; empty for none."""
    return f"{number:016x}" if number else ""


def _ns(window: Window) -> tuple[int, int]:
    return window.from_us * 1000, window.to_us * 1000


def _add_operations(connection: duckdb.DuckDBPyConnection, asked: Parameters, found: Selection) -> None:
    conditions: list[str] = []
    values: list[Any] = []
    for condition, value in (
        ("o.service = ?", asked.service),
        ("o.name = ?", asked.operation),
        ("o.kind = ?", KINDS.index(asked.kind) if asked.kind else ""),
        ("contains(lower(o.name), lower(?))", asked.q),
        ("o.resource IN (SELECT id FROM span_resources WHERE instance = ?)", asked.run),
    ):
        if value != "":
            conditions.append(condition)
            values.append(value)
    if not asked.health:
        conditions.append("NOT o.health")
    if not conditions:
        return
    numbers = [
        number
        for (number,) in connection.execute(
            f"SELECT o.id FROM operations o WHERE {' AND '.join(conditions)}", values
        ).fetchall()
    ]
    found.possible &= bool(numbers)
    _among(connection, found, numbers)


def _among(connection: duckdb.DuckDBPyConnection, found: Selection, numbers: Sequence[int]) -> None:
    """Add that the operation is one of *numbers*, unless those are all there are."""
    total = connection.execute("SELECT count(*) FROM operations").fetchone()
    if total is not None and len(numbers) < total[0]:
        found.add("s.operation IN (SELECT unnest(?::INTEGER[]))", list(numbers))
