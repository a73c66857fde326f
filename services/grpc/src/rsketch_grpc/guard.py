"""
What a caller learns of trouble that no handler foresaw: a status, and no text of an exception.

Left to itself grpc.aio answers both a request that is no message and an exception of a handler with UNKNOWN and the
exception's text, and logs a traceback for each such request.
"""

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, NoReturn

import grpc

__all__ = ["Guard"]

_log = logging.getLogger(__name__)

# The stubs know handlers of the blocking API alone.
_Handler = Any
_Context = grpc.aio.ServicerContext[Any, Any]
_Unary = Callable[[Any, _Context], Awaitable[object]]
_Stream = Callable[[Any, _Context], AsyncGenerator[object, None]]


class _Undecodable:
    """Stands for a request that is no message of its type."""


class Guard(grpc.aio.ServerInterceptor):
    """
    Answers for the handlers of one gRPC service where they do not: undecodable is INVALID_ARGUMENT, a failure INTERNAL.

    Args:
        service: The service's full name; its methods take one request each.
    """

    def __init__(self, service: str) -> None:
        self._prefix = f"/{service}/"

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[_Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> _Handler:
        """Wrap the handler, where it is one of the service's."""
        handler = await continuation(handler_call_details)
        if handler is None or not handler_call_details.method.startswith(self._prefix):
            return handler
        decode, encode = _decoder(handler.request_deserializer), handler.response_serializer
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(_stream(handler.unary_stream), decode, encode)
        return grpc.unary_unary_rpc_method_handler(_unary(handler.unary_unary), decode, encode)


def _decoder(decode: Callable[[bytes], object] | None) -> Callable[[bytes], object] | None:
    if decode is None:
        return None

    def decoded(request: bytes) -> object:
        try:
            return decode(request)
        except Exception:  # noqa: BLE001 - whatever the decoder raises, it is the caller's message that is wrong
            return _Undecodable()

    return decoded


def _unary(handle: _Unary) -> _Unary:
    async def handled(request: object, context: _Context) -> object:
        await _refuse_undecodable(request, context)
        try:
            return await handle(request, context)
        except Exception as error:  # noqa: BLE001 - the caller gets an answer, and not this text
            await _failed(error, context)

    return handled


def _stream(handle: _Stream) -> _Stream:
    async def handled(request: object, context: _Context) -> AsyncGenerator[object, None]:
        await _refuse_undecodable(request, context)
        try:
            async with aclosing(handle(request, context)) as responses:
                async for response in responses:
                    yield response
        except Exception as error:  # noqa: BLE001 - as above
            await _failed(error, context)

    return handled


async def _refuse_undecodable(request: object, context: _Context) -> None:
    if isinstance(request, _Undecodable):
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the request is no message of the method's type")


async def _failed(error: Exception, context: _Context) -> NoReturn:
    if isinstance(error, grpc.aio.AbortError):
        # The handler has answered already.
        raise error
    _log.error("a handler failed", exc_info=error)
    await context.abort(grpc.StatusCode.INTERNAL, "the service failed")
