"""
The pipeline as metrics: what waits, what left and what was lost, by the conventions for the SDK's own components.

Sent through the same pipeline, so what a collector that was away missed is told by it when it is back.
See https://opentelemetry.io/docs/specs/semconv/otel/sdk-metrics/.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final
from urllib.parse import urlsplit

from opentelemetry.context import Context
from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider, Observation
from opentelemetry.util.types import Attributes

from rsketch_telemetry import semconv
from rsketch_telemetry.destinations import Destination
from rsketch_telemetry.pipeline import Lane, Pipeline
from rsketch_telemetry.signal import Signal
from rsketch_telemetry.version import __version__

__all__ = ["SCOPE", "observe"]

SCOPE: Final = "rsketch_telemetry.pipeline"

COMPONENT_NAME: Final = "otel.component.name"
COMPONENT_TYPE: Final = "otel.component.type"
LANE: Final = "rsketch_telemetry.pipeline.Lane"
"""The type of what processes spans and log records here, which is none of the SDK's."""
OPERATION_DURATION: Final = "otel.sdk.exporter.operation.duration"
QUEUE_LIMIT: Final = "rsketch.telemetry.queue.limit"
QUEUE_USAGE: Final = "rsketch.telemetry.queue.usage"

QUEUE_FULL: Final = "queue_full"
UNENCODABLE: Final = "unencodable"

# What the conventions call the items of a signal in a metric's name, in an exporter's type, and as a unit.
_ITEMS = {
    Signal.TRACES: ("span", "span", "{span}"),
    Signal.METRICS: ("metric_data_point", "metric", "{data_point}"),
    Signal.LOGS: ("log", "log", "{log_record}"),
}
_Values = Iterable[tuple[int, Attributes]]


def observe(pipeline: Pipeline, destinations: Sequence[Destination], meters: MeterProvider) -> None:
    """Let *meters* collect the pipeline from now on."""
    meter = meters.get_meter(SCOPE, __version__, semconv.SCHEMA_URL)
    exporters = {to.signal: _exporter(to) for to in destinations}
    for lane in pipeline.lanes:
        if lane.signal is not Signal.METRICS:
            _observe_processor(meter, lane)
        _observe_exporter(meter, lane, exporters[lane.signal])
    _observe_bytes(meter, pipeline.lanes)
    _record_durations(meter, pipeline, exporters)


def _observe_processor(meter: Meter, lane: Lane) -> None:
    items, _, unit = _ITEMS[lane.signal]
    named = _processor(lane.signal)
    prefix = f"otel.sdk.processor.{items}"
    limit = lane.segment.limit_items
    meter.create_observable_up_down_counter(
        f"{prefix}.queue.size", _callbacks(lambda: [(_waiting(lane), named)]), unit, "What waits to be exported."
    )
    if limit is not None:
        # Otherwise the bound is one of bytes.
        meter.create_observable_up_down_counter(
            f"{prefix}.queue.capacity", _callbacks(lambda: [(limit, named)]), unit, "What may wait at most."
        )
    meter.create_observable_counter(
        f"{prefix}.processed",
        _callbacks(lambda: _processed(lane, named)),
        unit,
        "What left the queue: because its export was over, or for the reason named.",
    )


def _waiting(lane: Lane) -> int:
    lane.settle()
    return len(lane.segment)


def _processed(lane: Lane, named: Mapping[str, str]) -> _Values:
    yield lane.tally.processed, named
    lost = {QUEUE_FULL: lane.segment.evicted, UNENCODABLE: lane.tally.unencodable}
    for error, count in lost.items():
        if count:
            yield count, {**named, semconv.ERROR_TYPE: error}


def _observe_exporter(meter: Meter, lane: Lane, named: Mapping[str, str | int]) -> None:
    items, _, unit = _ITEMS[lane.signal]
    prefix = f"otel.sdk.exporter.{items}"
    meter.create_observable_up_down_counter(
        f"{prefix}.inflight",
        _callbacks(lambda: [(lane.tally.in_flight, named)]),
        unit,
        "What is being exported, or waits for the next attempt.",
    )
    meter.create_observable_counter(
        f"{prefix}.exported",
        _callbacks(lambda: _exported(lane, named)),
        unit,
        "What has been exported, with the reason where that failed for good.",
    )


def _exported(lane: Lane, named: Mapping[str, str | int]) -> _Values:
    yield lane.tally.exported, named
    # A copy: the pipeline's thread may add a kind.
    for error, count in dict(lane.tally.failed).items():
        yield count, {**named, semconv.ERROR_TYPE: error}


def _observe_bytes(meter: Meter, lanes: Sequence[Lane]) -> None:
    def each(read: Callable[[Lane], int]) -> Callable[[], _Values]:
        return lambda: [(read(lane), _processor(lane.signal)) for lane in lanes]

    meter.create_observable_up_down_counter(
        QUEUE_USAGE, _callbacks(each(lambda lane: lane.segment.bytes)), "By", "The memory of what waits to be exported."
    )
    meter.create_observable_up_down_counter(
        QUEUE_LIMIT,
        _callbacks(each(lambda lane: lane.segment.limit_bytes)),
        "By",
        "The memory beyond which the oldest of what waits is dropped.",
    )


def _record_durations(meter: Meter, pipeline: Pipeline, exporters: Mapping[Signal, Mapping[str, str | int]]) -> None:
    durations = meter.create_histogram(
        OPERATION_DURATION,
        semconv.DURATION_UNIT,
        "How long an export took, from its first attempt to its last.",
        explicit_bucket_boundaries_advisory=semconv.DURATION_BUCKETS,
    )

    def concluded(signal: Signal, seconds: float, error: str) -> None:
        failed = {semconv.ERROR_TYPE: error} if error else {}
        durations.record(seconds, {**exporters[signal], **failed}, Context())

    pipeline.on_concluded(concluded)


def _processor(signal: Signal) -> dict[str, str]:
    return {COMPONENT_TYPE: LANE, COMPONENT_NAME: f"{LANE}/{signal.value}"}


def _exporter(to: Destination) -> dict[str, str | int]:
    kind = f"otlp_{'grpc' if to.protocol == 'grpc' else 'http'}_{_ITEMS[to.signal][1]}_exporter"
    url = urlsplit(to.endpoint)
    # There is one of a kind, as each signal goes to one place.
    return {
        COMPONENT_TYPE: kind,
        COMPONENT_NAME: f"{kind}/0",
        semconv.SERVER_ADDRESS: url.hostname or "",
        semconv.SERVER_PORT: url.port or (443 if to.tls else 80),
    }


def _callbacks(read: Callable[[], _Values]) -> Sequence[Callable[[CallbackOptions], Iterable[Observation]]]:
    return [lambda _: [Observation(value, attributes) for value, attributes in read()]]
