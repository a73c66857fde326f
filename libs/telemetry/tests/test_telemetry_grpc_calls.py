"""What goes with grpc.aio calls between an instrumented client and server: metadata, retries, targets, other stacks."""

import asyncio
import contextlib
import importlib
import json
import logging
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
import rsketch_telemetry
from opentelemetry import trace
from opentelemetry.instrumentation.grpc import GrpcInstrumentorClient, GrpcInstrumentorServer
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind
from recording import Instrumented, attributes, until
from rsketch_telemetry import semconv
from rsketch_telemetry.grpc import GrpcAioClientInstrumentor, GrpcAioServerInstrumentor
from rsketch_telemetry.instrumentor_settings import InstrumentorSettings
from till import SERVICE, Channel, Handler, listening, path, status_of

_PAIRS = (("till", "7"), ("till", "8"), ("raw-bin", b"\0\xff"))


class Telemetry(Instrumented[GrpcAioServerInstrumentor]):
    """Providers of one test that both sides record with."""

    def __init__(self) -> None:
        super().__init__(GrpcAioServerInstrumentor())
        self._clients = GrpcAioClientInstrumentor()

    def start(self, settings: InstrumentorSettings | None = None) -> None:
        """Instrument both sides."""
        self.instrument(settings)
        self._clients.instrument(**self.providers, settings=settings)

    def close(self) -> None:
        """Undo it, and shut the providers down."""
        if self._clients.is_instrumented_by_opentelemetry:
            self._clients.uninstrument()
        super().close()

    async def spans_of(self, calls: int = 1, attempts: int = 1) -> tuple[list[ReadableSpan], list[ReadableSpan]]:
        """Wait for the spans of both sides: as many of the client's as calls, of the server's as attempts."""
        await until(lambda: len(self.ended(SpanKind.CLIENT)) >= calls and len(self.ended(SpanKind.SERVER)) >= attempts)
        clients, servers = self.ended(SpanKind.CLIENT), self.ended(SpanKind.SERVER)
        assert (len(clients), len(servers)) == (calls, attempts)
        return clients, servers

    async def both(self) -> tuple[ReadableSpan, ReadableSpan]:
        """Wait for the one span of each side."""
        (client,), (server,) = await self.spans_of()
        return client, server


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    """Both sides instrumented with providers of the test's own."""
    telemetry = Telemetry()
    telemetry.start()
    yield telemetry
    telemetry.close()


@asynccontextmanager
async def serving(
    methods: dict[str, Handler], options: Any = None, address: str = "127.0.0.1:0", **how: Any
) -> AsyncIterator[tuple[int, Channel]]:
    """Serve *methods* of the till's service, and yield port and channel."""
    server = grpc.aio.server(**how)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
    async with (
        listening(server, address) as port,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel,
    ):
        yield port, channel


def unary(behaviour: Any) -> dict[str, Handler]:
    """Return the handlers of a service whose one method is unary."""
    return {"Pay": grpc.unary_unary_rpc_method_handler(behaviour)}


async def echo(request: bytes, _context: Any) -> bytes:
    """Answer with what was asked."""
    return request


async def test_metadata_passes_unchanged_both_ways(telemetry: Telemetry) -> None:
    """Metadata of the request, of the response and after it arrive with their order, repetitions and bytes."""
    seen: list[tuple[str, str | bytes]] = []

    async def handler(request: bytes, context: Any) -> bytes:
        seen.extend(context.invocation_metadata())
        await context.send_initial_metadata(_PAIRS)
        context.set_trailing_metadata(_PAIRS)
        return request

    async with serving(unary(handler)) as (_, channel):
        call = channel.unary_unary(path("Pay"))(b"", metadata=_PAIRS)
        await call
        initial, trailing = tuple(await call.initial_metadata()), tuple(await call.trailing_metadata())
        await telemetry.both()

    names = {"till", "raw-bin"}
    assert tuple(pair for pair in seen if pair[0] in names) == _PAIRS
    assert (initial, trailing) == (_PAIRS, _PAIRS)


_CAPTURING = InstrumentorSettings(
    rpc_request_metadata=frozenset({"till", "authorization", "raw-bin"}),
    rpc_response_metadata=frozenset({"shelf", "set-cookie"}),
    rpc_response_trailers=frozenset({"left", "api-key"}),
)


@pytest.mark.parametrize("intercepted", [False, True])
@pytest.mark.parametrize("fails", [False, True])
async def test_captured_metadata_is_on_both_spans(*, intercepted: bool, fails: bool) -> None:
    """What the operator names is on the spans of both sides, credentials without their values, and never in metrics."""

    async def handler(_request: bytes, context: Any) -> bytes:
        await context.send_initial_metadata((("shelf", "3"), ("set-cookie", "id=1"), ("other", "x")))
        trailers = (("left", "0"), ("api-key", "k"), ("other", "x"))
        if fails:
            await context.abort(grpc.StatusCode.NOT_FOUND, "gone", trailers)
        context.set_trailing_metadata(trailers)
        return b"5"

    telemetry = Telemetry()
    telemetry.start(_CAPTURING)
    interceptors = [_Passing()] if intercepted else None
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, unary(handler)),))
    channel: Channel
    try:
        async with (
            listening(server) as port,
            grpc.aio.insecure_channel(f"127.0.0.1:{port}", interceptors=interceptors) as channel,
        ):
            metadata = (("till", "7"), ("till", "8"), ("authorization", "Bearer abcdefgh"), ("raw-bin", b"\0"))
            call = channel.unary_unary(path("Pay"))(b"", metadata=metadata)
            await (status_of(call) if fails else call)
            spans = await telemetry.both()
            points = [point for metric in telemetry.collected() for point in metric.data.data_points]
    finally:
        telemetry.close()

    for span in spans:
        kept = {k: v for k, v in attributes(span).items() if k.startswith(("rpc.request.", "rpc.response."))}
        assert kept == {
            "rpc.request.header.till": ("7", "8"),
            "rpc.request.header.authorization": ("REDACTED",),
            # As it is on the wire.
            "rpc.request.header.raw-bin": ("AA==",),
            "rpc.response.header.shelf": ("3",),
            "rpc.response.header.set-cookie": ("REDACTED",),
            "rpc.response.trailer.left": ("0",),
            "rpc.response.trailer.api-key": ("REDACTED",),
        }
    assert points
    assert not any("header" in name or "trailer" in name for point in points for name in attributes(point))


class _Passing(grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await continuation(client_call_details, request)


async def test_nothing_is_captured_by_default(telemetry: Telemetry) -> None:
    """Without a setting no metadata is on a span."""
    async with serving(unary(echo)) as (_, channel):
        await channel.unary_unary(path("Pay"))(b"", metadata=_PAIRS)
        spans = await telemetry.both()

    assert not any("header" in name for span in spans for name in attributes(span))


_RETRY = {
    "methodConfig": [
        {
            "name": [{"service": SERVICE}],
            "retryPolicy": {
                "maxAttempts": 3,
                "initialBackoff": "0.01s",
                "maxBackoff": "0.02s",
                "backoffMultiplier": 1,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}


@pytest.mark.parametrize("failures", [2, 3])
async def test_retries_by_grpc_are_one_call_with_its_final_status(telemetry: Telemetry, failures: int) -> None:
    """However often gRPC tries, the caller has one span with what it got; the server has one for each attempt."""
    attempts = 0

    async def handler(request: bytes, context: Any) -> bytes:
        nonlocal attempts
        attempts += 1
        if attempts <= failures:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "not yet")
        return request

    async with serving(unary(handler), [("grpc.service_config", json.dumps(_RETRY))]) as (_, channel):
        call = channel.unary_unary(path("Pay"))(b"5")
        with contextlib.suppress(grpc.aio.AioRpcError):
            await call
        (client,), servers = await telemetry.spans_of(attempts=3)

    status = "OK" if failures == 2 else "UNAVAILABLE"
    assert attributes(client)["rpc.status_code"] == status == (await call.code()).name
    assert sorted(attributes(span)["rpc.status_code"] for span in servers) == sorted(["UNAVAILABLE"] * 2 + [status])
    assert all(span.parent is not None and span.parent.span_id == client.context.span_id for span in servers)


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
async def test_compressed_messages_arrive(telemetry: Telemetry, compression: grpc.Compression) -> None:
    """Compression asked for by either side works as ever."""

    async def handler(request: bytes, context: Any) -> bytes:
        context.set_compression(compression)
        return request

    async with serving(unary(handler), compression=compression) as (_, channel):
        text = b"x" * 100_000
        assert await channel.unary_unary(path("Pay"))(text, compression=compression) == text
        spans = await telemetry.both()

    assert {attributes(span)["rpc.status_code"] for span in spans} == {"OK"}


@pytest.mark.parametrize(
    ("target", "address"),
    [
        ("localhost:{port}", "localhost"),
        ("dns:///localhost:{port}", "localhost"),
        ("ipv4:127.0.0.1:{port}", "127.0.0.1"),
        ("ipv4:127.0.0.1:{port},127.0.0.1:{port}", None),
    ],
)
async def test_target_is_the_server_s_address(telemetry: Telemetry, target: str, address: str | None) -> None:
    """A target is taken apart as gRPC does it; one of several addresses is the address of the group."""
    async with serving(unary(echo)) as (port, _):
        written = target.format(port=port)
        channel: Channel
        async with grpc.aio.insecure_channel(written) as channel:
            await channel.unary_unary(path("Pay"))(b"")
            client, _ = await telemetry.both()

    found = attributes(client)
    assert found["server.address"] == (address or written)
    assert found.get("server.port") == (port if address else None)


@pytest.mark.parametrize("abstract", [False, True])
async def test_socket_without_a_network_is_an_address_too(
    telemetry: Telemetry, tmp_path: Path, *, abstract: bool
) -> None:
    """Sockets of the file system and abstract ones have a name and no port."""
    name = f"till-{tmp_path.name}" if abstract else f"{tmp_path}/till.sock"
    target = f"unix-abstract:{name}" if abstract else f"unix:{name}"
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, unary(echo)),))
    channel: Channel
    async with listening(server, target), grpc.aio.insecure_channel(target) as channel:
        await channel.unary_unary(path("Pay"))(b"")
        client, _ = await telemetry.both()

    assert attributes(client)["server.address"] == name
    assert "server.port" not in attributes(client)


@pytest.mark.parametrize("target", ["zk://keeper:2181/shop", "dns:///no.such.host.invalid:1"])
async def test_target_that_leads_nowhere_is_unavailable(telemetry: Telemetry, target: str) -> None:
    """A scheme that gRPC does not know and a name without an address fail as ever, with a span."""
    channel: Channel
    async with grpc.aio.insecure_channel(target) as channel:
        status = await status_of(channel.unary_unary(path("Pay"))(b"", timeout=5))
        (client,), _ = await telemetry.spans_of(attempts=0)

    assert attributes(client)["error.type"] == status.name


async def test_invented_methods_make_no_series_at_the_server(telemetry: Telemetry) -> None:
    """Ten thousand methods that nobody has are one series of the server's."""
    telemetry._clients.uninstrument()
    async with serving(unary(echo)) as (_, channel):
        for start in range(0, 10_000, 500):
            calls = (channel.unary_unary(f"/shop.v1.Till/Steal{n}")(b"") for n in range(start, start + 500))
            await asyncio.gather(*(status_of(call) for call in calls))
        await until(lambda: len(telemetry.ended(SpanKind.SERVER)) == 10_000)

    (point,) = telemetry.histogram(semconv.RPC_SERVER_DURATION)
    assert attributes(point)["rpc.method"] == "_OTHER"
    assert point.count == 10_000


class _Proxy(grpc.GenericRpcHandler):
    """Serves whatever it is asked for."""

    def service(self, handler_call_details: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(echo)


async def test_methods_of_a_proxy_are_bounded(telemetry: Telemetry) -> None:
    """A server that serves any method has four hundred as labels; the others share one, and are served all the same."""
    telemetry._clients.uninstrument()
    server = grpc.aio.server(handlers=[_Proxy()])
    channel: Channel
    async with listening(server) as port, grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        calls = [channel.unary_unary(f"/shop.v1.Till/Any{n}")(b"5") for n in range(450)]
        assert [await call for call in calls] == [b"5"] * 450
        await until(lambda: len(telemetry.ended(SpanKind.SERVER)) == 450)

    points = telemetry.histogram(semconv.RPC_SERVER_DURATION)
    assert len(points) == 401
    assert [point.count for point in points if attributes(point)["rpc.method"] == "_OTHER"] == [50]


async def test_invented_methods_are_bounded_at_the_client(telemetry: Telemetry) -> None:
    """An application that makes names up gets four hundred of them as labels; the others share one."""
    telemetry.instrumentor.uninstrument()
    async with serving({}) as (_, channel):
        for start in range(0, 600, 300):
            calls = (channel.unary_unary(f"/shop.v1.Till/Steal{n}")(b"") for n in range(start, start + 300))
            await asyncio.gather(*(status_of(call) for call in calls))

    points = telemetry.histogram(semconv.RPC_CLIENT_DURATION)
    other = [point for point in points if attributes(point)["rpc.method"] == "_OTHER"]
    assert len(points) == 401
    assert [point.count for point in other] == [200]
    assert attributes(telemetry.ended(SpanKind.CLIENT)[-1])["rpc.method_original"].startswith("shop.v1.Till/Steal")


@pytest.mark.parametrize("method", [b"/\xff\xfe/x", b"nonsense", b"", b"/a/b/c", "/ünï/cödé".encode()])
async def test_odd_method_names_raise_nothing(telemetry: Telemetry, method: bytes) -> None:
    """A name that is no method, or no text, ends as it would without us; only the span says what it was."""
    telemetry.instrumentor.uninstrument()
    channel: Channel
    # To a port that nobody has: grpc.aio's own server stops for good on a name that is not UTF-8.
    async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
        await status_of(channel.unary_unary(method)(b"", timeout=5))
        (client,), _ = await telemetry.spans_of(attempts=0)

    assert (client.name, attributes(client)["rpc.method"]) == ("grpc", "_OTHER")


@pytest.mark.parametrize("threaded", [False, True])
@pytest.mark.parametrize("streams", [False, True])
async def test_annotations_are_on_the_server_span(telemetry: Telemetry, *, threaded: bool, streams: bool) -> None:
    """`annotate` in a handler of any kind, under spans of its own, writes on the call's SERVER span."""

    def work() -> None:
        with telemetry.tracer.start_as_current_span("query"):
            rsketch_telemetry.annotate(**{"shop.till": 7})

    async def pay(request: bytes, _context: Any) -> bytes:
        work()
        return request

    async def watch(request: bytes, _context: Any) -> AsyncIterator[bytes]:
        work()
        yield request

    def pay_in_thread(request: bytes, _context: Any) -> bytes:
        work()
        return request

    def watch_in_thread(request: bytes, _context: Any) -> Iterator[bytes]:
        work()
        yield request

    behaviour: Any = (watch_in_thread if streams else pay_in_thread) if threaded else (watch if streams else pay)
    maker = grpc.unary_stream_rpc_method_handler if streams else grpc.unary_unary_rpc_method_handler
    with ThreadPoolExecutor(1) as pool:
        async with serving({"Pay": maker(behaviour)}, migration_thread_pool=pool) as (_, channel):
            if streams:
                assert [one async for one in channel.unary_stream(path("Pay"))(b"5")] == [b"5"]
            else:
                assert await channel.unary_unary(path("Pay"))(b"5") == b"5"
            _, server = await telemetry.both()

    assert attributes(server)["shop.till"] == 7
    (query,) = (span for span in telemetry.spans.get_finished_spans() if span.name == "query")
    assert query.parent is not None
    assert query.parent.span_id == server.context.span_id


@pytest.mark.parametrize("kind", ["type", "metadata"])
async def test_request_that_grpc_does_not_take_ends_its_span(telemetry: Telemetry, kind: str) -> None:
    """A request that fails before it is sent raises as ever, and is a span at once, with the exception's record."""
    request: Any = object() if kind == "type" else b""
    metadata = (("Bad Key", "x"),) if kind == "metadata" else None
    async with serving(unary(echo)) as (_, channel):
        with pytest.raises((TypeError, grpc.aio.BaseError)) as caught:
            await channel.unary_unary(path("Pay"))(request, metadata=metadata)
        (client,), _ = await telemetry.spans_of(attempts=0)

    assert attributes(client)["error.type"] == "UNKNOWN"
    (record,) = telemetry.records()
    assert record.event_name == "rpc.client.call.exception"
    assert str(attributes(record)["exception.type"]).endswith(type(caught.value).__name__)


class _Replacing(grpc.aio.ServerInterceptor):
    """Puts a handler of another shape in place of the server's, and asks for that twice."""

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        await continuation(handler_call_details)
        assert await continuation(handler_call_details) is not None

        async def other(request: bytes, _context: Any) -> AsyncIterator[bytes]:
            yield request
            yield request

        return grpc.unary_stream_rpc_method_handler(other)


async def test_interceptor_may_replace_the_handler(telemetry: Telemetry) -> None:
    """An interceptor that puts a handler of another shape in place is served so, with one span."""
    async with serving(unary(echo), interceptors=[_Replacing()]) as (_, channel):
        got = [message async for message in channel.unary_stream(path("Pay"))(b"5")]
        _, server = await telemetry.both()

    assert got == [b"5", b"5"]
    assert attributes(server)["rpc.method"] == "shop.v1.Till/Pay"


class _Swallowing(grpc.aio.UnaryUnaryClientInterceptor):
    """Answers for itself where the call fails."""

    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        call = await continuation(client_call_details, request)
        try:
            return await call
        except grpc.aio.AioRpcError:
            return b"sorry"


class _Kept(grpc.aio.UnaryUnaryCall[Any, Any]):
    """A call that was over long ago, as a cache would have it."""

    def __await__(self) -> Any:
        yield from ()
        return b"kept"

    def add_done_callback(self, callback: Any) -> None:
        callback(self)

    def done(self) -> bool:
        return True

    def cancelled(self) -> bool:
        return False

    def cancel(self) -> bool:
        return False

    def time_remaining(self) -> float | None:
        return None

    async def initial_metadata(self) -> grpc.aio.Metadata:
        return grpc.aio.Metadata()

    async def trailing_metadata(self) -> grpc.aio.Metadata:
        return grpc.aio.Metadata()

    async def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.OK

    async def details(self) -> str:
        return ""

    async def wait_for_connection(self) -> None:
        return None


class _Keeping(grpc.aio.UnaryUnaryClientInterceptor):
    """Never calls, and answers with a call of its own."""

    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return _Kept()


@pytest.mark.parametrize(("interceptor", "answer"), [(_Swallowing(), b"sorry"), (_Keeping(), b"kept")])
async def test_answer_that_an_interceptor_makes_up_is_what_counts(
    telemetry: Telemetry, interceptor: Any, answer: bytes
) -> None:
    """The caller's span says what the caller got, whatever the interceptor saw."""
    telemetry.instrumentor.uninstrument()

    async def handler(_request: bytes, context: Any) -> bytes:
        await context.abort(grpc.StatusCode.NOT_FOUND, "gone")
        raise AssertionError

    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, unary(handler)),))
    channel: Channel
    async with (
        listening(server) as port,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}", interceptors=[interceptor]) as channel,
    ):
        assert await channel.unary_unary(path("Pay"))(b"") == answer
        (client,), _ = await telemetry.spans_of(attempts=0)

    assert attributes(client)["rpc.status_code"] == "OK"


@pytest.mark.parametrize(("service", "recorded"), [("grpc.health.v1.Health", False), ("grpc.reflection.v1.X", True)])
async def test_health_is_left_out_by_default_and_reflection_is_not(
    telemetry: Telemetry, service: str, *, recorded: bool
) -> None:
    """Only the service that every probe calls all the time is excluded without a setting."""
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, unary(echo)),))
    channel: Channel
    async with listening(server) as port, grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        assert await channel.unary_unary(path("Pay", service))(b"5") == b"5"
        await telemetry.spans_of(int(recorded), int(recorded))


def _lines(caplog: pytest.LogCaptureFixture, word: str) -> list[str]:
    return [one.message for one in caplog.records if one.name == "rsketch_telemetry" and word in one.message]


def test_server_of_threads_is_left_alone_and_said_once(telemetry: Telemetry, caplog: pytest.LogCaptureFixture) -> None:
    """A synchronous server and channel work without telemetry of ours; one line says so, however many there are."""
    with caplog.at_level(logging.INFO, "rsketch_telemetry"), ThreadPoolExecutor(2) as pool:
        for _ in range(2):
            server = grpc.server(pool)
            handler: Handler = grpc.unary_unary_rpc_method_handler(lambda request, _: request)
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"Pay": handler}),))
            port = server.add_insecure_port("127.0.0.1:0")
            server.start()
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                call: Any = channel.unary_unary(path("Pay"))
                assert call(b"5") == b"5"
            server.stop(None).wait()

    (line,) = _lines(caplog, "thread-pool")
    assert line.startswith("telemetry: a thread-pool grpc.server has no telemetry of ours")
    assert len(_lines(caplog, "synchronous")) == 1
    assert telemetry.spans.get_finished_spans() == ()


def test_server_of_threads_that_contrib_has_is_not_mentioned(
    telemetry: Telemetry, caplog: pytest.LogCaptureFixture
) -> None:
    """Where contrib's instrumentors have the synchronous stack, or nobody is to, there is nothing to say."""
    contrib: list[Any] = [GrpcInstrumentorServer(), GrpcInstrumentorClient()]  # type: ignore[no-untyped-call] # contrib's
    with caplog.at_level(logging.INFO, "rsketch_telemetry"), ThreadPoolExecutor(1) as pool:
        for one in contrib:
            one.instrument(tracer_provider=trace.NoOpTracerProvider())
        try:
            grpc.server(pool).stop(None)
            grpc.insecure_channel("127.0.0.1:1").close()
        finally:
            for one in contrib:
                one.uninstrument()
        with suppress_instrumentation():
            grpc.server(pool).stop(None)
            grpc.insecure_channel("127.0.0.1:1").close()

    assert _lines(caplog, "telemetry of ours") == []


async def test_aio_server_with_a_pool_is_none_of_threads(
    telemetry: Telemetry, caplog: pytest.LogCaptureFixture
) -> None:
    """A grpc.aio server that has a thread pool is recorded, and not taken for a synchronous one."""
    with caplog.at_level(logging.INFO, "rsketch_telemetry"), ThreadPoolExecutor(1) as pool:
        async with serving(unary(echo), migration_thread_pool=pool) as (_, channel):
            await channel.unary_unary(path("Pay"))(b"")
            await telemetry.both()

    assert _lines(caplog, "telemetry") == []


async def test_server_made_too_early_says_so(caplog: pytest.LogCaptureFixture) -> None:
    """A server made before `instrument()` serves without telemetry, and one line says so when it starts."""
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, unary(echo)),))
    telemetry = Telemetry()
    telemetry.start()
    channel: Channel
    try:
        with caplog.at_level(logging.INFO, "rsketch_telemetry"):
            async with listening(server) as port, grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                assert await channel.unary_unary(path("Pay"))(b"5") == b"5"
                await telemetry.spans_of(attempts=0)
    finally:
        telemetry.close()

    assert _lines(caplog, "telemetry") == ["telemetry: a grpc.aio server made before instrument() has no telemetry"]


async def test_uninstrument_leaves_core_as_it_was() -> None:
    """All that is replaced inside grpcio is put back, and what is served meanwhile goes on."""
    core: Any = importlib.import_module("grpc._cython.cygrpc")
    names = ("execute_batch", "_handle_cancellation_from_core", "_send_initial_metadata")
    before, logger = [getattr(core, name) for name in names], logging.getLogger(core.__name__)
    telemetry = Telemetry()
    telemetry.start(_CAPTURING)
    release = asyncio.Event()

    async def handler(request: bytes, _context: Any) -> bytes:
        await release.wait()
        return request

    async with serving(unary(handler)) as (_, channel):
        call = channel.unary_unary(path("Pay"))(b"5")
        assert [getattr(core, name) for name in names] != before
        telemetry.close()
        release.set()
        assert await call == b"5"

    assert [getattr(core, name) for name in names] == before
    assert "debug" not in vars(logger)
