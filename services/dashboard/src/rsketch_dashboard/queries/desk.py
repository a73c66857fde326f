"""
Where queries are answered: two threads with a connection each, and a limit in time.

Two, because one slow question must not keep the live page waiting, and because more would take the cores from the
program that is being looked at.
"""

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import duckdb

from rsketch_dashboard.errors import DashboardError, QueryError
from rsketch_dashboard.store import Store

__all__ = ["Desk"]

T = TypeVar("T")

_log = logging.getLogger(__name__)

_THREADS = 2
_SECONDS = 10.0


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
            self._threads.shutdown(cancel_futures=True)

    async def ask(self, query: Callable[[duckdb.DuckDBPyConnection], T], *, seconds: float = _SECONDS) -> T:
        """
        Return what *query* makes of a connection.

        Raises:
            QueryError: It took longer than *seconds*, or the database refused it.
        """
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._answer, query, seconds)

    def _answer(self, query: Callable[[duckdb.DuckDBPyConnection], T], seconds: float) -> T:
        with self._store.reading() as connection:
            late = threading.Timer(seconds, connection.interrupt)
            late.daemon = True
            late.start()
            try:
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
