"""An application's own interceptors, of both ends and for every shape: they tell, wrap, refuse and add metadata."""

from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio

from truth.witness import Witness

__all__ = ["client_interceptors", "server_interceptors"]


def server_interceptors(witness: Witness) -> list[grpc.aio.ServerInterceptor]:
    """Return two: one tells of each call; the other refuses who brings `x-stranger`, and breaks at `x-breaks`."""
    return [_Tells(witness), _Refuses()]


def client_interceptors() -> list[Any]:
    """Return one for each shape."""
    return [_Unary(), _Watch(), _Fill(), _Talk()]


class _Tells(grpc.aio.ServerInterceptor):
    def __init__(self, witness: Witness) -> None:
        self._witness = witness

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any) -> Any:
        metadata = dict(handler_call_details.invocation_metadata)
        self._witness.tell(metadata.get("x-case", ""), f"intercepted, with x-user {metadata.get('x-user', '')!r}")
        return await continuation(handler_call_details)


class _Refuses(grpc.aio.ServerInterceptor):
    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any) -> Any:
        async def refuse(_request: bytes, context: Any) -> None:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "who are you?")

        keys = {key for key, _ in handler_call_details.invocation_metadata}
        if "x-stranger" in keys:
            return grpc.unary_unary_rpc_method_handler(refuse)
        if "x-breaks" in keys:
            raise LookupError("no user database")
        return await continuation(handler_call_details)


def _with_user(details: Any) -> Any:
    metadata = grpc.aio.Metadata(*(details.metadata or ()), ("x-user", "ada"))
    return details._replace(metadata=metadata)


class _Unary(grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await continuation(_with_user(client_call_details), request)


class _Watch(grpc.aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await continuation(_with_user(client_call_details), request)


class _Fill(grpc.aio.StreamUnaryClientInterceptor):
    async def intercept_stream_unary(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return await continuation(_with_user(client_call_details), request_iterator)


class _Talk(grpc.aio.StreamStreamClientInterceptor):
    async def intercept_stream_stream(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return await continuation(_with_user(client_call_details), request_iterator)
