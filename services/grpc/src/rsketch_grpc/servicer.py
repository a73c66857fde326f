"""HelloService between gRPC and the rules. Holds no state, and leaves telemetry to what is wrapped around it."""

import asyncio
from collections.abc import AsyncIterator

import grpc
from rsketch_protos.hello.v1 import HelloRequest, HelloResponse, HelloServiceServicer, HelloStreamRequest

from rsketch_grpc.errors import InvalidArgumentError
from rsketch_grpc.rules import greeting, stream_count, stream_interval

__all__ = ["HelloServicer"]


class HelloServicer(HelloServiceServicer):
    """
    Greets people.

    Args:
        max_stream_count: How many greetings one stream may ask for.
    """

    def __init__(self, *, max_stream_count: int) -> None:
        self._max_stream_count = max_stream_count

    async def Hello(  # noqa: N802 - the name is that of the .proto file
        self, request: HelloRequest, context: grpc.aio.ServicerContext[HelloRequest, HelloResponse]
    ) -> HelloResponse:
        """Greet once."""
        try:
            return HelloResponse(message=greeting(request.name))
        except InvalidArgumentError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))

    async def HelloStream(  # noqa: N802 - the name is that of the .proto file
        self, request: HelloStreamRequest, context: grpc.aio.ServicerContext[HelloStreamRequest, HelloResponse]
    ) -> AsyncIterator[HelloResponse]:
        """Greet `count` times: the first time at once, then `interval` after the one before."""
        try:
            response = HelloResponse(message=greeting(request.name))
            count = stream_count(request.count, limit=self._max_stream_count)
            interval = stream_interval(request.interval.seconds, request.interval.nanos)
        except InvalidArgumentError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        yield response
        for _ in range(count - 1):
            # Also without an interval: this is where a cancelled call ends and other calls get their turn.
            await asyncio.sleep(interval)
            yield response
