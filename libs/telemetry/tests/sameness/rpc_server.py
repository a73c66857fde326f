"""The gRPC service that is called, in bytes: what a handler does stands in the request."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]
from grpc_status import rpc_status
from opentelemetry import trace
from rsketch_telemetry.grpc import GrpcAioClientInstrumentor, GrpcAioServerInstrumentor
from rsketch_telemetry.instrumentor_settings import InstrumentorSettings
from rsketch_telemetry.sdk import Providers
from till import SERVICE, Handler, listening

from .acts import acted
from .values import KEYS, VALUES

__all__ = ["intercepted", "served"]


@asynccontextmanager
async def served(made: Providers, settings: InstrumentorSettings) -> AsyncIterator[int]:
    """Serve, with both sides instrumented."""
    async with _serving(made, settings) as port:
        yield port


@asynccontextmanager
async def intercepted(made: Providers, settings: InstrumentorSettings) -> AsyncIterator[int]:
    """Serve behind interceptors of the program's own."""
    async with _serving(made, settings, interceptors=[_Passing(), _Refusing()]) as port:
        yield port


@asynccontextmanager
async def _serving(made: Providers, settings: InstrumentorSettings, **how: Any) -> AsyncIterator[int]:
    given = {"tracer_provider": made.tracers, "meter_provider": made.meters, "logger_provider": made.loggers}
    sides = (GrpcAioServerInstrumentor(), GrpcAioClientInstrumentor())
    for side in sides:
        side.instrument(**given, settings=settings)
    try:
        with ThreadPoolExecutor(2) as pool:
            server = grpc.aio.server(migration_thread_pool=pool, **how)
            server.add_generic_rpc_handlers(
                (
                    grpc.method_handlers_generic_handler(SERVICE, _methods(made)),
                    grpc.method_handlers_generic_handler("grpc.health.v1.Health", _methods(made)),
                )
            )
            async with listening(server) as port:
                yield port
    finally:
        for side in sides:
            side.uninstrument()


class _Passing(grpc.aio.ServerInterceptor):
    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        return await continuation(handler_call_details)


class _Refusing(grpc.aio.ServerInterceptor):
    """Refuses calls that ask for it."""

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        asked = dict(handler_call_details.invocation_metadata).get("refuse")
        if asked == "fail":
            raise ValueError("interceptor")
        if asked:
            return grpc.unary_unary_rpc_method_handler(_refuse)
        return await continuation(handler_call_details)


async def _refuse(request: bytes, context: Any) -> bytes:
    await context.abort(grpc.StatusCode.UNAUTHENTICATED, "who are you?")
    return b""


def _methods(made: Providers) -> dict[str, Handler]:
    async def pay(request: bytes, context: Any) -> bytes:
        return await _answer(request, context, made)

    async def count(request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield b"1"
        yield await _answer(request, context, made)
        yield b"3"

    async def write(request: bytes, context: Any) -> None:
        await context.write(b"1")
        await context.write(await _answer(request, context, made))

    async def collect(requests: AsyncIterator[bytes], context: Any) -> bytes:
        received = [request async for request in requests]
        return await _answer(received[-1], context, made)

    async def talk(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield await _answer(request, context, made)

    def pay_by_thread(request: bytes, context: Any) -> bytes:
        return _blocking(request, context)

    def count_by_thread(request: bytes, context: Any) -> Iterator[bytes]:
        yield b"1"
        yield _blocking(request, context)

    return {
        "Pay": grpc.unary_unary_rpc_method_handler(pay),
        "Count": grpc.unary_stream_rpc_method_handler(count),
        "Write": grpc.unary_stream_rpc_method_handler(write),
        "Collect": grpc.stream_unary_rpc_method_handler(collect),
        "Talk": grpc.stream_stream_rpc_method_handler(talk),
        "PayByThread": grpc.unary_unary_rpc_method_handler(pay_by_thread),
        "CountByThread": grpc.unary_stream_rpc_method_handler(count_by_thread),
    }


_ERRORS: dict[str, Any] = {
    "ValueError": lambda: ValueError("boom password=hush"),
    "timeout": TimeoutError,
    "usage": lambda: grpc.aio.UsageError("x"),
    "group": lambda: ExceptionGroup("several", [ValueError("1"), KeyError("2")]),
}


async def _answer(request: bytes, context: Any, made: Providers) -> bytes:  # noqa: C901 - one arm for each that is asked
    what, _, with_what = request.decode().partition(" ")
    match what:
        case "sleep":
            await asyncio.sleep(30)
        case "raise":
            error = _ERRORS[with_what]()
            raise error
        case "abort":
            await context.abort(grpc.StatusCode[with_what], "gone", (("left", "0"),))
        case "code":
            context.set_code(grpc.StatusCode[with_what])
            context.set_details("said")
        case "code-and-raise":
            context.set_code(grpc.StatusCode[with_what])
            raise ValueError("with a code")
        case "details":
            await context.abort_with_status(rpc_status.to_status(Status(code=5, message="gone")))
        case "metadata":
            await context.send_initial_metadata((("shelf", "3"), ("set-cookie", "id=1"), ("raw-bin", b"\0\xff")))
            context.set_trailing_metadata((("left", "0"), ("api-key", "k"), ("left", "1")))
        case "act":
            return json.dumps(await acted(with_what, made), default=repr).encode()
        case "act-and-raise":
            await acted(with_what, made)
            raise ValueError("afterwards")
        case "value":
            trace.get_current_span().set_attribute("shop.value", VALUES[with_what])
        case "key":
            trace.get_current_span().set_attribute(KEYS[with_what], "x")
        case "ours":
            trace.get_current_span().set_attribute(with_what, "mine")
    return request


def _blocking(request: bytes, context: Any) -> bytes:
    what, _, with_what = request.decode().partition(" ")
    match what:
        case "raise":
            error = _ERRORS[with_what]()
            raise error
        case "abort":
            context.abort(grpc.StatusCode[with_what], "gone")
        case "set":
            trace.get_current_span().set_attribute(
                "shop.thread", threading.current_thread() is not threading.main_thread()
            )
        case "event":
            trace.get_current_span().add_event("from a thread")
    return request
