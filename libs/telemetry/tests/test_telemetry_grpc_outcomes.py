"""How grpc.aio calls end, of every shape and in every style: what the caller got is what both sides record."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from typing import Any

import grpc
import grpc.aio
import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode
from recording import Instrumented, attributes, seconds_of, until
from rsketch_telemetry import semconv
from rsketch_telemetry.grpc import GrpcAioClientInstrumentor, GrpcAioServerInstrumentor
from till import SERVICE, Channel, Handler, listening, path

_LIMIT = 1000
_PATIENCE_SECONDS = 60


class Telemetry(Instrumented[GrpcAioServerInstrumentor]):
    """Providers of one test that both sides record with."""

    def __init__(self) -> None:
        super().__init__(GrpcAioServerInstrumentor())
        self._clients = GrpcAioClientInstrumentor()

    def start(self) -> None:
        """Instrument both sides."""
        self.instrument()
        self._clients.instrument(**self.providers)

    def close(self) -> None:
        """Undo it, and shut the providers down."""
        self._clients.uninstrument()
        super().close()

    async def both(self) -> tuple[ReadableSpan, ReadableSpan]:
        """Wait for one span of each side, and check that metrics and spans say the same."""
        await until(lambda: self.ended(SpanKind.CLIENT) and self.ended(SpanKind.SERVER))
        (client,), (server,) = self.ended(SpanKind.CLIENT), self.ended(SpanKind.SERVER)
        metrics = {metric.name: metric for metric in self.collected()}
        for span, name in ((client, semconv.RPC_CLIENT_DURATION), (server, semconv.RPC_SERVER_DURATION)):
            (point,) = metrics[name].data.data_points
            for key in (semconv.RPC_STATUS_CODE, semconv.ERROR_TYPE):
                assert attributes(point).get(key) == attributes(span).get(key)
            assert point.sum == pytest.approx(seconds_of(span))  # type: ignore[union-attr] # it is a histogram
        assert server.parent is not None
        assert server.parent.span_id == client.context.span_id
        return client, server

    def exceptions(self) -> list[tuple[str | None, object]]:
        """Return event name and exception type of the log records."""
        return [(record.event_name, attributes(record).get("exception.type")) for record in self.records()]


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    """Both sides instrumented with providers of the test's own."""
    telemetry = Telemetry()
    telemetry.start()
    yield telemetry
    telemetry.close()


class Till:
    """
    Handlers of each shape and style that do what their first message says.

    `ok` answers, `abort` and `fail` end with a status and with an exception, `wait` waits for longer than anybody does,
    `read` reads what the caller sends to its end and answers then. What answers a stream sends two messages before.
    """

    def __init__(self) -> None:
        self.started = threading.Event()
        self.stopped = asyncio.Event()
        self.released = threading.Event()

    async def _act(self, word: bytes, context: Any, requests: AsyncIterator[bytes] | None = None) -> None:
        self.started.set()
        if word == b"abort":
            await context.abort(grpc.StatusCode.DATA_LOSS, "gone", (("left", "0"),))
        if word == b"fail":
            raise LookupError("no till")
        if word == b"wait":
            try:
                await asyncio.sleep(_PATIENCE_SECONDS)
            finally:
                self.stopped.set()
        if word == b"read" and requests is not None:
            async for _ in requests:
                pass

    def _act_in_thread(self, word: bytes, context: Any, requests: Iterable[bytes] = ()) -> None:
        self.started.set()
        if word == b"abort":
            # gRPC loses an abort in the moment in which a message goes out, also where nothing is instrumented: the
            # caller then waits for ever, as it did in one of thirty such calls on a busy machine.
            time.sleep(0.05)
            context.abort(grpc.StatusCode.DATA_LOSS, "gone", (("left", "0"),))
        if word == b"fail":
            raise LookupError("no till")
        if word == b"wait":
            self.released.wait(_PATIENCE_SECONDS)
        if word == b"read":
            # Older releases raise into the thread once the caller has left.
            with suppress(grpc.aio.BaseError):
                for _ in requests:
                    pass

    async def _pay(self, request: bytes, context: Any) -> bytes:
        await self._act(request, context)
        return b"done"

    def _pay_in_thread(self, request: bytes, context: Any) -> bytes:
        self._act_in_thread(request, context)
        return b"done"

    async def _watch(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield b"1"
        yield b"2"
        await self._act(request, context)

    async def _watch_by_write(self, request: bytes, context: Any) -> None:
        await context.write(b"1")
        await context.write(b"2")
        await self._act(request, context)

    def _watch_in_thread(self, request: bytes, context: Any) -> Iterator[bytes]:
        yield b"1"
        yield b"2"
        self._act_in_thread(request, context)

    async def _fill(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        await self._act(await anext(aiter(requests)), context, requests)
        return b"done"

    async def _fill_by_read(self, _requests: Any, context: Any) -> bytes:
        await self._act(await context.read(), context, _by_read(context))
        return b"done"

    def _fill_in_thread(self, requests: Iterator[bytes], context: Any) -> bytes:
        self._act_in_thread(next(requests), context, requests)
        return b"done"

    async def _talk(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        word = await anext(aiter(requests))
        yield b"1"
        yield b"2"
        await self._act(word, context, requests)

    async def _talk_by_write(self, _requests: Any, context: Any) -> None:
        word = await context.read()
        await context.write(b"1")
        await context.write(b"2")
        await self._act(word, context, _by_read(context))

    def _talk_in_thread(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        word = next(requests)
        yield b"1"
        yield b"2"
        self._act_in_thread(word, context, requests)

    @property
    def handlers(self) -> dict[str, Handler]:
        """All of them, by their names."""
        makers = {
            "pay": grpc.unary_unary_rpc_method_handler,
            "watch": grpc.unary_stream_rpc_method_handler,
            "fill": grpc.stream_unary_rpc_method_handler,
            "talk": grpc.stream_stream_rpc_method_handler,
        }
        return {name: makers[name.partition("_")[0]](getattr(self, f"_{name}")) for name in _ASYNC + _THREADED}


_ASYNC = ["pay", "watch", "watch_by_write", "fill", "fill_by_read", "talk", "talk_by_write"]
_THREADED = ["pay_in_thread", "watch_in_thread", "fill_in_thread", "talk_in_thread"]
_READING = ["fill", "fill_by_read", "fill_in_thread", "talk", "talk_by_write", "talk_in_thread"]


async def _by_read(context: Any) -> AsyncIterator[bytes]:
    while (request := await context.read()) is not grpc.aio.EOF:
        yield request


@asynccontextmanager
async def serving(**options: Any) -> AsyncIterator[tuple[Till, grpc.aio.Server, Channel]]:
    """Serve a till, and yield a channel to it."""
    till, pool = Till(), ThreadPoolExecutor(4)
    limit = [("grpc.max_receive_message_length", _LIMIT)]
    server = grpc.aio.server(migration_thread_pool=pool, options=limit, **options)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, till.handlers),))
    try:
        async with listening(server) as port, grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            try:
                yield till, server, channel
            finally:
                # Before the server stops: that waits for the threads.
                till.released.set()
    finally:
        # Not in the loop's thread, which those of the pool may be waiting for.
        await asyncio.to_thread(pool.shutdown)


def call(channel: Channel, name: str, *words: bytes, closes: bool = True, **options: Any) -> Any:
    """Call a handler with *words*; whether it says that there are no more is for *closes* to say."""
    kind = name.partition("_")[0]

    async def requests() -> AsyncIterator[bytes]:
        for word in words:
            yield word
        if not closes:
            await asyncio.sleep(_PATIENCE_SECONDS)

    if kind in {"pay", "watch"}:
        multi = channel.unary_unary if kind == "pay" else channel.unary_stream
        return multi(path(name))(words[0], **options)
    multi = channel.stream_unary if kind == "fill" else channel.stream_stream
    return multi(path(name))(requests(), **options)


async def answers(call: Any) -> list[bytes]:
    """Return all that the call is answered with."""
    if isinstance(call, AsyncIterator) or hasattr(call, "__aiter__"):
        return [message async for message in call]
    return [await call]


async def outcome(call: Any) -> str:
    """Return the status with which the call ends."""
    with suppress(grpc.aio.AioRpcError, asyncio.CancelledError):
        await answers(call)
    code: grpc.StatusCode = await call.code()
    return code.name


async def started(till: Till) -> None:
    """Wait for the handler to be at its task."""
    await until(till.started.is_set)


@pytest.mark.parametrize("name", _ASYNC + _THREADED)
async def test_success_is_ok_on_both_sides(telemetry: Telemetry, name: str) -> None:
    """A call that goes well is OK for both, whatever its shape, and answers as ever."""
    async with serving() as (_, _, channel):
        got = await answers(call(channel, name, b"ok"))
        client, server = await telemetry.both()

    assert got == ([b"done"] if name.startswith(("pay", "fill")) else [b"1", b"2"])
    for span in (client, server):
        assert attributes(span)["rpc.status_code"] == "OK"
        assert span.status.status_code is StatusCode.UNSET


@pytest.mark.parametrize(("word", "status"), [(b"abort", "DATA_LOSS"), (b"fail", "UNKNOWN")])
@pytest.mark.parametrize("name", _ASYNC + _THREADED)
async def test_failure_has_the_status_that_the_caller_got(
    telemetry: Telemetry, name: str, word: bytes, status: str
) -> None:
    """An abort and an exception, in a stream after two messages, are the error of both; an exception is one log."""
    async with serving() as (_, _, channel):
        running = call(channel, name, word)
        seen = await outcome(running)
        client, server = await telemetry.both()
        trailers = dict(tuple(await running.trailing_metadata()))

    assert seen == status
    for span in (client, server):
        assert attributes(span)["rpc.status_code"] == attributes(span)["error.type"] == status
        assert span.status.status_code is StatusCode.ERROR
    assert telemetry.exceptions() == ([("rpc.server.call.exception", "LookupError")] if word == b"fail" else [])
    assert trailers == ({"left": "0"} if word == b"abort" else {})


@pytest.mark.parametrize("name", _ASYNC + _THREADED)
async def test_deadline_is_the_end_of_both(telemetry: Telemetry, name: str) -> None:
    """A deadline that passes while the handler works stops an asynchronous one, and is DEADLINE_EXCEEDED for both."""
    async with serving() as (till, _, channel):
        seen = await outcome(call(channel, name, b"wait", timeout=0.2))
        client, server = await telemetry.both()
        if name in _ASYNC:
            await asyncio.wait_for(till.stopped.wait(), 5)

    assert seen == "DEADLINE_EXCEEDED"
    for span in (client, server):
        assert attributes(span)["rpc.status_code"] == attributes(span)["error.type"] == seen
    assert telemetry.exceptions() == []


@pytest.mark.parametrize("name", _ASYNC + _THREADED)
async def test_cancel_is_the_end_of_both(telemetry: Telemetry, name: str) -> None:
    """A caller that cancels stops an asynchronous handler; that is CANCELLED for both, and no error of the server's."""
    async with serving() as (till, _, channel):
        running = call(channel, name, b"wait")
        reading = asyncio.ensure_future(outcome(running))
        await started(till)
        assert running.cancel()
        client, server = await telemetry.both()
        if name in _ASYNC:
            await asyncio.wait_for(till.stopped.wait(), 5)

    assert await reading == "CANCELLED"
    assert attributes(client)["error.type"] == "CANCELLED"
    assert attributes(server)["rpc.status_code"] == "CANCELLED"
    assert server.status.status_code is StatusCode.UNSET
    assert telemetry.exceptions() == []


@pytest.mark.parametrize("end", ["CANCELLED", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "UNAVAILABLE"])
@pytest.mark.parametrize("name", _READING)
async def test_stream_that_breaks_off_is_not_ok(telemetry: Telemetry, name: str, end: str) -> None:
    """
    A handler that reads to the end answers also when the end is not the caller's: the answer goes nowhere.

    The caller cancelled, its time was over, it sent too long a message, the server stopped.
    """
    words = [b"read", b"x" * (_LIMIT + 1)] if end == "RESOURCE_EXHAUSTED" else [b"read"]
    async with serving() as (till, server, channel):
        timeout = 0.2 if end == "DEADLINE_EXCEEDED" else None
        running = call(channel, name, *words, closes=False, timeout=timeout)
        reading = asyncio.ensure_future(outcome(running))
        await started(till)
        if end == "CANCELLED":
            running.cancel()
        if end == "UNAVAILABLE":
            await server.stop(0)
        seen = await reading
        client, served = await telemetry.both()

    assert seen == end
    assert attributes(client)["rpc.status_code"] == attributes(served)["rpc.status_code"] == end
    assert telemetry.exceptions() == []


@pytest.mark.parametrize("name", ["pay", "watch", "pay_in_thread"])
async def test_request_too_long_is_the_caller_s_status(telemetry: Telemetry, name: str) -> None:
    """What gRPC refuses for its size before the handler runs is RESOURCE_EXHAUSTED for both, no cancel."""
    async with serving() as (till, _, channel):
        seen = await outcome(call(channel, name, b"x" * (_LIMIT + 1)))
        client, server = await telemetry.both()

    assert seen == "RESOURCE_EXHAUSTED"
    assert not till.started.is_set()
    assert attributes(client)["rpc.status_code"] == attributes(server)["rpc.status_code"] == seen
    assert attributes(server)["network.peer.address"] == "127.0.0.1"
    assert server.status.status_code is StatusCode.UNSET


async def test_response_too_long_is_the_caller_s_own(telemetry: Telemetry) -> None:
    """A response beyond the caller's limit is its RESOURCE_EXHAUSTED; the server has sent it, and knows no better."""

    async def long(_request: bytes, _context: Any) -> bytes:
        return b"x" * (_LIMIT + 1)

    server = grpc.aio.server()
    handlers: dict[str, Handler] = {"Pay": grpc.unary_unary_rpc_method_handler(long)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    options = [("grpc.max_receive_message_length", _LIMIT)]
    channel: Channel
    async with (
        listening(server) as port,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel,
    ):
        seen = await outcome(channel.unary_unary(path("Pay"))(b""))
        client, served = await telemetry.both()

    assert seen == attributes(client)["error.type"] == "RESOURCE_EXHAUSTED"
    # CANCELLED where the caller's refusal comes before the last of the answer is out.
    assert attributes(served)["rpc.status_code"] in {"OK", "CANCELLED"}


@pytest.mark.parametrize("streams", [False, True])
async def test_response_that_the_server_may_not_send(telemetry: Telemetry, streams: bool) -> None:
    """A response beyond the server's own limit is RESOURCE_EXHAUSTED for both, no cancel."""

    async def long(_request: bytes, _context: Any) -> bytes:
        return b"x" * (_LIMIT + 1)

    async def long_stream(_request: bytes, _context: Any) -> AsyncIterator[bytes]:
        yield b"x"
        yield b"x" * (_LIMIT + 1)

    server = grpc.aio.server(options=[("grpc.max_send_message_length", _LIMIT)])
    handlers: dict[str, Handler] = {
        "Pay": grpc.unary_unary_rpc_method_handler(long),
        "Watch": grpc.unary_stream_rpc_method_handler(long_stream),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    channel: Channel
    async with listening(server) as port, grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        made = channel.unary_stream(path("Watch"))(b"") if streams else channel.unary_unary(path("Pay"))(b"")
        seen = await outcome(made)
        client, served = await telemetry.both()

    assert seen == attributes(client)["rpc.status_code"] == attributes(served)["rpc.status_code"]
    assert seen == "RESOURCE_EXHAUSTED"
    assert served.status.status_code is StatusCode.UNSET


async def test_caller_that_leaves_before_its_request_is_a_cancel(telemetry: Telemetry) -> None:
    """A caller that announces a request and leaves is CANCELLED, and not taken for one that sent too much."""
    async with serving() as (till, _, channel):
        # Of another shape than the handler, so that gRPC sends no message with the head.
        running = channel.stream_unary(path("pay"))()
        await running.wait_for_connection()
        await until(lambda: _active(telemetry))
        running.cancel()
        _, server = await telemetry.both()

    assert not till.started.is_set()
    assert attributes(server)["rpc.status_code"] == "CANCELLED"


async def test_deadline_before_the_request_is_the_deadline_s(telemetry: Telemetry) -> None:
    """A request that does not come in time is DEADLINE_EXCEEDED, though no handler has run."""
    async with serving() as (till, _, channel):
        seen = await outcome(channel.stream_unary(path("pay"))(timeout=0.2))
        _, server = await telemetry.both()

    assert seen == "DEADLINE_EXCEEDED" == attributes(server)["error.type"]
    assert not till.started.is_set()


def _active(telemetry: Telemetry) -> bool:
    """Return whether an RPC is being served."""
    points = [p for m in telemetry.collected() if m.name == semconv.RSKETCH_RPC_CALLS for p in m.data.data_points]
    return any(point.value == 1 for point in points)  # type: ignore[union-attr] # it is a sum


async def test_calls_in_flight_return_to_zero(telemetry: Telemetry) -> None:
    """The gauge of RPCs being served counts one while it is, and none after."""
    async with serving() as (till, _, channel):
        running = call(channel, "pay", b"wait")
        await started(till)
        assert _active(telemetry)
        running.cancel()
        await telemetry.both()

    assert not _active(telemetry)


async def test_exception_of_a_handler_whose_caller_left_is_still_one(telemetry: Telemetry) -> None:
    """A clean-up that fails after a cancel is the handler's own exception, though the caller's status stands."""
    begun = asyncio.Event()

    async def handler(_request: bytes, _context: Any) -> bytes:
        try:
            begun.set()
            await asyncio.sleep(_PATIENCE_SECONDS)
        except asyncio.CancelledError:
            raise LookupError("no till") from None
        return b""

    server = grpc.aio.server()
    handlers: dict[str, Handler] = {"Pay": grpc.unary_unary_rpc_method_handler(handler)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    channel: Channel
    async with listening(server) as port, grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        running = channel.unary_unary(path("Pay"))(b"")
        await asyncio.wait_for(begun.wait(), 5)
        running.cancel()
        _, served = await telemetry.both()

    assert attributes(served)["rpc.status_code"] == "CANCELLED"
    assert telemetry.exceptions() == [("rpc.server.call.exception", "LookupError")]


async def test_handler_that_cancels_itself_leaves_its_caller_to_the_deadline(telemetry: Telemetry) -> None:
    """To a handler that ends by a cancel of its own gRPC gives no status: the call lasts until the caller gives up."""

    async def handler(_request: bytes, _context: Any) -> bytes:
        raise asyncio.CancelledError

    server = grpc.aio.server()
    handlers: dict[str, Handler] = {"Pay": grpc.unary_unary_rpc_method_handler(handler)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    channel: Channel
    async with listening(server) as port, grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        seen = await outcome(channel.unary_unary(path("Pay"))(b"", timeout=0.3))
        client, served = await telemetry.both()

    assert seen == attributes(client)["rpc.status_code"] == attributes(served)["rpc.status_code"] == "DEADLINE_EXCEEDED"
    assert seconds_of(served) > 0.25


@pytest.mark.parametrize("limit", [1, 2])
async def test_refusal_is_told_from_a_cancel(telemetry: Telemetry, limit: int) -> None:
    """With a limit of concurrent calls, a caller that leaves before its request is CANCELLED, not refused."""
    async with serving(maximum_concurrent_rpcs=limit) as (_, _, channel):
        running = channel.stream_unary(path("pay"))()
        await running.wait_for_connection()
        await until(lambda: _active(telemetry))
        running.cancel()
        _, server = await telemetry.both()

    assert attributes(server)["rpc.status_code"] == "CANCELLED"


@pytest.mark.parametrize("answered", [True, False], ids=["answered", "unanswered"])
async def test_stop_is_told_from_an_answer(telemetry: Telemetry, answered: bool) -> None:
    """
    A stream that a stop meets is OK where its status was out, and UNAVAILABLE where it was not.

    The handler waits for the stop in both cases, so which it is does not depend on who is faster.
    """
    stopping = asyncio.Event()

    async def handler(_request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield b"1"
        if not answered:
            stopping.set()
            await asyncio.sleep(_PATIENCE_SECONDS)

    async def stop(server: Any) -> None:
        await stopping.wait()
        await server.stop(0)

    server = grpc.aio.server()
    handlers: dict[str, Handler] = {"Watch": grpc.unary_stream_rpc_method_handler(handler)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    channel: Channel
    async with listening(server) as port, grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        waiting = asyncio.create_task(stop(server))
        running = channel.unary_stream(path("Watch"))(b"")
        running.add_done_callback(lambda _: stopping.set())
        seen = await outcome(running)
        await waiting
        _, served = await telemetry.both()

    assert seen == attributes(served)["rpc.status_code"] == ("OK" if answered else "UNAVAILABLE")
