"""A store in a folder of its own, filled with what `otlp_json` writes, and its views asked as the API asks them."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import duckdb
from rsketch_dashboard.exchange import read
from rsketch_dashboard.queries.parameters import Parameters
from rsketch_dashboard.store import Store
from rsketch_telemetry.otlp.receiver import Request

__all__ = ["NOW", "Json", "asked", "requests", "stored"]

Json = dict[str, Any]
T = TypeVar("T")

NOW = 1_900_000_020_000_000_000
"""When tests take place, in nanoseconds since the epoch; it is the start of a minute, and steps are round."""


def requests(*said: Json) -> list[Request]:
    """Return OTLP's JSON as messages."""
    return [export.request for each in said for export in read(json.dumps(each).encode(), "")]


@contextmanager
def stored(folder: Path, *said: Json) -> Iterator[Store]:
    """Open a store that has what *said* says."""
    store = Store(folder / "telemetry.duckdb")
    try:
        for request in requests(*said):
            outcome = store.append([request])[0]
            assert not outcome.rejected, outcome.reason
        yield store
    finally:
        store.close()


def asked(
    store: Store,
    query: Callable[[duckdb.DuckDBPyConnection, Parameters], T],
    *,
    last: str = "15m",
    **given: str | Sequence[str],
) -> T:
    """Return what a view answers to a query string, at `NOW`."""
    values = {name: [value] if isinstance(value, str) else list(value) for name, value in given.items()}
    with store.reading() as connection:
        return query(connection, Parameters.of(values, NOW // 1000, last=last))
