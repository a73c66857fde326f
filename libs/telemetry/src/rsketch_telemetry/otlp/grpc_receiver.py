"""The gRPC half of the OTLP receiver: a grpc.aio server with the Export method of each signal."""

import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import grpc
from google.protobuf.message import DecodeError

from rsketch_telemetry.otlp.handler import (
    Answer,
    Export,
    Handler,
    Refusal,
    ask,
    create_request,
    create_response,
    service,
)
from rsketch_telemetry.otlp.status import DETAILS, create_status
from rsketch_telemetry.signal import Signal

__all__ = ["serve_grpc"]

_Context = grpc.aio.ServicerContext[bytes, bytes]
_Method = Callable[[bytes, _Context], Awaitable[bytes]]


@asynccontextmanager
async def serve_grpc(
    handler: Handler,
    *,
    netloc: str,
    message_bytes: int,
    close_seconds: float,
    refused: Callable[[Refusal], None] | None = None,
) -> AsyncIterator[int]:
    """
    Serve OTLP/gRPC while open.

    Args:
        handler: Gets every request that can be decoded.
        netloc: `host:port` to listen on, port 0 for a free one.
        message_bytes: Limit of one message, compressed or not; larger ones are answered with RESOURCE_EXHAUSTED.
        close_seconds: Time for calls in flight once closing has begun; then they are cancelled.
        refused: Called for each request that cannot be decoded and so does not reach the handler.

    Yields:
        The port.

    Raises:
        OSError: It cannot listen there.
    """
    server = grpc.aio.server(
        options=(
            # Without this a port that is taken would be shared, and half of the requests would go astray.
            ("grpc.so_reuseport", 0),
            ("grpc.max_receive_message_length", message_bytes),
        )
    )
    server.add_generic_rpc_handlers(tuple(_service(signal, handler, refused) for signal in Signal))
    _try(netloc)
    try:
        port = server.add_insecure_port(netloc)
    except RuntimeError as error:
        raise OSError(f"OTLP/gRPC receiver: cannot listen on {netloc}: {error}") from None
    await server.start()
    try:
        yield port
    finally:
        await server.stop(close_seconds)


def _try(netloc: str) -> None:
    """Raise OSError where *netloc* is taken: grpc would say so as well, but on stderr first, in lines of its own."""
    host, _, port = netloc.rpartition(":")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host.strip("[]"), int(port)), family=family).close()
    except OSError as error:
        raise OSError(error.errno, f"OTLP/gRPC receiver: cannot listen on {netloc}: {error.strerror}") from None


def _service(signal: Signal, handler: Handler, refused: Callable[[Refusal], None] | None) -> grpc.GenericRpcHandler:
    # Without a deserializer the method gets bytes: a malformed message is then refused by us, with a status that tells
    # the sender not to repeat it, instead of by grpc, with a traceback in the log.
    method: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(_export(signal, handler, refused))
    return grpc.method_handlers_generic_handler(service(signal), {"Export": method})


def _export(signal: Signal, handler: Handler, refused: Callable[[Refusal], None] | None) -> _Method:
    async def export(body: bytes, context: _Context) -> bytes:
        decoded = _decoded(signal, body, context)
        if isinstance(decoded, Refusal):
            if refused is not None:
                refused(decoded)
            answer: Answer = decoded
        else:
            answer = await ask(handler, decoded)
        if isinstance(answer, Refusal):
            details = ((DETAILS, create_status(answer).SerializeToString()),)
            await context.abort(answer.code, answer.message, details)
        return create_response(signal, answer).SerializeToString()

    return export


def _decoded(signal: Signal, body: bytes, context: _Context) -> Export | Refusal:
    request = create_request(signal)
    try:
        request.ParseFromString(body)
    except DecodeError:
        return Refusal(code=grpc.StatusCode.INVALID_ARGUMENT, message="not a protobuf message of this signal")
    headers = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
    return Export(signal=signal, request=request, protocol="grpc", headers=headers)
