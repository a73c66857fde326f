"""Queries: limited in time, two at once, and no reason for a stop to wait."""

import asyncio
import time
from pathlib import Path

import duckdb
import pytest
from rsketch_dashboard.errors import QueryError
from rsketch_dashboard.queries.desk import Desk
from telemetry_made import Sent, spans, store_in

FOR_MINUTES = "SELECT count(*) FROM range(100000000000) WHERE hash(range) = 7"


def _endless(connection: duckdb.DuckDBPyConnection) -> int:
    return len(connection.execute(FOR_MINUTES).fetchall())


def _count(connection: duckdb.DuckDBPyConnection) -> int:
    return int(connection.execute("SELECT count(*) FROM spans").fetchall()[0][0])


async def test_a_query_that_takes_too_long_is_given_up(tmp_path: Path) -> None:
    """It is said after how long; meanwhile others are answered, and later ones too."""
    with store_in(tmp_path) as store, (desk := Desk(store)).open():
        store.append([spans(Sent())])
        slow = asyncio.create_task(desk.ask(_endless, seconds=0.3))
        meanwhile = await desk.ask(_count)
        with pytest.raises(QueryError, match=r"longer than 0\.3 s"):
            await slow
        afterwards = [await desk.ask(_count) for _ in range(5)]

    assert (meanwhile, afterwards) == (1, [1] * 5)


async def test_a_query_sees_one_state_of_the_store(tmp_path: Path) -> None:
    """What arrives while it asks, such as the first span of an operation, is not half of its answer."""
    with store_in(tmp_path) as store, (desk := Desk(store)).open():
        store.append([spans(Sent())])

        def twice(connection: duckdb.DuckDBPyConnection) -> tuple[int, int]:
            before = _count(connection)
            store.append([spans(Sent(trace=2, name="new"))])
            return before, _count(connection)

        seen = await desk.ask(twice)
        afterwards = await desk.ask(_count)

    assert (seen, afterwards) == ((1, 1), 2)


async def test_what_the_database_refuses_is_one_line(tmp_path: Path) -> None:
    """A query that is wrong is an error of the query, and the next one is answered."""
    with store_in(tmp_path) as store, (desk := Desk(store)).open():
        with pytest.raises(QueryError) as caught:
            await desk.ask(lambda connection: connection.execute("SELECT nothing\nFROM nowhere").fetchall())
        found = await desk.ask(_count)

    assert "\n" not in str(caught.value)
    assert found == 0


async def test_closing_does_not_wait_for_a_query(tmp_path: Path) -> None:
    """What nobody will read any more is given up at once."""
    with store_in(tmp_path) as store:
        with (desk := Desk(store)).open():
            asked = [asyncio.create_task(desk.ask(_endless)) for _ in range(5)]
            await asyncio.sleep(0.2)
            started = time.monotonic()
        took = time.monotonic() - started
        ended = await asyncio.gather(*asked, return_exceptions=True)

    assert took < 2
    assert all(isinstance(each, QueryError | asyncio.CancelledError) for each in ended)
