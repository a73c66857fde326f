"""
The store: one writer, any number of readers, one DuckDB file.

The writer's methods are for one thread alone; readers have a connection each. What `append` has returned for is in the
file: it outlives the process, however that ends.

A full disk is the one fault that DuckDB does not survive: a checkpoint that fails, and only it gives room back, makes
the database unusable until all its connections are closed. Therefore segments are dropped, or else requests refused,
while there is still room; and should another program take that, the file is opened anew.
"""

import logging
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import duckdb
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from rsketch_dashboard.errors import StoreError
from rsketch_dashboard.store import readable, retention
from rsketch_dashboard.store.rows import Outcome, log_rows, point_rows, span_rows
from rsketch_dashboard.store.schema import FAMILIES, KEPT, VERSION, Family, Limits, create_fixed
from rsketch_dashboard.store.segments import Segments

__all__ = ["Contents", "Notice", "Request", "Store"]

Request = ExportTraceServiceRequest | ExportLogsServiceRequest | ExportMetricsServiceRequest
T = TypeVar("T")

_log = logging.getLogger(__name__)

_CONFIG: dict[str, str | bool | int | float | list[str]] = {
    # Two cores are what a laptop can spare, and each thread more costs memory.
    "threads": 2,
    "memory_limit": "192MB",
    "preserve_insertion_order": False,
    # What SQL of the page could reach otherwise: files, other databases, extensions.
    "enable_external_access": False,
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    # Nothing spills: the folder would have to be cleaned up after a crash.
    "temp_directory": "",
    "allocator_background_threads": False,
    # Never by itself: within a commit it would fail after that has succeeded, and what was stored be sent again.
    "checkpoint_threshold": "1TB",
}
_LONGEST_LOG = 16 * 1024 * 1024
"""Bytes of the log of changes after which it is written into the file itself."""
_SHORT_LOG = 1024 * 1024
"""Bytes of it that are not worth that."""
_NOTICES = 50
_FULL = ("No space left on device", "Disk quota exceeded", "Could not write all bytes", "File too large")
_LOCKED = "Could not set lock"
_DAMAGED = (
    "not a valid DuckDB",
    "Could not read enough bytes",
    "Corrupt database",
    "checksum",
    "external extensions",
    "version number",
)
_READERS_SECONDS = 30.0
_REMEMBERED_REQUESTS = 4096


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that whoever looks at the page should know; `level` is `info` or `warning`."""

    at_ns: int
    level: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """
    What the store holds.

    Attributes:
        rows: By family.
        bytes: Of the file that are in use.
        dropped: Rows that have gone with their segments since it was opened, by family.
        duplicates: Requests that were sent a second time and taken once.
    """

    rows: Mapping[str, int]
    bytes: int
    dropped: Mapping[str, int]
    duplicates: int


class Store:
    """
    Telemetry in a file.

    Args:
        path: Of the file; its folder is made, both for this user alone. A file that is none, or is of another version,
            is moved aside.
        limits: How much is kept.
        on_notice: Called with what should be said; from the writer's thread.
        families: What it is kept in.

    Raises:
        StoreError: The file cannot be used, for instance because another dashboard has it.
    """

    def __init__(
        self,
        path: Path,
        limits: Limits | None = None,
        on_notice: Callable[[Notice], None] | None = None,
        families: Mapping[str, Family] = FAMILIES,
    ) -> None:
        self.path = path
        self.limits = limits or Limits()
        self.notices: deque[Notice] = deque(maxlen=_NOTICES)
        self._on_notice = on_notice
        self._dropped: Counter[str] = Counter()
        self._duplicates = 0
        self._families = families
        # What is in the log has to fit into the file before the log is gone.
        self._longest_log = max(_SHORT_LOG, min(_LONGEST_LOG, self.limits.spare // 4))
        self._seen: dict[int, None] = {}
        self._bytes = 0
        # Whether a write has failed for want of room, whether senders were told, and whether a checkpoint is due.
        self._short = self._full = self._due = False
        # Readers, who are kept out while the file is opened anew.
        self._door = threading.Condition()
        self._opening = False
        self._readers: set[duckdb.DuckDBPyConnection] = set()
        try:
            self._open()
        except duckdb.Error as error:
            raise StoreError(f"{path}: {_first_line(error)}") from error

    def append(
        self, requests: Sequence[Request], bodies: Sequence[bytes] | None = None, *, anew: Sequence[bool] | None = None
    ) -> list[Outcome]:
        """
        Store the items of several requests in one transaction; return what became of each.

        Args:
            bodies: The same requests encoded, from who has them.
            anew: For each whether it is taken even where it was taken before.

        Raises:
            StoreError: Nothing was stored.
        """
        bodies = bodies or [request.SerializeToString() for request in requests]
        digests = [hash(body) for body in bodies]
        # A sender whose answer was lost sends the same bytes again.
        first = {digest: at for at, digest in reversed(list(enumerate(digests)))}
        fresh = [
            (anew is not None and anew[at]) or (digest not in self._seen and first[digest] == at)
            for at, digest in enumerate(digests)
        ]

        def work() -> list[Outcome]:
            several = zip(requests, bodies, fresh, strict=True)
            outcomes = [self._rows(request, body) if new else Outcome() for request, body, new in several]
            for segments in self._segments.values():
                segments.append(outcomes)
            return outcomes

        try:
            self._make_room()
            outcomes = self._written(work)
        except duckdb.Error as error:
            if _is_full(error):
                self._short = True
                self._say_full()
            raise StoreError(f"cannot store: {_first_line(error)}") from error
        self._count_duplicates(fresh.count(False))
        self._remember(digests)
        return outcomes

    def _count_duplicates(self, number: int) -> None:
        if number and not self._duplicates:
            self.notice("info", "a request came a second time, byte by byte the same, and was taken once")
        self._duplicates += number

    @contextmanager
    def reading(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """
        Open a connection for queries; they see what was stored before each begins.

        Raises:
            StoreError: The file could not be opened anew after a fault.
        """
        with self._door:
            self._door.wait_for(lambda: not self._opening)
            try:
                cursor = self._connection.cursor()
            except duckdb.Error as error:
                raise StoreError(f"{self.path}: {_first_line(error)}") from error
            self._readers.add(cursor)
        try:
            yield cursor
        finally:
            cursor.close()
            with self._door:
                self._readers.discard(cursor)
                self._door.notify_all()

    def interrupt(self) -> None:
        """Give up all queries that are under way."""
        with self._door:
            for cursor in self._readers:
                with suppress(duckdb.Error):
                    cursor.interrupt()

    def contents(self) -> Contents:
        """Return what the store holds."""
        return Contents(
            rows={name: segments.rows for name, segments in self._segments.items()},
            bytes=self._bytes,
            dropped=dict(self._dropped),
            duplicates=self._duplicates,
        )

    def retain(self) -> None:
        """Drop what is beyond the limits; called now and then by the writer."""
        # Without room there is only to wait for some, see `append`.
        if self._short or ((self._due or self._wal_bytes() > self._longest_log) and not self._checkpoint()):
            return
        self._bytes = self._used_bytes()
        # Expiry asks for each in turn, as a drop may make the next one needless: but only once the room is back.
        while (victim := self._beyond()) is not None and self._drop(victim)[1]:
            self._bytes = self._used_bytes()

    def close(self) -> None:
        """Write everything into the file itself and close it."""
        with suppress(duckdb.Error):
            self._connection.execute("CHECKPOINT")
        with suppress(duckdb.Error):
            self._connection.close()

    def notice(self, level: str, text: str) -> None:
        """Say something to whoever looks at the page, and in the log."""
        notice = Notice(time.time_ns(), level, text)
        self.notices.append(notice)
        _log.log(logging.WARNING if level == "warning" else logging.INFO, "%s", text)
        if self._on_notice is not None:
            self._on_notice(notice)

    def _open(self) -> None:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._connect()
        self._sequence = self._next_sequence()
        self._bytes = self._used_bytes()

    def _connect(self) -> None:
        self._connection = self._connected()
        self._segments = {name: Segments(self._connection, family) for name, family in self._families.items()}
        # A file that is there is not written to: on a full disk what is in it can still be looked at.
        if not all(segments.begun for segments in self._segments.values()):
            self._written(self._begin)
        if not readable.is_current(self._connection):
            self._written(lambda: readable.renew(self._connection))

    def _connected(self) -> duckdb.DuckDBPyConnection:
        try:
            connection = self._usable()
        except (duckdb.Error, RuntimeError) as error:
            if _LOCKED in str(error):
                raise StoreError(f"{self.path}: another program has it open") from None
            raise StoreError(f"{self.path}: {_first_line(error)}") from error
        self.path.chmod(0o600)
        return connection

    def _usable(self) -> duckdb.DuckDBPyConnection:
        """Connect to the file; one that is no database, or has other tables, is moved aside first."""
        try:
            connection = duckdb.connect(str(self.path), config=_CONFIG)
        except duckdb.Error as error:
            # Nothing else says that the file is to blame, and not for instance the rights to it.
            if not self.path.is_file() or not any(words in str(error) for words in _DAMAGED):
                raise
            self._move_aside("it is no file of this dashboard, or damaged")
            connection = duckdb.connect(str(self.path), config=_CONFIG)
        if _version(connection) not in (None, str(VERSION)):
            connection.close()
            self._move_aside("it is of another version")
            connection = duckdb.connect(str(self.path), config=_CONFIG)
        if _version(connection) is None:
            connection.execute(create_fixed())
            connection.execute("INSERT INTO meta VALUES ('version', ?)", [str(VERSION)])
        connection.execute("SET lock_configuration = true")
        return connection

    def _move_aside(self, why: str) -> None:
        aside = self.path.with_name(f"{self.path.name}.{time.strftime('%Y%m%d-%H%M%S')}.old")
        self.path.rename(aside)
        if self._wal.exists():
            self._wal.rename(aside.with_name(f"{aside.name}.wal"))
        self.notice("warning", f"{self.path} was moved to {aside.name}: {why}")

    def _begin(self) -> None:
        for name, segments in self._segments.items():
            segments.begin(*((KEPT, KEPT + 1) if name == "spans" else (KEPT + 1,)))

    def _next_sequence(self) -> int:
        found = self._connection.execute("SELECT coalesce(max(sequence), 0) + 1 FROM logs").fetchone()
        assert found is not None
        return int(found[0])

    def _remember(self, digests: Sequence[int]) -> None:
        self._seen.update(dict.fromkeys(digests))
        while len(self._seen) > _REMEMBERED_REQUESTS:
            del self._seen[next(iter(self._seen))]

    def _rows(self, request: Request, body: bytes) -> Outcome:
        match request:
            case ExportTraceServiceRequest():
                outcome = span_rows(body, self._segments["spans"].dictionary)
            case ExportLogsServiceRequest():
                outcome = log_rows(request, self._segments["logs"].dictionary, self._sequence)
                self._sequence += outcome.taken
            case ExportMetricsServiceRequest():
                outcome = point_rows(request, self._segments["points"].dictionary)
        outcome.size = len(body)
        return outcome

    def _written(self, work: Callable[[], T]) -> T:
        """Do some work in one transaction; roll everything back where it fails."""
        try:
            self._connection.begin()
            for segments in self._segments.values():
                segments.advance()
            result = work()
            self._connection.commit()
        except BaseException:
            self._roll_back()
            raise
        return result

    def _roll_back(self) -> None:
        with suppress(duckdb.Error):
            self._connection.rollback()
        try:
            for segments in self._segments.values():
                segments.forget()
        except duckdb.Error:
            self._reopen()

    def _reopen(self) -> None:
        """
        Open the file anew: a fault has left the database unusable.

        Raises:
            StoreError: It cannot be opened now; whatever is asked for next tries again.
        """
        with self._door:
            # As long as one connection is open, a new one is to the same unusable database.
            self._opening = True
            self.interrupt()
            self._door.wait_for(lambda: not self._readers, _READERS_SECONDS)
            with suppress(duckdb.Error):
                self._connection.close()
            try:
                self._connect()
            except duckdb.Error as error:
                raise StoreError(f"{self.path}: {_first_line(error)}") from error
            finally:
                self._opening = False
                self._door.notify_all()

    def _checkpoint(self, *, wait: bool = False) -> bool:
        """
        Write the log of changes into the file itself, which alone gives room back.

        Args:
            wait: For those who still read what was dropped; otherwise they make it impossible.

        Returns:
            Whether it was possible.
        """
        try:
            self._connection.execute("FORCE CHECKPOINT" if wait else "CHECKPOINT")
        except duckdb.TransactionException:
            self._due = True
            return False
        except duckdb.Error as error:
            self._short = self._short or _is_full(error)
            self._reopen()
            return False
        self._short = self._due = False
        return True

    def _make_room(self) -> None:
        """
        Drop the oldest segments, whatever they hold, while the disk is nearly full.

        Raises:
            StoreError: It still is.
        """
        if self._short and not self._nearly_full():
            # Somebody else has made room, it seems.
            self._checkpoint()
        while self._short or self._nearly_full():
            # What is dropped already, and what is in the log as well, may do.
            if (self._due or self._wal_bytes() > _SHORT_LOG) and self._checkpoint(wait=self._due):
                continue
            name = self._oldest()
            if name is None:
                self._say_full()
                raise StoreError("the disk is nearly full")
            rows, _ = self._drop(name)
            self.notice("warning", f"the disk is nearly full: the oldest {rows:,} {name} were dropped to make room")
        # The log of changes has to fit beside the file. What is in it already can go there first.
        least = self.limits.spare // 4
        if self._free() < least and not (self._checkpoint() and self._free() >= least):
            self._say_full()
            raise StoreError("the disk is nearly full")
        if self._full:
            self._full = False
            self.notice("info", "there is room on the disk again")

    def _say_full(self) -> None:
        """Say once that nothing can be taken."""
        if not self._full:
            self._full = True
            self.notice("warning", "the disk is nearly full: no more is taken until there is room")

    def _free(self) -> int:
        """Return how many bytes of the disk are free to us."""
        disk = os.statvfs(self.path.parent)
        return disk.f_bavail * disk.f_frsize

    def _nearly_full(self) -> bool:
        free = self._free()
        if free >= self.limits.spare:
            return False
        # A drop seldom makes the file shorter, but leaves room in it.
        blocks = self._connection.execute("SELECT free_blocks * block_size FROM pragma_database_size()").fetchone()
        return free + int(blocks[0] if blocks else 0) < self.limits.spare

    def _oldest(self) -> str | None:
        """Return the family that has the oldest segment that can go."""
        candidates = [(each.oldest.written_ns, name) for name, each in self._segments.items() if each.oldest]
        return min(candidates)[1] if candidates else None

    def _beyond(self) -> str | None:
        """Return the family whose oldest segment is to go; None while everything is within the limits."""
        oldest_ns = time.time_ns() - round(self.limits.hours * 3600e9)
        for name, segments in self._segments.items():
            victim, rows = segments.oldest, segments.rows - segments.kept
            if victim and (rows > getattr(self.limits, name) or victim.written_ns < oldest_ns):
                return name
        return self._oldest() if self._bytes > self.limits.bytes else None

    def _drop(self, name: str) -> tuple[int, bool]:
        """Drop the oldest segment of a family; return how many rows it had, and whether their room is back."""
        segments = self._segments[name]
        victim = segments.oldest
        assert victim is not None

        def work() -> None:
            if name == "spans":
                retention.keep_traces(self._connection, victim.number)
                retention.roll_up(self._connection, victim.number)
                # A quarter: long texts must not fill the file with what is kept, and leave no room for what comes.
                retention.trim_kept(self._connection, self.limits.kept, self.limits.bytes // 4)
                retention.forget_old_rollups(self._connection)
            segments.drop(victim)
            segments.count_again(KEPT)

        self._written(work)
        self._dropped[name] += victim.rows
        return victim.rows, self._checkpoint()

    def _used_bytes(self) -> int:
        found = self._connection.execute("SELECT used_blocks * block_size FROM pragma_database_size()").fetchone()
        return int(found[0] if found else 0) + self._wal_bytes()

    def _wal_bytes(self) -> int:
        return self._wal.stat().st_size if self._wal.exists() else 0

    @property
    def _wal(self) -> Path:
        return self.path.with_name(f"{self.path.name}.wal")


def _version(connection: duckdb.DuckDBPyConnection) -> str | None:
    """Return the version of the tables in a file; None for a new one."""
    tables = connection.execute("SELECT count(*) FROM duckdb_tables()").fetchone()
    if tables == (0,):
        return None
    try:
        found = connection.execute("SELECT value FROM meta WHERE key = 'version'").fetchone()
    except duckdb.CatalogException:
        return "unknown"
    return str(found[0]) if found else "unknown"


def _is_full(error: Exception) -> bool:
    return any(words in str(error) for words in _FULL)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__
