"""
The lean recorder and the SDK's mean the same: each call is made once with each, and what a receiver gets is compared.

Two processes play the same calls against the same application, one with each recorder. What cannot be equal, such as
ids and times, is masked by the tables of `rendered`.
"""

import difflib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality
from rsketch_telemetry import ConfigurationError, environment
from rsketch_telemetry.otlp.handler import Export
from rsketch_telemetry.sdk import create_providers
from rsketch_telemetry.signal import Signal

from .groups import GROUPS
from .play import EVERYTHING, FAILED, RECORDER, Played
from .rendered import MASKED, Reader, is_repeated

_ROOT: Final = Path(__file__).parents[4]
_CALLS: Final = [(group.name, case.name) for group in GROUPS for case in group.cases]
_ROWS: Final = [*_CALLS, *((group.name, EVERYTHING) for group in GROUPS)]

Both = dict[str, dict[str, Played]]
"""What was played, by recorder and group."""


@pytest.fixture(scope="session")
def played(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Both:
    """What was received of the groups that the chosen tests look at, with each recorder."""
    parameters: list[dict[str, Any]] = [
        getattr(getattr(item, "callspec", None), "params", {})
        for item in request.session.items
        if item.path == Path(__file__)
    ]
    groups = sorted({each["group"] for each in parameters if "group" in each})
    folder = tmp_path_factory.mktemp("sameness")
    found = {}
    with ExitStack() as started:
        playing = {
            recorder: started.enter_context(_playing(recorder, groups, folder / recorder))
            for recorder in ("sdk", "lean")
        }
        for recorder, process in playing.items():
            said, _ = process.communicate(timeout=300)
            assert process.returncode == 0, (folder / recorder).read_text()
            found[recorder] = json.loads(said)
    return found


@contextmanager
def _playing(recorder: str, groups: list[str], complaints: Path) -> Iterator[subprocess.Popen[str]]:
    # What stands in sets is said in one order then.
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": "0"}
    command = [sys.executable, "-m", f"{__package__}.play", recorder, *groups]
    with (
        complaints.open("w") as written,
        subprocess.Popen(command, cwd=_ROOT, env=environ, text=True, stdout=subprocess.PIPE, stderr=written) as process,
    ):
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize(("group", "case"), _ROWS, ids=["-".join(row) for row in _ROWS])
def test_both_recorders_say_the_same(played: Both, group: str, case: str) -> None:
    """What a receiver gets of a call, and what its caller is answered, does not depend on the recorder."""
    sdk, lean = played["sdk"][group], played["lean"][group]
    for failed in (sdk, lean):
        assert FAILED not in failed, "\n".join(failed[FAILED])

    wrong = list(difflib.unified_diff(sdk[case], lean[case], "the SDK's", "the lean one", lineterm="", n=3))

    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("group", [group.name for group in GROUPS])
def test_each_group_is_played_with_the_recorder_that_it_is_said_to_be(played: Both, group: str) -> None:
    """Nothing is compared with itself, and no recorder has given up in the middle."""
    chosen = {recorder: played[recorder][group][RECORDER] for recorder in ("sdk", "lean")}

    assert chosen == {"sdk": ["sdk"], "lean": ["lean"]}
    assert not [line for line in played["lean"][group][EVERYTHING] if "takes over" in line or "not be recorded" in line]


def test_there_are_enough_calls() -> None:
    """No case is there twice, and hundreds are there once."""
    assert len(_CALLS) == len(set(_CALLS)) >= 300


# Settings that the lean recorder does not serve, so that there is nothing to compare.
_FOR_THE_SDK: Final[Mapping[str, str]] = {
    "OTEL_SEMCONV_STABILITY_OPT_IN": "http/dup",
    "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION": "base2_exponential_bucket_histogram",
    "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "16",
    "OTEL_ATTRIBUTE_COUNT_LIMIT": "0",
    "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": "8",
    "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT": "20",
    "OTEL_TRACES_EXPORTER": "otlp,console",
    "OTEL_METRICS_EXPORTER": "otlp,console",
}


@pytest.mark.parametrize("variable", _FOR_THE_SDK)
def test_what_the_lean_recorder_does_not_serve_the_sdk_does(variable: str) -> None:
    """Settings that only the SDK knows choose it by themselves, and cannot be had together with the lean recorder."""
    environ = {
        variable: _FOR_THE_SDK[variable],
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
        # What an exporter to the console has read is not to come while other tests run.
        "OTEL_METRIC_EXPORT_INTERVAL": "3600000",
    }

    with environment.presented(environ):
        made = create_providers(environ, {}, [])
        made.meters.shutdown()
        made.tracers.shutdown()
        with pytest.raises(ConfigurationError, match="lean cannot be done"):
            create_providers({**environ, "RSKETCH_TELEMETRY_RECORDER": "lean"}, {}, [])

    assert made.choice.recorder == "sdk"


# The comparison itself.


def _exports() -> list[Any]:
    """Return the requests of a call: a span with an event and a link, its duration, and a log record."""
    traces, metrics, logs = ExportTraceServiceRequest(), ExportMetricsServiceRequest(), ExportLogsServiceRequest()
    spans = traces.resource_spans.add().scope_spans.add()
    spans.scope.name = "ours"
    span: Any = spans.spans.add(name="GET", kind=2, trace_id=b"t" * 16, span_id=b"s" * 8, flags=0x100)
    span.start_time_unix_nano, span.end_time_unix_nano = 1_000_000_000, 2_000_000_000
    span.attributes.add(key="number", value=AnyValue(int_value=1))
    span.events.add(name="event", time_unix_nano=1)
    span.links.add(trace_id=b"l" * 16, span_id=b"l" * 8)
    metric = metrics.resource_metrics.add().scope_metrics.add().metrics.add(name="duration", unit="s")
    metric.histogram.aggregation_temporality = AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE
    point = metric.histogram.data_points.add(count=1, sum=1.0, min=1.0, max=1.0)
    point.bucket_counts.extend([0, 1])
    point.explicit_bounds.append(0.5)
    point.exemplars.add(as_double=1.0, time_unix_nano=2, trace_id=b"t" * 16, span_id=b"s" * 8)
    record = logs.resource_logs.add().scope_logs.add().log_records.add(severity_number=9, time_unix_nano=1)
    record.body.string_value, record.trace_id, record.span_id = "said", b"t" * 16, b"s" * 8
    return [traces, metrics, logs]


def _read(requests: list[Any]) -> list[str]:
    exports = [
        Export(signal=signal, request=request, protocol="grpc", headers={})
        for signal, request in zip((Signal.TRACES, Signal.METRICS, Signal.LOGS), requests, strict=True)
    ]
    reader = Reader()
    return [*reader.call(exports, ["answered"]), *reader.whole()]


def _span(requests: list[Any]) -> Any:
    return requests[0].resource_spans[0].scope_spans[0].spans[0]


def _metric(requests: list[Any]) -> Any:
    return requests[1].resource_metrics[0].scope_metrics[0].metrics[0]


def _point(requests: list[Any]) -> Any:
    return _metric(requests).histogram.data_points[0]


def _record(requests: list[Any]) -> Any:
    return requests[2].resource_logs[0].scope_logs[0].log_records[0]


Change = Callable[[list[Any]], object]
_CHANGES: Final[Mapping[str, Change]] = {
    "an attribute": lambda sent: setattr(_span(sent).attributes[0].value, "int_value", 2),
    "the type of an attribute": lambda sent: setattr(_span(sent).attributes[0].value, "bool_value", True),
    "an attribute that is there twice": lambda sent: _span(sent).attributes.append(_span(sent).attributes[0]),
    "a lost attribute": lambda sent: _span(sent).ClearField("attributes"),
    "a lost event": lambda sent: _span(sent).ClearField("events"),
    "an attribute of an event": lambda sent: _span(sent).events[0].attributes.add(key="a"),
    "a lost link": lambda sent: _span(sent).ClearField("links"),
    "the flags of a link": lambda sent: setattr(_span(sent).links[0], "flags", 1),
    "a name": lambda sent: setattr(_span(sent), "name", "POST"),
    "a kind": lambda sent: setattr(_span(sent), "kind", 3),
    "a status": lambda sent: setattr(_span(sent).status, "code", 2),
    "flags": lambda sent: setattr(_span(sent), "flags", 0x300),
    "a trace state": lambda sent: setattr(_span(sent), "trace_state", "a=1"),
    "a parent": lambda sent: setattr(_span(sent), "parent_span_id", b"p" * 8),
    "a count of what was dropped": lambda sent: setattr(_span(sent), "dropped_events_count", 1),
    "a lost time": lambda sent: _span(sent).ClearField("start_time_unix_nano"),
    "an end before the start": lambda sent: setattr(_span(sent), "end_time_unix_nano", 1),
    "a span that is there twice": lambda sent: sent[0].resource_spans[0].scope_spans[0].spans.append(_span(sent)),
    "a lost span": lambda sent: sent[0].Clear(),
    "a scope": lambda sent: setattr(sent[0].resource_spans[0].scope_spans[0].scope, "version", "2"),
    "a resource": lambda sent: sent[0].resource_spans[0].resource.attributes.add(key="a"),
    "a missing exemplar": lambda sent: _point(sent).ClearField("exemplars"),
    "an exemplar of another span": lambda sent: setattr(_point(sent).exemplars[0], "span_id", b"o" * 8),
    "an exemplar of another duration": lambda sent: setattr(_point(sent).exemplars[0], "as_double", 0.7),
    "a unit": lambda sent: setattr(_metric(sent), "unit", "ms"),
    "a description": lambda sent: setattr(_metric(sent), "description", "x"),
    "a temporality": lambda sent: setattr(_metric(sent).histogram, "aggregation_temporality", 1),
    "a count": lambda sent: setattr(_point(sent), "count", 2),
    "buckets that do not add up": lambda sent: _point(sent).bucket_counts.append(1),
    "bounds": lambda sent: _point(sent).explicit_bounds.append(1),
    "an attribute of a point": lambda sent: _point(sent).attributes.add(key="a"),
    "a lost point": lambda sent: sent[1].Clear(),
    "a severity": lambda sent: setattr(_record(sent), "severity_number", 13),
    "a body": lambda sent: setattr(_record(sent).body, "string_value", "other"),
    "a log record of another span": lambda sent: setattr(_record(sent), "span_id", b"o" * 8),
    "a lost log record": lambda sent: sent[2].Clear(),
}


@pytest.mark.parametrize("change", _CHANGES)
def test_the_comparison_notices(change: str) -> None:
    """A comparison that could not fail would prove nothing."""
    before, after = _exports(), _exports()

    _CHANGES[change](after)

    assert _read(before) != _read(after)


_OTHERS: Final[Mapping[str, Change]] = {
    "ids": lambda sent: _renamed(_span(sent), _point(sent).exemplars[0], _record(sent)),
    "times": lambda sent: setattr(_span(sent).events[0], "time_unix_nano", 7),
    "a bucket": lambda sent: _swapped(_point(sent)),
}


def _renamed(*messages: Any) -> None:
    for message in messages:
        message.span_id = b"z" * 8


def _swapped(point: Any) -> None:
    del point.bucket_counts[:]
    point.bucket_counts.extend([1, 0])


@pytest.mark.parametrize("change", _OTHERS)
def test_what_is_another_with_each_call_makes_no_difference(change: str) -> None:
    """Ids, times and durations are compared by what they belong to."""
    before, after = _exports(), _exports()

    _OTHERS[change](after)

    assert _read(before) == _read(after)


def test_masked_fields_exist() -> None:
    """No field is masked that OTLP does not have; the others are attributes."""
    fields = {name for name in MASKED if name.partition(".")[0][0].isupper()}
    known = {
        f"{message.DESCRIPTOR.name}.{field.name}"
        for message in _messages(_exports())
        for field in message.DESCRIPTOR.fields
    } | {"NumberDataPoint.start_time_unix_nano", "NumberDataPoint.time_unix_nano"}

    assert fields <= known


def _messages(found: Any) -> list[Any]:
    messages = []
    for message in found:
        messages.append(message)
        for field, value in message.ListFields():
            if field.message_type is not None:
                messages += _messages(list(value) if is_repeated(field) else [value])
    return messages
