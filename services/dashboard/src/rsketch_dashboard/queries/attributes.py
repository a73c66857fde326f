"""Interned attributes by their numbers, as the page shows them."""

from collections.abc import Iterable, Mapping, Sequence

import duckdb

from rsketch_dashboard.store.values import Json, from_text

__all__ = ["Pair", "pairs", "values_of"]

Pair = tuple[str, Json]


def values_of(
    connection: duckdb.DuckDBPyConnection, table: str, numbers: Iterable[Sequence[int]]
) -> Mapping[int, Pair]:
    """Return key and value of all attributes that occur in *numbers*, one sequence a row."""
    wanted = list({number for each in numbers for number in each})
    if not wanted:
        return {}
    found = connection.execute(
        f"SELECT id, key, value, type FROM {table} WHERE id IN (SELECT unnest(?::INTEGER[]))", [wanted]
    ).fetchall()
    return {number: (key, from_text(value, kind)) for number, key, value, kind in found}


def pairs(values: Mapping[int, Pair], numbers: Sequence[int]) -> list[Pair]:
    """Return the attributes of one row in the order in which they were sent."""
    return [values[number] for number in numbers if number in values]
