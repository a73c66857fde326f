"""
The segments of one family: which there are, which one is written, and how the oldest goes.

Everything here runs on the writer's connection, inside its transaction.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import duckdb

from rsketch_dashboard.store.dictionary import Dictionary, Ids
from rsketch_dashboard.store.rows import Outcome, Row
from rsketch_dashboard.store.schema import KEPT, Family, create_segment, create_views

__all__ = ["Segment", "Segments"]

_OLDEST_OPEN_NS = 6 * 3600 * 10**9
"""A segment ends at this age at the latest, so that what is a day old can go without what is younger."""
_NOTED_EVERY_NS = 60 * 10**9
"""How exactly the file says when a segment was last written: for after a restart."""


@dataclass(slots=True)
class Segment:
    """
    One segment.

    Attributes:
        number: Of its tables.
        rows: Of its family's main table.
        opened_ns: When it was made.
        written_ns: When its last rows came; `noted_ns` is what the file says of that.
        size: Bytes that were sent for what is in it, as far as this process has seen.
    """

    number: int
    rows: int
    opened_ns: int
    written_ns: int
    noted_ns: int
    size: int = 0


class Segments:
    """The segments of *family*, oldest first; the last one is written."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, family: Family) -> None:
        self._connection = connection
        self.family = family
        self._found = self._read()
        self._ids = self._next_ids()
        self.dictionary = Dictionary(family, self._ids)
        self._appenders: dict[str, duckdb.Appender] = {}

    @property
    def rows(self) -> int:
        """How many rows there are in all."""
        return sum(segment.rows for segment in self._found)

    @property
    def begun(self) -> bool:
        """Whether there is one to write to."""
        return bool(self._found)

    @property
    def kept(self) -> int:
        """How many of them outlive their own segment."""
        return sum(segment.rows for segment in self._found if segment.number == KEPT)

    @property
    def oldest(self) -> Segment | None:
        """The segment to drop next: never the kept one, nor the only one."""
        droppable = [segment for segment in self._found if segment.number != KEPT]
        return droppable[0] if len(droppable) > 1 else None

    def begin(self, *numbers: int) -> None:
        """Create the first segments of a new file."""
        if not self._found:
            for number in numbers:
                self._create(number)

    def advance(self) -> None:
        """Begin the next segment where the one that is written is full."""
        if not self._found:
            return
        current = self._found[-1]
        old = current.rows > 0 and time.time_ns() - current.opened_ns > _OLDEST_OPEN_NS
        if current.rows >= self.family.segment_rows or current.size >= self.family.segment_bytes or old:
            self._create(current.number + 1)
            self._restart()

    def append(self, outcomes: Sequence[Outcome]) -> None:
        """Append the rows of this family to the segment that is written, and what its dictionary learned from them."""
        rows = self.dictionary.drain()
        for outcome in outcomes:
            for table in self.family.tables.keys() & outcome.rows.keys():
                rows.setdefault(table, []).extend(outcome.rows[table])
        current = self._found[-1]
        for table, new in rows.items():
            if new:
                # All rows of a transaction at once: what is flushed in parts is put together again at the commit.
                appender = self._appender(f"{table}_{current.number}")
                appender.append_rows(new)
                appender.flush()
        if added := len(rows.get(self.family.name, ())):
            current.rows += added
            current.size += sum(outcome.size for outcome in outcomes if self.family.name in outcome.rows)
            current.written_ns = time.time_ns()
            self._note(current)

    def drop(self, segment: Segment) -> None:
        """Drop a segment with all its tables."""
        self._found.remove(segment)
        # First: a view must not name a table that is gone.
        self._unite()
        for table in self.family.tables:
            self._connection.execute(f"DROP TABLE {table}_{segment.number}")
        self._connection.execute(
            "DELETE FROM segments WHERE family = ? AND number = ?", [self.family.name, segment.number]
        )

    def count_again(self, number: int) -> None:
        """Count the rows of a segment that was changed from outside."""
        for segment in self._found:
            if segment.number == number:
                segment.rows = self._count(number)

    def forget(self) -> None:
        """Take the file for what it is again, after a transaction was rolled back."""
        self._found = self._read()
        self._restart()

    def _restart(self) -> None:
        """
        Begin the dictionary anew: what it remembers is of another segment, or was never stored.

        Numbers go on, so a segment may have two dictionaries one after the other, as after a restart of the program.
        """
        self.dictionary = Dictionary(self.family, self._ids)
        self._appenders.clear()

    def _create(self, number: int) -> None:
        """Create the segment called *number*, and let the views see it."""
        now = time.time_ns()
        self._connection.execute(create_segment(self.family, number))
        self._connection.execute("INSERT INTO segments VALUES (?, ?, ?, ?)", [self.family.name, number, now, now])
        self._found.append(Segment(number, 0, now, now, now))
        self._unite()

    def _appender(self, table: str) -> duckdb.Appender:
        found = self._appenders.get(table)
        if found is None:
            found = self._appenders[table] = self._connection.appender(table)
        return found

    def _unite(self) -> None:
        self._connection.execute(create_views(self.family, [segment.number for segment in self._found]))

    def _read(self) -> list[Segment]:
        found = self._connection.execute(
            "SELECT number, opened_ns, written_ns FROM segments WHERE family = ? ORDER BY number", [self.family.name]
        ).fetchall()
        return [Segment(number, self._count(number), opened, written, written) for number, opened, written in found]

    def _note(self, segment: Segment) -> None:
        """Write down when a segment was last written, now and then."""
        if segment.written_ns - segment.noted_ns > _NOTED_EVERY_NS:
            self._connection.execute(
                "UPDATE segments SET written_ns = ? WHERE family = ? AND number = ?",
                [segment.written_ns, self.family.name, segment.number],
            )
            segment.noted_ns = segment.written_ns

    def _count(self, number: int) -> int:
        (count,) = self._one(f"SELECT count(*) FROM {self.family.name}_{number}")
        return int(count)

    def _next_ids(self) -> Ids:
        if not self._found:
            return Ids()
        tables = (self.family.attributes, self.family.resources, self.family.header)
        highest = [self._one(f"SELECT coalesce(max(id), 0) FROM {table}")[0] for table in tables]
        return Ids(*(int(number) + 1 for number in highest))

    def _one(self, query: str) -> Row:
        found = self._connection.execute(query).fetchone()
        assert found is not None
        return found
