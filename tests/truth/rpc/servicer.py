"""
What the gRPC cases call: one servicer of an application that knows nothing of telemetry.

Messages are bytes, and there is no generated code, so that handlers can be written in every style that grpc.aio takes.
Each handler tells the suite what it sees.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import grpc
import grpc.aio

from truth.witness import Witness

__all__ = ["BIG", "LONG", "PAUSE", "SERVICE", "method_handlers", "path", "visible"]

SERVICE = "truth.v1.Desk"

PAUSE = 0.06
"""What a handler that is not interrupted takes, or waits between two messages; in seconds."""

LONG = 5.0
"""What a handler would take that is to be interrupted, in seconds."""

BIG = 256 * 1024
"""A message that is too big for whoever limits the size, in bytes."""

_CHUNK = b"x" * 64 * 1024
_CHUNKS = 800

# Trace context, and what gRPC adds by itself.
_NOT_THE_APPLICATION_S = ("traceparent", "tracestate", "baggage", "grpc-accept", "user-agent", "x-case")


def path(method: str, service: str = SERVICE) -> str:
    """Return a method as the wire has it."""
    return f"/{service}/{method}"


def visible(metadata: Any) -> list[list[str]]:
    """Return what the application put into metadata, in order."""
    return [
        [key, value.hex() if isinstance(value, bytes) else value]
        for key, value in metadata or ()
        if not key.startswith(_NOT_THE_APPLICATION_S)
    ]


def method_handlers(
    witness: Witness,
    *,
    open_late: Callable[[], Awaitable[None]] | None = None,
    stop: Callable[[], None] | None = None,
) -> dict[str, Any]:
    """
    Return what a server is given, by method: `Echo` for `Servicer.echo`, and so on.

    Args:
        open_late: Opens another server.
        stop: Begins to stop the very server.
    """
    servicer = Servicer(witness, open_late, stop)
    return {
        "".join(word.capitalize() for word in name.split("_")): make(getattr(servicer, name), **options)
        for name, (make, options) in _METHODS.items()
    }


_METHODS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {}
_Method = Callable[[Callable[..., Any]], Callable[..., Any]]


def _serves(make: Callable[..., Any], **options: Any) -> _Method:
    def register(handler: Callable[..., Any]) -> Callable[..., Any]:
        _METHODS[handler.__name__] = make, options
        return handler

    return register


_UNARY = grpc.unary_unary_rpc_method_handler
_WATCH = grpc.unary_stream_rpc_method_handler
_FILL = grpc.stream_unary_rpc_method_handler
_TALK = grpc.stream_stream_rpc_method_handler


def _refuse_conversion(_message: object) -> bytes:
    raise LookupError("not in the dictionary")


class Servicer:
    """One method for each way to serve, and to fail."""

    def __init__(
        self,
        witness: Witness,
        open_late: Callable[[], Awaitable[None]] | None = None,
        stop: Callable[[], None] | None = None,
    ) -> None:
        self._witness = witness
        self._open_late = open_late
        self._stop = stop
        self._attempts: dict[str, int] = {}

    def _serving(self, context: Any) -> AbstractContextManager[Callable[[str], None]]:
        return self._witness.serving(_case(context))

    @_serves(_UNARY)
    async def echo(self, request: bytes, context: Any) -> bytes:
        """Answer once."""
        with self._serving(context):
            await asyncio.sleep(PAUSE)
            return request.upper()

    @_serves(_WATCH)
    async def watch_by_yield(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        """Answer three times, as a generator."""
        with self._serving(context):
            for number in range(3):
                await asyncio.sleep(PAUSE)
                yield request + b"%d" % number

    @_serves(_WATCH)
    async def watch_by_write(self, request: bytes, context: Any) -> None:
        """Answer three times, as a coroutine that writes."""
        with self._serving(context):
            for number in range(3):
                await asyncio.sleep(PAUSE)
                await context.write(request + b"%d" % number)

    @_serves(_WATCH)
    async def watch_slowly(self, _request: bytes, context: Any) -> AsyncIterator[bytes]:
        """Answer twice, half a second apart."""
        with self._serving(context):
            yield b"first"
            await asyncio.sleep(0.5)
            yield b"last"

    @_serves(_WATCH)
    async def watch_nothing(self, _request: bytes, context: Any) -> AsyncIterator[bytes]:
        """End the stream without a message."""
        with self._serving(context):
            await asyncio.sleep(PAUSE)
            for _ in range(0):
                yield b""

    @_serves(_FILL)
    async def fill_by_iteration(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        """Answer with all requests."""
        with self._serving(context) as say:
            got = []
            async for request in requests:
                say(f"read {request.decode()}")
                got.append(request)
            return b"+".join(got)

    @_serves(_FILL)
    async def fill_by_read(self, _requests: Any, context: Any) -> bytes:
        """Answer with all requests, read one by one."""
        with self._serving(context) as say:
            got = []
            while (request := await context.read()) is not grpc.aio.EOF:
                say(f"read {request.decode()}")
                got.append(request)
            return b"+".join(got)

    @_serves(_FILL)
    async def fill_one(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        """Answer while the caller still has something to say."""
        with self._serving(context):
            async for request in requests:
                return b"enough: " + request
            return b"nothing"

    @_serves(_TALK)
    async def talk_by_yield(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        """Answer each request, as a generator."""
        with self._serving(context) as say:
            async for request in requests:
                say(f"read {request.decode()}")
                yield request.upper()

    @_serves(_TALK)
    async def talk_by_write(self, _requests: Any, context: Any) -> None:
        """Answer each request, as a coroutine that reads and writes."""
        with self._serving(context) as say:
            while (request := await context.read()) is not grpc.aio.EOF:
                say(f"read {request.decode()}")
                await context.write(request.upper())

    @_serves(_TALK)
    async def talk_backwards(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        """Answer once the caller has said all."""
        with self._serving(context) as say:
            got = [request async for request in requests]
            say(f"heard {len(got)}")
            for request in reversed(got):
                await asyncio.sleep(PAUSE)
                yield request

    @_serves(_UNARY)
    def echo_in_thread(self, request: bytes, context: Any) -> bytes:
        """Answer once, from a thread."""
        with self._serving(context):
            context.set_trailing_metadata((("thread", "yes"),))
            time.sleep(PAUSE)
            return request.upper()

    @_serves(_WATCH)
    def watch_in_thread(self, request: bytes, context: Any) -> Iterator[bytes]:
        """Answer three times, from threads."""
        with self._serving(context):
            for number in range(3):
                time.sleep(PAUSE)
                yield request + b"%d" % number

    @_serves(_UNARY)
    def raise_in_thread(self, _request: bytes, context: Any) -> bytes:
        """Fail in a thread."""
        with self._serving(context):
            time.sleep(PAUSE)
            raise LookupError("no such till")

    @_serves(_UNARY)
    def abort_in_thread(self, _request: bytes, context: Any) -> bytes:
        """Abort in a thread."""
        with self._serving(context):
            time.sleep(PAUSE)
            context.abort(grpc.StatusCode.DATA_LOSS, "gone")
            return b""

    @_serves(_UNARY)
    async def exchange_metadata(self, _request: bytes, context: Any) -> bytes:
        """Tell the caller's metadata, and send some before and after the answer."""
        with self._serving(context) as say:
            for key, value in visible(context.invocation_metadata()):
                say(f"{key}={value}")
            await context.send_initial_metadata((("early", "1"), ("early", "2"), ("raw-bin", b"\0\xff")))
            await asyncio.sleep(PAUSE)
            context.set_trailing_metadata((("late", "3"), ("sum-bin", b"\1")))
            return b"ok"

    @_serves(_UNARY)
    async def compress(self, request: bytes, context: Any) -> bytes:
        """Answer with a compressed message."""
        with self._serving(context):
            context.set_compression(grpc.Compression.Gzip)
            return request[::-1]

    @_serves(_UNARY)
    async def grow(self, request: bytes, context: Any) -> bytes:
        """Answer with a message of the size that the request says."""
        with self._serving(context):
            return b"x" * int(request)

    @_serves(_UNARY, request_deserializer=_refuse_conversion)
    async def misread(self, request: bytes, context: Any) -> bytes:
        """Never be reached: no request can be read."""
        with self._serving(context):
            return request

    @_serves(_UNARY, response_serializer=_refuse_conversion)
    async def miswrite(self, request: bytes, context: Any) -> bytes:
        """Answer with what cannot be sent."""
        with self._serving(context):
            return request

    @_serves(_UNARY)
    async def abort(self, _request: bytes, context: Any) -> bytes:
        """Refuse, with details and trailing metadata."""
        with self._serving(context):
            await asyncio.sleep(PAUSE)
            trailing = (("field", "name"), ("grpc-status-details-bin", b"\x08\x03"))
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the name is blank: caf\u00e9", trailing)
            return b""

    @_serves(_UNARY)
    async def abort_with_named_status(self, request: bytes, context: Any) -> bytes:
        """Refuse with the status that the request names."""
        with self._serving(context):
            await context.abort(grpc.StatusCode[request.decode()], "as you like")
            return b""

    @_serves(_UNARY)
    async def set_code(self, _request: bytes, context: Any) -> bytes:
        """Set a status and return."""
        with self._serving(context):
            await asyncio.sleep(PAUSE)
            context.set_code(grpc.StatusCode.NOT_FOUND)
            context.set_details("no such item")
            return b"ignored"

    @_serves(_UNARY)
    async def set_number(self, _request: bytes, context: Any) -> bytes:
        """Set a status by its number and return."""
        with self._serving(context):
            context.set_code(8)
            return b"ignored"

    @_serves(_UNARY)
    async def fail(self, _request: bytes, context: Any) -> bytes:
        """Raise what nobody catches."""
        with self._serving(context):
            await asyncio.sleep(PAUSE)
            raise LookupError("no such till")

    @_serves(_UNARY)
    async def fail_with_code(self, _request: bytes, context: Any) -> bytes:
        """Set a status, then raise."""
        with self._serving(context):
            context.set_code(grpc.StatusCode.UNAVAILABLE)
            raise LookupError("no such till")

    @_serves(_WATCH)
    async def fail_between(self, _request: bytes, context: Any) -> AsyncIterator[bytes]:
        """Raise after two messages."""
        with self._serving(context):
            for number in range(2):
                await asyncio.sleep(PAUSE)
                yield b"%d" % number
            raise LookupError("no such till")

    @_serves(_WATCH)
    async def fail_after_write(self, _request: bytes, context: Any) -> None:
        """Raise after a message that was written."""
        with self._serving(context):
            await context.write(b"0")
            await asyncio.sleep(PAUSE)
            raise LookupError("no such till")

    @_serves(_WATCH)
    async def abort_between(self, _request: bytes, context: Any) -> AsyncIterator[bytes]:
        """Abort after two messages."""
        with self._serving(context):
            for number in range(2):
                await asyncio.sleep(PAUSE)
                yield b"%d" % number
            await context.abort(grpc.StatusCode.DATA_LOSS, "half of it is gone", (("left", "2"),))

    @_serves(_TALK)
    async def abort_unheard(self, _requests: Any, context: Any) -> AsyncIterator[bytes]:
        """Abort without reading."""
        with self._serving(context):
            await asyncio.sleep(PAUSE)
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not now")
            yield b""

    @_serves(_UNARY)
    async def stumble(self, request: bytes, context: Any) -> bytes:
        """Be unavailable twice, then answer; for ever where the request says `never`."""
        case = _case(context)
        self._attempts[case] = self._attempts.get(case, 0) + 1
        with self._serving(context) as say:
            say(f"attempt {self._attempts[case]}")
            if request == b"never" or self._attempts[case] < 3:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "come again")
            return request

    @_serves(_UNARY)
    async def wait(self, request: bytes, context: Any) -> bytes:
        """Take long."""
        with self._serving(context) as say:
            say("waits")
            await asyncio.sleep(LONG)
            return request

    @_serves(_UNARY)
    async def wait_and_stop(self, request: bytes, context: Any) -> bytes:
        """Have the server stopped, and take longer than it grants."""
        with self._serving(context):
            if self._stop is not None:
                self._stop()
            await asyncio.sleep(LONG)
            return request

    @_serves(_UNARY)
    async def open_late(self, request: bytes, context: Any) -> bytes:
        """Open the server that others wait for."""
        with self._serving(context):
            await asyncio.sleep(PAUSE)
            if self._open_late is not None:
                await self._open_late()
            return request

    @_serves(_WATCH)
    async def watch_then_wait(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        """Answer as often as the request says, then take long."""
        with self._serving(context) as say:
            for number in range(int(request)):
                yield b"%d" % number
            say("waits")
            await asyncio.sleep(LONG)
            yield b"late"

    @_serves(_WATCH)
    async def write_then_wait(self, _request: bytes, context: Any) -> None:
        """Write one message, then take long."""
        with self._serving(context) as say:
            await context.write(b"0")
            say("waits")
            await asyncio.sleep(LONG)
            await context.write(b"late")

    @_serves(_FILL)
    async def fill_then_wait(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        """Take long after the first request."""
        with self._serving(context) as say:
            async for _ in requests:
                say("waits")
                await asyncio.sleep(LONG)
            return b"late"

    @_serves(_TALK)
    async def talk_then_wait(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        """Answer the first request, then take long, while the caller could still say something."""
        with self._serving(context) as say:
            async for request in requests:
                yield request.upper()
                say("waits")
                await asyncio.sleep(LONG)

    @_serves(_UNARY)
    async def carry_on(self, request: bytes, context: Any) -> bytes:
        """Take no notice of being cancelled."""
        with self._serving(context) as say:
            say("waits")
            try:
                await asyncio.sleep(LONG)
            except asyncio.CancelledError:
                say("carries on")
            return request

    @_serves(_WATCH)
    async def pour(self, _request: bytes, context: Any) -> AsyncIterator[bytes]:
        """Send much more than any buffer holds, and tell when the caller does not keep up."""
        with self._serving(context) as say:
            held, before = False, time.monotonic()
            for _ in range(_CHUNKS):
                now = time.monotonic()
                if not held and now - before > 0.2:
                    held = True
                    say("held back")
                before = now
                yield _CHUNK

    @_serves(_UNARY)
    async def inspect(self, request: bytes, context: Any) -> bytes:
        """Tell what the context offers."""
        with self._serving(context) as say:
            context.add_done_callback(lambda done: say(f"done: {done.done()}, cancelled: {done.cancelled()}"))
            say(f"{context.peer().partition(':')[0]}, deadline: {4 < context.time_remaining() < 6}")
            say(f"done: {context.done()}, code: {context.code()}, details: {context.details()!r}")
            await asyncio.sleep(PAUSE)
            return request


def _case(context: Any) -> str:
    return next((str(value) for key, value in context.invocation_metadata() or () if key == "x-case"), "")
