"""
The store: one writer, any number of readers, one DuckDB file.

The writer's methods are for one thread alone; readers have a connection each. What `append` has returned for is in the
file: it outlives the process, however that ends.
"""

import logging
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
from rsketch_dashboard.store import retention
from rsketch_dashboard.store.rows import Outcome, log_rows, point_rows, span_rows
from rsketch_dashboard.store.schema import FAMILIES, KEPT, VERSION, Limits, create_fixed
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
}
_NOTICES = 50
_FULL = ("No space left on device", "Disk quota exceeded", "Could not write all bytes", "File too large")
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

    Raises:
        StoreError: The file cannot be used, for instance because another dashboard has it.
    """

    def __init__(self, path: Path, limits: Limits | None = None, on_notice: Callable[[Notice], None] | None = None):
        self.path = path
        self.limits = limits or Limits()
        self.notices: deque[Notice] = deque(maxlen=_NOTICES)
        self._on_notice = on_notice
        self._dropped: Counter[str] = Counter()
        self._duplicates = 0
        self._seen: dict[int, None] = {}
        self._bytes = 0
        self._open()

    def append(self, requests: Sequence[Request]) -> list[Outcome]:
        """
        Store the items of several requests in one transaction; return what became of each.

        Raises:
            StoreError: Nothing was stored.
        """
        digests = [hash(request.SerializeToString()) for request in requests]
        # A sender whose answer was lost sends the same bytes again.
        fresh = [digest not in self._seen and digest not in digests[:at] for at, digest in enumerate(digests)]

        def work() -> list[Outcome]:
            outcomes = [self._rows(each) if new else Outcome() for each, new in zip(requests, fresh, strict=True)]
            for segments in self._segments.values():
                segments.append(outcomes)
            return outcomes

        try:
            outcomes = self._with_room(work)
        except duckdb.Error as error:
            raise StoreError(f"cannot store: {_first_line(error)}") from error
        self._duplicates += fresh.count(False)
        self._remember(digests)
        return outcomes

    @contextmanager
    def reading(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Open a connection for queries; they see what was stored before each begins."""
        cursor = self._connection.cursor()
        try:
            yield cursor
        finally:
            cursor.close()

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
        self._bytes = self._used_bytes()
        # Expiry asks for each in turn, as a drop may make the next one needless.
        while (victim := self._beyond()) is not None:
            self._drop(victim)
            self._bytes = self._used_bytes()

    def close(self) -> None:
        """Write everything into the file itself and close it."""
        with suppress(duckdb.Error):
            self._connection.execute("CHECKPOINT")
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
        self._connection = self._connected()
        self._segments = {name: Segments(self._connection, family) for name, family in FAMILIES.items()}
        self._written(self._begin)
        self._sequence = self._next_sequence()
        self._bytes = self._used_bytes()

    def _connected(self) -> duckdb.DuckDBPyConnection:
        try:
            connection = self._usable()
        except (duckdb.Error, RuntimeError) as error:
            if "lock" in str(error):
                raise StoreError(f"{self.path}: another program has it open") from None
            raise StoreError(f"{self.path}: {_first_line(error)}") from error
        self.path.chmod(0o600)
        return connection

    def _usable(self) -> duckdb.DuckDBPyConnection:
        """Connect to the file; one that is no database, or has other tables, is moved aside first."""
        try:
            connection = duckdb.connect(str(self.path), config=_CONFIG)
        except (duckdb.IOException, duckdb.SerializationException) as error:
            if "lock" in str(error) or not self.path.is_file() or _is_full(error):
                raise
            self._move_aside("it is no file of this dashboard")
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
        self.path.with_name(f"{self.path.name}.wal").unlink(missing_ok=True)
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

    def _rows(self, request: Request) -> Outcome:
        match request:
            case ExportTraceServiceRequest():
                return span_rows(request, self._segments["spans"].dictionary)
            case ExportLogsServiceRequest():
                outcome = log_rows(request, self._segments["logs"].dictionary, self._sequence)
                self._sequence += outcome.taken
                return outcome
            case ExportMetricsServiceRequest():
                return point_rows(request, self._segments["points"].dictionary)

    def _with_room(self, work: Callable[[], T]) -> T:
        """Do some work in one transaction; where the disk is full, once more after the oldest segment has gone."""
        try:
            return self._written(work)
        except duckdb.Error as error:
            if not _is_full(error):
                raise
        self._make_room()
        return self._written(work)

    def _written(self, work: Callable[[], T]) -> T:
        """Do some work in one transaction; roll everything back where it fails."""
        self._connection.begin()
        try:
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
            # A failed write of its log leaves the database unusable until it is opened anew.
            self._reopen()

    def _reopen(self) -> None:
        with suppress(duckdb.Error):
            self._connection.close()
        self._connection = self._connected()
        self._segments = {name: Segments(self._connection, family) for name, family in FAMILIES.items()}

    def _make_room(self) -> None:
        """The disk is full: drop the oldest segment, whatever it holds."""
        candidates = [(each.oldest.written_ns, name) for name, each in self._segments.items() if each.oldest]
        if not candidates:
            self.notice("warning", "the disk is full, and there is no older telemetry to drop")
            return
        _, name = min(candidates)
        rows = self._drop(name)
        self.notice("warning", f"the disk is full: the oldest {rows:,} {name} were dropped to make room")

    def _beyond(self) -> str | None:
        """Return the family whose oldest segment is to go; None while everything is within the limits."""
        oldest_ns = time.time_ns() - round(self.limits.hours * 3600e9)
        for name, segments in self._segments.items():
            victim = segments.oldest
            if victim and (segments.rows > getattr(self.limits, name) or victim.written_ns < oldest_ns):
                return name
        if self._bytes > self.limits.bytes:
            candidates = [(each.oldest.written_ns, name) for name, each in self._segments.items() if each.oldest]
            return min(candidates)[1] if candidates else None
        return None

    def _drop(self, name: str) -> int:
        """Drop the oldest segment of a family; return how many rows it had."""
        segments = self._segments[name]
        victim = segments.oldest
        assert victim is not None

        def work() -> None:
            if name == "spans":
                retention.roll_up(self._connection, victim.number)
                retention.forget_old_rollups(self._connection)
                retention.keep_traces(self._connection, victim.number)
                retention.trim_kept(self._connection, self.limits.kept)
            segments.drop(victim)
            segments.count_again(KEPT)

        self._written(work)
        self._dropped[name] += victim.rows
        # Without it the file keeps the room: only a checkpoint gives blocks back.
        self._connection.execute("CHECKPOINT")
        return victim.rows

    def _used_bytes(self) -> int:
        found = self._connection.execute("SELECT used_blocks * block_size FROM pragma_database_size()").fetchone()
        wal = self.path.with_name(f"{self.path.name}.wal")
        return int(found[0] if found else 0) + (wal.stat().st_size if wal.exists() else 0)


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
