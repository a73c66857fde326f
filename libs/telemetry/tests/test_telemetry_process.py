import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path

import grpc
import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader, NumberDataPoint
from programs import ANY_PORT, run
from recording import until
from rsketch_telemetry import pipeline_metrics, process
from rsketch_telemetry.destinations import destination
from rsketch_telemetry.event_loop import BUCKETS, LAG, LoopLag
from rsketch_telemetry.otlp.frame import Item, Scope
from rsketch_telemetry.otlp.handler import Answer, Export, PartialSuccess, Refusal
from rsketch_telemetry.otlp.model import MetricPoint
from rsketch_telemetry.otlp.receiver import receive
from rsketch_telemetry.otlp.send import sender
from rsketch_telemetry.otlp.store import TelemetryStore
from rsketch_telemetry.pipeline import Lane, Pipeline, Reporter, Segment
from rsketch_telemetry.signal import Signal

OURS = (process.SCOPE, pipeline_metrics.SCOPE)


class _Meters:
    """A meter provider of one test, and what it collects."""

    def __init__(self) -> None:
        self._reader = InMemoryMetricReader()
        self.provider = MeterProvider([self._reader], shutdown_on_exit=False)

    def by_error(self, name: str) -> dict[str, float]:
        """Collect; return the values of one metric by their `error.type`."""
        points = [point for point in self._collect().get(name, []) if isinstance(point, NumberDataPoint)]
        return {str((point.attributes or {}).get("error.type", "")): point.value for point in points}

    def histograms(self, name: str) -> list[HistogramDataPoint]:
        """Collect; return the points of one histogram."""
        return [point for point in self._collect().get(name, []) if isinstance(point, HistogramDataPoint)]

    def names(self) -> set[str]:
        """Collect; return the names of the metrics that have points."""
        return {name for name, points in self._collect().items() if points}

    def _collect(self) -> Mapping[str, list[object]]:
        data = self._reader.get_metrics_data()
        scopes = [scope for resource in (data.resource_metrics if data else ()) for scope in resource.scope_metrics]
        return {metric.name: list(metric.data.data_points) for scope in scopes for metric in scope.metrics}


@pytest.fixture
def meters() -> Iterator[_Meters]:
    """Meters of the test's own."""
    made = _Meters()
    yield made
    made.provider.shutdown()


def _last(store: TelemetryStore) -> dict[str, list[MetricPoint]]:
    """Return the last points of each metric of ours, one of each stream."""
    streams = {(point.name, str(sorted(point.attributes.items()))): point for point in store.points}
    found: dict[str, list[MetricPoint]] = {}
    for point in streams.values():
        if point.scope.name in OURS:
            found.setdefault(point.name, []).append(point)
    return found


SERVED = """
import asyncio
telemetry = rsketch_telemetry.configure()

async def serve():
    with trace.get_tracer("test").start_as_current_span("served", kind=trace.SpanKind.SERVER):
        await asyncio.sleep(0.6)

asyncio.run(serve())
telemetry.flush(5)
logging.getLogger("shop").warning("sold")
"""


async def test_what_is_said_of_the_process(tmp_path: Path) -> None:
    """Names, units and instruments of the conventions, plausible values, and the lag of the loop that served."""
    store = TelemetryStore()
    async with receive(store, ANY_PORT) as at:
        await run(SERVED, at, tmp_path)
    last = _last(store)

    assert {name: (points[0].unit, points[0].type, points[0].monotonic) for name, points in last.items()} == {
        "cpython.gc.collected_objects": ("{object}", "sum", True),
        "cpython.gc.collections": ("{collection}", "sum", True),
        "cpython.gc.uncollectable_objects": ("{object}", "sum", True),
        "otel.sdk.exporter.log.exported": ("{log_record}", "sum", True),
        "otel.sdk.exporter.log.inflight": ("{log_record}", "sum", False),
        "otel.sdk.exporter.metric_data_point.exported": ("{data_point}", "sum", True),
        "otel.sdk.exporter.metric_data_point.inflight": ("{data_point}", "sum", False),
        "otel.sdk.exporter.operation.duration": ("s", "histogram", None),
        "otel.sdk.exporter.span.exported": ("{span}", "sum", True),
        "otel.sdk.exporter.span.inflight": ("{span}", "sum", False),
        "otel.sdk.processor.log.processed": ("{log_record}", "sum", True),
        "otel.sdk.processor.log.queue.size": ("{log_record}", "sum", False),
        "otel.sdk.processor.span.processed": ("{span}", "sum", True),
        "otel.sdk.processor.span.queue.size": ("{span}", "sum", False),
        "process.context_switches": ("{context_switch}", "sum", True),
        "process.cpu.time": ("s", "sum", True),
        "process.memory.usage": ("By", "sum", False),
        "process.memory.virtual": ("By", "sum", False),
        "process.thread.count": ("{thread}", "sum", False),
        "process.unix.file_descriptor.count": ("{file_descriptor}", "sum", False),
        "process.uptime": ("s", "gauge", None),
        "rsketch.event_loop.lag": ("s", "histogram", None),
        "rsketch.telemetry.queue.limit": ("By", "sum", False),
        "rsketch.telemetry.queue.usage": ("By", "sum", False),
    }
    assert {point.scope.schema_url for points in last.values() for point in points} == {
        "https://opentelemetry.io/schemas/1.45.0"
    }
    value = {name: points[0].value or 0 for name, points in last.items()}
    assert 5e6 < value["process.memory.usage"] < value["process.memory.virtual"]
    assert 0.6 < value["process.uptime"] < 60
    assert 2 <= value["process.thread.count"] < 100
    assert 3 <= value["process.unix.file_descriptor.count"] < 100
    assert {str(point.attributes["cpu.mode"]) for point in last["process.cpu.time"]} == {"user", "system"}
    assert {point.attributes["process.context_switch.type"] for point in last["process.context_switches"]} == {
        "voluntary",
        "involuntary",
    }
    assert sorted(str(point.attributes["cpython.gc.generation"]) for point in last["cpython.gc.collections"]) == [
        "0",
        "1",
        "2",
    ]
    assert (value["otel.sdk.exporter.span.exported"], value["otel.sdk.processor.span.processed"]) == (1, 1)
    (lag,) = last["rsketch.event_loop.lag"]
    assert (lag.bounds, lag.exemplars) == (BUCKETS, ())
    assert 1 <= (lag.count or 0) <= 3


IDLE = """
import time
rsketch_telemetry.configure().start()
until = time.monotonic() + 20
while not os.path.exists("arrived") and time.monotonic() < until:
    time.sleep(0.02)
say(in_time=time.monotonic() < until)
"""


async def test_an_idle_service_is_not_silent(tmp_path: Path) -> None:
    """Once export has started, the process is exported at each interval, though nothing is recorded."""
    store = TelemetryStore()
    async with receive(store, ANY_PORT) as at, asyncio.TaskGroup() as tasks:
        task = tasks.create_task(run(IDLE, at, tmp_path, {"OTEL_METRIC_EXPORT_INTERVAL": "200"}))
        await store.wait_for(lambda had: any(point.name == "process.uptime" for point in had.points), 20)
        (tmp_path / "arrived").touch()

    assert task.result().said == {"in_time": True}


@pytest.mark.parametrize("switch", [{"RSKETCH_TELEMETRY_PROCESS_METRICS": "false"}, {"OTEL_METRICS_EXPORTER": "none"}])
async def test_switched_off_nothing_is_said_of_the_process(tmp_path: Path, switch: dict[str, str]) -> None:
    """Neither by the setting nor where no metrics leave; spans and log records leave all the same."""
    store = TelemetryStore()
    async with receive(store, ANY_PORT) as at:
        await run(SERVED, at, tmp_path, switch)

    assert _last(store) == {}
    assert (len(store.spans), len(store.logs)) == (1, 1)


FORKED = """
import gc, time
rsketch_telemetry.configure()
spent = time.process_time() + 0.4
while time.process_time() < spent:
    gc.collect()
work()
if (child := os.fork()) == 0:
    work()
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
async def test_a_forked_child_is_a_process_of_its_own(tmp_path: Path) -> None:
    """Its time and what it has exported are its own, not its parent's."""
    store = TelemetryStore()
    async with receive(store, ANY_PORT) as at:
        await run(FORKED, at, tmp_path, {"OTEL_RESOURCE_ATTRIBUTES": "service.instance.id=parent"})
    points = {
        (point.resource.attributes["service.instance.id"] == "parent", point.name): point.value or 0
        for point in store.points
        if point.attributes.get("cpu.mode", "user") == "user"
    }

    assert points[True, "process.cpu.time"] > 0.3 > points[False, "process.cpu.time"]
    assert points[True, "process.uptime"] > points[False, "process.uptime"]
    assert points[True, "otel.sdk.exporter.span.exported"] == points[False, "otel.sdk.exporter.span.exported"] == 1


def test_what_a_system_does_not_tell_is_left_out(
    meters: _Meters, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without /proc there are processor time and garbage collection; what is there in another form is left out too."""
    monkeypatch.setattr(process, "_PROC", tmp_path)
    (tmp_path / "statm").write_text("what?")
    process.observe(meters.provider)

    assert meters.names() == {
        "cpython.gc.collected_objects",
        "cpython.gc.collections",
        "cpython.gc.uncollectable_objects",
        "process.context_switches",
        "process.cpu.time",
    }


async def test_a_loop_that_is_held_up_is_late(meters: _Meters) -> None:
    """The histogram has how long a callback kept the loop from its timers; a second watch measures nothing twice."""
    lag = LoopLag(meters.provider)
    lag.watch()
    lag.watch()
    await asyncio.sleep(0)
    time.sleep(0.7)  # noqa: ASYNC251 - what is measured here
    await until(lambda: meters.histograms(LAG))
    (found,) = meters.histograms(LAG)
    lag.stop()

    assert found.count == 1
    assert 0.4 < found.max < 5


async def test_a_stopped_measurement_leaves_no_timer(meters: _Meters) -> None:
    """After the stop the last timer fires once, and neither measures nor sets another."""
    lag = LoopLag(meters.provider)
    lag.watch()
    lag.stop()
    lag.watch()
    await asyncio.sleep(0.3)

    assert meters.names() == set()
    assert not any("_fired" in repr(handle) for handle in asyncio.get_running_loop()._scheduled)  # type: ignore[attr-defined] # asyncio's own


def test_without_a_loop_nothing_is_measured(meters: _Meters) -> None:
    """A server of threads has none."""
    LoopLag(meters.provider).watch()

    assert meters.names() == set()


CLOSED = """
import asyncio, gc
telemetry = rsketch_telemetry.configure()

async def serve():
    telemetry.watch_loop()
    await asyncio.sleep(0.3)

for _ in range(2):
    asyncio.run(serve(), debug=True)
gc.collect()
"""


async def test_a_closed_loop_ends_quietly(tmp_path: Path) -> None:
    """Neither a task nor a warning is left of a loop that is over, and the next one is measured as well."""
    store = TelemetryStore()
    async with receive(store, ANY_PORT) as at:
        ended = await run(CLOSED, at, tmp_path, {"PYTHONWARNINGS": "error", "PYTHONASYNCIODEBUG": "1"})

    assert ended.stderr == ""
    assert [point.count for point in _last(store)[LAG]] == [2]


class _Store(TelemetryStore):
    def __init__(self, answer: Answer = None) -> None:
        super().__init__()
        self.answer = answer

    async def handle(self, export: Export) -> Answer:  # type: ignore[override]
        await super().handle(export)
        return self.answer


class _Shipping:
    """A pipeline for spans that is measured."""

    def __init__(self, pipeline: Pipeline, meters: _Meters) -> None:
        self._pipeline = pipeline
        self._meters = meters

    def append(self, number: int) -> None:
        for _ in range(number):
            self._pipeline.append(Signal.TRACES, Item(Scope(b""), b""))

    async def flushed(self) -> bool:
        return await asyncio.to_thread(self._pipeline.flush, 5.0)

    async def comes_to(self, name: str, wanted: dict[str, float]) -> None:
        await until(lambda: self._meters.by_error(name) == wanted)


@contextlib.asynccontextmanager
async def _shipping(
    meters: _Meters, store: TelemetryStore, protocol: str = "grpc", limit_items: int | None = None
) -> AsyncIterator[_Shipping]:
    async with receive(store, ANY_PORT) as at:
        endpoint = at.grpc_endpoint if protocol == "grpc" else at.http_endpoint
        settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": protocol}
        to = destination(settings, Signal.TRACES, [])
        lane = Lane(
            Signal.TRACES, Segment(limit_items=limit_items), sender(to), interval_seconds=0.05, timeout_seconds=5.0
        )
        pipeline = Pipeline([lane], lambda: (b"", ""), Reporter())
        pipeline_metrics.observe(pipeline, [to], meters.provider)
        try:
            yield _Shipping(pipeline, meters)
        finally:
            await asyncio.to_thread(pipeline.shutdown, 0.1)


EXPORTED = "otel.sdk.exporter.span.exported"
IN_FLIGHT = "otel.sdk.exporter.span.inflight"
PROCESSED = "otel.sdk.processor.span.processed"
DURATION = "otel.sdk.exporter.operation.duration"


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
async def test_delivered_spans_are_counted(meters: _Meters, protocol: str) -> None:
    """Under the component's name and type, with where they went; one export is one duration."""
    async with _shipping(meters, _Store(), protocol) as shipping:
        shipping.append(3)
        assert await shipping.flushed()
        await shipping.comes_to(EXPORTED, {"": 3})
        assert meters.by_error(PROCESSED) == {"": 3}
        assert meters.by_error(IN_FLIGHT) == {"": 0}
        (duration,) = meters.histograms(DURATION)

    kind = f"otlp_{protocol.partition('/')[0]}_span_exporter"
    attributes = dict(duration.attributes or {})
    assert attributes.pop("server.port")
    assert attributes == {
        "otel.component.type": kind,
        "otel.component.name": f"{kind}/0",
        "server.address": "127.0.0.1",
    }


@pytest.mark.parametrize(
    ("protocol", "answer", "wanted"),
    [
        ("grpc", Refusal(code=grpc.StatusCode.INVALID_ARGUMENT), {"": 0, "INVALID_ARGUMENT": 3}),
        ("http/protobuf", Refusal(code=grpc.StatusCode.INVALID_ARGUMENT), {"": 0, "400": 3}),
        ("grpc", PartialSuccess(rejected=1, message="too old"), {"": 2, "rejected": 1}),
        ("http/protobuf", PartialSuccess(rejected=9, message="too old"), {"": 0, "rejected": 3}),
    ],
)
async def test_refused_spans_are_failures(
    meters: _Meters, protocol: str, answer: Answer, wanted: dict[str, float]
) -> None:
    """What the other end did not take is counted apart, by a kind of error of which there are few."""
    async with _shipping(meters, _Store(answer), protocol) as shipping:
        shipping.append(3)
        await shipping.comes_to(EXPORTED, wanted)
        assert meters.by_error(PROCESSED) == {"": 3}
        (duration,) = meters.histograms(DURATION)

    assert dict(duration.attributes or {})["error.type"] in wanted


async def test_an_export_that_is_repeated_is_one(meters: _Meters) -> None:
    """Until it is over its spans are in flight; its duration is that of all attempts."""
    store = _Store(Refusal(code=grpc.StatusCode.UNAVAILABLE))
    async with _shipping(meters, store) as shipping:
        shipping.append(2)
        await shipping.comes_to(IN_FLIGHT, {"": 2})
        assert (meters.by_error(EXPORTED), meters.by_error(PROCESSED)) == ({"": 0}, {"": 0})
        await asyncio.sleep(0.1)
        store.answer = None
        await shipping.comes_to(EXPORTED, {"": 2})
        await until(lambda: meters.histograms(DURATION))
        (duration,) = meters.histograms(DURATION)

    assert (duration.count, "error.type" in (duration.attributes or {})) == (1, False)
    assert duration.sum > 0.1


async def test_spans_that_do_not_fit_are_counted(meters: _Meters) -> None:
    """A full queue drops the oldest; its size and capacity say how full it is."""
    async with _shipping(meters, _Store(Refusal(code=grpc.StatusCode.UNAVAILABLE)), limit_items=4) as shipping:
        shipping.append(10)
        await shipping.comes_to(PROCESSED, {"": 0, "queue_full": 6})
        sizes = [meters.by_error(f"otel.sdk.processor.span.queue.{what}") for what in ("size", "capacity")]
        usage, limit = (meters.by_error(f"rsketch.telemetry.queue.{what}")[""] for what in ("usage", "limit"))

    assert sizes == [{"": 4}, {"": 4}]
    assert 0 < usage < limit


UNENCODABLE = """
telemetry = rsketch_telemetry.configure()
for name in (object(), "fine"):
    trace.get_tracer("test").start_span(name).end()
"""


async def test_what_cannot_be_encoded_is_counted(tmp_path: Path) -> None:
    """It never waits, so it is the processor that has lost it."""
    store = TelemetryStore()
    async with receive(store, ANY_PORT) as at:
        await run(UNENCODABLE, at, tmp_path)

    processed = {point.attributes.get("error.type"): point.value for point in _last(store)[PROCESSED]}
    assert processed["unencodable"] == 1


TOO_LARGE = """
telemetry = rsketch_telemetry.configure()
meter = metrics.get_meter("test")
meter.create_counter("stars").add(2**70)
meter.create_counter("orders").add(1)
"""


async def test_a_metric_that_cannot_be_encoded_costs_no_other(tmp_path: Path) -> None:
    """The others are exported as if it were not there, and one line names it."""
    store = TelemetryStore()
    async with receive(store, ANY_PORT) as at:
        ended = await run(TOO_LARGE, at, tmp_path, {"OTEL_METRIC_EXPORT_INTERVAL": "100"})

    assert {"orders", process.CPU_TIME} < {point.name for point in store.points}
    assert "stars" not in {point.name for point in store.points}
    assert ended.stderr.count("one of the metrics cannot be encoded and is dropped") == 1
    assert "Traceback" not in ended.stderr
