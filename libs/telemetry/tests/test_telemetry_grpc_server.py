"""The grpc.aio server's instrumentor, against real servers and channels."""

import asyncio
import logging
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc.aio import server as early_server
from opentelemetry import baggage, trace
from opentelemetry import context as context_api
from opentelemetry.instrumentation.grpc import GrpcAioInstrumentorServer, aio_server_interceptor
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk.metrics.export import HistogramDataPoint
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.trace import SpanKind, StatusCode
from recording import Instrumented, attributes, seconds_of, until
from rsketch_telemetry import _grpc_internals as internals
from rsketch_telemetry import semconv
from rsketch_telemetry.grpc import GrpcAioServerInstrumentor
from rsketch_telemetry.instrumentor_settings import InstrumentorSettings
from till import SERVICE, Channel, Handler, listening, path, status_of

_TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
_PARENT = ("traceparent", f"00-{_TRACE_ID}-b7ad6b7169203331-01")


class Telemetry(Instrumented[GrpcAioServerInstrumentor]):
    """Providers of one test, and what they have seen of the calls served."""

    def __init__(self) -> None:
        super().__init__(GrpcAioServerInstrumentor())

    def servers(self) -> list[ReadableSpan]:
        """Return the SERVER spans that have ended."""
        return self.ended(SpanKind.SERVER)

    async def server(self) -> ReadableSpan:
        """Wait for the one SERVER span and check that metric and span say the same."""
        await until(self.servers)
        (span,) = self.servers()
        (point,) = self.points()
        assert point.sum == pytest.approx(seconds_of(span))
        assert point.attributes is not None
        assert span.attributes is not None
        only_on_span = {semconv.RPC_METHOD_ORIGINAL, semconv.NETWORK_PEER_ADDRESS, semconv.NETWORK_PEER_PORT}
        assert dict(point.attributes) == {k: v for k, v in span.attributes.items() if k not in only_on_span}
        return span

    def points(self) -> list[HistogramDataPoint]:
        """Return the points of `rpc.server.call.duration`."""
        return self.histogram("rpc.server.call.duration")

    def exceptions(self) -> list[tuple[str | None, object]]:
        """Return event name and exception type of the log records."""
        return [(record.event_name, attributes(record).get("exception.type")) for record in self.records()]


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    """Grpc.aio's servers instrumented with providers of the test's own."""
    telemetry = Telemetry()
    telemetry.instrument()
    yield telemetry
    telemetry.close()


@pytest.fixture(params=["generic", "registered"])
def registration(request: pytest.FixtureRequest) -> str:
    """Both ways to tell a server its handlers; generated code uses both at once."""
    return str(request.param)


@asynccontextmanager
async def serving(
    methods: dict[str, Handler],
    registration: str = "generic",
    make: Callable[..., grpc.aio.Server] = grpc.aio.server,
    **options: Any,
) -> AsyncIterator[Channel]:
    """Serve *methods* of the till's service, and yield a channel to them."""
    server = make(**options)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
    if registration == "registered":
        server.add_registered_method_handlers(SERVICE, methods)
    async with listening(server) as port, grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel


async def echo(request: bytes, _context: Any) -> bytes:
    """Answer with what was asked."""
    return request


async def test_unary_call_is_one_server_span_under_its_caller(telemetry: Telemetry, registration: str) -> None:
    """A unary call yields one SERVER span with the conventions' name and attributes, a child of the caller's."""
    async with serving({"Pay": grpc.unary_unary_rpc_method_handler(echo)}, registration) as channel:
        answer = await channel.unary_unary(path("Pay"))(b"5", metadata=(_PARENT, ("x-bin", b"\0")))
        span = await telemetry.server()

    assert answer == b"5"
    assert span.name == "shop.v1.Till/Pay"
    peer_port = attributes(span).get("network.peer.port")
    assert isinstance(peer_port, int)
    assert attributes(span) == {
        "rpc.system.name": "grpc",
        "rpc.method": "shop.v1.Till/Pay",
        "rpc.status_code": "OK",
        "network.peer.address": "127.0.0.1",
        "network.peer.port": peer_port,
    }
    assert span.parent is not None
    assert (span.parent.trace_id, span.parent.is_remote) == (int(_TRACE_ID, 16), True)
    assert span.status.status_code is StatusCode.UNSET
    assert span.instrumentation_scope is not None
    assert span.instrumentation_scope.schema_url == semconv.SCHEMA_URL


async def test_handler_runs_in_the_context_of_its_call(telemetry: Telemetry) -> None:
    """The handler sees the SERVER span as the current one and the caller's baggage, nothing of the server's start."""
    seen: list[object] = []

    async def handler(request: bytes, _context: Any) -> bytes:
        seen.append(baggage.get_baggage("shop"))
        with telemetry.tracer.start_as_current_span("inner"):
            await asyncio.sleep(0)
        return request

    with telemetry.tracer.start_as_current_span("start-up"):
        async with serving({"Pay": grpc.unary_unary_rpc_method_handler(handler)}) as channel:
            await channel.unary_unary(path("Pay"))(b"", metadata=(("baggage", "shop=corner"),))
            span = await telemetry.server()

    inner = next(one for one in telemetry.spans.get_finished_spans() if one.name == "inner")
    assert seen == ["corner"]
    assert span.parent is None
    assert inner.parent is not None
    assert inner.parent.span_id == span.context.span_id


async def _stream_by_yield(request: bytes, _context: Any) -> AsyncIterator[bytes]:
    for number in range(3):
        await asyncio.sleep(0.02)
        yield request + str(number).encode()


async def _stream_by_write(request: bytes, context: Any) -> None:
    for number in range(3):
        await asyncio.sleep(0.02)
        await context.write(request + str(number).encode())


@pytest.mark.parametrize("handler", [_stream_by_yield, _stream_by_write])
async def test_response_stream_is_recorded_whole(telemetry: Telemetry, registration: str, handler: Any) -> None:
    """Both styles of a streaming handler work unchanged, and the span lasts until the stream's end."""
    async with serving({"Watch": grpc.unary_stream_rpc_method_handler(handler)}, registration) as channel:
        got = [message async for message in channel.unary_stream(path("Watch"))(b"n")]
        span = await telemetry.server()

    assert got == [b"n0", b"n1", b"n2"]
    assert attributes(span)["rpc.status_code"] == "OK"
    assert seconds_of(span) > 0.055


async def test_request_stream_is_recorded_whole(telemetry: Telemetry, registration: str) -> None:
    """A client-streaming call is one span, and its handler reads the stream as ever."""

    async def handler(requests: AsyncIterator[bytes], _context: Any) -> bytes:
        return b"".join([request async for request in requests])

    async def requests() -> AsyncIterator[bytes]:
        yield b"a"
        await asyncio.sleep(0.02)
        yield b"b"

    async with serving({"Fill": grpc.stream_unary_rpc_method_handler(handler)}, registration) as channel:
        answer = await channel.stream_unary(path("Fill"))(requests())
        span = await telemetry.server()

    assert answer == b"ab"
    assert attributes(span)["rpc.status_code"] == "OK"


async def _talk_by_yield(requests: AsyncIterator[bytes], _context: Any) -> AsyncIterator[bytes]:
    async for request in requests:
        yield request.upper()


async def _talk_by_write(_requests: Any, context: Any) -> None:
    while (request := await context.read()) is not grpc.aio.EOF:
        await context.write(request.upper())


@pytest.mark.parametrize("handler", [_talk_by_yield, _talk_by_write])
async def test_two_streams_are_one_span(telemetry: Telemetry, registration: str, handler: Any) -> None:
    """A bidirectional call interleaves its messages as ever and is one span."""
    async with serving({"Talk": grpc.stream_stream_rpc_method_handler(handler)}, registration) as channel:
        call = channel.stream_stream(path("Talk"))()
        got = []
        for message in (b"a", b"b"):
            await call.write(message)
            got.append(await call.read())
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
        span = await telemetry.server()

    assert got == [b"A", b"B"]
    assert attributes(span)["rpc.status_code"] == "OK"


async def test_handlers_in_threads_are_recorded(telemetry: Telemetry, registration: str) -> None:
    """Handlers that are not coroutines run in the thread pool, in the context of their call, with their own status."""
    current: list[int] = []

    def pay(request: bytes, context: Any) -> bytes:
        current.append(trace.get_current_span().get_span_context().span_id)
        context.set_trailing_metadata((("till", "7"),))
        return request

    def watch(request: bytes, _context: Any) -> Iterator[bytes]:
        for _ in range(2):
            current.append(trace.get_current_span().get_span_context().span_id)
            yield request

    handlers: dict[str, Handler] = {
        "Pay": grpc.unary_unary_rpc_method_handler(pay),
        "Watch": grpc.unary_stream_rpc_method_handler(watch),
    }
    with ThreadPoolExecutor(1) as pool:
        async with serving(handlers, registration, migration_thread_pool=pool) as channel:
            call = channel.unary_unary(path("Pay"))(b"5")
            assert await call == b"5"
            assert tuple(await call.trailing_metadata()) == (("till", "7"),)
            await until(telemetry.servers)
            assert [one async for one in channel.unary_stream(path("Watch"))(b"n")] == [b"n", b"n"]
            await until(lambda: len(telemetry.servers()) == 2)
        left = pool.submit(trace.get_current_span).result()

    pay_span, watch_span = telemetry.servers()
    assert current == [pay_span.context.span_id, watch_span.context.span_id, watch_span.context.span_id]
    assert left is trace.INVALID_SPAN
    assert [attributes(span)["rpc.status_code"] for span in telemetry.servers()] == ["OK", "OK"]


def _abort_in_thread(_request: bytes, context: Any) -> bytes:
    # Raises in newer versions of grpcio only.
    context.abort(grpc.StatusCode.DATA_LOSS, "gone")
    return b""


def _set_code_in_thread(_request: bytes, context: Any) -> bytes:
    context.set_code(grpc.StatusCode.NOT_FOUND)
    return b""


def _raise_in_thread(_request: bytes, _context: Any) -> bytes:
    raise LookupError("no till")


def _raise_in_threaded_stream(_request: bytes, _context: Any) -> Iterator[bytes]:
    yield b"1"
    raise LookupError("no till")


async def _abort(_request: bytes, context: Any) -> bytes:
    await context.abort(grpc.StatusCode.DATA_LOSS, "gone")
    raise AssertionError


async def _set_code(_request: bytes, context: Any) -> bytes:
    context.set_code(grpc.StatusCode.NOT_FOUND)
    return b""


async def _set_number(_request: bytes, context: Any) -> bytes:
    context.set_code(5)
    return b""


async def _raise(_request: bytes, _context: Any) -> bytes:
    raise LookupError("no till")


async def _raise_with_code(_request: bytes, context: Any) -> bytes:
    context.set_code(grpc.StatusCode.UNAVAILABLE)
    raise LookupError("no till")


async def _abort_stream(_request: bytes, context: Any) -> AsyncIterator[bytes]:
    yield b"1"
    await context.abort(grpc.StatusCode.DATA_LOSS, "gone")


async def _raise_in_stream(_request: bytes, _context: Any) -> AsyncIterator[bytes]:
    yield b"1"
    raise LookupError("no till")


async def _raise_in_writer(_request: bytes, context: Any) -> None:
    await context.write(b"1")
    raise LookupError("no till")


async def _yield_what_cannot_be_sent(_request: bytes, _context: Any) -> AsyncIterator[object]:
    yield b"1"
    yield object()


_RAISED = [("rpc.server.call.exception", "LookupError")]


@pytest.mark.parametrize(
    ("handler", "status", "logged"),
    [
        (_abort, "DATA_LOSS", []),
        (_set_code, "NOT_FOUND", []),
        (_set_number, "NOT_FOUND", []),
        (_raise, "UNKNOWN", _RAISED),
        (_raise_with_code, "UNAVAILABLE", _RAISED),
        (_abort_in_thread, "DATA_LOSS", []),
        (_set_code_in_thread, "NOT_FOUND", []),
        (_raise_in_thread, "UNKNOWN", _RAISED),
    ],
)
async def test_unary_failure_has_the_status_of_the_wire(
    telemetry: Telemetry, registration: str, handler: Any, status: str, logged: list[Any]
) -> None:
    """Span and caller see the same status; an exception that nobody handled is one log record."""
    async with serving({"Pay": grpc.unary_unary_rpc_method_handler(handler)}, registration) as channel:
        seen = await status_of(channel.unary_unary(path("Pay"))(b""))
        span = await telemetry.server()

    assert seen.name == status == attributes(span)["rpc.status_code"]
    assert attributes(span).get("error.type") == (None if status == "NOT_FOUND" else status)
    assert (span.status.status_code is StatusCode.ERROR) == (status != "NOT_FOUND")
    assert telemetry.exceptions() == logged


@pytest.mark.parametrize(
    ("handler", "status", "logged"),
    [
        (_abort_stream, "DATA_LOSS", []),
        (_raise_in_stream, "UNKNOWN", _RAISED),
        (_raise_in_writer, "UNKNOWN", _RAISED),
        (_raise_in_threaded_stream, "UNKNOWN", _RAISED),
        (_yield_what_cannot_be_sent, "UNKNOWN", [("rpc.server.call.exception", "TypeError")]),
    ],
)
async def test_failure_in_mid_stream_has_the_status_of_the_wire(
    telemetry: Telemetry, handler: Any, status: str, logged: list[Any]
) -> None:
    """A stream that fails half-way is an error on the span too, with the exception where there is one."""

    def serialize(message: object) -> bytes:
        if not isinstance(message, bytes):
            raise TypeError
        return message

    handlers: dict[str, Handler] = {
        "Watch": grpc.unary_stream_rpc_method_handler(handler, response_serializer=serialize)
    }
    async with serving(handlers) as channel:
        call = channel.unary_stream(path("Watch"))(b"")
        assert await call.read() == b"1"
        seen = await status_of(call.read())
        span = await telemetry.server()

    assert seen.name == status == attributes(span)["rpc.status_code"] == attributes(span)["error.type"]
    assert telemetry.exceptions() == logged


@pytest.mark.parametrize("side", ["request_deserializer", "response_serializer"])
async def test_message_that_cannot_be_converted_is_unknown(telemetry: Telemetry, side: str) -> None:
    """An exception in a message's conversion, outside of the handler, is on the wire and on the span."""

    def convert(_message: bytes) -> bytes:
        raise LookupError

    handlers: dict[str, Handler] = {"Pay": grpc.unary_unary_rpc_method_handler(echo, **{side: convert})}
    async with serving(handlers) as channel:
        seen = await status_of(channel.unary_unary(path("Pay"))(b""))
        span = await telemetry.server()

    assert seen.name == "UNKNOWN" == attributes(span)["rpc.status_code"]
    assert telemetry.exceptions() == _RAISED


@pytest.mark.parametrize("style", ["coroutine", "generator"])
async def test_cancel_by_the_caller_reaches_the_handler(telemetry: Telemetry, style: str) -> None:
    """A caller that cancels stops the handler, whose clean-up runs, and the status is CANCELLED: no error of ours."""
    started, stopped = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        started.set()
        try:
            await asyncio.sleep(60)
        finally:
            stopped.set()

    async def coroutine(request: bytes, _context: Any) -> None:
        await wait()

    async def generator(request: bytes, _context: Any) -> AsyncIterator[bytes]:
        await wait()
        yield request

    handler: Any = coroutine if style == "coroutine" else generator
    async with serving({"Watch": grpc.unary_stream_rpc_method_handler(handler)}) as channel:
        call = channel.unary_stream(path("Watch"))(b"")
        await asyncio.wait_for(started.wait(), 5)
        call.cancel()
        await asyncio.wait_for(stopped.wait(), 5)
        span = await telemetry.server()

    assert attributes(span)["rpc.status_code"] == "CANCELLED"
    assert span.status.status_code is StatusCode.UNSET
    assert telemetry.exceptions() == []


async def test_generator_is_closed_when_the_caller_leaves_it(telemetry: Telemetry) -> None:
    """A caller that leaves while the stream is blocked on it closes the user's generator, without a complaint."""
    closed = asyncio.Event()

    async def handler(_request: bytes, _context: Any) -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"x" * 1_000_000
        finally:
            await asyncio.sleep(0)
            closed.set()

    async with serving({"Watch": grpc.unary_stream_rpc_method_handler(handler)}) as channel:
        call = channel.unary_stream(path("Watch"))(b"")
        await call.read()
        call.cancel()
        await asyncio.wait_for(closed.wait(), 5)
        span = await telemetry.server()

    assert attributes(span)["rpc.status_code"] == "CANCELLED"


async def test_stream_is_not_read_ahead(telemetry: Telemetry) -> None:
    """The handler is held up by a caller that does not read, as without us."""
    yielded = 0

    async def handler(_request: bytes, _context: Any) -> AsyncIterator[bytes]:
        nonlocal yielded
        for _ in range(1000):
            yielded += 1
            yield b"x" * 100_000

    async with serving({"Watch": grpc.unary_stream_rpc_method_handler(handler)}) as channel:
        call = channel.unary_stream(path("Watch"))(b"")
        await call.read()
        held = 0
        while held != yielded:
            held = yielded
            await asyncio.sleep(0.2)
        while await call.read() is not grpc.aio.EOF:
            pass
        await telemetry.server()

    # How much the connection buffers is gRPC's own affair; that it comes to a halt is what counts.
    assert held < yielded == 1000


@pytest.mark.parametrize("seconds", [0.2, 1.003])
async def test_deadline_is_told_from_a_cancel(telemetry: Telemetry, seconds: float) -> None:
    """A call whose time is over is DEADLINE_EXCEEDED, also where gRPC rounds the time up on its way."""

    async def handler(request: bytes, _context: Any) -> bytes:
        await asyncio.sleep(60)
        return request

    async with serving({"Pay": grpc.unary_unary_rpc_method_handler(handler)}) as channel:
        seen = await status_of(channel.unary_unary(path("Pay"))(b"", timeout=seconds))
        span = await telemetry.server()

    assert seen.name == "DEADLINE_EXCEEDED" == attributes(span)["rpc.status_code"] == attributes(span)["error.type"]


async def test_cancel_long_before_the_deadline_is_a_cancel(telemetry: Telemetry) -> None:
    """A deadline that is far away does not make a cancelled call late."""
    started = asyncio.Event()

    async def handler(request: bytes, _context: Any) -> bytes:
        started.set()
        await asyncio.sleep(60)
        return request

    async with serving({"Pay": grpc.unary_unary_rpc_method_handler(handler)}) as channel:
        call = channel.unary_unary(path("Pay"))(b"", timeout=30)
        await asyncio.wait_for(started.wait(), 5)
        call.cancel()
        span = await telemetry.server()

    assert attributes(span)["rpc.status_code"] == "CANCELLED"


async def test_call_aborted_by_the_stop_is_unavailable(telemetry: Telemetry) -> None:
    """What the server aborts when it stops is UNAVAILABLE for the caller, so it is on the span."""
    started = asyncio.Event()

    async def handler(request: bytes, _context: Any) -> bytes:
        started.set()
        await asyncio.sleep(60)
        return request

    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(SERVICE, {"Pay": grpc.unary_unary_rpc_method_handler(handler)}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    channel: Channel
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary(path("Pay"))(b"")
        await asyncio.wait_for(started.wait(), 5)
        await server.stop(0.05)
        seen = await status_of(call)
        span = await telemetry.server()

    assert seen.name == "UNAVAILABLE" == attributes(span)["rpc.status_code"]


@pytest.mark.parametrize(
    "method", ["/shop.v1.Till/Steal", "/shop.v1.Nobody/Pay", "/nonsense", "/a/b/c", "/shop.v1.Till/"]
)
async def test_unknown_method_is_other(telemetry: Telemetry, registration: str, method: str) -> None:
    """A method that the server does not have never becomes a name or a label."""
    async with serving({"Pay": grpc.unary_unary_rpc_method_handler(echo)}, registration) as channel:
        seen = await status_of(channel.unary_unary(method)(b""))
        span = await telemetry.server()

    assert seen is grpc.StatusCode.UNIMPLEMENTED
    assert span.name == "grpc"
    assert attributes(span) == {
        "rpc.system.name": "grpc",
        "rpc.method": "_OTHER",
        "rpc.method_original": method[1:],
        "rpc.status_code": "UNIMPLEMENTED",
        "error.type": "UNIMPLEMENTED",
        "network.peer.address": "127.0.0.1",
        "network.peer.port": attributes(span)["network.peer.port"],
    }


class _Refusing(grpc.aio.ServerInterceptor):
    """Refuses every call in its own handler, as an interceptor for authentication does."""

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        with trace.get_tracer_provider().get_tracer("user").start_as_current_span("refuse"):
            await asyncio.sleep(0.02)

        async def refuse(_request: bytes, context: Any) -> None:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "who are you?")

        return grpc.unary_unary_rpc_method_handler(refuse)


class _Timing(grpc.aio.ServerInterceptor):
    """Wraps the handler, as an interceptor that measures does."""

    def __init__(self) -> None:
        self.spans: list[int] = []

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        self.spans.append(trace.get_current_span().get_span_context().span_id)
        handler = await continuation(handler_call_details)

        async def timed(request: bytes, context: Any) -> Any:
            self.spans.append(trace.get_current_span().get_span_context().span_id)
            return await handler.unary_unary(request, context)

        return grpc.unary_unary_rpc_method_handler(timed)


class _Failing(grpc.aio.ServerInterceptor):
    """Raises before the handler is found."""

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        raise LookupError("no user database")


async def test_user_interceptors_run_inside_the_span(telemetry: Telemetry, registration: str) -> None:
    """A user's interceptor runs as ever, with the SERVER span current both while it looks up and while it serves."""
    timing = _Timing()
    handlers: dict[str, Handler] = {"Pay": grpc.unary_unary_rpc_method_handler(echo)}
    async with serving(handlers, registration, interceptors=[timing]) as channel:
        assert await channel.unary_unary(path("Pay"))(b"5") == b"5"
        span = await telemetry.server()

    assert timing.spans == [span.context.span_id] * 2


@pytest.mark.parametrize(
    ("interceptor", "status", "logged"), [(_Refusing(), "UNAUTHENTICATED", []), (_Failing(), "UNKNOWN", _RAISED)]
)
async def test_refusal_by_an_interceptor_is_recorded(
    telemetry: Telemetry, registration: str, interceptor: Any, status: str, logged: list[Any]
) -> None:
    """A call that an interceptor refuses has a span with its status and, as the server has it, its method."""
    handlers: dict[str, Handler] = {"Pay": grpc.unary_unary_rpc_method_handler(echo)}
    async with serving(handlers, registration, interceptors=[interceptor]) as channel:
        seen = await status_of(channel.unary_unary(path("Pay"))(b""))
        span = await telemetry.server()

    assert seen.name == status == attributes(span)["rpc.status_code"]
    assert span.name == "shop.v1.Till/Pay"
    assert telemetry.exceptions() == logged


async def test_refused_invention_is_still_other(telemetry: Telemetry) -> None:
    """An interceptor that refuses a method nobody has does not make it a label."""
    handlers: dict[str, Handler] = {"Pay": grpc.unary_unary_rpc_method_handler(echo)}
    async with serving(handlers, interceptors=[_Refusing()]) as channel:
        seen = await status_of(channel.unary_unary("/made.Up/Name")(b""))
        span = await telemetry.server()

    assert seen is grpc.StatusCode.UNAUTHENTICATED
    assert attributes(span)["rpc.method"] == "_OTHER"


async def test_trailing_metadata_and_details_are_unchanged(telemetry: Telemetry) -> None:
    """What a handler says with its status arrives at the caller."""

    async def handler(_request: bytes, context: Any) -> bytes:
        await context.send_initial_metadata((("early", "1"),))
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "name is blank", (("field", "name"),))
        raise AssertionError

    async with serving({"Pay": grpc.unary_unary_rpc_method_handler(handler)}) as channel:
        call = channel.unary_unary(path("Pay"))(b"")
        assert await status_of(call) is grpc.StatusCode.INVALID_ARGUMENT
        await telemetry.server()

    assert await call.details() == "name is blank"
    assert tuple(await call.initial_metadata()) == (("early", "1"),)
    assert tuple(await call.trailing_metadata()) == (("field", "name"),)


async def test_excluded_service_has_no_telemetry() -> None:
    """A service on the list gets neither span nor metric, not even of calls in flight, and works; another one does."""
    telemetry = Telemetry()
    telemetry.instrument(InstrumentorSettings(excluded_services=frozenset({SERVICE})))
    try:
        async with serving({"Pay": grpc.unary_unary_rpc_method_handler(echo)}) as channel:
            assert await channel.unary_unary(path("Pay"))(b"5") == b"5"
            recorded = telemetry.collected()
            await status_of(channel.unary_unary(path("Pay", "shop.v1.Other"))(b""))
            span = await telemetry.server()
    finally:
        telemetry.close()

    assert recorded == []

    assert attributes(span)["rpc.method_original"] == "shop.v1.Other/Pay"


async def test_settings_are_the_environment_s_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """Called from code without settings, the instrumentor leaves out the services that the operator excludes."""
    monkeypatch.setenv("OTEL_PYTHON_GRPC_EXCLUDED_SERVICES", SERVICE)
    telemetry = Telemetry()
    telemetry.instrument()
    try:
        async with serving({"Pay": grpc.unary_unary_rpc_method_handler(echo)}) as channel:
            assert await channel.unary_unary(path("Pay"))(b"5") == b"5"
            recorded = telemetry.collected()
            await status_of(channel.unary_unary(path("Pay", "shop.v1.Other"))(b""))
            span = await telemetry.server()
    finally:
        telemetry.close()

    assert recorded == []

    assert attributes(span)["rpc.method_original"] == "shop.v1.Other/Pay"


async def test_suppressed_server_has_no_telemetry(telemetry: Telemetry) -> None:
    """A server started with instrumentation suppressed records nothing."""
    with suppress_instrumentation():
        async with serving({"Pay": grpc.unary_unary_rpc_method_handler(echo)}) as channel:
            await channel.unary_unary(path("Pay"))(b"")

    assert telemetry.servers() == []
    assert telemetry.points() == []


async def test_name_imported_before_is_instrumented(telemetry: Telemetry) -> None:
    """A `server` function imported before `instrument()` makes recorded servers all the same."""
    async with serving({"Pay": grpc.unary_unary_rpc_method_handler(echo)}, make=early_server) as channel:
        await channel.unary_unary(path("Pay"))(b"")
        span = await telemetry.server()

    assert span.name == "shop.v1.Till/Pay"


async def test_handlers_given_to_the_constructor_are_known(telemetry: Telemetry) -> None:
    """Handlers passed to `server()` count as the server's methods, in whatever iterable they come."""
    generic = grpc.method_handlers_generic_handler("shop.v1.Door", {"Open": grpc.unary_unary_rpc_method_handler(echo)})
    async with serving({}, handlers=[generic]) as channel:
        await channel.unary_unary("/shop.v1.Door/Open")(b"")
        span = await telemetry.server()

    assert span.name == "shop.v1.Door/Open"


async def test_uninstrument_restores_and_silences() -> None:
    """After `uninstrument()` the class is as before, and a server made in between serves without telemetry."""
    concrete: Any = type(grpc.aio.server())
    before = {name: getattr(concrete, name) for name in ("__init__", "stop", "add_generic_rpc_handlers")}
    telemetry = Telemetry()
    telemetry.instrument()
    try:
        async with serving({"Pay": grpc.unary_unary_rpc_method_handler(echo)}) as channel:
            telemetry.instrumentor.uninstrument()
            after = {name: getattr(concrete, name) for name in before}
            assert await channel.unary_unary(path("Pay"))(b"5") == b"5"
    finally:
        telemetry.close()

    assert after == before
    assert telemetry.servers() == []


async def test_contrib_interceptor_makes_us_stand_down(telemetry: Telemetry, caplog: pytest.LogCaptureFixture) -> None:
    """A server with contrib's interceptor is left to it, and one line says so, however many servers there are."""
    contrib = TracerProvider()
    with caplog.at_level(logging.WARNING, "rsketch_telemetry"):
        for _ in range(2):
            interceptor = aio_server_interceptor(tracer_provider=contrib)  # type: ignore[no-untyped-call] # contrib's
            handlers: dict[str, Handler] = {"Pay": grpc.unary_unary_rpc_method_handler(echo)}
            async with serving(handlers, interceptors=[interceptor]) as channel:
                await channel.unary_unary(path("Pay"))(b"")

    assert telemetry.servers() == []
    assert [record.message for record in caplog.records if record.name == "rsketch_telemetry"] == [
        "telemetry: GrpcAioServerInstrumentor stands down: opentelemetry-instrumentation-grpc is active"
    ]


async def test_active_contrib_instrumentor_makes_us_stand_down(caplog: pytest.LogCaptureFixture) -> None:
    """Where contrib's instrumentor is active already, nothing is patched and one line says so."""
    concrete: Any = type(grpc.aio.server())
    before = concrete.__init__
    contrib, telemetry = GrpcAioInstrumentorServer(), Telemetry()  # type: ignore[no-untyped-call] # contrib's
    contrib.instrument(tracer_provider=telemetry.tracer_provider)
    try:
        with caplog.at_level(logging.WARNING, "rsketch_telemetry"):
            telemetry.instrument()
        assert concrete.__init__ is before
    finally:
        contrib.uninstrument()
        telemetry.close()

    assert [record.message for record in caplog.records if record.name == "rsketch_telemetry"] == [
        "telemetry: GrpcAioServerInstrumentor stands down: opentelemetry-instrumentation-grpc is active"
    ]


async def test_concurrency_refusal_is_recorded(telemetry: Telemetry) -> None:
    """A call beyond the server's limit has a span with the status that refused it, where gRPC refuses it at all."""
    release = asyncio.Event()
    started = asyncio.Event()

    async def handler(request: bytes, _context: Any) -> bytes:
        started.set()
        await release.wait()
        return request

    handlers: dict[str, Handler] = {"Pay": grpc.unary_unary_rpc_method_handler(handler)}
    async with serving(handlers, maximum_concurrent_rpcs=1) as channel:
        first = channel.unary_unary(path("Pay"))(b"1")
        await asyncio.wait_for(started.wait(), 5)
        second = asyncio.ensure_future(status_of(channel.unary_unary(path("Pay"))(b"2", timeout=1)))
        seen = await second
        release.set()
        assert await first == b"1"
        await until(lambda: len(telemetry.servers()) == 2)

    statuses = [attributes(span)["rpc.status_code"] for span in telemetry.servers()]
    assert seen.name == statuses[0]
    assert statuses[1] == "OK"


async def test_failing_propagator_costs_the_parent_only(telemetry: Telemetry, caplog: pytest.LogCaptureFixture) -> None:
    """Metadata that no propagator understands gives a span of a trace of its own."""
    async with serving({"Pay": grpc.unary_unary_rpc_method_handler(echo)}) as channel:
        metadata = (("traceparent", "nonsense"), ("tracestate", "=,="))
        assert await channel.unary_unary(path("Pay"))(b"5", metadata=metadata) == b"5"
        span = await telemetry.server()

    assert span.parent is None


async def test_context_of_the_test_is_untouched(telemetry: Telemetry) -> None:
    """Nothing of a call's context is left where the server was started."""
    before = context_api.get_current()
    async with serving({"Pay": grpc.unary_unary_rpc_method_handler(echo)}) as channel:
        await channel.unary_unary(path("Pay"))(b"", metadata=(_PARENT,))
        await telemetry.server()

    assert context_api.get_current() == before


def test_module_loads_without_grpcio() -> None:
    """Without grpcio the module imports, and `instrument()` says what is missing instead of failing."""
    code = (
        "import sys; sys.modules['grpc'] = None; import logging; logging.basicConfig()\n"
        "from rsketch_telemetry.grpc import GrpcAioServerInstrumentor as G\n"
        "print(G().instrumentation_dependencies())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)

    assert done.stdout.strip() == "('grpcio >= 1.66',)", done.stderr


@pytest.mark.parametrize("turns", range(6))
async def test_a_stop_right_after_the_answer_takes_nothing_back(telemetry: Telemetry, turns: int) -> None:
    """However close behind its answer the server stops, the span says what the caller got."""
    server = grpc.aio.server()
    stopping: list[asyncio.Task[None]] = []

    async def stop() -> None:
        for _ in range(turns):
            await asyncio.sleep(0)
        await server.stop(None)

    async def handler(_request: bytes, _context: Any) -> AsyncIterator[bytes]:
        yield b"only"
        stopping.append(asyncio.create_task(stop()))

    handlers: Handler = {"Watch": grpc.unary_stream_rpc_method_handler(handler)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    channel: Channel
    async with listening(server) as port, grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_stream(path("Watch"))(b"")
        with suppress(grpc.aio.AioRpcError):
            await asyncio.wait_for(_read_all(call), 5)
        code = await asyncio.wait_for(call.code(), 5)
        await asyncio.gather(*stopping)
    span = await telemetry.server()

    assert attributes(span)["rpc.status_code"] == code.name


async def _read_all(call: Any) -> None:
    async for _ in call:
        pass


@pytest.mark.parametrize("shape", ["unary_unary", "unary_stream"])
async def test_a_response_that_is_no_bytes(telemetry: Telemetry, shape: str) -> None:
    """A serializer's mistake, which gRPC finds when it sends, is the error that the caller gets."""

    async def stream(request: bytes, _context: Any) -> AsyncIterator[bytes]:
        yield request

    make = getattr(grpc, f"{shape}_rpc_method_handler")
    behaviour = echo if shape == "unary_unary" else stream
    async with serving({"Pay": make(behaviour, response_serializer=lambda _: 5)}) as channel:
        call = getattr(channel, shape)(path("Pay"))(b"5")
        code = await call.code()
        span = await telemetry.server()

    assert code is grpc.StatusCode.UNKNOWN
    assert attributes(span)["rpc.status_code"] == "UNKNOWN"
    assert telemetry.exceptions() == [("rpc.server.call.exception", "TypeError")]


async def test_a_grpcio_that_has_changed_inside(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a class to hook is missing there is one line, no hook at all, and a server that works."""
    telemetry = Telemetry()
    before = vars(internals.SERVER)["__init__"]
    monkeypatch.delattr(internals, "SYNC_SERVER")
    with caplog.at_level(logging.WARNING, "rsketch_telemetry"):
        telemetry.instrument()
    async with serving({"Pay": grpc.unary_unary_rpc_method_handler(echo)}) as channel:
        answer = await channel.unary_unary(path("Pay"))(b"5")
    telemetry.close()

    (record,) = (record for record in caplog.records if record.name == "rsketch_telemetry")
    assert "GrpcAioServerInstrumentor stands down" in record.getMessage()
    assert vars(internals.SERVER)["__init__"] is before
    assert answer == b"5"
    assert not telemetry.servers()


_ENDS_UNDER_CALLS = """
import asyncio, os, grpc, grpc.aio
from rsketch_telemetry.testing import capture

async def hang(request, context):
    await asyncio.sleep(100)

async def main(kept):
    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(hang)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("a.B", {"C": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
    kept += [server, channel, *(asyncio.ensure_future(channel.unary_unary("/a.B/C")(b"")) for _ in range(8))]
    await asyncio.sleep(0.5)

with capture() as telemetry:
    kept = []
    asyncio.run(main(kept))
    served = [span for span in telemetry.spans if span.kind == "SERVER"]
    print(len(served), {span.attributes["rpc.status_code"] for span in served}, flush=True)
os._exit(0)
"""


def test_calls_that_the_end_of_the_program_cuts_off_are_no_success() -> None:
    """Core has not sent their status, and does not say so either: nobody waits for it any more."""
    command = [sys.executable, "-W", "ignore", "-c", _ENDS_UNDER_CALLS]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)

    assert ran.stdout == "8 {'CANCELLED'}\n"
