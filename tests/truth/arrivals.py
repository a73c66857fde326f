"""
What arrives from one program, cut into the windows of its cases.

A window is what arrived between a case's start and the moment its telemetry had settled. Spans that come later are
found all the same, by their trace; points are not, so waiting for them is this module's business.
"""

import asyncio
import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from rsketch_telemetry.otlp.handler import Export
from rsketch_telemetry.otlp.model import Exemplar, LogRecord, MetricPoint, Span
from rsketch_telemetry.otlp.store import NotArrivedError, TelemetryStore

__all__ = ["DURATIONS", "Arrivals", "Counted", "Settled", "Window"]

DURATIONS: Mapping[str, str] = {
    "http.server.request.duration": "SERVER",
    "http.server.duration": "SERVER",
    "rpc.server.call.duration": "SERVER",
    "rpc.server.duration": "SERVER",
    "rpc.client.call.duration": "CLIENT",
    "rpc.client.duration": "CLIENT",
}
"""The kind of call that each duration metric counts; old names beside new ones, for peers."""

_SILENCE_SECONDS = 0.4


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """
    What must have arrived before the next case may begin.

    Attributes:
        calls: How many by kind; one span and one count of the metric each.
        exceptions: How many log records or span events.
        trace_id: Of the spans; empty where any trace counts.
    """

    calls: Mapping[str, int]
    exceptions: int
    trace_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """What one series of a duration metric gained in a window; `seconds` in that unit whatever the metric's was."""

    series: str
    metric: str
    kind: str
    attributes: Mapping[str, Any]
    count: int
    seconds: float
    exemplars: tuple[Exemplar, ...]
    new: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Marks:
    """How much had arrived at one moment, and where each series stood then."""

    spans: int
    points: int
    logs: int
    durations: Mapping[str, MetricPoint]
    in_flight: Mapping[str, MetricPoint]


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """
    What arrived for one case.

    Attributes:
        spans_at: Where its spans are in what arrived.
        calls: Its SERVER spans and those of RPC clients, by their start.
        spans: All its spans, of every kind.
        exceptions: Types of the exceptions that were recorded, as log records or as span events.
        counted: What duration metrics gained.
        points: The last point of each series that gained or counts what is in flight.
        left: Up-down counters that have not come back to what they were, with what is left.
        leaks: Where the secret was found.
    """

    spans_at: tuple[int, int]
    calls: tuple[Span, ...] = ()
    spans: tuple[Span, ...] = ()
    points: tuple[MetricPoint, ...] = ()
    logs: tuple[LogRecord, ...] = ()
    exceptions: tuple[str, ...] = ()
    counted: tuple[Counted, ...] = ()
    left: tuple[str, ...] = ()
    leaks: tuple[str, ...] = ()


class Arrivals:
    """A handler of the receiver that keeps all that comes, decoded and as bytes."""

    def __init__(self) -> None:
        self._store = TelemetryStore()
        self._raw: list[bytes] = []
        self._durations: dict[str, MetricPoint] = {}
        self._in_flight: dict[str, MetricPoint] = {}
        self._folded = 0

    async def handle(self, export: Export) -> None:
        """Keep one request."""
        self._raw.append(export.request.SerializeToString())
        await self._store.handle(export)

    def open(self) -> _Marks:
        """Begin a window: what comes from here on is in it."""
        recent = self._store.points[self._folded :]
        self._durations.update((_series(point), point) for point in recent if point.name in DURATIONS)
        self._in_flight.update((_series(point), point) for point in recent if _counts_in_flight(point))
        self._folded += len(recent)
        return _Marks(
            spans=len(self._store.spans),
            points=self._folded,
            logs=len(self._store.logs),
            durations=dict(self._durations),
            in_flight=dict(self._in_flight),
        )

    async def settle(self, opened: _Marks, wanted: Settled, seconds: float) -> None:
        """Wait until what is *wanted* is there, no longer than *seconds*; a little where nothing is to come."""
        silent = not any(wanted.calls.values())
        with suppress(NotArrivedError):
            await self._store.wait_for(
                lambda _: not silent and self._is_settled(opened, wanted), _SILENCE_SECONDS if silent else seconds
            )

    async def quiet(self, seconds: float) -> None:
        """Wait until nothing of calls has come for a while, no longer than *seconds*."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while True:
                    opened = self.open()
                    await asyncio.sleep(_SILENCE_SECONDS)
                    if len(self._store.spans) == opened.spans and not _counted(
                        opened, self._store.points[opened.points :]
                    ):
                        return

    def close(self, opened: _Marks) -> Window:
        """End the window that was opened at *opened*; spans and logs are still to come, see `finish`."""
        points = self._store.points[opened.points :]
        counted = _counted(opened, points)
        gained = {each.series for each in counted}
        last = {
            series: point
            for point in points
            if (series := _series(point)) in gained or (_counts_in_flight(point) and _moved(opened, series, point))
        }
        return Window(
            spans_at=(opened.spans, len(self._store.spans)),
            points=tuple(last.values()),
            counted=tuple(counted),
            left=tuple(_left(opened, points)),
        )

    def finish(self, window: Window, trace_id: str, *, unlinked: bool, others: frozenset[str], secret: str) -> Window:
        """
        Return *window* with all that belongs to it, once everything has arrived.

        Args:
            trace_id: The case's own.
            unlinked: Its spans do not carry it: those of the window count that carry none of *others*.
            others: The trace ids of all cases.
            secret: What must be nowhere.
        """
        spans = self._spans_of(window, trace_id, unlinked=unlinked, others=others)
        calls = sorted((span for span in spans if _is_call(span)), key=lambda span: span.start_ns)
        own = {span.trace_id for span in spans}
        logs = [log for log in self._store.logs if log.trace_id in own]
        return replace(
            window,
            calls=tuple(calls),
            spans=tuple(spans),
            logs=tuple(logs),
            exceptions=tuple(_exceptions(spans, logs)),
            leaks=tuple(self._leaks(secret)),
        )

    def _spans_of(self, window: Window, trace_id: str, *, unlinked: bool, others: frozenset[str]) -> list[Span]:
        if not unlinked:
            return [span for span in self._store.spans if span.trace_id == trace_id]
        begin, end = window.spans_at
        return [span for span in self._store.spans[begin:end] if span.trace_id not in others]

    def _is_settled(self, opened: _Marks, wanted: Settled) -> bool:
        recent = self._store.spans[opened.spans :]
        spans = [span for span in recent if span.trace_id == wanted.trace_id or not wanted.trace_id]
        own = {span.trace_id for span in spans}
        logs = [log for log in self._store.logs[opened.logs :] if log.trace_id in own]
        points = self._store.points[opened.points :]
        counted = _counted(opened, points)
        enough = all(
            sum(span.kind == kind and _is_call(span) for span in spans) >= count
            and sum(each.count for each in counted if each.kind == kind) >= count
            for kind, count in wanted.calls.items()
        )
        return enough and len(_exceptions(spans, logs)) >= wanted.exceptions and not _left(opened, points)

    def _leaks(self, secret: str) -> Iterable[str]:
        if not any(secret.encode() in raw for raw in self._raw):
            return
        found = [f"span {span.name!r}" for span in self._store.spans if secret in repr(span)]
        found += [f"metric {point.name}" for point in self._store.points if secret in repr(point)]
        found += [f"log record {log.event_name or log.scope.name!r}" for log in self._store.logs if secret in repr(log)]
        yield from sorted(set(found)) or ["an export"]


def _is_call(span: Span) -> bool:
    """Return whether a span is of a call that the suite looks at; a program may have databases and HTTP clients too."""
    return span.kind == "SERVER" or (span.kind == "CLIENT" and any(key.startswith("rpc.") for key in span.attributes))


def _series(point: MetricPoint) -> str:
    """Identify the series of a point; a process that started again begins another one."""
    start = point.start_ns if point.temporality == "CUMULATIVE" else 0
    who = point.resource.attributes.get("service.instance.id", "")
    return json.dumps([point.name, point.scope.name, who, start, dict(point.attributes)], sort_keys=True, default=str)


def _counted(opened: _Marks, points: Iterable[MetricPoint]) -> list[Counted]:
    gained: dict[str, list[MetricPoint]] = {}
    for point in points:
        if point.name in DURATIONS:
            gained.setdefault(_series(point), []).append(point)
    counted = [_gain(series, its, opened.durations.get(series)) for series, its in gained.items()]
    return [each for each in counted if each.count]


def _gain(series: str, points: list[MetricPoint], before: MetricPoint | None) -> Counted:
    last = points[-1]
    if last.temporality == "DELTA":
        count, total = sum(point.count or 0 for point in points), sum(point.sum or 0.0 for point in points)
    else:
        count = (last.count or 0) - ((before.count or 0) if before else 0)
        total = (last.sum or 0.0) - ((before.sum or 0.0) if before else 0.0)
    return Counted(
        series=series,
        metric=last.name,
        kind=DURATIONS[last.name],
        attributes=last.attributes,
        count=count,
        seconds=total / 1000 if last.unit == "ms" else total,
        exemplars=tuple(exemplar for point in points for exemplar in point.exemplars),
        new=before is None,
    )


def _counts_in_flight(point: MetricPoint) -> bool:
    up_down = point.type == "sum" and point.monotonic is False
    return up_down and ("active" in point.name or "websocket" in point.name)


def _moved(opened: _Marks, series: str, point: MetricPoint) -> bool:
    """Return whether a counter of what is in flight is new: all of them come again with each export."""
    return series not in opened.in_flight or opened.in_flight[series].value != point.value


def _left(opened: _Marks, points: Iterable[MetricPoint]) -> list[str]:
    """Return the counters of what is in flight that do not stand where they stood."""
    recent = {_series(point): point for point in points if _counts_in_flight(point)}
    before, after = _sums(opened.in_flight), _sums({**opened.in_flight, **recent})
    changed = {name: value - before.get(name, 0) for name, value in after.items()}
    return [f"{name} stays at {by:+g}" for name, by in changed.items() if by]


def _sums(in_flight: Mapping[str, MetricPoint]) -> dict[str, float]:
    sums: dict[str, float] = {}
    for point in in_flight.values():
        sums[point.name] = sums.get(point.name, 0) + float(point.value or 0)
    return sums


def _exceptions(spans: Iterable[Span], logs: Iterable[LogRecord]) -> list[str]:
    """Return the type of each recorded exception; one that is both event and record is still one of each."""
    types = [event.attributes.get("exception.type") for span in spans for event in span.events]
    types += [log.attributes.get("exception.type") for log in logs if "exception" in log.event_name]
    return [str(kind) for kind in types if kind]
