import asyncio
import contextlib
import dataclasses
import gc
import logging
import ssl
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import grpc
import pytest
import trustme
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from rsketch_telemetry.destinations import Destination, destination
from rsketch_telemetry.otlp.frame import Item, Run, Scope, frame, runs
from rsketch_telemetry.otlp.handler import Answer, Export, PartialSuccess, Refusal
from rsketch_telemetry.otlp.receiver import Receiver, ReceiverConfig, receive
from rsketch_telemetry.otlp.send import sender
from rsketch_telemetry.otlp.store import TelemetryStore
from rsketch_telemetry.pipeline import Lane, Outcome, Pipeline, Reporter, Segment, Sent, drained
from rsketch_telemetry.signal import Signal

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


def _names(items: Sequence[Item | Run]) -> list[str]:
    request = ExportTraceServiceRequest.FromString(frame(b"", "", items))
    return [span.name for each in request.resource_spans for scope in each.scope_spans for span in scope.spans]


def _pipeline(
    at: Receiver,
    protocol: str = "grpc",
    segment: Segment | None = None,
    interval_seconds: float = 0.05,
    **environ: str,
) -> Pipeline:
    endpoint = at.grpc_endpoint if protocol == "grpc" else at.http_endpoint
    settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": protocol, **environ}
    to = destination(settings, Signal.TRACES, [])
    lane = Lane(Signal.TRACES, segment or Segment(), sender(to), interval_seconds=interval_seconds, timeout_seconds=2.0)
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


async def test_a_signal_that_works_does_not_end_the_trouble_of_another(caplog: pytest.LogCaptureFixture) -> None:
    """Where one of two signals fails at one place, the other one's success is no recovery: the lines stay few."""
    caplog.set_level(logging.INFO, "rsketch_telemetry")
    now = [0.0]
    reporter = Reporter(lambda: now[0])
    to = destination({}, Signal.TRACES, [])
    failing, fine = (
        Lane(signal, Segment(), sender(to), interval_seconds=1, timeout_seconds=1)
        for signal in (Signal.TRACES, Signal.LOGS)
    )
    for second in range(601):
        now[0] = float(second)
        reporter.report(failing, Outcome(Sent.RETRY, "busy"), 1)
        reporter.report(fine, Outcome(Sent.ACCEPTED), 1)
    reporter.report(failing, Outcome(Sent.ACCEPTED), 1)

    assert [record.levelname for record in caplog.records] == ["WARNING"] * 3 + ["INFO"]
    assert "after 300 s: busy; 0 spans wait" in caplog.records[1].getMessage()


async def test_a_trouble_that_comes_and_goes_is_said_once_in_five_minutes(caplog: pytest.LogCaptureFixture) -> None:
    """A collector that fails every other second has a line and a recovery, not a hundred."""
    caplog.set_level(logging.INFO, "rsketch_telemetry")
    now = [0.0]
    reporter = Reporter(lambda: now[0])
    lane = Lane(
        Signal.TRACES, Segment(), sender(destination({}, Signal.TRACES, [])), interval_seconds=1, timeout_seconds=1
    )
    for second in range(299):
        now[0] = float(second)
        reporter.report(lane, Outcome(Sent.RETRY if second % 2 else Sent.ACCEPTED, "busy" if second % 2 else ""), 1)

    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


async def test_refusals_are_counted_between_two_lines(caplog: pytest.LogCaptureFixture) -> None:
    """The next line about the same reason has the number of all items that were lost since the last."""
    now = [0.0]
    reporter = Reporter(lambda: now[0])
    lane = Lane(
        Signal.TRACES, Segment(), sender(destination({}, Signal.TRACES, [])), interval_seconds=1, timeout_seconds=1
    )
    for second in (0.0, 1.0, 2.0, 300.0):
        now[0] = second
        reporter.report(lane, Outcome(Sent.REFUSED, "bad"), 10)

    assert [record.getMessage().split(" refused ")[1] for record in caplog.records] == [
        "10 spans: bad",
        "30 spans: bad",
    ]


@pytest.mark.parametrize("asked", [-5.0, 0.0, 1e12])
def test_what_the_other_end_asks_for_is_kept_within_reason(asked: float) -> None:
    """`Retry-After: 0` makes no loop without a pause, and a century is cut to an hour."""
    to = destination({}, Signal.TRACES, [])
    lane = Lane(Signal.TRACES, Segment(), sender(to), interval_seconds=1, timeout_seconds=1)
    lane.later(0.0, Outcome(Sent.RETRY, "busy", retry_after_seconds=asked))

    assert 0.1 < lane.due <= 3600.0


async def test_a_burst_does_not_wait_for_the_interval() -> None:
    """A segment that fills is sent at once: the interval is long enough to lose what could have been delivered."""
    store = _Store()
    async with receive(store, ANY_PORT) as at:
        pipeline = _pipeline(at, interval_seconds=3600.0)
        for number in range(40):
            pipeline.append(Signal.TRACES, _span(str(number), 100_000))
        await store.wait_for(lambda seen: len(seen.spans) >= 20)
        await _blocking(lambda: pipeline.shutdown(3.0))

    assert len(store.spans) == 40


@pytest.mark.parametrize("started", [False, True])
async def test_exports_can_be_hastened(started: bool) -> None:
    """What would wait for an hour arrives soon, whether the thread runs already or starts later."""
    store = _Store()
    async with receive(store, ANY_PORT) as at:
        pipeline = _pipeline(at, interval_seconds=3600.0)
        if started:
            pipeline.append(Signal.TRACES, _span("before"))
        pipeline.hasten({Signal.TRACES: 0.05, Signal.METRICS: 0.05})
        pipeline.append(Signal.TRACES, _span("after"))
        await store.wait_for(lambda seen: len(seen.spans) == 1 + started)
        await _blocking(lambda: pipeline.shutdown(1.0))

    assert store.spans[-1].name == "after"


@pytest.mark.parametrize(
    ("asked", "interval_seconds", "kept"), [(False, 5.0, 0.3), (True, 5.0, 5.0), (False, 0.1, 0.1)]
)
def test_an_interval_that_was_asked_for_is_kept(asked: bool, interval_seconds: float, kept: float) -> None:
    """So is one that is shorter already."""
    lane = _idle(interval_seconds=interval_seconds, asked=asked)
    lane.due = 100.0
    lane.hasten(0.0, 0.3)

    assert (lane.interval_seconds, lane.due) == (kept, kept if kept == 0.3 else 100.0)


def test_haste_does_not_cut_short_what_was_put_off() -> None:
    """A receiver that asked to be left alone is, and the interval holds after that."""
    lane = _idle(interval_seconds=5.0)
    lane.later(0.0, Outcome(Sent.RETRY, "busy", retry_after_seconds=60.0))
    lane.hasten(0.0, 0.3)

    assert (lane.due, lane.interval_seconds) == (60.0, 0.3)


def _idle(*, interval_seconds: float, asked: bool = False) -> Lane:
    to = sender(destination({}, Signal.TRACES, []))
    return Lane(Signal.TRACES, Segment(), to, interval_seconds=interval_seconds, timeout_seconds=1, asked=asked)


async def test_a_busy_signal_leaves_the_others_their_turn() -> None:
    """While spans end all the time, log records arrive too, and there is a request an interval and not one a span."""
    interval, store, stop = 0.2, _Store(), threading.Event()
    async with receive(store, ANY_PORT) as at:
        settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": at.grpc_endpoint}
        spans, records = (
            Lane(
                signal,
                Segment(),
                sender(destination(settings, signal, [])),
                interval_seconds=interval,
                timeout_seconds=2.0,
            )
            for signal in (Signal.TRACES, Signal.LOGS)
        )
        pipeline = Pipeline([spans, records], lambda: (b"", ""), Reporter())

        def produce() -> None:
            while not stop.wait(0.0005):
                pipeline.append(Signal.TRACES, _span("busy"))

        producer = threading.Thread(target=produce)
        producer.start()
        started = time.monotonic()
        try:
            pipeline.append(Signal.LOGS, Item(SCOPE, LogRecord(severity_text="INFO").SerializeToString()))
            await store.wait_for(lambda seen: seen.logs and len(seen.spans) >= 1000)
        finally:
            requests, elapsed = store.requests, time.monotonic() - started
            stop.set()
            await asyncio.to_thread(producer.join)
        await _blocking(lambda: pipeline.shutdown(3.0))

    assert requests <= 2 * (elapsed / interval + 1)


async def test_an_interval_of_centuries_is_waited_for() -> None:
    """A number that is too large for the clock does not end the thread."""
    store = _Store()
    async with receive(store, ANY_PORT) as at:
        pipeline = _pipeline(at, interval_seconds=1e12)
        pipeline.append(Signal.TRACES, _span("a"))

        assert await _blocking(lambda: pipeline.shutdown(3.0))
    assert len(store.spans) == 1


async def test_a_flush_from_the_exporting_thread_does_not_wait_for_itself() -> None:
    """A metric callback may call whatever flushes."""
    store, flushed = _Store(), []
    async with receive(store, ANY_PORT) as at:
        settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": at.grpc_endpoint}

        def collect() -> None:
            flushed.append(pipeline.flush(30.0))

        lane = Lane(
            Signal.TRACES,
            Segment(),
            sender(destination(settings, Signal.TRACES, [])),
            interval_seconds=0.05,
            timeout_seconds=2.0,
            collect=collect,
        )
        pipeline = Pipeline([lane], lambda: (b"", ""), Reporter())
        pipeline.append(Signal.TRACES, _span("a"))
        started = time.monotonic()
        await _blocking(lambda: pipeline.shutdown(3.0))

    assert time.monotonic() - started < 2.0
    assert flushed
    assert not any(flushed)


def test_a_finalizer_may_append_in_the_middle_of_anything() -> None:
    """The garbage collector runs the program's code under our locks: appending again is no deadlock."""
    segment = Segment()
    pipeline = Pipeline([], lambda: (b"", ""), Reporter())
    with segment._lock, pipeline._starting, pipeline._wake:
        segment.append(_span("inner"))
        pipeline.start()

    assert len(segment) == 1


async def test_a_metadata_key_that_grpc_refuses_is_not_repeated(caplog: pytest.LogCaptureFixture) -> None:
    """Both transports put header values into their errors; the line has the kind of error alone."""
    async with receive(_Store(), ANY_PORT) as at:
        to = Destination(
            signal=Signal.TRACES, protocol="grpc", endpoint=at.grpc_endpoint, headers={"a-bin": "hunter22"}
        )
        outcome = await asyncio.to_thread(sender(to).send, b"", 2.0)

    assert outcome.sent is Sent.HELD
    assert "hunter22" not in outcome.reason


@contextlib.asynccontextmanager
async def _answering(first: bytes, then: bytes = b"", tls: ssl.SSLContext | None = None) -> AsyncIterator[Destination]:
    """Serve an answer over HTTP: *first* at once, then each byte of *then* after 50 ms, then the end."""
    tasks: list[asyncio.Task[None] | None] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.append(asyncio.current_task())
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(first)
            for byte in then:
                await asyncio.sleep(0.05)
                writer.write(bytes([byte]))
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    async with server:
        port = server.sockets[0].getsockname()[1]
        endpoint = f"{'https' if tls else 'http'}://127.0.0.1:{port}/v1/traces"
        yield Destination(signal=Signal.TRACES, protocol="http/protobuf", endpoint=endpoint)
    # The other end is gone by now: what is left ends by itself, at its next write.
    await asyncio.wait_for(asyncio.gather(*filter(None, tasks)), 20)


async def _sent(to: Destination, timeout_seconds: float) -> Outcome:
    with contextlib.closing(sender(to)) as posting:
        return await asyncio.to_thread(posting.send, b"", timeout_seconds)


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 200\r\n\r\n", b"x" * 200),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1", b";" * 200),
        (b"HTTP/1.1 200 OK\r\nX-Slow: ", b"x" * 200),
    ],
    ids=["body", "chunk", "header"],
)
async def test_an_answer_in_drops_does_not_outlast_the_timeout(first: bytes, then: bytes) -> None:
    """A collector that sends a byte now and then holds the thread until the timeout, not until it is through."""
    async with _answering(first, then) as to:
        started = time.monotonic()
        outcome = await _sent(to, 0.5)
        elapsed = time.monotonic() - started

    assert outcome.sent is Sent.RETRY
    assert 0.4 < elapsed < 2.0


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + b"<html>" * 2**18,
    ],
    ids=["chunk", "short", "gzip", "page"],
)
async def test_a_broken_answer_is_no_reason_to_hold(answer: bytes) -> None:
    """What goes wrong while an answer is read may pass: the request is sent again."""
    async with _answering(answer) as to:
        outcome = await _sent(to, 2.0)

    assert outcome.sent is Sent.RETRY


async def test_an_answer_until_the_end_of_the_connection_is_read() -> None:
    """A server that closes instead of saying how long its answer is has answered all the same."""
    async with _answering(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n") as to:
        outcome = await _sent(to, 2.0)

    assert outcome == Outcome(Sent.ACCEPTED)


async def test_the_authorities_that_were_asked_for_are_the_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bundle that the environment names for other programs takes the place of none."""
    right, wrong = tmp_path / "right.pem", tmp_path / "wrong.pem"
    authority, tls = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.cert_pem.write_to_path(str(right))
    trustme.CA().cert_pem.write_to_path(str(wrong))
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(wrong))
    async with _answering(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", tls=tls) as to:
        outcome = await _sent(dataclasses.replace(to, certificate=right), 2.0)

    assert outcome == Outcome(Sent.ACCEPTED)


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


def test_a_queue_that_another_has_emptied_meanwhile_is_empty() -> None:
    """A finalizer may run at any moment, and may itself have something to hand over."""

    class Emptied(deque[int]):
        def popleft(self) -> int:
            first = super().popleft()
            self.clear()
            return first

    assert drained(Emptied([1, 2, 3])) == [1]
    assert drained(deque([1, 2, 3])) == [1, 2, 3]


async def test_items_of_an_inlet_are_in_the_segment_before_anything_is_sent_or_counted() -> None:
    """Each 64th moves them there, and so does whoever looks."""
    store = _Store()
    async with receive(store, ANY_PORT) as at:
        pipeline = _pipeline(at, interval_seconds=60)
        append = pipeline.inlet(Signal.TRACES, SCOPE)
        for number in range(100):
            append(_span(str(number)).body)
        waited = pipeline.left()
        delivered = await _blocking(lambda: pipeline.shutdown(5.0))

    assert waited == {Signal.TRACES: 100}
    assert delivered
    assert [span.name for span in store.spans] == [str(number) for number in range(100)]


def test_items_that_came_together_are_counted_one_by_one() -> None:
    """They leave a segment together, and are as many as they were."""
    segment = Segment(limit_items=10)
    for first in (0, 4, 8):
        segment.extend(runs(SCOPE, [_span(str(number)).body for number in range(first, first + 4)]))

    assert (len(segment), segment.evicted) == (8, 4)
    mark, batch = segment.peek(10**6, 7)
    assert _names(batch) == ["4", "5", "6", "7"]
    assert segment.discard(mark) == 4
    assert _names(segment.peek(10**6, None)[1]) == ["8", "9", "10", "11"]


def test_large_items_leave_one_by_one() -> None:
    """Together they could be more than a collector takes in one request."""
    segment = Segment()
    segment.extend(runs(SCOPE, [_span(str(number), 100_000).body for number in range(4)]))

    assert _names(segment.peek(250_000, None)[1]) == ["0", "1"]


def test_a_finalizer_that_comes_back_into_a_segment_is_counted() -> None:
    """Garbage may be collected in any moment, and what is finalized may itself end a span or log a line."""
    segment, came = Segment(limit_items=50), [0]

    class Finalized:
        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            came[0] += 1
            segment.append(_span("late"))

    before = gc.get_threshold()
    try:
        for threshold in range(1, 40):
            for _ in range(10):
                gc.collect()
                gc.set_threshold(0)
                Finalized()
                gc.set_threshold(threshold)
                segment.extend((_span("usual"),))
                came[0] += 1
    finally:
        gc.set_threshold(*before)

    held = len(_names(segment.peek(1 << 40, None)[1]))
    assert (len(segment), held, segment.evicted) == (50, 50, came[0] - 50)
