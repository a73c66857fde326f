"""
Where queries are answered: two threads with a connection each, and a limit in time.

Two, because one slow question must not keep the live page waiting, and because more would take the cores from the
program that is being looked at.
"""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import duckdb

from rsketch_dashboard.errors import DashboardError, QueryError
from rsketch_dashboard.queries.export import Reading
from rsketch_dashboard.store import Store

__all__ = ["Desk"]

T = TypeVar("T")

_log = logging.getLogger(__name__)

_THREADS = 2
_SECONDS = 10.0
_OPERATIONS = "CREATE TEMP TABLE operations AS SELECT * FROM operations"
"""
The view of that name, copied for one query, before which it is found.

A join with a view over many segments sets memory aside for each of them, in each thread: more than 100 MB for a
thousand rows. With this copy, which takes 4 ms, it is a tenth of that.
"""


class Desk:
    """Answers queries; `open` must be around its use."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="dashboard-query")

    @contextmanager
    def open(self) -> Iterator[None]:
        """Answer while open."""
        try:
            yield
        finally:
            # Whoever asked has been cut off by now, and a stop must not wait for what nobody will read.
            self._threads.shutdown(wait=False, cancel_futures=True)
            self._store.interrupt()
            self._threads.shutdown()

    async def ask(
        self, query: Callable[[duckdb.DuckDBPyConnection], T], *, seconds: float = _SECONDS, at_one_time: bool = True
    ) -> T:
        """
        Return what *query* makes of a connection.

        Args:
            at_one_time: Whether all that it asks is of one state of the store; not for one that begins a transaction.

        Raises:
            QueryError: It took longer than *seconds*, or the database refused it.
        """
        return await asyncio.get_running_loop().run_in_executor(
            self._threads, self._answer, query, seconds, at_one_time
        )

    async def each(self, query: Callable[[Reading], Iterator[T]]) -> AsyncIterator[T]:
        """Yield what *query* makes of connections, one after another as they are asked for."""
        found = query(self._store.reading)
        loop = asyncio.get_running_loop()
        while (item := await loop.run_in_executor(self._threads, next, found, None)) is not None:
            yield item

    def _answer(
        self,
        query: Callable[[duckdb.DuckDBPyConnection], T],
        seconds: float,
        at_one_time: bool,  # noqa: FBT001
    ) -> T:
        with self._store.reading() as connection:
            late = threading.Timer(seconds, connection.interrupt)
            late.daemon = True
            late.start()
            try:
                if at_one_time:
                    # Else a row may be of an operation that came after the copy, or of a segment that has gone.
                    connection.begin()
                    connection.execute(_OPERATIONS)
                return query(connection)
            except duckdb.InterruptException:
                raise QueryError(f"it took longer than {seconds:g} s and was given up") from None
            except DashboardError:
                raise
            except duckdb.Error as error:
                _log.warning("a query failed: %s", str(error).splitlines()[0])
                raise QueryError(str(error).splitlines()[0]) from error
            finally:
                late.cancel()
