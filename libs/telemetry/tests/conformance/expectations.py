"""
The scenarios of `expected.toml`, and what telemetry that was observed has wrong by them.

Pure: values in, sentences out. A key of the file that nothing here looks at is itself a fault, so that no expectation
stands in the file unheeded.
"""

import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from rsketch_telemetry.otlp.model import Attributes, LogRecord, MetricPoint, Span

__all__ = ["META", "SCENARIOS", "Observed", "disagreements", "unheeded"]

Expected = Mapping[str, Any]

_FILE: Final[Expected] = tomllib.loads(Path(__file__).with_name("expected.toml").read_text("utf-8"))
META: Final[Expected] = _FILE["meta"]
SCENARIOS: Final[Mapping[str, Expected]] = {scenario["id"]: scenario for scenario in _FILE["scenario"]}

_HANDED_OVER: Final[Mapping[str, frozenset[str]]] = {
    "http_server": frozenset(_FILE["always"]["http_server"]["span_recommended"]),
    # grpc.aio shows a servicer the peer of a call, but not the authority that its client asked for.
    "grpc_server": frozenset({"network.peer.address", "network.peer.port"}),
    # And a client not the peer that a call went to.
    "grpc_client": frozenset(),
}
"""The recommended attributes that the libraries let an instrumentor know: those are expected."""

_PROSE = {"id", "given", "spec", "choice"}
_NAMES = {"attributes", "present", "absent"}
_HEEDED: Final[Mapping[str, set[str]]] = {
    "span": _NAMES
    | {"count", "name", "kind", "status", "optional", "absent_events", "min_duration_s", "duration"}
    | {"forbidden_text", "forbidden_values"},
    "metric": _NAMES | {"count", "name", "unit", "instrument", "boundaries", "same_as_span"},
    "log": _NAMES | {"count", "count_one_of", "event_name", "severity", "severity_number", "in_context_of_span"},
}
_HEEDED_ALWAYS = {"span_count", "span_present", "span_recommended", "span_absent", "metric_present", "metric_absent"}
_CLOCK_STEP_NS = 5_000_000
"""How far the clock of a span's duration and the clock on the wall may be apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """
    Everything that one call made, as a receiver of OTLP sees it.

    Attributes:
        places: What `$PORT` and `$SOCKET` stand for.
        ended_ns: The span must end in between, nanoseconds since the epoch; None where no scenario says so.
    """

    spans: tuple[Span, ...]
    points: tuple[MetricPoint, ...]
    logs: tuple[LogRecord, ...]
    places: Mapping[str, str | int] = field(default_factory=dict)
    ended_ns: tuple[int, int] | None = None


def unheeded() -> list[str]:
    """Return the keys of the file that are compared with nothing."""
    found = []
    for name, scenario in SCENARIOS.items():
        found += [f"{name}: {key}" for key in scenario.keys() - _PROSE - _HEEDED.keys()]
        found += [f"{name}: {kind}.{key}" for kind in _HEEDED for key in scenario.get(kind, {}).keys() - _HEEDED[kind]]
    for side, always in _FILE["always"].items():
        found += [f"always.{side}: {key}" for key in always.keys() - _HEEDED_ALWAYS - {"note", "choice"}]
    return found


def disagreements(scenario: Expected, observed: Observed) -> list[str]:
    """Return a sentence for each thing that is not as *scenario* expects it."""
    side = _side(scenario["id"])
    always = _FILE["always"][side]
    found = list(_count("span", scenario["span"].get("count", always.get("span_count", 1)), observed.spans))
    points = [point for point in observed.points if point.name == scenario["metric"]["name"]]
    found += _count("metric", scenario["metric"].get("count", 1), points)
    if found:
        return found
    (span,), (point,) = observed.spans, points
    expected = _filled({kind: scenario.get(kind) for kind in _HEEDED}, observed.places)
    found += _span(expected["span"], span, observed)
    found += _attributes("span", _always(always, "span", _HANDED_OVER[side]), span.attributes)
    found += _name_by_route(span) if side == "http_server" else ()
    found += _metric(expected["metric"], point, span)
    found += _attributes("metric", _always(always, "metric"), point.attributes)
    if expected["log"] is not None:
        found += _logs(expected["log"], observed.logs, span)
    found += _scopes([span, point, *observed.logs])
    return found


def _side(scenario: str) -> str:
    return "http_server" if scenario.startswith("http-") else "_".join(scenario.split("-")[:2])


def _always(always: Expected, kind: str, handed_over: Iterable[str] = ()) -> Expected:
    recommended = [name for name in always.get(f"{kind}_recommended", ()) if name in handed_over]
    return {"present": [*always[f"{kind}_present"], *recommended], "absent": always[f"{kind}_absent"]}


def _filled(value: Any, places: Mapping[str, str | int]) -> Any:
    """Return *value* with what its placeholders stand for."""
    if isinstance(value, dict):
        return {name: _filled(each, places) for name, each in value.items()}
    if isinstance(value, list):
        return [_filled(each, places) for each in value]
    return places[value] if isinstance(value, str) and value.startswith("$") else value


def _accepted(value: Any) -> list[Any]:
    return list(value["one_of"]) if isinstance(value, dict) else [value]


def _count(what: str, expected: int | Sequence[int], got: Sequence[object]) -> Iterator[str]:
    accepted = [expected] if isinstance(expected, int) else expected
    if len(got) not in accepted:
        yield f"{what}: expected {_either(accepted)} of them, got {len(got)}: {got}"


def _either(accepted: Iterable[object]) -> str:
    return " or ".join(repr(value) for value in accepted)


def _same(expected: object, got: object) -> bool:
    # By type as well: True is 1 and 200.0 is 200 to Python, but not in OTLP.
    return type(expected) is type(got) and expected == got


def _value(what: str, expected: object, got: object) -> Iterator[str]:
    accepted = _accepted(expected)
    if not any(_same(value, got) for value in accepted):
        yield f"{what}: expected {_either(accepted)}, got {got!r}"


def _attributes(what: str, expected: Expected, got: Attributes) -> Iterator[str]:
    for name, value in expected.get("attributes", {}).items():
        yield from _value(f"{what} {name}", value, got.get(name))
    for name, values in expected.get("optional", {}).items():
        if name in got:
            yield from _value(f"{what} {name}", {"one_of": values}, got[name])
    for name in expected.get("present", ()):
        if name not in got:
            yield f"{what} {name}: expected, but not there"
    for name in expected.get("absent", ()):
        if name in got:
            yield f"{what} {name}: must not be there, is {got[name]!r}"


def _span(expected: Expected, span: Span, observed: Observed) -> Iterator[str]:
    for name in ("name", "kind", "status"):
        yield from _value(f"span's {name}", expected[name], getattr(span, name))
    yield from _attributes("span", expected, span.attributes)
    for event in span.events:
        if event.name in expected.get("absent_events", ()):
            yield f"span: must not have the event {event.name}"
    for name, values in expected.get("forbidden_values", {}).items():
        if any(_same(value, span.attributes.get(name)) for value in values):
            yield f"span {name}: must not be {span.attributes[name]!r}"
    for text in expected.get("forbidden_text", ()):
        if text in repr(observed):
            yield f"{text} is in {observed}"
    yield from _lasting(expected, span, observed)


def _lasting(expected: Expected, span: Span, observed: Observed) -> Iterator[str]:
    seconds = (span.end_ns - span.start_ns) / 1e9
    if seconds < expected.get("min_duration_s", 0):
        yield f"span: expected to last {expected['min_duration_s']} s at least, lasts {seconds}"
    if "duration" not in expected:
        return
    assert observed.ended_ns is not None, "the runner of this scenario must say when its span has to end"
    earliest, latest = observed.ended_ns
    if not earliest - _CLOCK_STEP_NS <= span.end_ns <= latest + _CLOCK_STEP_NS:
        yield f"span: lasts {expected['duration']!r}, which is {earliest} to {latest}; ends {span.end_ns}"


def _name_by_route(span: Span) -> Iterator[str]:
    """Hold the name against method and route: `choice` has it that they go together, whichever they are."""
    method, route = span.attributes.get("http.request.method"), span.attributes.get("http.route")
    words = ["HTTP" if method == "_OTHER" else str(method)] + ([] if route is None else [str(route)])
    yield from _value("span's name", " ".join(words), span.name)


def _metric(expected: Expected, point: MetricPoint, span: Span) -> Iterator[str]:
    yield from _value("metric's unit", expected["unit"], point.unit)
    yield from _value("metric's instrument", expected["instrument"], point.type)
    yield from _value("metric's boundaries", [float(bound) for bound in expected["boundaries"]], list(point.bounds))
    yield from _attributes("metric", expected, point.attributes)
    for name in expected.get("same_as_span", ()):
        if not _same(span.attributes.get(name), point.attributes.get(name)):
            yield f"metric {name}: {point.attributes.get(name)!r}, but {span.attributes.get(name)!r} on the span"
    yield from _value("metric's count of observations", 1, point.count)
    seconds = (span.end_ns - span.start_ns) / 1e9
    if point.sum is None or abs(point.sum - seconds) > 1e-6:
        yield f"metric: expected the duration of the span, {seconds} s, got {point.sum}"


def _logs(expected: Expected, logs: Sequence[LogRecord], span: Span) -> Iterator[str]:
    """Hold all records of the instrumentation against one expectation: a scenario has at most one event."""
    yield from _count("log", expected["count_one_of"] if "count_one_of" in expected else expected["count"], logs)
    for record in logs:
        yield from _value("log's event", expected["event_name"], record.event_name)
        yield from _severity(expected, record)
        yield from _attributes("log", expected, record.attributes)
        if expected.get("in_context_of_span") and (record.trace_id, record.span_id) != (span.trace_id, span.span_id):
            yield f"log: expected in the context of the span {span.span_id}, got {record.span_id!r}"


def _severity(expected: Expected, record: LogRecord) -> Iterator[str]:
    texts, numbers = (_accepted(expected.get(name)) for name in ("severity", "severity_number"))
    accepted = list(zip(texts, numbers, strict=True))
    if accepted != [(None, None)]:
        got = (record.severity_text, record.severity_number)
        yield from _value("log's severity", {"one_of": accepted}, got)


def _scopes(items: Iterable[Span | MetricPoint | LogRecord]) -> Iterator[str]:
    for item in items:
        yield from _value(f"schema of {type(item).__name__}", META["schema_url"], item.scope.schema_url)
