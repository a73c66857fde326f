"""What senders are told: by real exporters, over real sockets, and when the dashboard cannot keep up."""

import asyncio
import gzip
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from google.rpc.error_details_pb2 import RetryInfo  # type: ignore[import-untyped]
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]
from opentelemetry._logs import SeverityNumber
from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter as GrpcLogs
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter as GrpcMetrics
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcSpans
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter as HttpLogs
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter as HttpMetrics
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpSpans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from rsketch_dashboard.ingest import Ingest
from rsketch_dashboard.store import Outcome, Store
from rsketch_telemetry.otlp.handler import service
from rsketch_telemetry.otlp.receiver import Export, PartialSuccess, Receiver, ReceiverConfig, Refusal, Signal, receive
from telemetry_made import Sent, logs, opened, points, spans, store_in, trace_id

PROTOBUF = "application/x-protobuf"


class _Slow:
    """
    Keeps the writer of a store waiting, as a slow disk does, by a lock that it needs.

    A store is a file; what is slow here is asking it, which the writer does through the same door as readers.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.entered = threading.Event()
        self.go = threading.Event()

    def append(self, *given: Any, **named: Any) -> list[Outcome]:
        """Store, but only when told to."""
        self.entered.set()
        assert self.go.wait(20)
        return self._store.append(*given, **named)

    def retain(self) -> None:
        """Do as the store."""
        self._store.retain()


class _Broken:
    """A store of which every transaction fails in a way that nobody has thought of."""

    def append(self, *_: Any, **__: Any) -> list[Outcome]:
        """Fail."""
        raise ValueError("secret")

    def retain(self) -> None:
        """Fail."""
        raise ValueError("secret")


@contextmanager
def _ingest(store: object, *listeners: Any, **settings: int) -> Iterator[Ingest]:
    ingest = Ingest(store, listeners, **settings)  # type: ignore[arg-type]  # it needs two methods of a store
    with ingest.running():
        yield ingest


def _export(request: Any, signal: Signal = Signal.TRACES) -> Export:
    return Export(signal=signal, request=request, protocol="grpc", headers={})


@asynccontextmanager
async def _receiving(ingest: Ingest) -> AsyncIterator[Receiver]:
    async with receive(ingest, ReceiverConfig(grpc_port=0, http_port=0), refused=ingest.malformed) as receiver:
        yield receiver


def _method(channel: grpc.aio.Channel, signal: Signal = Signal.TRACES) -> Any:
    return channel.unary_unary(f"/{service(signal)}/Export")


@pytest.mark.parametrize("kind", ["grpc", "http", "gzip"])
async def test_the_sdks_own_exporters_are_seen(tmp_path: Path, kind: str) -> None:
    """A span, a log record and a metric that stock exporters send are on the page, by each protocol."""
    async with opened(tmp_path) as at:
        await asyncio.to_thread(_export_each_signal, kind, at.dashboard.receiver)
        traces = await at.get("/api/traces")
        records = await at.get("/api/logs")
        status = await at.get("/api/status")

    assert [(row["root"], row["service"]) for row in traces["traces"]] == [("work", "shop")]
    assert [(record["body"], record["severity"]) for record in records["logs"]] == [("done", "WARN")]
    assert (status["spans"], status["logs"], status["points"]) == (1, 1, 1)
    assert status["received"] == {"spans": 1, "logs": 1, "points": 1}
    assert status["services"] == ["shop"]


def _export_each_signal(kind: str, receiver: Receiver) -> None:
    grpc_at, http_at = receiver.grpc_endpoint, receiver.http_endpoint
    compression = Compression.Gzip if kind == "gzip" else Compression.NoCompression
    by_grpc = kind == "grpc"
    resource = Resource({"service.name": "shop"})
    tracing = TracerProvider(resource=resource, shutdown_on_exit=False)
    tracing.add_span_processor(
        SimpleSpanProcessor(
            GrpcSpans(endpoint=grpc_at, insecure=True, compression=grpc.Compression.Gzip)
            if by_grpc
            else HttpSpans(endpoint=f"{http_at}/v1/traces", compression=compression)
        )
    )
    logging = LoggerProvider(resource=resource, shutdown_on_exit=False)
    logging.add_log_record_processor(
        SimpleLogRecordProcessor(
            GrpcLogs(endpoint=grpc_at, insecure=True)
            if by_grpc
            else HttpLogs(endpoint=f"{http_at}/v1/logs", compression=compression)
        )
    )
    reader = PeriodicExportingMetricReader(
        GrpcMetrics(endpoint=grpc_at, insecure=True)
        if by_grpc
        else HttpMetrics(endpoint=f"{http_at}/v1/metrics", compression=compression),
        export_interval_millis=float("inf"),
    )
    metering = MeterProvider([reader], resource=resource, shutdown_on_exit=False)
    tracing.get_tracer("test").start_span("work").end()
    logging.get_logger("test").emit(body="done", severity_number=SeverityNumber.WARN)
    metering.get_meter("test").create_counter("sold").add(1)
    metering.force_flush()
    for provider in (tracing, logging, metering):
        provider.shutdown()


async def test_json_of_other_languages_is_taken(tmp_path: Path) -> None:
    """Hexadecimal ids, numbers as text, enums as numbers, and fields that nobody knows yet."""
    attributes = [{"key": "n", "value": {"intValue": "9007199254740993"}}, {"key": "d", "value": {"doubleValue": 1}}]
    span = {"traceId": "AB" * 16, "spanId": "cd" * 8, "parentSpanId": "", "name": "n", "kind": 2, "flags": 256}
    span |= {"startTimeUnixNano": "1900000000000000001", "endTimeUnixNano": 1900000000000000003, "new": [1]}
    span |= {"attributes": attributes, "status": {"code": 2, "message": "no"}}
    body = {"resourceSpans": [{"resource": {}, "scopeSpans": [{"scope": {"name": "js"}, "spans": [span]}]}]}
    async with opened(tmp_path) as at:
        response = await at.client.post("/v1/traces", json=body)
        (shown,) = (await at.get(f"/api/trace/{'ab' * 16}"))["spans"]

    assert (response.status_code, response.json()) == (200, {})
    assert (shown["start_ns"], shown["duration_ns"], shown["status_message"]) == ("1900000000000000001", 2, "no")
    assert shown["attributes"] == [["n", "9007199254740993"], ["d", 1.0]]
    assert shown["service"] == "unknown_service"


BOMB = gzip.compress(bytes(20 * 1024 * 1024))


@pytest.mark.parametrize(
    ("body", "headers", "status", "counted"),
    [
        (b"\xff\xff", {}, 400, 1),
        (b"{", {"content_type": "application/json"}, 400, 1),
        (b"not gzip", {"content_encoding": "gzip"}, 400, 1),
        (b"a", {"content_type": "text/plain"}, 415, 1),
        (b"a", {"content_encoding": "br"}, 415, 1),
        (BOMB, {"content_encoding": "gzip"}, 413, 1),
    ],
)
async def test_what_is_no_otlp_is_refused_and_counted(
    tmp_path: Path, body: bytes, headers: dict[str, str], status: int, counted: int
) -> None:
    """A sender is told with which status, the page how often; the next request is taken as ever."""
    async with opened(tmp_path) as at:
        response = await at.post("traces", body, **headers)
        await at.send(spans(Sent()))
        found = await at.get("/api/status")

    assert response.status_code == status
    assert (found["malformed"], found["spans"]) == (counted, 1)


async def test_a_body_over_the_limit_is_refused_before_it_is_read(tmp_path: Path) -> None:
    """The answer comes as soon as the length is known; what Sanic refuses by itself is not counted."""
    async with opened(tmp_path) as at:
        reader, writer = await asyncio.open_connection("127.0.0.1", at.dashboard.receiver.http_port)
        head = ("POST /v1/traces HTTP/1.1", "host: localhost", f"content-type: {PROTOBUF}", "content-length: 70000000")
        writer.write("\r\n".join((*head, "", "")).encode() + bytes(100_000))
        async with asyncio.timeout(5):
            status_line = await reader.readline()
        writer.close()
        found = await at.get("/api/status")

    assert status_line.startswith(b"HTTP/1.1 413 ")
    assert found["malformed"] == 0


async def test_a_request_over_the_limit_is_refused_and_counted(tmp_path: Path) -> None:
    """What may be imported is larger than what may be one request of OTLP; such a request is counted."""
    async with opened(tmp_path) as at, httpx.AsyncClient(trust_env=False) as client:
        url = f"{at.dashboard.url}/v1/traces"
        answer = await client.post(url, content=bytes(17_000_000), headers={"content-type": PROTOBUF})
        found = await at.get("/api/status")

    assert answer.status_code == 413
    assert found["malformed"] == 1


async def test_malformed_grpc_is_refused_and_counted(tmp_path: Path) -> None:
    """Bytes that are no message are INVALID_ARGUMENT; a message over the limit is refused by grpc, and not counted."""
    async with opened(tmp_path) as at:
        async with grpc.aio.insecure_channel(at.dashboard.receiver.grpc_endpoint.removeprefix("http://")) as channel:
            codes = []
            for signal, body in ((Signal.TRACES, b"\xff"), (Signal.LOGS, b"\xff"), (Signal.METRICS, bytes(2**24 + 1))):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await _method(channel, signal)(body)
                codes.append(caught.value.code())
        found = await at.get("/api/status")

    assert codes == [grpc.StatusCode.INVALID_ARGUMENT] * 2 + [grpc.StatusCode.RESOURCE_EXHAUSTED]
    assert found["malformed"] == 2


async def test_a_partial_success_reaches_the_sender_and_the_page(tmp_path: Path) -> None:
    """What cannot be stored is counted with a reason in the answer, and in the status."""
    request = spans(Sent(id=1), Sent(id=2))
    request.resource_spans[0].scope_spans[0].spans[0].trace_id = b"short"
    async with opened(tmp_path) as at:
        response = await at.post("traces", request.SerializeToString())
        found = await at.get("/api/status")
    answer = ExportTraceServiceResponse.FromString(response.content)

    assert answer.partial_success.rejected_spans == 1
    assert answer.partial_success.error_message == "a trace id is not 16 bytes, or all zero"
    assert (found["rejected"], found["received"]["spans"], found["spans"]) == (1, 1, 1)


async def test_a_full_queue_tells_senders_when_to_come_again(tmp_path: Path) -> None:
    """GRPC gets RESOURCE_EXHAUSTED with RetryInfo, HTTP 429 with Retry-After; what was queued is stored."""
    with store_in(tmp_path) as store:
        slow = _Slow(store)
        with _ingest(slow, queue_bytes=10) as ingest:
            async with _receiving(ingest) as receiver, httpx.AsyncClient(trust_env=False) as client:
                first = asyncio.create_task(_method_call(receiver, spans(Sent()).SerializeToString()))
                await asyncio.to_thread(slow.entered.wait, 20)
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await _method_call(receiver, logs("a").SerializeToString(), Signal.LOGS)
                response = await client.post(
                    f"{receiver.http_endpoint}/v1/metrics",
                    content=points(1).SerializeToString(),
                    headers={"content-type": PROTOBUF},
                )
                queued, refused = ingest.queued, ingest.counts.refused
                slow.go.set()
                taken = await first
                later = await _method_call(receiver, logs("a").SerializeToString(), Signal.LOGS)
        stored = dict(store.contents().rows)
    trailers: dict[str, Any] = dict(list(caught.value.trailing_metadata()))
    status, info = Status.FromString(trailers["grpc-status-details-bin"]), RetryInfo()
    status.details[0].Unpack(info)

    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert info.retry_delay.ToMilliseconds() == 1000
    assert (response.status_code, response.headers["retry-after"]) == (429, "1")
    assert (queued[0] > 10, refused) == (True, 2)
    assert (taken, later) == (b"", b"")
    assert stored == {"spans": 1, "logs": 1, "points": 0}


async def _method_call(receiver: Receiver, body: bytes, signal: Signal = Signal.TRACES) -> bytes:
    async with grpc.aio.insecure_channel(receiver.grpc_endpoint.removeprefix("http://")) as channel:
        answer = await _method(channel, signal)(body)
        assert isinstance(answer, bytes)
        return answer


async def test_a_full_queue_is_counted_on_the_page(tmp_path: Path) -> None:
    """Requests that were refused are in the status, beside how much waits."""
    async with opened(tmp_path) as at:
        found = await at.get("/api/status")

    assert (found["refused"], found["queue"]) == (0, {"bytes": 0, "limit": 64 * 1024 * 1024})


async def test_what_arrives_meanwhile_shares_a_transaction(tmp_path: Path) -> None:
    """Requests that come while the disk is slow are stored together, and each sender is answered for its own."""
    with store_in(tmp_path) as store:
        slow = _Slow(store)
        with _ingest(slow) as ingest:
            wrong = spans(Sent(trace=99))
            wrong.resource_spans[0].scope_spans[0].spans[0].span_id = b""
            first = asyncio.create_task(_handled(ingest, spans(Sent(trace=100))))
            await asyncio.to_thread(slow.entered.wait, 20)
            others = [asyncio.create_task(_handled(ingest, spans(Sent(trace=number)))) for number in range(1, 51)]
            others.append(asyncio.create_task(_handled(ingest, wrong)))
            await asyncio.sleep(0.05)
            slow.go.set()
            answers = await asyncio.gather(first, *others)

        assert answers[:-1] == [None] * 51
        assert isinstance(answers[-1], PartialSuccess)
        assert answers[-1].rejected == 1
        assert store.contents().rows["spans"] == 51


async def _handled(ingest: Ingest, request: Any) -> object:
    return await ingest.handle(_export(request))


async def test_what_a_sender_that_has_gone_sent_is_stored_and_counted(tmp_path: Path) -> None:
    """A sender that gives up while the disk is slow takes nothing with it, and the next one is answered."""
    with store_in(tmp_path) as store:
        slow, seen = _Slow(store), _Seen()
        with _ingest(slow, seen) as ingest:
            async with _receiving(ingest) as receiver:
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.3):
                        await _method_call(receiver, spans(Sent()).SerializeToString())
                slow.go.set()
                await _method_call(receiver, logs("a").SerializeToString(), Signal.LOGS)

        assert dict(store.contents().rows) == {"spans": 1, "logs": 1, "points": 0}
        assert dict(ingest.counts.received) == {"traces": 1, "logs": 1}
        assert seen.taken == [1, 1]
        assert ingest.queued[0] == 0


class _Seen:
    def __init__(self) -> None:
        self.taken: list[int] = []

    def stored(self, _: Export, outcome: Outcome) -> None:
        """Take note."""
        self.taken.append(outcome.taken)


async def test_closing_writes_what_is_queued(tmp_path: Path) -> None:
    """What is in the queue when it closes is in the file afterwards."""
    with store_in(tmp_path) as store:
        slow = _Slow(store)
        with _ingest(slow) as ingest:
            waiting = [asyncio.create_task(_handled(ingest, spans(Sent(trace=number)))) for number in range(1, 101)]
            await asyncio.to_thread(slow.entered.wait, 20)
            slow.go.set()
        answers = await asyncio.gather(*waiting)

        assert answers == [None] * 100
        assert store.contents().rows["spans"] == 100


async def test_a_store_that_fails_is_answered_and_the_writer_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    """A fault nobody has thought of refuses the request, without its text, and does not end the writer."""
    with _ingest(_Broken()) as ingest:
        answers = [await ingest.handle(_export(spans(Sent(trace=number)))) for number in (1, 2)]

    assert [isinstance(answer, Refusal) and (answer.code, answer.message) for answer in answers] == [
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "cannot store")
    ] * 2
    assert ingest.counts.refused == 2
    assert "secret" not in "".join(record.message for record in caplog.records)


async def test_large_requests_at_once_are_all_stored(tmp_path: Path) -> None:
    """Many megabytes from several senders within a moment fit into the memory that the database has."""
    bodies = [
        spans(Sent(trace=number, attributes=[("body", chr(96 + number) * 7_000_000)])).SerializeToString()
        for number in range(1, 7)
    ]
    async with opened(tmp_path) as at:
        responses = await asyncio.gather(*(at.post("traces", body) for body in bodies))
        found = await at.get("/api/status")

    assert [response.status_code for response in responses] == [200] * 6
    assert found["spans"] == 6


async def test_acknowledged_is_stored(tmp_path: Path) -> None:
    """Once a sender has its answer another connection finds the spans at once."""
    async with opened(tmp_path) as at:
        for number in range(1, 21):
            await at.send(spans(Sent(trace=number)))
            assert (await at.client.get(f"/api/trace/{trace_id(number)}")).status_code == 200
