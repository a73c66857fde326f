"""
Histograms and counters of calls, each series a cell that is found once and then only added to.

The SDK looks a series up by its attributes with every measurement, which costs more than a whole span here.
"""

import os
import sys
import threading
import time
import weakref
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from operator import itemgetter
from struct import pack
from typing import Final, TypeVar

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import SpanContext

from rsketch_telemetry.facts import Attributes
from rsketch_telemetry.otlp import wire
from rsketch_telemetry.otlp.frame import Item, Scope
from rsketch_telemetry.pipeline import drained
from rsketch_telemetry.sdk_recorder import DURATIONS, IN_FLIGHT

__all__ = ["CARDINALITY_LIMIT", "Cells", "Duration", "Exemplars", "Open"]

CARDINALITY_LIMIT: Final = 2000
"""Series of one metric; the default of the specification. What comes beyond is counted in one series for all."""
_OVERFLOW: Final[Attributes] = {"otel.metric.overflow": True}

_DELTA, _CUMULATIVE = 1, 2
T = TypeVar("T")
_Table = dict[str, dict[frozenset[tuple[str, object]], T]]
"""Series by their attributes, by metric."""

_QUEUED = 256
"""Measurements of a series, at most, that are not added up yet."""

Exemplars = tuple[bool, bool]
"""Whether measurements leave an exemplar that were made in a span which is not sampled, and in one which is."""

Measurement = tuple[int, int, bytes | None]
"""What `Duration.record` is given."""
_elapsed = itemgetter(0)


class Duration:
    """
    One series of a histogram of durations: a point for each set of attributes.

    Measurements are queued, and many are added up at once: sorted, they are counted with a search for each bound. Of
    each bucket there is an exemplar of a late and long one.
    """

    __slots__ = (
        "_attributes",
        "_bounds_ns",
        "_counts",
        "_exemplars",
        "_lock",
        "_max_ns",
        "_min_ns",
        "_queue",
        "_started_ns",
        "_sum_ns",
    )

    def __init__(self, attributes: Attributes, bounds: Sequence[float], lock: threading.RLock) -> None:
        self._attributes = wire.attributes(9, attributes)
        self._bounds_ns = [round(bound * 1e9) for bound in bounds]
        self._lock = lock
        self._queue: deque[Measurement] = deque()
        self._exemplars: dict[int, Measurement] = {}
        self._clear()

    def _clear(self) -> None:
        self._started_ns = time.time_ns()
        self._counts = [0] * (len(self._bounds_ns) + 1)
        self._sum_ns, self._min_ns, self._max_ns = 0, sys.maxsize, 0

    def renew(self, lock: threading.RLock) -> None:
        """Take another lock."""
        self._lock = lock

    def record(self, elapsed_ns: int, at_ns: int, ids: bytes | None) -> None:
        """
        Add a measurement.

        Args:
            at_ns: When it was made, nanoseconds since the epoch.
            ids: The encoded fields of a span that are its trace's id and its own, for an exemplar; None for none.
        """
        queue = self._queue
        queue.append((elapsed_ns, at_ns, ids))
        if len(queue) >= _QUEUED:
            self._add_up()

    def _add_up(self) -> None:
        with self._lock:
            taken = drained(self._queue)
            taken.sort(key=_elapsed)
            values = [each[0] for each in taken]
            begin = 0
            for bucket, bound in enumerate((*self._bounds_ns, sys.maxsize)):
                end = bisect_right(values, bound, begin)
                if end > begin:
                    self._counts[bucket] += end - begin
                    found = next((each for each in reversed(taken[begin:end]) if each[2] is not None), None)
                    if found is not None:
                        self._exemplars[bucket] = found
                    begin = end
            if values:
                # First: a finalizer that runs in there may add up as well.
                total = sum(values)
                self._sum_ns += total
                self._min_ns = min(self._min_ns, values[0])
                self._max_ns = max(self._max_ns, values[-1])

    def point(self, now_ns: int, *, delta: bool) -> bytes:
        """Return the `HistogramDataPoint` of now; empty where *delta* and nothing was added since the last."""
        with self._lock:
            self._add_up()
            started_ns, counts = self._started_ns, self._counts
            total, least, most = self._sum_ns, self._min_ns, self._max_ns
            exemplars, self._exemplars = self._exemplars, {}
            if delta:
                self._clear()
                self._started_ns = now_ns
            else:
                counts = counts.copy()
        number = sum(counts)
        if not number:
            return b""
        return b"".join(
            (
                self._attributes,
                wire.fixed64(2, started_ns),
                wire.fixed64(3, now_ns),
                wire.fixed64(4, number),
                wire.double(5, total / 1e9),
                wire.field(6, pack(f"<{len(counts)}Q", *counts)),
                wire.field(7, pack(f"<{len(self._bounds_ns)}d", *(bound / 1e9 for bound in self._bounds_ns))),
                *(wire.field(8, _exemplar(*exemplars[bucket])) for bucket in sorted(exemplars)),
                wire.double(11, least / 1e9),
                wire.double(12, most / 1e9),
            )
        )


def _exemplar(elapsed_ns: int, at_ns: int, ids: bytes | None) -> bytes:
    named = wire.field(4, ids[-8:]) + wire.field(5, ids[2:18]) if ids else b""
    return wire.fixed64(2, at_ns) + wire.double(3, elapsed_ns / 1e9) + named


class Open:
    """One series of a counter of what is open."""

    __slots__ = ("_attributes", "_lock", "_started_ns", "_value")

    def __init__(self, attributes: Attributes, lock: threading.RLock) -> None:
        self._attributes = wire.attributes(7, attributes)
        self._lock = lock
        self._started_ns = time.time_ns()
        self._value = 0

    def renew(self, lock: threading.RLock) -> None:
        """Take another lock."""
        self._lock = lock

    def add(self, change: int) -> None:
        """Add to it, or take from it."""
        with self._lock:
            self._value += change

    def point(self, now_ns: int) -> bytes:
        """Return the `NumberDataPoint` of now."""
        times = wire.fixed64(2, self._started_ns) + wire.fixed64(3, now_ns)
        return self._attributes + times + b"\x31" + pack("<q", self._value)


class Cells:
    """
    The series of one instrumentation scope.

    Args:
        scope: Encoded.
        delta: Whether histograms say what was added since the last collection, and not since the start.
        exemplars: For which measurements there are some.
        found: Called when a new series is made, so with the first measurement.
    """

    def __init__(self, scope: Scope, *, delta: bool, exemplars: Exemplars, found: Callable[[], None]) -> None:
        self.exemplars = exemplars
        self._scope = scope
        self._delta = delta
        self._found = found
        self._durations: _Table[Duration] = {}
        self._open: _Table[Open] = {}
        self._reset()
        reset = weakref.WeakMethod(self._reset)
        os.register_at_fork(after_in_child=lambda: (method := reset()) and method())

    def _reset(self) -> None:
        """Begin anew, also in a forked child: what its parent counted would be counted twice."""
        self._lock = threading.RLock()
        # Calls under way hold on to their series, whose lock a thread may have held that is not in a forked child.
        for table in (self._durations, self._open):
            for series in table.values():
                for cell in series.values():
                    cell.renew(self._lock)
            table.clear()

    def duration(self, metric: str, attributes: Attributes) -> Duration:
        """Return the series of a histogram's *attributes*, or where there are too many that for all others."""
        bounds = DURATIONS[metric][2]
        return self._series(self._durations, metric, attributes, lambda given: Duration(given, bounds, self._lock))

    def open(self, metric: str, attributes: Attributes) -> Open:
        """Return the series of a counter's *attributes*, or where there are too many that for all others."""
        return self._series(self._open, metric, attributes, lambda given: Open(given, self._lock))

    def _series(self, table: _Table[T], metric: str, attributes: Attributes, make: Callable[[Attributes], T]) -> T:
        series = table.setdefault(metric, {})
        cell = series.get(frozenset(attributes.items()))
        if cell is None:
            with self._lock:
                given = attributes if len(series) < CARDINALITY_LIMIT else _OVERFLOW
                cell = series.setdefault(frozenset(given.items()), make(given))
            self._found()
        return cell

    def record(self, metric: str, value: float, attributes: Attributes, context: Context) -> None:
        """Record a duration the slow way: `sdk_recorder.Series`."""
        span = trace.get_current_span(context).get_span_context()
        wanted = self.exemplars[span.trace_flags.sampled]
        ids = _ids(span) if span.is_valid else b""
        self.duration(metric, attributes).record(round(value * 1e9), time.time_ns(), ids if wanted else None)

    def in_flight(self, metric: str, change: int, attributes: Attributes) -> None:
        """Count what is open: `sdk_recorder.Series`."""
        self.open(metric, attributes).add(change)

    def items(self) -> Iterator[Item]:
        """Yield each metric as it is now."""
        now_ns = time.time_ns()
        temporality = wire.uint64(2, _DELTA if self._delta else _CUMULATIVE)
        for metric, series in tuple(self._durations.items()):
            unit, description, _ = DURATIONS[metric]
            cells = tuple(series.values())
            points = [point for cell in cells if (point := cell.point(now_ns, delta=self._delta))]
            data = wire.field(9, _points(points) + temporality)
            yield from self._item(metric, unit, description, data, len(points))
        for metric, counters in tuple(self._open.items()):
            unit, description = IN_FLIGHT[metric]
            points = [cell.point(now_ns) for cell in tuple(counters.values())]
            data = wire.field(7, _points(points) + wire.uint64(2, _CUMULATIVE))
            yield from self._item(metric, unit, description, data, len(points))

    def _item(self, metric: str, unit: str, description: str, data: bytes, points: int) -> Iterator[Item]:
        if points:
            body = wire.text(1, metric) + wire.text(2, description) + wire.text(3, unit) + data
            yield Item(self._scope, body, points)


def _ids(span: SpanContext) -> bytes:
    return wire.field(1, span.trace_id.to_bytes(16, "big")) + wire.field(2, span.span_id.to_bytes(8, "big"))


def _points(points: Sequence[bytes]) -> bytes:
    return b"".join([wire.field(1, point) for point in points])
