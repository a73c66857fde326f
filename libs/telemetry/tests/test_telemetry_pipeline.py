import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

import grpc
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from rsketch_telemetry.destinations import destination
from rsketch_telemetry.otlp.frame import Item, Scope
from rsketch_telemetry.otlp.handler import Answer, Export, PartialSuccess, Refusal
from rsketch_telemetry.otlp.receiver import Receiver, ReceiverConfig, receive
from rsketch_telemetry.otlp.send import sender
from rsketch_telemetry.otlp.store import TelemetryStore
from rsketch_telemetry.pipeline import Lane, Pipeline, Reporter, Segment, Signal

SCOPE = Scope(b"\x0a\x04test", "https://opentelemetry.io/schemas/1.45.0")
ANY_PORT = ReceiverConfig(grpc_port=0, http_port=0)


class _Store(TelemetryStore):
    """Keeps what arrives once its `answer` is None, and counts the requests."""

    def __init__(self, answer: Answer = None) -> None:
        super().__init__()
        self.answer = answer
        self.requests = 0

    async def handle(self, export: Export) -> Answer:  # type: ignore[override]
        self.requests += 1
        if not isinstance(self.answer, Refusal):
            await super().handle(export)
        return self.answer


def _span(name: str, padding: int = 0) -> Item:
    span = Span(name=name, trace_id=b"t" * 16, span_id=b"s" * 8, trace_state="p" * padding)
    return Item(SCOPE, span.SerializeToString())


def _names(items: list[Item]) -> list[str]:
    return [Span.FromString(item.body).name for item in items]


def _pipeline(at: Receiver, protocol: str = "grpc", segment: Segment | None = None, **environ: str) -> Pipeline:
    endpoint = at.grpc_endpoint if protocol == "grpc" else at.http_endpoint
    settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": protocol, **environ}
    to = destination(settings, Signal.TRACES, [])
    lane = Lane(Signal.TRACES, segment or Segment(), sender(to), interval_seconds=0.05, timeout_seconds=2.0)
    return Pipeline([lane], lambda: (b"", ""), Reporter())


async def _blocking(call: Callable[[], bool]) -> bool:
    """Run what blocks beside the loop that serves the receiver."""
    return await asyncio.to_thread(call)


async def _until(condition: Callable[[], object], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        await asyncio.sleep(0.02)


def test_a_full_segment_drops_the_oldest_and_counts() -> None:
    """Beyond its bytes the oldest items go, one by one, and each is counted."""
    segment = Segment(limit_bytes=3 * (len(_span("0", 100).body) + 200))
    for number in range(5):
        segment.append(_span(str(number), 100))

    assert _names(segment.peek(10**6, None)[1]) == ["2", "3", "4"]
    assert segment.evicted == 2


def test_a_segment_limited_in_items_drops_the_oldest() -> None:
    """A queue size that was asked for is kept to."""
    segment = Segment(limit_items=2)
    for number in range(3):
        segment.append(_span(str(number)))

    assert _names(segment.peek(10**6, None)[1]) == ["1", "2"]


def test_what_was_sent_is_removed_even_after_an_eviction() -> None:
    """Items evicted while a batch was under way are not removed a second time in the newer ones' place."""
    segment = Segment(limit_items=3)
    for number in range(3):
        segment.append(_span(str(number)))
    mark, batch = segment.peek(10**6, 2)
    segment.append(_span("3"))
    segment.discard(mark)

    assert _names(batch) == ["0", "1"]
    assert _names(segment.peek(10**6, None)[1]) == ["2", "3"]


def test_a_batch_is_bounded_in_bytes_but_never_empty() -> None:
    """One item larger than a batch still goes out, alone."""
    segment = Segment()
    segment.append(_span("large", 5000))
    segment.append(_span("small"))

    assert _names(segment.peek(1000, None)[1]) == ["large"]


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
@pytest.mark.parametrize("compression", ["none", "gzip"])
async def test_items_arrive_with_their_scope(protocol: str, compression: str) -> None:
    """What is appended arrives decoded at a receiver, over both protocols, compressed or not."""
    store = _Store()
    async with receive(store, ANY_PORT) as at:
        pipeline = _pipeline(at, protocol, OTEL_EXPORTER_OTLP_COMPRESSION=compression)
        for name in ("first", "second"):
            pipeline.append(Signal.TRACES, _span(name))
        delivered = await _blocking(lambda: pipeline.shutdown(3.0))

    assert delivered
    assert [span.name for span in store.spans] == ["first", "second"]
    assert store.spans[0].scope.schema_url == "https://opentelemetry.io/schemas/1.45.0"


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
async def test_a_passing_refusal_loses_nothing(protocol: str, caplog: pytest.LogCaptureFixture) -> None:
    """What is answered UNAVAILABLE is sent again; one line tells of the trouble and one of its end."""
    caplog.set_level(logging.INFO, "rsketch_telemetry")
    store = _Store(Refusal(code=grpc.StatusCode.UNAVAILABLE, message="busy"))
    async with receive(store, ANY_PORT) as at:
        pipeline = _pipeline(at, protocol)
        pipeline.append(Signal.TRACES, _span("kept"))
        await _until(lambda: store.requests >= 3)
        store.answer = None
        await store.wait_for(lambda seen: seen.spans)
        await _until(lambda: "again" in caplog.text)
        await _blocking(lambda: pipeline.shutdown(1.0))

    assert [span.name for span in store.spans] == ["kept"]
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


async def test_a_refusal_for_good_is_said_once_and_ends_there(caplog: pytest.LogCaptureFixture) -> None:
    """INVALID_ARGUMENT is not sent again, and the same reason is not said for each request."""
    store = _Store(Refusal(code=grpc.StatusCode.INVALID_ARGUMENT, message="bad"))
    async with receive(store, ANY_PORT) as at:
        pipeline = _pipeline(at)
        for name in ("a", "b", "c"):
            pipeline.append(Signal.TRACES, _span(name))
            await _blocking(lambda: pipeline.flush(2.0))
        await _blocking(lambda: pipeline.shutdown(1.0))

    assert store.requests == 3
    assert [record.getMessage().endswith("refused 1 spans: INVALID_ARGUMENT: bad") for record in caplog.records] == [
        True
    ]


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
async def test_a_partial_success_is_said(protocol: str, caplog: pytest.LogCaptureFixture) -> None:
    """Items that the collector rejected inside a success are named with its words."""
    store = _Store(PartialSuccess(rejected=1, message="too old"))
    async with receive(store, ANY_PORT) as at:
        pipeline = _pipeline(at, protocol)
        pipeline.append(Signal.TRACES, _span("a"))
        await _blocking(lambda: pipeline.shutdown(2.0))

    assert "refused 1 spans: too old" in caplog.text


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
async def test_an_absent_collector_costs_one_line_and_little_time(
    protocol: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody listening is said once; the shutdown makes one more attempt and tells how many items are left."""
    async with receive(_Store(), ANY_PORT) as at:
        pass
    pipeline = _pipeline(at, protocol)
    pipeline.append(Signal.TRACES, _span("lost"))
    await _until(lambda: "not delivered to" in caplog.text)
    started = time.monotonic()
    delivered = await _blocking(lambda: pipeline.shutdown(3.0))

    assert not delivered
    assert time.monotonic() - started < 2.0
    assert len(caplog.records) == 2
    assert "not delivered before the end: 1 spans" in caplog.text


async def test_flush_keeps_to_its_deadline_when_the_collector_hangs(caplog: pytest.LogCaptureFixture) -> None:
    """A collector that takes the request and never answers does not hold the process."""
    release = asyncio.Event()

    class _Hanging:
        def handle(self, export: Export) -> Awaitable[Answer]:
            return self._hang(export)

        async def _hang(self, _: Export) -> Answer:
            await release.wait()
            return None

    async with receive(_Hanging(), ANY_PORT) as at:
        pipeline = _pipeline(at)
        pipeline.append(Signal.TRACES, _span("a"))
        started = time.monotonic()
        delivered = await _blocking(lambda: pipeline.shutdown(0.5))
        elapsed = time.monotonic() - started
        release.set()

    assert not delivered
    assert elapsed < 2.0


async def test_a_held_signal_is_never_sent(caplog: pytest.LogCaptureFixture) -> None:
    """With a broken header nothing goes out; the line that says why came with the settings."""
    store = _Store()
    async with receive(store, ANY_PORT) as at:
        pipeline = _pipeline(at, OTEL_EXPORTER_OTLP_HEADERS="broken")
        pipeline.append(Signal.TRACES, _span("a"))
        delivered = await _blocking(lambda: pipeline.shutdown(1.0))

    assert not delivered
    assert store.requests == 0
    assert [record.getMessage() for record in caplog.records] == ["telemetry: not delivered before the end: 1 spans"]


async def test_a_closed_pipeline_takes_nothing_more() -> None:
    """After the shutdown an append does nothing, and a second shutdown neither."""
    store = _Store()
    async with receive(store, ANY_PORT) as at:
        pipeline = _pipeline(at)
        await _blocking(lambda: pipeline.shutdown(1.0))
        pipeline.append(Signal.TRACES, _span("late"))
        assert await _blocking(lambda: pipeline.shutdown(1.0))

    assert store.spans == []


def test_nothing_runs_before_the_first_item() -> None:
    """A pipeline that got nothing has no thread, and its shutdown is immediate."""
    to = destination({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}, Signal.TRACES, [])
    lane = Lane(Signal.TRACES, Segment(), sender(to), interval_seconds=0.05, timeout_seconds=2.0)
    pipeline = Pipeline([lane], lambda: (b"", ""), Reporter())

    assert not pipeline.started
    assert pipeline.shutdown(3.0)
