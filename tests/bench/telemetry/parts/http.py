"""What telemetry adds to an HTTP request, in process: record, encode and send, nothing but Sanic beside."""

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from bench.figures import quantile, written
from bench.telemetry import children, variants
from bench.telemetry.effort import Effort
from bench.telemetry.estimate import Estimate, Launches, added
from bench.telemetry.progress import say
from bench.telemetry.rows import Goal, Row
from bench.telemetry.sink import Counts, Sink, sink

__all__ = ["measure"]

_PROGRAM = "bench.telemetry.http_slices"
_METRIC = "http.server.request.duration"
_GOALS = {"hello": Goal(10), "users": Goal(10), "unsampled": Goal(3)}
_RECORD_GOAL = Goal(20)


def measure(effort: Effort) -> list[Row]:
    """Measure all variants, one after the other."""
    launches: dict[str, list[Mapping[str, Any]]] = {name: [] for name in variants.HTTP}
    with sink() as collector:
        # Launches of one variant are apart in time, so that a bad minute of the machine spoils none of them.
        for at in range(effort.launches):
            for name in variants.HTTP:
                say(f"HTTP in process, {at + 1} of {effort.launches}: {name}")
                launches[name].append(_launch(collector, name, effort.pairs))
    null = added(_hot(launches["null"]))
    rows = [_row(name, launches[name], null) for name in variants.HTTP]
    return [*rows, _on_top(launches)]


def _launch(collector: Sink, name: str, pairs: int) -> Mapping[str, Any]:
    variant = variants.HTTP[name]
    before = collector.counts()
    settings = {"OTEL_SERVICE_NAME": "measured", "OTEL_EXPORTER_OTLP_ENDPOINT": collector.grpc, **variant.environ}
    found: Mapping[str, Any] = children.said(_PROGRAM, (name, "--pairs", str(pairs)), settings)
    if not variant.wrapped:
        _lose_nothing(name, found["served_with"], before, collector.counts())
    return found


def _lose_nothing(name: str, served: int, before: Counts, after: Counts) -> None:
    """
    Compare what was served with what has come.

    Raises:
        RuntimeError: Something is missing, or came twice.
    """
    variant = variants.HTTP[name]
    spans = after.all_spans - before.all_spans
    measured = after.measured.get(_METRIC, 0) - before.measured.get(_METRIC, 0)
    records = after.records - before.records if variant.line == "exported" else served
    whole = variant.sampled in (0.0, 1.0)
    if measured != served or records != served or (whole and spans != variant.sampled * served):
        came = f"{spans} spans, {measured} measurements and {records} records"
        raise RuntimeError(f"{name}: {served} requests were served with telemetry, and {came} came")


def _hot(found: Sequence[Mapping[str, Any]]) -> Launches:
    return [[(before / 1e3, after / 1e3) for before, after in launch["pairs"]] for launch in found]


def _whole(found: Sequence[Mapping[str, Any]]) -> Launches:
    """Return the pairs with what the other threads of the process took beside."""
    return [
        [(before / 1e3, (after + launch["others_ns"]) / 1e3) for before, after in launch["pairs"]] for launch in found
    ]


def _row(name: str, found: Sequence[Mapping[str, Any]], null: Estimate) -> Row:
    whole = added(_whole(found))
    noise = whole.is_noise or (name != "null" and whole.low <= null.high)
    remark = "; ".join(_details(found))
    about = f"HTTP: {variants.HTTP[name].about}"
    return Row(name=f"http.{name}", about=about, estimate=whole, goal=_GOALS.get(name), noise=noise, remark=remark)


def _details(found: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    pairs = [pair for launch in _hot(found) for pair in launch]
    without, with_it = [before for before, _ in pairs], [after for _, after in pairs]
    hot = added(_hot(found))
    others = median(each["others_ns"] for each in found) / 1e3
    yield f"on the loop's thread {written(hot.value)}, on others {written(others)}"
    tenth = quantile(with_it, 0.1) - quantile(without, 0.1)
    yield f"least {written(min(with_it) - min(without))}, p10 {written(tenth)}"
    yield f"bare {written(median(without))}"


def _on_top(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> Row:
    """Return what the access line as a log record adds to traces and metrics, each against its own bare server."""
    with_record, without = added(_whole(found["record"])), added(_whole(found["users"]))
    negated = Estimate(-without.value, -without.high, -without.low)
    about = "HTTP: what the access line as a log record adds to traces and metrics"
    return Row(name="http.on-top", about=about, estimate=with_record.shifted(negated), goal=_RECORD_GOAL)
