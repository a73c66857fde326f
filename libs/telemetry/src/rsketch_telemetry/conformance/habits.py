"""
The rules that one item alone cannot break: they look at many, of anybody's instrumentation, and are slow to complain.

What is too little to tell is not told: a false alarm costs more trust than a miss costs insight. Pure.
"""

import re
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Collection, Iterator, Sequence
from typing import Final

from rsketch_telemetry.conformance import points as metric_points
from rsketch_telemetry.conformance.contract import Contract
from rsketch_telemetry.conformance.violation import Place, Violation, shown
from rsketch_telemetry.otlp.model import LogRecord, MetricPoint, Span

__all__ = ["RULES_OF_MANY", "Habits", "habits", "orphans"]

RULES_OF_MANY: Final = frozenset(
    {"exemplar-missing", "metric-attribute-values", "service-name", "span-name-values", "span-parent"}
)
"""The ids of the rules that are here."""

_VALUE = re.compile(
    r"(?<=[/=])(?:[0-9]+|[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}|(?=[a-fA-F]*[0-9])[0-9a-fA-F]{16,64})(?=[/?&]|$)"
)
"""A part of a path that is a number, a UUID or a long row of hexadecimal digits."""
_ALIKE = 5
"""So many names that differ in such a part alone are no templates: one or two may be, such as `/errors/404`."""
_DISTINCT = 1000
_VALUES = 100
_ORPHANS = 10
_ORPHANED = 0.05
_MEASURED = 10

_HAS_IS_REMOTE, _IS_REMOTE = 0x100, 0x200
"""Bits of a span's flags (https://github.com/open-telemetry/opentelemetry-proto, `SpanFlags`)."""


class Habits:
    """
    Looks at telemetry as it arrives, as the checker does; of at most *scopes* scopes it remembers names of spans.

    Of each it keeps at most a thousand.
    """

    def __init__(self, *, scopes: int = 1000) -> None:
        self._scopes = scopes
        self._names: OrderedDict[tuple[str, str], _Names] = OrderedDict()
        self._nameless = False

    def resources(self, items: Sequence[Span] | Sequence[MetricPoint] | Sequence[LogRecord]) -> Iterator[Violation]:
        """Yield that a service has no name, once: it is what SDKs say where nobody gave it one."""
        for item in items:
            name = str(item.resource.attributes.get("service.name", ""))
            if name.startswith("unknown_service") and not self._nameless:
                self._nameless = True
                message = "service.name is unknown_service: OTEL_SERVICE_NAME is not set"
                yield Place("resource", item.scope.name).violates("service-name", message)

    def spans(self, items: Sequence[Span]) -> Iterator[Violation]:
        """Yield which names of spans are too many."""
        for item in items:
            key = (str(item.resource.attributes.get("service.name", "")), item.scope.name)
            names = self._names.setdefault(key, _Names())
            if len(self._names) > self._scopes:
                self._names.popitem(last=False)
            template = _VALUE.sub("…", item.name)
            if names.has_values(template, item.name):
                place = Place(f"{item.kind} span {shown(template)!r}", item.scope.name)
                yield place.violates("span-name-values", "its name has values in it, where a template should be")
            elif names.is_one_too_many(template):
                message = f"there are more than {_DISTINCT} different names"
                yield Place("spans", item.scope.name).violates("span-name-values", message)


class _Names:
    """The names of spans of one scope, as hashes: a name is as long as whoever sends it likes."""

    def __init__(self) -> None:
        self._templates: dict[int, set[int]] = {}

    def has_values(self, template: str, name: str) -> bool:
        """Return whether many names differ from this one in their values alone."""
        if template == name:
            return False
        names = self._templates.get(hash(template), set())
        if len(names) < _ALIKE and len(self._templates) < _DISTINCT:
            self._templates[hash(template)] = names
            names.add(hash(name))
        return len(names) >= _ALIKE

    def is_one_too_many(self, template: str) -> bool:
        """Return whether this is one of more names than a scope should have."""
        if hash(template) in self._templates:
            return False
        if len(self._templates) >= _DISTINCT:
            return True
        self._templates[hash(template)] = set()
        return False


def habits(contract: Contract, spans: Sequence[Span], points: Sequence[MetricPoint]) -> Iterator[Violation]:
    """Yield what is wrong with metrics as a whole: attributes without bounds, and durations without exemplars."""
    yield from _exploding(contract, points)
    yield from _without_exemplars(spans, points)


def orphans(spans: Sequence[Span], known: Collection[tuple[str, str]], ended_before_ns: int) -> Iterator[Violation]:
    """
    Yield that parents are missing, once a scope.

    Only parents in the same process count: the caller of a service may well send nothing, or elsewhere. OTLP's flags
    say where a parent was; without them, it is taken to be elsewhere for SERVER and CONSUMER. And only where it is a
    share of the spans: one that was under way when its process died is no mistake of anybody's.

    Args:
        known: Trace and span ids of all spans there are, at least of the traces that *spans* are of.
        ended_before_ns: What ended later may have a parent that is still under way; nanoseconds since the epoch.
    """
    judged: Counter[str] = Counter()
    missing: Counter[str] = Counter()
    for span in spans:
        if span.parent_span_id and span.end_ns < ended_before_ns and _has_local_parent(span):
            judged[span.scope.name] += 1
            missing[span.scope.name] += (span.trace_id, span.parent_span_id) not in known
    for scope, count in missing.items():
        if count >= _ORPHANS and count >= _ORPHANED * judged[scope]:
            share = round(100 * count / judged[scope])
            message = f"{share} % of those with a parent in the same process have one that never arrived"
            yield Place("spans", scope).violates("span-parent", message)


def _has_local_parent(span: Span) -> bool:
    if span.flags & _HAS_IS_REMOTE:
        return not span.flags & _IS_REMOTE
    return span.kind not in ("SERVER", "CONSUMER")


def _exploding(contract: Contract, points: Sequence[MetricPoint]) -> Iterator[Violation]:
    values: dict[tuple[str, str], dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    series: dict[tuple[str, str], set[str]] = defaultdict(set)
    places: dict[tuple[str, str], Place] = {}
    for point in points:
        key = (point.scope.name, point.name)
        places.setdefault(key, metric_points.place_of(point))
        series[key].add(repr(sorted(point.attributes.items(), key=str)))
        for name, value in point.attributes.items():
            known = contract.attribute(name)
            # Of what the contract bounds, the checker counts values by itself.
            if not known or not known.distinct:
                values[key][name].add(repr(value))
    for key, by_name in values.items():
        for name, found in by_name.items():
            # As many values as half of the series: it is by this attribute that they grow.
            if len(found) > _VALUES and len(found) >= len(series[key]) / 2:
                message = f"{shown(name)} has {len(found)} values, each with series of its own"
                yield places[key].violates("metric-attribute-values", message)


def _without_exemplars(spans: Sequence[Span], points: Sequence[MetricPoint]) -> Iterator[Violation]:
    traced: set[tuple[object, str]] = {
        (span.resource.attributes.get("service.name"), span.scope.name) for span in spans
    }
    measured: Counter[tuple[object, str, str]] = Counter()
    before: dict[object, int] = {}
    places: dict[tuple[object, str, str], Place] = {}
    shining: set[tuple[object, str, str]] = set()
    for point in sorted(points, key=lambda each: each.time_ns):
        if point.type not in ("histogram", "exponential_histogram"):
            continue
        key: tuple[object, str, str] = (
            point.resource.attributes.get("service.name"),
            point.scope.name,
            point.name,
        )
        # Exemplars are of what is new: where nothing was measured, there are none.
        series = (*key, repr(point.resource), repr(sorted(point.attributes.items(), key=str)))
        count = point.count or 0
        delta = point.temporality == "DELTA"
        measured[key] += max(count - before.get(series, count), 0) if not delta else count
        before[series] = count
        places.setdefault(key, metric_points.place_of(point))
        if point.exemplars:
            shining.add(key)
    for key, count in measured.items():
        service, scope, _ = key
        # Of the same scope: what has no spans of its own, such as a queue's length, has no trace to point to.
        if count >= _MEASURED and key not in shining and (service, scope) in traced:
            yield places[key].violates("exemplar-missing", f"none of {count} measurements points to its trace")
