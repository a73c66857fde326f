import asyncio
import gzip
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from google.protobuf import json_format
from google.rpc.error_details_pb2 import RetryInfo  # type: ignore[import-untyped]
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcSpanExporter
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpSpanExporter
from opentelemetry.instrumentation.utils import is_instrumentation_enabled
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter
from rsketch_telemetry.otlp.handler import Answer, Export, PartialSuccess, Refusal, create_request, service
from rsketch_telemetry.otlp.receiver import Receiver, ReceiverConfig, Signal, receive
from rsketch_telemetry.otlp.store import NotArrivedError, TelemetryStore
from sanic import Sanic

PROTOBUF = {"content-type": "application/x-protobuf"}
JSON = {"content-type": "application/json"}
ANY_PORT = ReceiverConfig(grpc_port=0, http_port=0)
SMALL = ReceiverConfig(grpc_port=0, http_port=0, wire_bytes=2_000, message_bytes=10_000)


class _Answering:
    """Gives one answer to everything, and keeps what it was asked."""

    def __init__(self, answer: Answer = None) -> None:
        self.answer = answer
        self.exports: list[Export] = []

    async def handle(self, export: Export) -> Answer:
        self.exports.append(export)
        return self.answer


class _Calling:
    """Hands everything to a function."""

    def __init__(self, function: Callable[[Export], Awaitable[Answer]]) -> None:
        self.handle = function


def _one_span(name: str = "work") -> ExportTraceServiceRequest:
    request = ExportTraceServiceRequest()
    span = request.resource_spans.add().scope_spans.add().spans.add(name=name)
    span.trace_id, span.span_id = bytes(range(16)), bytes(range(8))
    return request


@asynccontextmanager
async def _calling(receiver: Receiver) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=receiver.http_endpoint, trust_env=False, timeout=10) as client:
        yield client


async def _post(answer: Answer, headers: dict[str, str], body: bytes, path: str = "/v1/traces") -> httpx.Response:
    async with receive(_Answering(answer), SMALL) as receiver, _calling(receiver) as client:
        return await client.post(path, content=body, headers=headers)


async def _export(receiver: Receiver, request: ExportTraceServiceRequest) -> ExportTraceServiceResponse:
    async with grpc.aio.insecure_channel(f"{receiver.host}:{receiver.grpc_port}") as channel:
        # The generated stub of OpenTelemetry has no types.
        response = await TraceServiceStub(channel).Export(request)  # type: ignore[no-untyped-call]
        assert isinstance(response, ExportTraceServiceResponse)
        return response


def _method(channel: grpc.aio.Channel, signal: Signal) -> grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]:
    """Return the Export method of a signal, from bytes to bytes."""
    return channel.unary_unary(f"/{service(signal)}/Export")


def _status_of(response: httpx.Response) -> Status:
    """Return the google.rpc.Status in an answer, in whichever encoding it came."""
    if response.headers["content-type"] == "application/json":
        return json_format.Parse(response.content, Status())
    assert response.headers["content-type"] == "application/x-protobuf"
    return Status.FromString(response.content)


@pytest.mark.parametrize("exporter", ["grpc", "http", "gzip"])
async def test_the_sdks_own_exporters_deliver(exporter: str) -> None:
    """A span that a stock exporter sends arrives decoded, compressed or not, by either protocol."""
    store = TelemetryStore()
    async with receive(store, ANY_PORT) as receiver:
        await asyncio.to_thread(_send_span, exporter, receiver)
        await store.wait_for(lambda seen: seen.spans)

    (span,) = store.spans
    assert span.name == "work"
    assert span.resource.attributes["service.name"] == "shop"
    assert len(span.trace_id) == 32


def _send_span(kind: str, receiver: Receiver) -> None:
    provider = TracerProvider(resource=Resource({"service.name": "shop"}), shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(_stock_exporter(kind, receiver)))
    provider.get_tracer("test").start_span("work").end()
    provider.shutdown()


def _stock_exporter(kind: str, receiver: Receiver) -> SpanExporter:
    if kind == "grpc":
        return GrpcSpanExporter(endpoint=receiver.grpc_endpoint, insecure=True, compression=grpc.Compression.Gzip)
    compression = Compression.Gzip if kind == "gzip" else Compression.NoCompression
    return HttpSpanExporter(endpoint=f"{receiver.http_endpoint}/v1/traces", compression=compression)


@pytest.mark.parametrize("signal", list(Signal))
async def test_each_signal_has_its_path_and_its_method(signal: Signal) -> None:
    """All three signals are taken over HTTP and over gRPC, and an empty request is one."""
    handler = _Answering()
    async with receive(handler, ANY_PORT) as receiver, _calling(receiver) as client:
        response = await client.post(f"/v1/{signal.value}", headers=PROTOBUF | {"x-scope": "shop"})
        async with grpc.aio.insecure_channel(f"127.0.0.1:{receiver.grpc_port}") as channel:
            reply = await _method(channel, signal)(b"", metadata=(("x-scope", "shop"),))

    assert (response.status_code, response.content, reply) == (200, b"", b"")
    assert [(each.signal, each.protocol) for each in handler.exports] == [(signal, "http/protobuf"), (signal, "grpc")]
    assert [each.headers["x-scope"] for each in handler.exports] == ["shop", "shop"]
    assert all(each.request == create_request(signal) for each in handler.exports)


async def test_json_has_hexadecimal_ids_and_may_have_unknown_fields() -> None:
    """OTLP's own JSON is understood wherever an id may stand, and what the future adds is ignored."""
    store = TelemetryStore()
    span = {"traceId": "AB" * 16, "spanId": "cd" * 8, "parentSpanId": "", "name": "n", "kind": 2, "new": {"a": [1]}}
    span |= {"links": [{"traceId": "ef" * 16, "spanId": "01" * 8}], "startTimeUnixNano": "1700000000000000000"}
    record = {"traceId": "ab" * 16, "spanId": "cd" * 8, "body": {"stringValue": "b"}, "severityNumber": 9}
    record |= {"attributes": [{"key": "traceId", "value": {"kvlistValue": {"values": [{"key": "spanId"}]}}}]}
    exemplar = {"spanId": "cd" * 8, "traceId": "ab" * 16, "asInt": "1"}
    metric = {"name": "m", "gauge": {"dataPoints": [{"asInt": "2", "exemplars": [exemplar]}]}}
    async with receive(store, ANY_PORT) as receiver, _calling(receiver) as client:
        for path, body in (
            ("/v1/traces", {"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]}),
            ("/v1/logs", {"resourceLogs": [{"scopeLogs": [{"logRecords": [record]}]}]}),
            ("/v1/metrics", {"resourceMetrics": [{"scopeMetrics": [{"metrics": [metric]}]}]}),
        ):
            response = await client.post(path, json=body, headers={"content-type": "Application/JSON; charset=utf-8"})
            assert (response.status_code, response.json()) == (200, {})

    assert (store.spans[0].trace_id, store.spans[0].span_id, store.spans[0].kind) == ("ab" * 16, "cd" * 8, "SERVER")
    assert store.spans[0].parent_span_id == ""
    assert store.spans[0].start_ns == 1700000000000000000
    assert store.spans[0].links[0].trace_id == "ef" * 16
    assert (store.logs[0].trace_id, store.logs[0].attributes) == ("ab" * 16, {"traceId": {"spanId": None}})
    assert (store.points[0].value, store.points[0].exemplars[0].span_id) == (2, "cd" * 8)


@pytest.mark.parametrize("headers", [JSON, PROTOBUF])
async def test_a_partial_success_is_answered_in_the_encoding_of_the_request(headers: dict[str, str]) -> None:
    """Over HTTP the sender reads how many items were not taken, and why, with status 200."""
    body = b"{}" if headers is JSON else b""
    response = await _post(PartialSuccess(rejected=3, message="too old"), headers, body)

    assert response.status_code == 200
    assert response.headers["content-type"] == headers["content-type"]
    if headers is JSON:
        assert response.json() == {"partialSuccess": {"rejectedSpans": "3", "errorMessage": "too old"}}
    else:
        assert ExportTraceServiceResponse.FromString(response.content).partial_success.rejected_spans == 3


async def test_a_partial_success_is_answered_over_grpc() -> None:
    """Over gRPC it is the same message, in a call that succeeds."""
    async with receive(_Answering(PartialSuccess(rejected=1, message="too old")), ANY_PORT) as receiver:
        response = await _export(receiver, _one_span())

    assert response.partial_success.rejected_spans == 1
    assert response.partial_success.error_message == "too old"


BUSY = Refusal(code=grpc.StatusCode.RESOURCE_EXHAUSTED, message="busy", retry_after_seconds=1.5)


@pytest.mark.parametrize("headers", [JSON, PROTOBUF])
async def test_a_refusal_over_http_carries_retry_after_and_a_status(headers: dict[str, str]) -> None:
    """RESOURCE_EXHAUSTED is 429, Retry-After is whole seconds and never early, the body says it exactly."""
    response = await _post(BUSY, headers, b"{}" if headers is JSON else b"")
    status = _status_of(response)
    info = RetryInfo()
    status.details[0].Unpack(info)

    assert response.status_code == 429
    assert response.headers["retry-after"] == "2"
    assert response.headers["content-type"] == headers["content-type"]
    assert (status.code, status.message) == (8, "busy")
    assert info.retry_delay.ToMilliseconds() == 1500


async def test_a_refusal_over_grpc_carries_retry_info() -> None:
    """The code, the message and google.rpc.RetryInfo reach a gRPC sender."""
    async with receive(_Answering(BUSY), ANY_PORT) as receiver:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await _export(receiver, _one_span())
    # A list first: from older grpcio's metadata dict() takes pairs for keys.
    trailers: dict[str, Any] = dict(list(caught.value.trailing_metadata()))
    status = Status.FromString(trailers["grpc-status-details-bin"])
    info = RetryInfo()
    status.details[0].Unpack(info)

    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert caught.value.details() == "busy"
    assert (status.code, info.retry_delay.ToMilliseconds()) == (8, 1500)


@pytest.mark.parametrize(
    ("refusal", "status"),
    [
        (Refusal(code=grpc.StatusCode.UNAVAILABLE), 503),
        (Refusal(code=grpc.StatusCode.UNAUTHENTICATED), 401),
        (Refusal(code=grpc.StatusCode.DATA_LOSS), 500),
        (Refusal(code=grpc.StatusCode.UNAVAILABLE, http_status=502), 502),
    ],
)
async def test_a_refusal_has_the_http_status_of_its_code(refusal: Refusal, status: int) -> None:
    """A code has its HTTP status, the rest is 500, and a handler may ask for another; without a hint no Retry-After."""
    response = await _post(refusal, PROTOBUF, b"")

    assert response.status_code == status
    assert "retry-after" not in response.headers


DEEP = b'{"resourceSpans":' + b"[" * 900 + b"]" * 900 + b"}"


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        (PROTOBUF, b"\xff\xff\xff"),
        (PROTOBUF, b"{}"),
        (PROTOBUF | {"content-encoding": "gzip"}, b"not gzip"),
        (PROTOBUF | {"content-encoding": "gzip"}, gzip.compress(b"", mtime=0)[:-4]),
        (PROTOBUF | {"content-encoding": "gzip"}, gzip.compress(b"") * 2),
        (JSON | {"content-encoding": "gzip"}, b""),
        (JSON, b""),
        (JSON, b"[]"),
        (JSON, b"{"),
        (JSON, b"null"),
        (JSON, b"\xff\xfe"),
        (JSON, DEEP),
        (JSON, b'{"resourceSpans": 5}'),
        (JSON, b'{"resourceSpans": [{"scopeSpans": [{"spans": [{"traceId": "xyz"}]}]}]}'),
        (JSON, b'{"resourceSpans": [{"scopeSpans": [{"spans": [{"spanId": 5}]}]}]}'),
        (JSON, b'{"resourceSpans": [{"scopeSpans": [{"spans": [{"name": "\\ud800"}]}]}]}'),
        (JSON, b'{"resourceSpans": [{"scopeSpans": [{"spans": [{"startTimeUnixNano": "-1"}]}]}]}'),
    ],
)
async def test_malformed_bodies_are_refused_in_their_own_encoding(headers: dict[str, str], body: bytes) -> None:
    """Whatever does not parse is a 400 with google.rpc.Status, and the sender's content is not repeated in it."""
    response = await _post(None, headers, body)

    assert response.status_code == 400
    assert response.headers["content-type"] == headers["content-type"]
    assert _status_of(response).code == 3
    assert "xyz" not in _status_of(response).message


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"content-type": "text/plain"},
        {"content-type": "application/x-protobuf-seq"},
        PROTOBUF | {"content-encoding": "br"},
    ],
)
async def test_unknown_types_and_encodings_are_refused(headers: dict[str, str]) -> None:
    """What OTLP/HTTP does not know is a 415 that names what is accepted."""
    response = await _post(None, headers, b"\x0a\x00")

    assert response.status_code == 415
    assert "accepts" in _status_of(response).message


@pytest.mark.parametrize("headers", [JSON, PROTOBUF])
async def test_a_body_over_the_wire_limit_is_refused(headers: dict[str, str]) -> None:
    """More bytes than the receiver reads are a 413, in the encoding of the request."""
    response = await _post(None, headers, b" " * 2_001)

    assert response.status_code == 413
    assert response.headers["content-type"] == headers["content-type"]
    assert _status_of(response).code == 3


@pytest.mark.parametrize("headers", [JSON, PROTOBUF])
async def test_a_gzip_bomb_is_refused(headers: dict[str, str]) -> None:
    """A small body that holds more than the limit is a 413, however much it would hold."""
    bomb = gzip.compress(b" " * 1_000_000)
    response = await _post(None, headers | {"content-encoding": "gzip"}, bomb)

    assert len(bomb) < 2_000
    assert response.status_code == 413


@pytest.mark.parametrize("compression", list(grpc.Compression))
async def test_an_oversized_grpc_message_is_refused(compression: grpc.Compression) -> None:
    """The limit holds for a gRPC message as sent and once decompressed."""
    handler = _Answering()
    async with (
        receive(handler, SMALL) as receiver,
        grpc.aio.insecure_channel(f"127.0.0.1:{receiver.grpc_port}", compression=compression) as channel,
    ):
        method = _method(channel, Signal.TRACES)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await method(_one_span("n" * 1_000_000).SerializeToString())

    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert handler.exports == []


async def test_a_malformed_grpc_message_is_refused() -> None:
    """Bytes that are no such message are INVALID_ARGUMENT, which tells the sender not to repeat them."""
    async with (
        receive(_Answering(), ANY_PORT) as receiver,
        grpc.aio.insecure_channel(f"127.0.0.1:{receiver.grpc_port}") as channel,
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await _method(channel, Signal.LOGS)(b"\xff\xff\xff")

    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(("method", "path", "status"), [("POST", "/v1/nothing", 404), ("GET", "/v1/traces", 405)])
async def test_unknown_paths_and_methods_are_refused(method: str, path: str, status: int) -> None:
    """They are answered with a status in JSON, for a person is likely to have typed them."""
    async with receive(_Answering(), ANY_PORT) as receiver, _calling(receiver) as client:
        response = await client.request(method, path)

    assert response.status_code == status
    assert json.loads(response.content)["message"]


async def test_a_handler_that_fails_is_answered_and_logged_without_its_text(caplog: pytest.LogCaptureFixture) -> None:
    """The sender gets 500 or INTERNAL and none of the exception's text; the receiver goes on."""

    async def fail(export: Export) -> Answer:
        raise RuntimeError("secret")

    async with receive(_Calling(fail), ANY_PORT) as receiver, _calling(receiver) as client:
        response = await client.post("/v1/traces", headers=PROTOBUF)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await _export(receiver, _one_span())

    assert response.status_code == 500
    assert b"secret" not in response.content
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in (caught.value.details() or "")
    assert [record.message for record in caplog.records] == ["the OTLP handler failed on traces"] * 2


async def test_what_the_receiver_serves_is_not_instrumented() -> None:
    """Handlers, and hooks of instrumentors before them, run with instrumentation suppressed; the caller does not."""
    enabled: list[bool] = []

    async def look(export: Export) -> Answer:
        enabled.append(is_instrumentation_enabled())
        return None

    async with receive(_Calling(look), ANY_PORT) as receiver, _calling(receiver) as client:
        await client.post("/v1/traces", headers=PROTOBUF)
        await _export(receiver, _one_span())
        outside = is_instrumentation_enabled()

    assert enabled == [False, False]
    assert outside


async def test_several_receivers_are_open_in_one_process_and_none_is_left_registered() -> None:
    """Each has its own ports and handler, and Sanic's registry is as it was when they are closed."""
    before = set(Sanic._app_registry)
    stores = [TelemetryStore(), TelemetryStore()]
    async with receive(stores[0], ANY_PORT) as first, receive(stores[1], ANY_PORT) as second:
        for name, receiver in (("a", first), ("b", second)):
            await _export(receiver, _one_span(name))
            async with _calling(receiver) as client:
                body = _one_span(name).SerializeToString()
                assert (await client.post("/v1/traces", content=body, headers=PROTOBUF)).status_code == 200

    assert [[span.name for span in store.spans] for store in stores] == [["a", "a"], ["b", "b"]]
    assert set(Sanic._app_registry) == before
    assert len({first.grpc_port, first.http_port, second.grpc_port, second.http_port}) == 4


@pytest.mark.parametrize("taken", ["grpc", "http"])
async def test_a_taken_port_is_an_error_and_leaves_nothing_open(taken: str) -> None:
    """The second receiver on a port fails with one line that names it, and the other port is free again."""
    before = set(Sanic._app_registry)
    async with receive(_Answering(), ANY_PORT) as first:
        port = first.grpc_port if taken == "grpc" else first.http_port
        wanted = ReceiverConfig(
            grpc_port=port if taken == "grpc" else 0,
            http_port=port if taken == "http" else 0,
        )
        with pytest.raises(OSError, match=f"127.0.0.1:{port}"):
            async with receive(_Answering(), wanted):
                pass
        assert set(Sanic._app_registry) != before

    assert set(Sanic._app_registry) == before


async def test_requests_in_flight_finish_while_it_closes() -> None:
    """Closing waits for answers that are being made, over both protocols, and cuts idle connections at once."""
    entered, leave = asyncio.Semaphore(0), asyncio.Event()

    async def slow(export: Export) -> Answer:
        entered.release()
        await leave.wait()
        return None

    config = ReceiverConfig(grpc_port=0, http_port=0, close_seconds=10)
    async with asyncio.timeout(10), receive(_Calling(slow), config) as receiver, asyncio.TaskGroup() as tasks:
        over_http = tasks.create_task(_post_to(receiver))
        over_grpc = tasks.create_task(_export(receiver, _one_span()))
        await entered.acquire()
        await entered.acquire()
        leave.set()

    assert over_http.result() == 200
    assert over_grpc.result() == ExportTraceServiceResponse()


async def _post_to(receiver: Receiver) -> int:
    async with _calling(receiver) as client:
        return (await client.post("/v1/traces", headers=PROTOBUF)).status_code


async def test_a_handler_that_hangs_is_cut_when_the_time_to_close_is_over() -> None:
    """A hanging handler holds the receiver for `close_seconds` and no longer."""
    entered = asyncio.Semaphore(0)

    async def hang(export: Export) -> Answer:
        entered.release()
        await asyncio.Event().wait()
        return None

    config = ReceiverConfig(grpc_port=0, http_port=0, close_seconds=0.1)
    async with asyncio.timeout(5):
        async with receive(_Calling(hang), config) as receiver:
            calls: list[asyncio.Task[Any]] = [
                asyncio.create_task(_post_to(receiver)),
                asyncio.create_task(_export(receiver, _one_span())),
            ]
            await entered.acquire()
            await entered.acquire()
        cut = await asyncio.gather(*calls, return_exceptions=True)

    assert [isinstance(one, httpx.HTTPError | grpc.aio.AioRpcError) or one == 503 for one in cut] == [True, True]


async def test_waiting_for_what_does_not_arrive_says_what_did() -> None:
    """The error of a wait lists every kind of item that was received."""
    store = TelemetryStore()
    metrics, logs = ExportMetricsServiceRequest(), ExportLogsServiceRequest()
    metrics.resource_metrics.add().scope_metrics.add().metrics.add(name="m", unit="s").gauge.data_points.add(as_int=1)
    logs.resource_logs.add().scope_logs.add().log_records.add(severity_text="INFO").body.string_value = "hello"
    for signal, request in ((Signal.TRACES, _one_span()), (Signal.METRICS, metrics), (Signal.LOGS, logs)):
        await store.handle(Export(signal=signal, request=request, protocol="grpc", headers={}))

    with pytest.raises(NotArrivedError) as caught:
        await store.wait_for(lambda seen: len(seen.spans) > 1, seconds=0.05)

    assert "1 x UNSPECIFIED 'work' UNSET" in str(caught.value)
    assert "1 x m [s] gauge" in str(caught.value)
    assert "1 x INFO 'hello'" in str(caught.value)


async def test_headers_are_not_shown_by_a_repr() -> None:
    """An export may hold credentials; printing one does not."""
    handler = _Answering()
    async with receive(handler, ANY_PORT) as receiver, _calling(receiver) as client:
        await client.post("/v1/traces", headers=PROTOBUF | {"authorization": "Bearer hush"})

    assert handler.exports[0].headers["authorization"] == "Bearer hush"
    assert "hush" not in repr(handler.exports[0])


RECEIVER_IN_AN_INSTRUMENTED_PROGRAM = """
import asyncio, grpc, httpx
from opentelemetry import trace
from rsketch_telemetry.otlp.receiver import ReceiverConfig, receive
from rsketch_telemetry.otlp.store import TelemetryStore

async def main():
    store = TelemetryStore()
    async with receive(store, ReceiverConfig(grpc_port=0, http_port=0)) as receiver:
        async with httpx.AsyncClient(trust_env=False) as client:
            headers = {"content-type": "application/x-protobuf"}
            answer = await client.post(receiver.http_endpoint + "/v1/logs", headers=headers)
            assert answer.status_code == 200, answer.text
        async with grpc.aio.insecure_channel(f"127.0.0.1:{receiver.grpc_port}") as channel:
            await channel.unary_unary("/opentelemetry.proto.collector.logs.v1.LogsService/Export")(b"")
    trace.get_tracer("test").start_span("probe").end()

asyncio.run(main())
"""


async def test_a_receiver_in_an_instrumented_program_does_not_report_itself(tmp_path: Path) -> None:
    """Under opentelemetry-instrument what the receiver serves makes no spans; a span of the program's own arrives."""
    store = TelemetryStore()
    command = Path(sys.executable).with_name("opentelemetry-instrument")
    async with receive(store, ANY_PORT) as receiver:
        environ = {"PATH": f"{command.parent}:/usr/bin:/bin", "HOME": str(tmp_path), "OTEL_SERVICE_NAME": "receiving"}
        environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = receiver.grpc_endpoint
        argv = (command, sys.executable, "-c", RECEIVER_IN_AN_INSTRUMENTED_PROGRAM)
        child = await asyncio.create_subprocess_exec(
            *argv, env=environ, cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        async with asyncio.timeout(30):
            output, _ = await child.communicate()
        await store.wait_for(lambda seen: "probe" in [span.name for span in seen.spans])

    assert child.returncode == 0, output.decode()
    assert [span.name for span in store.spans if span.kind == "SERVER"] == []
