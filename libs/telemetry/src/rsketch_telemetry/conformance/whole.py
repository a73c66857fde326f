"""The rules that need everything at once: all spans, points and records of a process, none of them sampled away."""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from rsketch_telemetry.conformance import points, records
from rsketch_telemetry.conformance.contract import Contract, Metric
from rsketch_telemetry.conformance.spans import group_of
from rsketch_telemetry.conformance.violation import Place, Violation
from rsketch_telemetry.otlp.model import Attributes, LogRecord, MetricPoint, Resource, Span

__all__ = ["whole"]

_Key = tuple[str, ...]
_TOLERANCE_SECONDS = 1e-6


@dataclass(slots=True)
class _Total:
    count: int = 0
    seconds: float = 0.0

    def add(self, count: int, seconds: float) -> None:
        self.count += count
        self.seconds += seconds


def whole(
    contract: Contract, spans: Sequence[Span], metrics: Sequence[MetricPoint], logs: Sequence[LogRecord]
) -> Iterator[Violation]:
    """Yield what spans, metrics and logs say differently of the same calls."""
    known = {(span.trace_id, span.span_id) for span in spans}
    yield from _exemplars(contract, known, metrics)
    yield from _contexts(contract, known, logs)
    for metric in contract.metrics.values():
        if metric.span:
            yield from _durations(contract, metric, spans, [point for point in metrics if point.name == metric.name])


def _exemplars(contract: Contract, known: set[tuple[str, str]], metrics: Iterable[MetricPoint]) -> Iterator[Violation]:
    for point in metrics:
        metric = contract.metrics.get(point.name)
        for exemplar in point.exemplars if metric and metric.span else ():
            if (exemplar.trace_id, exemplar.span_id) not in known:
                yield points.place_of(point).violates("exemplar", "an exemplar points to no span that is there")


def _contexts(contract: Contract, known: set[tuple[str, str]], logs: Iterable[LogRecord]) -> Iterator[Violation]:
    for log in logs:
        if log.event_name in contract.events and log.span_id and (log.trace_id, log.span_id) not in known:
            yield records.place_of(log).violates("log-context", "it is in a span that is not there")


def _durations(
    contract: Contract, metric: Metric, spans: Iterable[Span], measured: Sequence[MetricPoint]
) -> Iterator[Violation]:
    by_span, by_point = _spanned(contract, metric, spans), _measured(metric, measured)
    if not by_span and not by_point:
        return
    place = Place(f"metric {metric.name}", measured[0].scope.name if measured else contract.scopes, metric.link)
    for key in sorted({*by_span, *by_point}):
        span, point = by_span.get(key), by_point.get(key)
        if span is None or point is None:
            where, missing = ("the metric", "span") if span is None else ("a span", "point of the metric")
            yield place.violates("span-metric-agree", f"what {where} says of calls, no {missing} says")
        elif span.count != point.count:
            yield place.violates("span-metric-duration", f"it counts {point.count} calls, spans {span.count}")
        elif not math.isclose(span.seconds, point.seconds, rel_tol=1e-9, abs_tol=_TOLERANCE_SECONDS * span.count):
            yield place.violates("span-metric-duration", "its sum is not that of the spans' durations")


def _spanned(contract: Contract, metric: Metric, spans: Iterable[Span]) -> dict[_Key, _Total]:
    totals: dict[_Key, _Total] = defaultdict(_Total)
    for span in spans:
        group = group_of(contract, span)
        if group and group.id == metric.span:
            key = _key(metric, span.resource, span.scope.name, span.attributes)
            totals[key].add(1, (span.end_ns - span.start_ns) / 1e9)
    return totals


def _measured(metric: Metric, measured: Iterable[MetricPoint]) -> dict[_Key, _Total]:
    latest: dict[_Key, MetricPoint] = {}
    totals: dict[_Key, _Total] = defaultdict(_Total)
    for point in measured:
        key = _key(metric, point.resource, point.scope.name, point.attributes)
        if point.temporality == "DELTA":
            totals[key].add(point.count or 0, point.sum or 0.0)
        elif key not in latest or latest[key].time_ns <= point.time_ns:
            latest[key] = point
    for key, point in latest.items():
        totals[key].add(point.count or 0, point.sum or 0.0)
    return totals


def _key(metric: Metric, resource: Resource, scope: str, attributes: Attributes) -> _Key:
    process = str(resource.attributes.get("service.instance.id", ""))
    said = sorted(f"{name}={value!r}" for name, value in attributes.items() if name in metric.attributes)
    return (process, scope, *said)
