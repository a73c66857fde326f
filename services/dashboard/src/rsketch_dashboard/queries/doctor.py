"""What is wrong with the latest telemetry, by the rules of `python -m rsketch_telemetry check`."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import duckdb
from rsketch_telemetry.conformance import RULES, Checker, Habits, Violation, habits, load, orphans
from rsketch_telemetry.otlp.model import LogRecord, MetricPoint, Span, decode_logs, decode_metrics, decode_traces

from rsketch_dashboard.queries.parameters import Parameters
from rsketch_dashboard.store import restore

__all__ = ["doctor"]

Json = dict[str, Any]
_Item = TypeVar("_Item", Span, MetricPoint, LogRecord)

_ITEMS = 1000
_LISTED = 100
_EXAMPLES = 3
_UNDER_WAY_NS = 60 * 10**9
"""A parent may still run for so long after its child has ended."""


def doctor(connection: duckdb.DuckDBPyConnection, asked: Parameters, now_us: int) -> Json:
    """Return what the rules find in the latest spans, points and log records, problems first and often ones first."""
    spans = decode_traces(restore.spans(connection, *_latest(connection, asked, "spans s", "s.start_ns")))
    points = decode_metrics(restore.points(connection, *_latest(connection, asked, "points p", "p.time_ns")))
    logs = decode_logs(restore.logs(connection, *_latest(connection, asked, "logs l", "l.time_ns")))
    found = _Findings()
    checker, many = Checker(), Habits()
    found.add_each(spans, checker.spans, lambda span: [span.trace_id])
    found.add_each(spans, many.spans, lambda span: [span.trace_id])
    for each in (spans, points, logs):
        found.add(many.resources(each), [])
    # Those of one export belong together: an old metric may be beside its successor on purpose.
    found.add(checker.points(points), [])
    found.add_each(logs, checker.logs, lambda log: [log.trace_id])
    found.add(habits(load(), spans, points), [])
    found.add(orphans(spans, _known(connection, spans), now_us * 1000 - _UNDER_WAY_NS), [])
    return {
        "checked": {"spans": len(spans), "logs": len(logs), "points": len(points)},
        "findings": found.listed(),
    }


class _Findings:
    """Distinct violations, with how often each was found and where to look."""

    def __init__(self) -> None:
        self._found: dict[Violation, list[Any]] = {}

    def add_each(
        self,
        items: Iterable[_Item],
        check: Callable[[Sequence[_Item]], Iterable[Violation]],
        traces: Callable[[_Item], list[str]],
    ) -> None:
        """Check items one after another, to know which ones violations are of."""
        for item in items:
            self.add(check([item]), traces(item))

    def add(self, violations: Iterable[Violation], traces: Sequence[str]) -> None:
        """Count violations, and note the traces that they are in."""
        for violation in violations:
            counted = self._found.setdefault(violation, [0, {}])
            counted[0] += 1
            if len(counted[1]) < _EXAMPLES:
                counted[1].update(dict.fromkeys(trace for trace in traces if trace))

    def listed(self) -> list[Json]:
        """Return them as the page shows them, the worst first."""
        ordered = sorted(self._found.items(), key=lambda each: (each[0].advice, -each[1][0], str(each[0])))
        return [_finding(violation, count, list(traces)) for violation, (count, traces) in ordered[:_LISTED]]


def _finding(violation: Violation, count: int, traces: list[str]) -> Json:
    title = violation.rule.replace("-", " ")
    return {
        "rule": violation.rule,
        "severity": "advice" if violation.advice else "problem",
        "title": f"{title[0].upper()}{title[1:]}",
        "summary": RULES[violation.rule].summary,
        "where": violation.where,
        "scope": violation.scope,
        "message": violation.message,
        "count": count,
        "link": violation.link,
        "examples": traces,
    }


def _latest(connection: duckdb.DuckDBPyConnection, asked: Parameters, source: str, time: str) -> tuple[str, list[int]]:
    """Return the condition of the latest rows."""
    bounds = [0, 2**63 - 1]
    if asked.window:
        bounds = [asked.window.from_us * 1000, asked.window.to_us * 1000]
    row = connection.execute(
        f"SELECT min(time) FROM (SELECT {time} AS time FROM {source} WHERE {time} >= ? AND {time} < ? "
        f"ORDER BY {time} DESC LIMIT {_ITEMS})",
        bounds,
    ).fetchone()
    first = row[0] if row and row[0] is not None else bounds[0]
    return f"{time} >= ? AND {time} < ?", [first, bounds[1]]


def _known(connection: duckdb.DuckDBPyConnection, spans: Sequence[Span]) -> set[tuple[str, str]]:
    """Return the ids of all spans of the traces that *spans* are of."""
    return set(_ids(connection, {str(int(span.trace_id, 16)) for span in spans if span.parent_span_id}))


def _ids(connection: duckdb.DuckDBPyConnection, traces: Iterable[str]) -> Iterator[tuple[str, str]]:
    # As text: of a list of numbers the database guesses a type, and takes 128 bits for doubles.
    rows = connection.execute(
        "SELECT trace_id, span_id FROM spans WHERE trace_id IN (SELECT unnest(?::VARCHAR[])::UHUGEINT)", [list(traces)]
    ).fetchall()
    return ((f"{trace:032x}", f"{span:016x}") for trace, span in rows)
