"""The gRPC service that is measured, and its caller; messages are bytes, so that nothing but gRPC is beside."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, Literal

import grpc.aio
from opentelemetry.instrumentation.instrumentor import BaseInstrumentor  # type: ignore[attr-defined]  # it is untyped
from rsketch_telemetry.grpc import GrpcAioClientInstrumentor, GrpcAioServerInstrumentor

__all__ = ["PATH", "SIDES", "Call", "Side", "calls", "connected", "serving"]

Side = Literal["server", "client"]
SIDES: Final[Mapping[Side, type[BaseInstrumentor]]] = {
    "server": GrpcAioServerInstrumentor,
    "client": GrpcAioClientInstrumentor,
}
"""Where telemetry can be, and what puts it there."""

Call = Any
"""A `grpc.aio.UnaryUnaryMultiCallable` of bytes."""

_SERVICE = "shop.v1.Stock"
_METHOD = "Reserve"
PATH = f"/{_SERVICE}/{_METHOD}"
_ANSWER = b"\x08\x01"


@asynccontextmanager
async def serving(interceptors: Sequence[grpc.aio.ServerInterceptor] = ()) -> AsyncIterator[int]:
    """Serve while open; yields the port."""
    server = grpc.aio.server(interceptors=interceptors)
    handlers: dict[str, Any] = {_METHOD: grpc.unary_unary_rpc_method_handler(_reserve)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield port
    finally:
        await server.stop(None)


@asynccontextmanager
async def connected() -> AsyncIterator[Call]:
    """Run a server and a channel to it while open; yields the method to call."""
    alone = (("grpc.use_local_subchannel_pool", 1),)
    async with serving() as port, grpc.aio.insecure_channel(f"127.0.0.1:{port}", alone) as channel:
        yield channel.unary_unary(PATH)


async def calls(call: Call, times: int, *, at_a_time: int) -> None:
    """Call so often, with so many calls under way at a time."""
    left = iter(range(times))

    async def one_after_the_other() -> None:
        for number in left:
            if await call(number.to_bytes(4, "little")) != _ANSWER:
                raise RuntimeError("the server answered something else")

    await asyncio.gather(*(one_after_the_other() for _ in range(at_a_time)))


async def _reserve(_: bytes, __: object) -> bytes:
    return _ANSWER
