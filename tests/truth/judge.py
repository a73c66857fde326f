"""
The judge: a record of a bare run and one of an instrumented run go in, five verdicts come out.

It is lenient on words where a peer uses an older name for the same thing (the checker of conformance is not), and
strict on facts: what went over the wire, how long it took, what was left behind.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import grpc
from rsketch_telemetry.otlp.model import Span

from truth import conformance
from truth.arrivals import Counted
from truth.frame import ABSENT, ANY, COLUMNS_OF_TABLE, Bounds, Call, Expectation, Judgement, Record, Verdict
from truth.recorded import recorded

__all__ = ["judge"]

_CODES = (
    "http.response.status_code",
    "http.status_code",
    "rpc.status_code",
    "rpc.response.status_code",
    "rpc.grpc.status_code",
)
_GRPC = tuple(code.name for code in grpc.StatusCode)

# A span may begin a little before its request's first byte is measured, and end after its last one was read.
_EARLY_SECONDS = 0.02
_LATE_SECONDS = 0.45
_SHOWN = 160


def judge(bare: Record, record: Record) -> Judgement:
    """Judge *record* against what the same case did without instrumentation."""
    found = {
        "bare equal": _bare_equal(bare, record),
        "status right": _status_right(record),
        "duration right": _duration_right(record),
        "no leak": _no_leak(record),
        "conformant": _conformant(record),
    }
    verdicts = {name: _verdict(found[name], record.secret) for name in COLUMNS_OF_TABLE}
    return Judgement(
        column=record.column,
        case=record.case.name,
        subject=record.subject,
        verdicts=verdicts,
        recorded=recorded(record),
    )


def _verdict(wrong: Iterable[str], secret: str) -> Verdict:
    sentences = list(dict.fromkeys(sentence.replace(secret, "SECRET") for sentence in wrong))
    return Verdict(not sentences, "; ".join(sentences[:6]))


def _expected(record: Record) -> Expectation:
    return record.case.expected(record.column)


def _calls(record: Record) -> Iterator[tuple[Call, Span, Bounds]]:
    """Yield each expected call with the span that stands for it and the bounds that its caller measured."""
    expected = [call for call in _expected(record).calls for _ in range(call.times)]
    bounds = [*record.bounds, *([record.whole] * len(expected))]
    left = {kind: [span for span in record.window.calls if span.kind == kind] for kind in ("SERVER", "CLIENT")}
    for call, bound in zip(expected, bounds, strict=False):
        if left[call.kind]:
            yield call, left[call.kind].pop(0), bound


def _bare_equal(bare: Record, record: Record) -> Iterator[str]:
    if bare.observation.failed:
        yield f"the case does not even work uninstrumented: {bare.observation.failed}"
    elif record.observation.failed:
        yield f"the client fails: {record.observation.failed}"
        return
    yield from _differences("the caller", bare.observation.caller, record.observation.caller)
    yield from _differences("the handler", bare.observation.handlers, record.observation.handlers)


def _differences(who: str, bare: Any, seen: Any) -> Iterator[str]:
    """Yield in what two observations differ: by their smallest parts, so that it can be read."""
    if bare == seen:
        return
    if isinstance(bare, Mapping) and isinstance(seen, Mapping) and bare.keys() == seen.keys():
        for key in bare:
            yield from _differences(who, bare[key], seen[key])
    elif _lines(bare) and _lines(seen):
        # Of headers the names are enough; their values may be different each time.
        more, less = ([line.split(":")[0] for line in Counter(a) - Counter(b)] for a, b in ((seen, bare), (bare, seen)))
        yield f"{who} {_change(more, less)}"
    elif isinstance(bare, list) and isinstance(seen, list) and len(bare) == len(seen):
        for one, other in zip(bare, seen, strict=True):
            yield from _differences(who, one, other)
    else:
        yield f"{who} sees {_short(seen)} instead of {_short(bare)}"


def _lines(value: object) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(line, str) for line in value)


def _change(more: list[str], less: list[str]) -> str:
    said = [f"{verb} {_listed(names)}" for verb, names in (("also sees", more), ("misses", less)) if names]
    return " and ".join(said) or "sees another order"


def _status_right(record: Record) -> Iterator[str]:
    yield from _one_span_each(record)
    for call, span, _ in _calls(record):
        yield from _outcome(call, span)
    for kind in ("SERVER", "CLIENT"):
        points = [each for each in record.window.counted if each.kind == kind]
        spans = Counter(_said(span.attributes) for span in record.window.calls if span.kind == kind)
        counted: Counter[tuple[str | None, str | None]] = Counter()
        for each in points:
            counted[_said(each.attributes)] += each.count
        if points and counted != spans:
            yield f"metric says {_pairs(counted)} where spans say {_pairs(spans)}"
    wanted = sum(call.exceptions * call.times for call in _expected(record).calls)
    if len(record.window.exceptions) != wanted:
        yield f"{len(record.window.exceptions)} exceptions are recorded instead of {wanted}"


def _listed(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _one_span_each(record: Record) -> Iterator[str]:
    wanted: Counter[str] = Counter()
    for call in _expected(record).calls:
        wanted[call.kind] += call.times
    found = Counter(span.kind for span in record.window.calls)
    for kind in sorted(wanted | found):
        if wanted[kind] != found[kind]:
            yield f"{found[kind]} {kind} spans instead of {wanted[kind]}"


def _outcome(call: Call, span: Span) -> Iterator[str]:
    code, error = _said(span.attributes)
    if code != call.code:
        yield f"span says status {code} where {call.code or 'none'} was sent"
    if (span.status == "ERROR") is not bool(call.error):
        yield f"span status is {span.status}, though it {'failed' if call.error else 'did not fail'}"
    if call.error and error not in call.error:
        yield f"error.type is {error} instead of {' or '.join(sorted(name for name in call.error if '.' not in name))}"
    if not call.error and error is not None:
        yield f"error.type is {error} though nothing failed"


def _duration_right(record: Record) -> Iterator[str]:
    for call, span, bound in _calls(record):
        seconds = _seconds(span)
        if seconds < call.at_least - _EARLY_SECONDS:
            yield f"span lasts {seconds:.4f} s where the call lasted at least {call.at_least:g} s"
        if not call.hangs and seconds > bound.seconds + _LATE_SECONDS:
            yield f"span lasts {seconds:.3f} s where the caller was through after {bound.seconds:.3f} s"
        if span.start_ns < bound.begin_ns - _EARLY_SECONDS * 1e9:
            yield "span begins before the call"
    yield from _metric_is_span(record)


def _metric_is_span(record: Record) -> Iterator[str]:
    for kind in sorted({call.kind for call in _expected(record).calls}):
        spans = [_seconds(span) for span in record.window.calls if span.kind == kind]
        points = [each for each in record.window.counted if each.kind == kind]
        count, seconds = sum(each.count for each in points), sum(each.seconds for each in points)
        if not points:
            yield "there is no duration metric"
        elif count != len(spans):
            yield f"metric counts {count} calls where there are {len(spans)} spans"
        elif abs(seconds - sum(spans)) > 0.001 * len(spans):
            yield f"metric says {seconds:.4f} s where spans say {sum(spans):.4f} s"
    expected = {call.kind for call in _expected(record).calls}
    for each in record.window.counted:
        if each.kind not in expected:
            yield f"{each.metric} counts what is to have no telemetry"


def _no_leak(record: Record) -> Iterator[str]:
    for place in record.window.leaks:
        yield f"the secret is in {place}"
    yield from record.window.left
    ended = {span.span_id for span in record.window.spans}
    if not _expected(record).calls:
        return
    for note in record.notes:
        if note["span"] and note["span"] not in ended:
            yield "the span that the handler ran in never ends"


def _conformant(record: Record) -> Iterator[str]:
    expect = _expected(record)
    for call, span, _ in _calls(record):
        if call.name is not None and span.name != call.name:
            yield f"span is called {span.name!r} instead of {call.name!r}"
        yield from _attributes("span", call.attributes, span.attributes)
        points = [each.attributes for each in record.window.counted if each.kind == call.kind]
        if call.metric_attributes and points:
            wrong = [list(_attributes("metric", call.metric_attributes, point)) for point in points]
            yield from min(wrong, key=len)
    yield from _context(record, expect)
    series = {each.series: each.new for each in record.window.counted}
    if expect.new_series is not None and sum(series.values()) > expect.new_series:
        yield f"{sum(series.values())} new series of the duration metric, where {expect.new_series} are enough"
    scopes = {span.scope.name for span in record.window.calls}
    if inner := sum(span.kind == "INTERNAL" and span.scope.name in scopes for span in record.window.spans):
        yield f"{inner} INTERNAL spans of the instrumentation's own beside that of the call"
    yield from conformance.violations(record.window.spans, record.window.points, record.window.logs)


def _attributes(where: str, expected: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[str]:
    for key, wanted in expected.items():
        value = found.get(key)
        if wanted is ABSENT:
            right = key not in found
        elif wanted is ANY:
            right = key in found
        else:
            right = wanted(value) if callable(wanted) else value == wanted
        if not right:
            said = f"has {key} = {_short(value)}" if key in found else f"lacks {key}"
            yield f"{where} {said}" + ("" if wanted in (ABSENT, ANY) or callable(wanted) else f" (wants {wanted!r})")


def _context(record: Record, expect: Expectation) -> Iterator[str]:
    """Whether what the caller sent arrived, and points lead to spans."""
    servers = [span for span in record.window.calls if span.kind == "SERVER"]
    if expect.unlinked and any(span.parent_span_id for span in servers):
        yield "a span has a parent that nobody sent"
    if not expect.unlinked and expect.parents and record.parents:
        found = [span.parent_span_id for span in servers]
        if not set(found) <= set(record.parents) | {span.span_id for span in record.window.spans}:
            yield "the caller's span is not the parent"
    traces = {note["trace"] for note in record.notes}
    if not expect.unlinked and expect.calls and traces - {record.trace_id}:
        yield "the handler does not run in the caller's trace"
    if expect.baggage is not None and any(note["baggage"] != expect.baggage for note in record.notes):
        yield "the handler does not see the caller's baggage"
    if expect.exemplar:
        yield from _exemplars(record.window.counted, {span.span_id for span in record.window.calls})


def _exemplars(counted: Iterable[Counted], spans: set[str]) -> Iterator[str]:
    for each in counted:
        if not any(exemplar.span_id in spans for exemplar in each.exemplars):
            yield "no exemplar of the duration metric leads to the span"


def _said(attributes: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Return status code and error.type as they are said, in one spelling."""
    value = next((attributes[key] for key in _CODES if key in attributes), None)
    code = None if value is None else str(value)
    if "rpc.grpc.status_code" in attributes and isinstance(value, int):
        code = _GRPC[value] if 0 <= value < len(_GRPC) else code
    error = attributes.get("error.type")
    return code, None if error is None else str(error)


def _pairs(counted: Mapping[tuple[str | None, str | None], int]) -> str:
    return ", ".join(
        f"{count} x {code or 'no status'}{f' ({error})' if error else ''}" for (code, error), count in counted.items()
    )


def _seconds(span: Span) -> float:
    return (span.end_ns - span.start_ns) / 1e9


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
