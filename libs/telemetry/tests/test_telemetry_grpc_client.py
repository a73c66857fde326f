"""The grpc.aio client's instrumentor, against real servers and channels."""

import asyncio
import gc
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc.aio import insecure_channel as early_channel
from opentelemetry import baggage, trace
from opentelemetry import context as context_api
from opentelemetry.instrumentation.grpc import GrpcAioInstrumentorClient, aio_client_interceptors
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk.metrics.export import HistogramDataPoint
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.trace import SpanKind, StatusCode
from recording import Instrumented, attributes, seconds_of, until
from rsketch_telemetry import semconv
from rsketch_telemetry.grpc import GrpcAioClientInstrumentor, GrpcAioServerInstrumentor
from rsketch_telemetry.instrumentor_settings import InstrumentorSettings
from rsketch_telemetry.pipeline import SUPPRESSED
from till import SERVICE, Channel, Handler, listening, path, status_of


class Telemetry(Instrumented[GrpcAioClientInstrumentor]):
    """Providers of one test, and what they have seen of the calls made."""

    def __init__(self) -> None:
        super().__init__(GrpcAioClientInstrumentor())

    def clients(self) -> list[ReadableSpan]:
        """Return the CLIENT spans that have ended."""
        return self.ended(SpanKind.CLIENT)

    async def client(self) -> ReadableSpan:
        """Wait for the one CLIENT span and check that metric and span say the same."""
        await until(self.clients)
        (span,) = self.clients()
        (point,) = self.points()
        assert point.count == 1
        assert point.sum == pytest.approx(seconds_of(span))
        assert attributes(point) == attributes(span)
        return span

    def points(self) -> list[HistogramDataPoint]:
        """Return the points of `rpc.client.call.duration`."""
        return self.histogram("rpc.client.call.duration")

    def exceptions(self) -> list[tuple[str | None, object, str | None]]:
        """Return event name, exception type and severity of the log records."""
        return [
            (record.event_name, attributes(record).get("exception.type"), record.severity_text)
            for record in self.records()
        ]


@dataclass
class Till:
    """A server whose handlers say what they saw."""

    metadata: list[tuple[str, str | bytes]] = field(default_factory=list)
    started: asyncio.Event = field(default_factory=asyncio.Event)
    stopped: asyncio.Event = field(default_factory=asyncio.Event)
    port: int = 0

    @property
    def target(self) -> str:
        """Where it listens."""
        return f"127.0.0.1:{self.port}"

    async def pay(self, request: bytes, context: Any) -> bytes:
        """Answer with the request; `fail` is refused and `wait` takes a minute."""
        self.metadata = list(context.invocation_metadata())
        if request == b"fail":
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such thing")
        if request == b"wait":
            await self._wait()
        return request

    async def watch(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        """Stream the request three times; `fail` fails then, `wait` takes a minute then."""
        self.metadata = list(context.invocation_metadata())
        for _ in range(3):
            await asyncio.sleep(0.02)
            yield request
        if request == b"fail":
            await context.abort(grpc.StatusCode.DATA_LOSS, "gone")
        if request == b"wait":
            await self._wait()

    async def fill(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        """Answer with all requests."""
        self.metadata = list(context.invocation_metadata())
        return b"".join([request async for request in requests])

    async def talk(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        """Answer each request."""
        self.metadata = list(context.invocation_metadata())
        async for request in requests:
            yield request.upper()

    async def _wait(self) -> None:
        self.started.set()
        try:
            await asyncio.sleep(60)
        finally:
            self.stopped.set()


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    """Grpc.aio's channels instrumented with providers of the test's own."""
    telemetry = Telemetry()
    telemetry.instrument()
    yield telemetry
    telemetry.close()


@asynccontextmanager
async def serving(address: str = "127.0.0.1:0") -> AsyncIterator[Till]:
    """Serve a till."""
    till = Till()
    handlers: dict[str, Handler] = {
        "Pay": grpc.unary_unary_rpc_method_handler(till.pay),
        "Watch": grpc.unary_stream_rpc_method_handler(till.watch),
        "Fill": grpc.stream_unary_rpc_method_handler(till.fill),
        "Talk": grpc.stream_stream_rpc_method_handler(till.talk),
    }
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    async with listening(server, address) as till.port:
        yield till


@asynccontextmanager
async def connected(**options: Any) -> AsyncIterator[tuple[Till, Channel]]:
    """Serve a till and yield a channel to it."""
    async with serving() as till, grpc.aio.insecure_channel(till.target, **options) as channel:
        yield till, channel


def traceparent(span: ReadableSpan) -> str:
    """Return what a propagator makes of a span."""
    return f"00-{span.context.trace_id:032x}-{span.context.span_id:016x}-{span.context.trace_flags:02x}"


def traceparents(till: Till) -> list[str | bytes]:
    """Return the parents that arrived at the server."""
    return [value for name, value in till.metadata if name == "traceparent"]


async def messages(*items: bytes) -> AsyncIterator[bytes]:
    """Yield the items."""
    for item in items:
        yield item


async def _pay(channel: Channel) -> object:
    return await channel.unary_unary(path("Pay"))(b"a")


async def _watch(channel: Channel) -> object:
    return [message async for message in channel.unary_stream(path("Watch"))(b"a")]


async def _watch_by_read(channel: Channel) -> object:
    call, got = channel.unary_stream(path("Watch"))(b"a"), []
    while (message := await call.read()) is not grpc.aio.EOF:
        got.append(message)
    return got


async def _fill(channel: Channel) -> object:
    return await channel.stream_unary(path("Fill"))(messages(b"a", b"b"))


async def _fill_by_write(channel: Channel) -> object:
    call = channel.stream_unary(path("Fill"))()
    await call.write(b"a")
    await call.write(b"b")
    await call.done_writing()
    return await call


async def _talk(channel: Channel) -> object:
    return [message async for message in channel.stream_stream(path("Talk"))(messages(b"a", b"b"))]


async def _talk_by_write(channel: Channel) -> object:
    call, got = channel.stream_stream(path("Talk"))(), []
    for message in (b"a", b"b"):
        await call.write(message)
        got.append(await call.read())
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    return got


_SHAPES = [
    (_pay, "Pay", b"a"),
    (_watch, "Watch", [b"a"] * 3),
    (_watch_by_read, "Watch", [b"a"] * 3),
    (_fill, "Fill", b"ab"),
    (_fill_by_write, "Fill", b"ab"),
    (_talk, "Talk", [b"A", b"B"]),
    (_talk_by_write, "Talk", [b"A", b"B"]),
]


class _UserUnary(grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await continuation(client_call_details, request)


class _UserWatch(grpc.aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await continuation(client_call_details, request)


class _UserFill(grpc.aio.StreamUnaryClientInterceptor):
    async def intercept_stream_unary(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return await continuation(client_call_details, request_iterator)


class _UserTalk(grpc.aio.StreamStreamClientInterceptor):
    async def intercept_stream_stream(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return await continuation(client_call_details, request_iterator)


_INTERCEPTORS = [_UserUnary(), _UserWatch(), _UserFill(), _UserTalk()]


@pytest.mark.parametrize(("make", "method", "answer"), _SHAPES)
@pytest.mark.parametrize("interceptors", [None, _INTERCEPTORS], ids=["plain", "intercepted"])
async def test_each_shape_is_one_client_span(
    telemetry: Telemetry, make: Any, method: str, answer: object, interceptors: Any
) -> None:
    """Every shape of call is one CLIENT span with the conventions' name and attributes; its context is sent."""
    async with connected(interceptors=interceptors) as (till, channel):
        with telemetry.tracer.start_as_current_span("caller") as caller:
            got = await make(channel)
        span = await telemetry.client()

    assert got == answer
    assert span.name == f"shop.v1.Till/{method}"
    assert attributes(span) == {
        "rpc.system.name": "grpc",
        "rpc.method": f"shop.v1.Till/{method}",
        "server.address": "127.0.0.1",
        "server.port": till.port,
        "rpc.status_code": "OK",
    }
    assert span.parent is not None
    assert span.parent.span_id == caller.get_span_context().span_id
    assert span.status.status_code is StatusCode.UNSET
    assert traceparents(till) == [traceparent(span)]
    if method == "Watch":
        assert seconds_of(span) > 0.055


async def test_server_span_is_the_child_of_the_client_span(telemetry: Telemetry) -> None:
    """With both sides instrumented a call is two spans of one trace, and baggage arrives."""
    servers = GrpcAioServerInstrumentor()
    servers.instrument(**telemetry.providers)
    token = context_api.attach(baggage.set_baggage("shop", "corner"))
    try:
        async with connected() as (till, channel):
            await _pay(channel)
            client = await telemetry.client()
            await until(lambda: len(telemetry.spans.get_finished_spans()) == 2)
    finally:
        context_api.detach(token)
        servers.uninstrument()

    server = next(span for span in telemetry.spans.get_finished_spans() if span.kind is SpanKind.SERVER)
    assert server.parent is not None
    assert server.parent.span_id == client.context.span_id
    assert server.context.trace_id == client.context.trace_id
    assert dict(till.metadata)["baggage"] == "shop=corner"


@pytest.mark.parametrize("interceptors", [None, _INTERCEPTORS], ids=["plain", "intercepted"])
async def test_every_status_but_ok_is_an_error(telemetry: Telemetry, interceptors: Any) -> None:
    """A status that the server gives is the span's error; it is no exception, so there is no log record of one."""
    async with connected(interceptors=interceptors) as (_, channel):
        seen = await status_of(channel.unary_unary(path("Pay"))(b"fail"))
        span = await telemetry.client()

    assert seen is grpc.StatusCode.NOT_FOUND
    assert attributes(span)["rpc.status_code"] == attributes(span)["error.type"] == "NOT_FOUND"
    assert span.status.status_code is StatusCode.ERROR
    assert telemetry.exceptions() == []


async def test_failure_in_mid_stream_is_the_span_s(telemetry: Telemetry) -> None:
    """A stream that fails half-way has the status of its end."""
    async with connected() as (_, channel):
        with pytest.raises(grpc.aio.AioRpcError):
            [one async for one in channel.unary_stream(path("Watch"))(b"fail")]
        span = await telemetry.client()

    assert attributes(span)["error.type"] == "DATA_LOSS"


async def test_deadline_is_the_span_s(telemetry: Telemetry) -> None:
    """A call whose time is over has DEADLINE_EXCEEDED."""
    async with connected() as (_, channel):
        await status_of(channel.unary_unary(path("Pay"))(b"wait", timeout=0.05))
        span = await telemetry.client()

    assert attributes(span)["error.type"] == "DEADLINE_EXCEEDED"


async def test_unreachable_server_is_the_span_s(telemetry: Telemetry) -> None:
    """A server that is not there yields UNAVAILABLE."""
    async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
        await status_of(_pay(channel))
        span = await telemetry.client()

    assert attributes(span)["error.type"] == "UNAVAILABLE"


@pytest.mark.parametrize("method", ["Pay", "Watch"])
@pytest.mark.parametrize("interceptors", [None, _INTERCEPTORS], ids=["plain", "intercepted"])
async def test_cancel_reaches_the_server(telemetry: Telemetry, method: str, interceptors: Any) -> None:
    """`cancel()` on the call stops the handler, and the span is CANCELLED."""
    async with connected(interceptors=interceptors) as (till, channel):
        call: Any = (channel.unary_unary if method == "Pay" else channel.unary_stream)(path(method))(b"wait")
        reading = asyncio.ensure_future(_read(call) if method == "Watch" else _wait_for(call))
        await asyncio.wait_for(till.started.wait(), 5)
        assert call.cancel()
        await asyncio.wait_for(till.stopped.wait(), 5)
        with suppress(asyncio.CancelledError):
            await reading
        span = await telemetry.client()

    assert call.cancelled()
    assert attributes(span)["rpc.status_code"] == "CANCELLED"


async def _read(call: Any) -> None:
    async for _ in call:
        pass


async def _wait_for(call: Any) -> None:
    await call


async def test_cancelled_task_reaches_the_server(telemetry: Telemetry) -> None:
    """A task that is cancelled while it waits for a call cancels the call, as `asyncio.timeout` does."""
    async with connected() as (till, channel):
        task = asyncio.ensure_future(_wait_for(channel.unary_unary(path("Pay"))(b"wait")))
        await asyncio.wait_for(till.started.wait(), 5)
        task.cancel()
        await asyncio.wait_for(till.stopped.wait(), 5)
        with suppress(asyncio.CancelledError):
            await task
        span = await telemetry.client()

    assert attributes(span)["rpc.status_code"] == "CANCELLED"


@pytest.mark.parametrize("interceptors", [None, _INTERCEPTORS], ids=["plain", "intercepted"])
async def test_abandoned_stream_ends_its_span_once(telemetry: Telemetry, interceptors: Any) -> None:
    """A stream that is dropped half-way is cancelled when collected, or when its channel closes: that ends its span."""
    async with connected(interceptors=interceptors) as (till, channel):
        call = channel.unary_stream(path("Watch"))(b"wait")
        assert await call.read() == b"wait"
        await asyncio.wait_for(till.started.wait(), 5)
        del call
        gc.collect()
        # Newer versions of grpcio keep an unfinished call alive until here.
        await channel.close()
        await asyncio.wait_for(till.stopped.wait(), 5)
        span = await telemetry.client()

    assert attributes(span)["rpc.status_code"] == "CANCELLED"


async def test_closed_channel_ends_its_calls(telemetry: Telemetry) -> None:
    """A channel that is closed cancels what is under way, and a call over it fails as ever, with a span."""
    async with connected() as (till, channel):
        call = channel.unary_unary(path("Pay"))(b"wait")
        await asyncio.wait_for(till.started.wait(), 5)
        await channel.close()
        span = await telemetry.client()
        with pytest.raises(grpc.aio.UsageError):
            channel.unary_unary(path("Pay"))(b"a")

    assert call.cancelled()
    assert attributes(span)["rpc.status_code"] == "CANCELLED"
    assert len(telemetry.clients()) == 2
    assert [name for name, _, _ in telemetry.exceptions()] == ["rpc.client.call.exception"]


async def test_call_object_is_grpc_s_own(telemetry: Telemetry) -> None:
    """What a caller gets is the call object of grpc.aio, with all it offers."""
    async with connected() as (_, channel):
        call = channel.unary_unary(path("Pay"))(b"a", timeout=5)
        done: list[object] = []
        call.add_done_callback(done.append)
        assert await call == b"a"
        await telemetry.client()

    assert type(call).__module__.startswith("grpc.aio")
    assert done == [call]
    assert await call.code() is grpc.StatusCode.OK
    assert call.done()


@pytest.mark.parametrize("kind", [tuple, list, lambda pairs: grpc.aio.Metadata(*pairs)], ids=["tuple", "list", "own"])
async def test_metadata_of_the_caller_is_not_touched(telemetry: Telemetry, kind: Callable[[Any], Any]) -> None:
    """The caller's metadata arrives next to the trace context, and the object it came in stays as it was."""
    stale = "00-11111111111111111111111111111111-1111111111111111-01"
    pairs = [("till", "7"), ("till", "8"), ("raw-bin", b"\0"), ("traceparent", stale)]
    metadata = kind(pairs)
    async with connected() as (till, channel):
        await channel.unary_unary(path("Pay"))(b"a", metadata=metadata)
        span = await telemetry.client()

    assert list(metadata) == pairs
    assert [pair for pair in till.metadata if pair[0] in {"till", "raw-bin"}] == pairs[:3]
    assert traceparents(till) == [traceparent(span)]


async def test_metadata_may_come_by_position(telemetry: Telemetry) -> None:
    """A streaming call's metadata given by position is enriched too."""
    async with connected() as (till, channel):
        multi: Any = channel.stream_unary(path("Fill"))
        assert await multi(messages(b"a"), 5, (("till", "7"),)) == b"a"
        await telemetry.client()

    assert {"till", "traceparent"} <= {name for name, _ in till.metadata}


class _Retrying(grpc.aio.UnaryUnaryClientInterceptor):
    """Calls a second time when the first fails."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        self.seen.append(trace.get_current_span().get_span_context().span_id)
        call = await continuation(client_call_details, request)
        if await call.code() is grpc.StatusCode.OK:
            return call
        return await continuation(client_call_details, b"again")


class _Raising(grpc.aio.UnaryUnaryClientInterceptor):
    """Fails before there is a call."""

    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        raise LookupError("no token")


class _Refusing(grpc.aio.UnaryUnaryClientInterceptor):
    """Fails with a status of its own."""

    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        raise grpc.aio.AioRpcError(grpc.StatusCode.UNAUTHENTICATED, grpc.aio.Metadata(), grpc.aio.Metadata())


class _Cached(grpc.aio.UnaryUnaryClientInterceptor):
    """Answers without a call."""

    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return b"cached"


class _Mapped(grpc.aio.UnaryStreamClientInterceptor):
    """Puts an iterator of its own in place of the call's."""

    async def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        call = await continuation(client_call_details, request)

        async def mapped() -> AsyncIterator[bytes]:
            async for message in call:
                yield message.upper()

        return mapped()


async def test_retries_are_one_logical_call(telemetry: Telemetry) -> None:
    """What an interceptor of the user's calls is within the one span, which is current in it."""
    retrying = _Retrying()
    async with connected(interceptors=[retrying]) as (_, channel):
        assert await channel.unary_unary(path("Pay"))(b"fail") == b"again"
        span = await telemetry.client()

    assert attributes(span)["rpc.status_code"] == "OK"
    assert retrying.seen == [span.context.span_id]


# Where an interceptor raised, older versions of grpcio raise it once more from the call's finalizer.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("interceptor", "error", "status", "logged"),
    [
        (_Raising(), LookupError, "UNKNOWN", [("rpc.client.call.exception", "LookupError", "WARN")]),
        (_Refusing(), grpc.aio.AioRpcError, "UNAUTHENTICATED", []),
    ],
)
async def test_failing_interceptor_ends_the_span(
    telemetry: Telemetry, interceptor: Any, error: type[Exception], status: str, logged: list[Any]
) -> None:
    """A call that an interceptor fails ends with its status; an exception that is no status is one log record."""
    async with connected(interceptors=[interceptor]) as (_, channel):
        with pytest.raises(error):
            await _pay(channel)
        span = await telemetry.client()
        gc.collect()

    assert attributes(span)["error.type"] == status
    assert telemetry.exceptions() == logged


async def test_answer_of_an_interceptor_is_ok(telemetry: Telemetry) -> None:
    """A response that an interceptor makes up is a call that went well."""
    async with connected(interceptors=[_Cached()]) as (_, channel):
        assert await _pay(channel) == b"cached"
        span = await telemetry.client()

    assert attributes(span)["rpc.status_code"] == "OK"


async def test_iterator_of_an_interceptor_is_read_to_its_end(telemetry: Telemetry) -> None:
    """A stream that an interceptor maps is still one span, until the underlying call ends."""
    async with connected(interceptors=[_Mapped()]) as (_, channel):
        assert await _watch(channel) == [b"A"] * 3
        span = await telemetry.client()

    assert attributes(span)["rpc.status_code"] == "OK"


async def test_excluded_service_has_no_telemetry() -> None:
    """A service on the list gets neither span nor metric nor context."""
    telemetry = Telemetry()
    telemetry.instrument(settings=InstrumentorSettings(excluded_services=frozenset({SERVICE})))
    try:
        async with connected() as (till, channel):
            await _pay(channel)
    finally:
        telemetry.close()

    assert telemetry.clients() == []
    assert telemetry.points() == []
    assert "traceparent" not in dict(till.metadata)


async def test_settings_are_the_environment_s_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """Called from code without settings, the instrumentor leaves out the services that the operator excludes."""
    monkeypatch.setenv("OTEL_PYTHON_GRPC_EXCLUDED_SERVICES", SERVICE)
    telemetry = Telemetry()
    telemetry.instrument()
    try:
        async with connected() as (_, channel):
            await _pay(channel)
    finally:
        telemetry.close()

    assert telemetry.clients() == []


async def test_suppressed_call_has_no_telemetry(telemetry: Telemetry) -> None:
    """A call made with instrumentation suppressed, as an exporter does, is not recorded."""
    async with connected() as (till, channel):
        with suppress_instrumentation():
            await _pay(channel)

    assert telemetry.clients() == []
    assert "traceparent" not in dict(till.metadata)


@pytest.mark.parametrize("key", SUPPRESSED, ids=["plain", "unique"])
async def test_either_key_suppresses(telemetry: Telemetry, key: str) -> None:
    """Each of the keys by which instrumentation is suppressed does it alone, and only where it says so."""
    async with connected() as (_, channel):
        for value in (True, False):
            token = context_api.attach(context_api.set_value(key, value))
            try:
                await channel.unary_unary(path("Pay"))(b"a")
            finally:
                context_api.detach(token)
        await telemetry.client()


async def test_name_imported_before_is_instrumented(telemetry: Telemetry) -> None:
    """A channel function imported before `instrument()` makes recorded channels all the same."""
    async with serving() as till, early_channel(till.target) as channel:
        await _pay(channel)
        span = await telemetry.client()

    assert attributes(span)["server.port"] == till.port


async def test_channel_made_before_is_recorded() -> None:
    """A channel and a stub that exist before `instrument()` are recorded too, with the target if gRPC tells it."""
    telemetry = Telemetry()
    try:
        async with connected() as (till, channel):
            if not (told := hasattr(channel._channel, "target")):
                telemetry.exempt("this release of grpcio hides the target", "required-attribute")
            stub = channel.unary_unary(path("Pay"))
            telemetry.instrument()
            await stub(b"a")
            span = await telemetry.client()
    finally:
        telemetry.close()

    address = {"server.address": "127.0.0.1", "server.port": till.port}
    assert attributes(span) == {
        "rpc.system.name": "grpc",
        "rpc.method": "shop.v1.Till/Pay",
        "rpc.status_code": "OK",
        **(address if told else {}),
    }


async def test_stub_is_recorded_by_whoever_instruments_now() -> None:
    """A stub that outlives an instrumentation tells the next one of its calls, which may want others."""
    first, second = Telemetry(), Telemetry()
    try:
        async with connected() as (_, channel):
            if not hasattr(channel._channel, "target"):
                second.exempt("this release of grpcio hides the target", "required-attribute")
            stub = channel.unary_unary(path("Pay"))
            first.instrument(settings=InstrumentorSettings(excluded_services=frozenset({SERVICE})))
            await stub(b"a")
            first.instrumentor.uninstrument()
            second.instrument()
            await stub(b"b")
            await second.client()
    finally:
        first.close()
        second.close()

    assert first.clients() == []


async def test_uninstrument_restores_and_silences() -> None:
    """After `uninstrument()` the classes are as before, and a channel made in between works without telemetry."""
    telemetry = Telemetry()
    async with serving() as till:
        plain: Channel
        async with grpc.aio.insecure_channel(till.target) as plain:
            channel_class, call_class = type(plain), type(plain.unary_unary(path("Pay")))
        before = (channel_class.__init__, call_class.__call__)
        telemetry.instrument()
        try:
            async with grpc.aio.insecure_channel(till.target) as channel:
                assert call_class.__call__ is not before[1]
                telemetry.instrumentor.uninstrument()
                await _pay(channel)
        finally:
            telemetry.close()

    assert (channel_class.__init__, call_class.__call__) == before
    assert telemetry.clients() == []


async def test_unix_socket_is_the_address(telemetry: Telemetry, tmp_path: Path) -> None:
    """A channel to a socket of the file system has its path as address and no port."""
    target = f"unix://{tmp_path}/till.sock"
    async with serving(target), grpc.aio.insecure_channel(target) as channel:
        await _pay(channel)
        span = await telemetry.client()

    assert attributes(span)[semconv.SERVER_ADDRESS] == f"{tmp_path}/till.sock"
    assert semconv.SERVER_PORT not in attributes(span)


async def test_malformed_method_is_other(telemetry: Telemetry) -> None:
    """A method that is none fails as ever, and does not become a label."""
    async with connected() as (_, channel):
        await status_of(channel.unary_unary("nonsense")(b""))
        await until(telemetry.clients)

    (span,) = telemetry.clients()
    assert (span.name, attributes(span)["rpc.method"]) == ("grpc", "_OTHER")
    assert attributes(span)["rpc.method_original"] == "nonsense"


async def test_contrib_interceptors_make_us_stand_down(telemetry: Telemetry, caplog: pytest.LogCaptureFixture) -> None:
    """A channel with contrib's interceptors is left to them, and one line says so."""
    contrib = TracerProvider()
    with caplog.at_level(logging.WARNING, "rsketch_telemetry"):
        interceptors = aio_client_interceptors(tracer_provider=contrib)  # type: ignore[no-untyped-call] # contrib's
        async with connected(interceptors=interceptors) as (_, channel):
            await _pay(channel)
            await _pay(channel)

    assert telemetry.clients() == []
    assert [record.message for record in caplog.records if record.name == "rsketch_telemetry"] == [
        "telemetry: GrpcAioClientInstrumentor stands down: opentelemetry-instrumentation-grpc is active"
    ]


def test_active_contrib_instrumentor_makes_us_stand_down(caplog: pytest.LogCaptureFixture) -> None:
    """Where contrib's instrumentor is active already, nothing is patched and one line says so."""
    contrib, telemetry = GrpcAioInstrumentorClient(), Telemetry()  # type: ignore[no-untyped-call] # contrib's
    contrib.instrument(tracer_provider=telemetry.tracer_provider)
    try:
        with caplog.at_level(logging.WARNING, "rsketch_telemetry"):
            telemetry.instrument()
    finally:
        contrib.uninstrument()
        telemetry.close()

    assert [record.message for record in caplog.records if record.name == "rsketch_telemetry"] == [
        "telemetry: GrpcAioClientInstrumentor stands down: opentelemetry-instrumentation-grpc is active"
    ]


async def test_metadata_that_can_be_read_once() -> None:
    """What comes as an iterator arrives, and is therefore not read for the span."""
    telemetry = Telemetry()
    telemetry.instrument(InstrumentorSettings(rpc_request_metadata=frozenset({"till"})))
    async with connected() as (till, channel):
        await channel.unary_unary(path("Pay"))(b"a", metadata=(pair for pair in (("till", "3"),)))
        span = await telemetry.client()
    telemetry.close()

    assert dict(till.metadata)["till"] == "3"
    assert "rpc.request.header.till" not in attributes(span)
