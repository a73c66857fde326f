"""The HTTP half of the OTLP receiver: a Sanic app with one path a signal."""

import asyncio
import itertools
import logging
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from types import SimpleNamespace
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import Message
from sanic import HTTPResponse, Request, Sanic
from sanic.config import Config
from sanic.exceptions import SanicException

from rsketch_telemetry.otlp import body
from rsketch_telemetry.otlp.handler import Export, Handler, Refusal, ask, create_response
from rsketch_telemetry.otlp.status import create_status, http_status, retry_after
from rsketch_telemetry.signal import Signal

__all__ = ["App", "serve_http"]

_log = logging.getLogger(__name__)

App: TypeAlias = "Sanic[Config, SimpleNamespace]"
# Sanic leaves the methods of its server without types.
_Server: TypeAlias = Any

_PROTOCOLS = {body.JSON: "http/json", body.PROTOBUF: "http/protobuf"}
# Sanic keeps its apps in one registry a process and refuses to have a name twice in it.
_numbers = itertools.count(1)


@asynccontextmanager
async def serve_http(
    handler: Handler,
    *,
    host: str,
    port: int,
    wire_bytes: int,
    message_bytes: int,
    close_seconds: float,
    extend: Callable[[App], None] | None = None,
    refused: Callable[[Refusal], None] | None = None,
) -> AsyncIterator[int]:
    """
    Serve OTLP/HTTP while open.

    Args:
        handler: Gets every request that can be decoded.
        host: IP address to listen on.
        port: TCP port; 0 asks the kernel for a free one.
        wire_bytes: Limit of a body as it is sent; larger ones are answered with 413 and not read to the end.
        message_bytes: Limit of a body once decompressed; larger ones are answered with 413.
        close_seconds: Time for requests in flight once closing has begun; then their connections are cut.
        extend: Adds what else is to be served on this port; called before it starts.
        refused: Called for each request that does not reach the handler, with why.

    Yields:
        The port.

    Raises:
        OSError: It cannot listen there.
    """
    with _bind(host, port) as listening:
        app = _create_app(handler, refused or _nobody, wire_bytes=wire_bytes, message_bytes=message_bytes)
        try:
            if extend is not None:
                extend(app)
            server = await _start(app, listening)
            try:
                yield listening.getsockname()[1]
            finally:
                await _stop(server, close_seconds)
        finally:
            Sanic.unregister_app(app)


def _bind(host: str, port: int) -> socket.socket:
    # Bound here because Sanic takes port 0 for "unset".
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise OSError(error.errno, f"OTLP/HTTP receiver: cannot listen on {host}:{port}: {error.strerror}") from None


async def _start(app: App, listening: socket.socket) -> _Server:
    # Accepting begins last: before its start-up the app has no routes.
    server: _Server = await app.create_server(
        sock=listening, access_log=False, asyncio_server_kwargs={"start_serving": False}
    )
    await server.startup()
    await server.before_start()
    await server.start_serving()
    await server.after_start()
    return server


async def _stop(server: _Server, close_seconds: float) -> None:
    """Accept nothing more, let busy connections finish for *close_seconds*, then cut them."""
    await server.before_stop()
    closed = server.close()
    with suppress(TimeoutError):
        async with asyncio.timeout(close_seconds):
            while _close_idle(server):  # noqa: ASYNC110 - Sanic tells nobody when a connection falls idle
                await asyncio.sleep(0.01)
    for connection in tuple(server.connections):
        connection.abort()
    if closed is not None:
        await closed
    await server.after_stop()


def _close_idle(server: _Server) -> int:
    """Close connections that carry no request; return how many are left."""
    return sum(not connection.close_if_idle() for connection in tuple(server.connections))


def _nobody(_: Refusal) -> None:
    """Do nothing: nobody asked to be told."""


def _create_app(handler: Handler, refused: Callable[[Refusal], None], *, wire_bytes: int, message_bytes: int) -> App:
    # No prefix: the receiver takes nothing from the environment.
    config = Config(env_prefix=None)
    config.update({"REQUEST_MAX_SIZE": wire_bytes, "MOTD": False, "AUTO_EXTEND": False})
    # TouchUp recompiles methods for the one app of a process; with a second app in it, it fails.
    config.TOUCHUP = False
    app = Sanic(f"otlp-receiver-{next(_numbers)}", config=config, configure_logging=False)
    app.exception(Exception)(_on_error)
    for signal in Signal:
        _add_route(app, signal, handler, refused, message_bytes)
    return app


def _add_route(
    app: App, signal: Signal, handler: Handler, refused: Callable[[Refusal], None], message_bytes: int
) -> None:
    async def export(request: Request) -> HTTPResponse:
        decoded = _decoded(request, signal, message_bytes)
        if isinstance(decoded, Refusal):
            refused(decoded)
            return _refuse(request, decoded)
        return await _export(request, decoded, handler)

    app.add_route(export, f"/v1/{signal.value}", methods=["POST"], name=signal.value)


def _decoded(request: Request, signal: Signal, message_bytes: int) -> Export | Refusal:
    try:
        media = body.media_type(request.headers.get("content-type", ""))
        encoding = request.headers.get("content-encoding", "")
        message = body.decode(signal, media, encoding, request.body, limit_bytes=message_bytes)
    except body.UnsupportedBodyError as error:
        return _invalid(str(error), 415)
    except body.OversizedBodyError as error:
        return _invalid(str(error), 413)
    except body.MalformedBodyError as error:
        return _invalid(str(error), 400)
    return Export(signal=signal, request=message, protocol=_PROTOCOLS[media], headers=dict(request.headers.items()))


async def _export(request: Request, export: Export, handler: Handler) -> HTTPResponse:
    answer = await ask(handler, export)
    if isinstance(answer, Refusal):
        return _refuse(request, answer)
    media = body.media_type(request.headers.get("content-type", ""))
    return _reply(media, create_response(export.signal, answer), 200, {})


def _invalid(message: str, status: int) -> Refusal:
    return Refusal(code=grpc.StatusCode.INVALID_ARGUMENT, message=message, http_status=status)


async def _on_error(request: Request, error: Exception) -> HTTPResponse:
    """Answer what Sanic refuses (unknown path, method, oversized body) as OTLP asks: with a status in the body."""
    if isinstance(error, SanicException):
        return _refuse(request, _invalid(str(error), error.status_code))
    _log.error("the OTLP receiver failed", exc_info=error)
    return _refuse(request, Refusal(code=grpc.StatusCode.INTERNAL, message="the receiver failed"))


def _refuse(request: Request, refusal: Refusal) -> HTTPResponse:
    """Answer in the request's own encoding, and in JSON where that is unknown: a person is likely to read it."""
    try:
        media = body.media_type(request.headers.get("content-type", ""))
    except body.UnsupportedBodyError:
        media = body.JSON
    return _reply(media, create_status(refusal), http_status(refusal), retry_after(refusal))


def _reply(media: str, message: Message, status: int, headers: Mapping[str, str]) -> HTTPResponse:
    return HTTPResponse(body.encode(media, message), status=status, headers=dict(headers), content_type=media)
