"""The scenarios of a gRPC server and of a gRPC client: grpc.aio on sockets of this machine."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from socket import socket
from typing import Any

import grpc
import grpc.aio
import pytest
from recording import Instrumented
from rsketch_telemetry.grpc import GrpcAioClientInstrumentor, GrpcAioServerInstrumentor
from rsketch_telemetry.instrumentor_settings import InstrumentorSettings
from till import Channel, Handler, listening, path, status_of

from .expectations import Observed
from .runners import observed, runs

_SERVICE = "oracle.v1.Oracle"
_Say = Callable[[bytes, Any], Awaitable[bytes]]
_Call = Callable[["_Stub"], Awaitable[int | None]]
"""Makes the one call; returns when its span may end at the earliest, nanoseconds since the epoch, if that matters."""


class _Stub:
    """What the generator makes of the service, in bytes: the library is told that it knows the methods."""

    def __init__(self, channel: Channel) -> None:
        self.say = channel.unary_unary(path("Say", _SERVICE), _registered_method=True)
        self.watch = channel.unary_stream(path("Watch", _SERVICE), _registered_method=True)
        self.nope = channel.unary_unary(path("Nope", _SERVICE))


class _Waiting:
    """A handler that is told apart from its call: it has started, and it does not end by itself."""

    def __init__(self) -> None:
        self.started = asyncio.Event()

    async def say(self, _request: bytes, _context: Any) -> bytes:
        """Wait longer than any test."""
        self.started.set()
        await asyncio.sleep(60)
        raise AssertionError("nobody stopped the handler")


async def _answer(request: bytes, _context: Any) -> bytes:
    return request


async def _not_found(_request: bytes, context: Any) -> bytes:
    await context.abort(grpc.StatusCode.NOT_FOUND, "no such thing")
    raise AssertionError("abort does not return")


async def _answer_with_metadata(request: bytes, context: Any) -> bytes:
    await context.send_initial_metadata((("x-region", "eu"),))
    context.set_trailing_metadata((("x-cost", "42"),))
    return request


async def _watch(request: bytes, _context: Any) -> AsyncIterator[bytes]:
    for number in range(3):
        if number:
            await asyncio.sleep(0.1)
        yield request


@asynccontextmanager
async def _serving(say: _Say, address: str = "127.0.0.1:0") -> AsyncIterator[int]:
    methods: dict[str, Handler] = {
        "Say": grpc.unary_unary_rpc_method_handler(say),
        "Watch": grpc.unary_stream_rpc_method_handler(_watch),
    }
    server = grpc.aio.server()
    # Generated code registers its methods in both ways.
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, methods),))
    server.add_registered_method_handlers(_SERVICE, methods)
    async with listening(server, address) as port:
        yield port


@asynccontextmanager
async def _connected(target: str, *options: tuple[str, str | int]) -> AsyncIterator[_Stub]:
    # The environment's proxy is none of the scenarios.
    given = options or (("grpc.enable_http_proxy", 0),)
    async with grpc.aio.insecure_channel(target, options=given) as channel:
        yield _Stub(channel)


@contextmanager
def _recording(instrumentor: Any, settings: InstrumentorSettings | None) -> Iterator[Instrumented[Any]]:
    telemetry = Instrumented(instrumentor)
    try:
        telemetry.instrument(settings or InstrumentorSettings())
        yield telemetry
    finally:
        telemetry.close()


async def _served(call: _Call, say: _Say = _answer, settings: InstrumentorSettings | None = None) -> Observed:
    """Return what the server records of one call."""
    with _recording(GrpcAioServerInstrumentor(), settings) as telemetry:
        async with _serving(say) as port, _connected(f"127.0.0.1:{port}") as stub:
            not_before_ns = await call(stub)
            return await observed(telemetry, {"$PORT": port}, not_before_ns)


async def _called(
    call: _Call, say: _Say = _answer, target: str = "127.0.0.1:{}", settings: InstrumentorSettings | None = None
) -> Observed:
    """Return what the client records of one call."""
    with _recording(GrpcAioClientInstrumentor(), settings) as telemetry:
        async with _serving(say) as port, _connected(target.format(port)) as stub:
            not_before_ns = await call(stub)
            return await observed(telemetry, {"$PORT": port}, not_before_ns)


def _failing(code: grpc.StatusCode, timeout: float | None = None) -> _Call:
    """Return the call of Say that fails with *code*."""

    async def call(stub: _Stub) -> None:
        assert await status_of(stub.say(b"a", timeout=timeout)) is code

    return call


async def _say(stub: _Stub) -> None:
    assert await stub.say(b"a") == b"a"


async def _watch_all(stub: _Stub) -> None:
    assert [message async for message in stub.watch(b"a")] == [b"a"] * 3


def _cancelling(handler: _Waiting) -> _Call:
    async def call(stub: _Stub) -> int:
        saying = stub.say(b"a")
        waiting = asyncio.ensure_future(_wait_for(saying))
        await asyncio.wait_for(handler.started.wait(), 10)
        cancelled_ns = time.time_ns()
        assert saying.cancel()
        with suppress(asyncio.CancelledError):
            await waiting
        return cancelled_ns

    return call


async def _wait_for(call: Awaitable[bytes]) -> bytes:
    return await call


@runs("grpc-server-ok")
async def _server_ok(_folder: Path) -> Sequence[Observed]:
    return [await _served(_say)]


@runs("grpc-server-unknown-by-exception")
async def _server_unknown(_folder: Path) -> Sequence[Observed]:
    async def say(_request: bytes, _context: Any) -> bytes:
        raise ValueError("boom")

    return [await _served(_failing(grpc.StatusCode.UNKNOWN), say)]


@runs("grpc-server-not-found")
async def _server_not_found(_folder: Path) -> Sequence[Observed]:
    return [await _served(_failing(grpc.StatusCode.NOT_FOUND), _not_found)]


@runs("grpc-server-deadline-exceeded")
async def _server_deadline(_folder: Path) -> Sequence[Observed]:
    return [await _served(_failing(grpc.StatusCode.DEADLINE_EXCEEDED, timeout=0.2), _Waiting().say)]


@runs("grpc-server-cancelled-by-client")
async def _server_cancelled(_folder: Path) -> Sequence[Observed]:
    handler = _Waiting()
    return [await _served(_cancelling(handler), handler.say)]


@runs("grpc-server-unknown-method")
async def _server_unknown_method(_folder: Path) -> Sequence[Observed]:
    async def call(stub: _Stub) -> None:
        assert await status_of(stub.nope(b"a")) is grpc.StatusCode.UNIMPLEMENTED

    return [await _served(call)]


@runs("grpc-server-streaming")
async def _server_streaming(_folder: Path) -> Sequence[Observed]:
    return [await _served(_watch_all)]


@runs("grpc-server-metadata-capture")
async def _server_metadata(_folder: Path) -> Sequence[Observed]:
    async def call(stub: _Stub) -> None:
        await stub.say(b"a", metadata=(("x-tenant", "acme"), ("x-blob-bin", b"\x00\xff"), ("x-secret", "no")))

    settings = InstrumentorSettings(
        rpc_request_metadata=frozenset({"x-tenant", "x-blob-bin"}),
        rpc_response_metadata=frozenset({"x-region"}),
        rpc_response_trailers=frozenset({"x-cost"}),
    )
    return [await _served(call, _answer_with_metadata, settings)]


@runs("grpc-client-ok-dns")
async def _client_ok(_folder: Path) -> Sequence[Observed]:
    return [await _called(_say, target="dns:///localhost:{}")]


@runs("grpc-client-not-found")
async def _client_not_found(_folder: Path) -> Sequence[Observed]:
    return [await _called(_failing(grpc.StatusCode.NOT_FOUND), _not_found)]


@runs("grpc-client-unavailable")
async def _client_unavailable(_folder: Path) -> Sequence[Observed]:
    with socket() as reserved, _recording(GrpcAioClientInstrumentor(), None) as telemetry:
        # Bound and not listening: the port stays ours, and nobody answers there.
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
        async with _connected(f"127.0.0.1:{port}") as stub:
            await _failing(grpc.StatusCode.UNAVAILABLE)(stub)
            return [await observed(telemetry, {"$PORT": port})]


@runs("grpc-client-cancelled")
async def _client_cancelled(_folder: Path) -> Sequence[Observed]:
    handler = _Waiting()
    return [await _called(_cancelling(handler), handler.say)]


@runs("grpc-client-unix")
async def _client_unix(folder: Path) -> Sequence[Observed]:
    place = folder / "oracle.sock"
    return [await _called_over(place, target) for target in (f"unix://{place}", f"unix:{place}")]


async def _called_over(place: Path, target: str) -> Observed:
    with _recording(GrpcAioClientInstrumentor(), None) as telemetry:
        async with _serving(_answer, f"unix:{place}"), _connected(target) as stub:
            await _say(stub)
            return await observed(telemetry, {"$SOCKET": str(place)})


@runs("grpc-client-dns-with-authority")
async def _client_dns_with_authority(_folder: Path) -> Sequence[Observed]:
    return [await _refused("dns://1.2.3.4/grpc.io:50051")]


@runs("grpc-client-address-list")
async def _client_address_list(_folder: Path) -> Sequence[Observed]:
    return [await _refused("ipv4:198.51.100.123:50051,198.51.100.124:50051")]


async def _refused(target: str) -> Observed:
    """
    Return what the client records of a call to a target that must not be reached.

    The channel is made for the target itself, and a proxy on loopback stands before it: gRPC then neither asks a name
    server nor connects to anything but the proxy, which refuses. That it was asked shows that nothing took another way.
    """
    with _recording(GrpcAioClientInstrumentor(), None) as telemetry:
        async with _refusing_proxy() as (proxy, asked), _connected(target, ("grpc.http_proxy", proxy)) as stub:
            with pytest.raises(grpc.aio.AioRpcError):
                await stub.say(b"a", timeout=5)
            seen = await observed(telemetry, {})
    assert asked
    assert all(line.startswith(b"CONNECT ") for line in asked)
    return seen


@asynccontextmanager
async def _refusing_proxy() -> AsyncIterator[tuple[str, list[bytes]]]:
    """Serve a proxy for HTTP's CONNECT that refuses; yield its address and the first lines of what it is asked."""
    asked: list[bytes] = []

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readline())
        writer.write(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    with pytest.MonkeyPatch.context() as patch:
        # What these name is not asked for through a proxy.
        for name in ("no_grpc_proxy", "no_proxy", "NO_PROXY"):
            patch.delenv(name, raising=False)
        proxy = await asyncio.start_server(refuse, "127.0.0.1", 0)
        async with proxy:
            yield f"http://127.0.0.1:{proxy.sockets[0].getsockname()[1]}", asked


@runs("grpc-client-streaming")
async def _client_streaming(_folder: Path) -> Sequence[Observed]:
    return [await _called(_watch_all, target="dns:///localhost:{}")]


@runs("grpc-client-metadata-capture")
async def _client_metadata(_folder: Path) -> Sequence[Observed]:
    async def call(stub: _Stub) -> None:
        await stub.say(b"a", metadata=(("x-tenant", "acme"), ("x-secret", "no")))

    settings = InstrumentorSettings(
        rpc_request_metadata=frozenset({"x-tenant"}),
        rpc_response_metadata=frozenset({"x-region"}),
        rpc_response_trailers=frozenset({"x-cost"}),
    )
    return [await _called(call, _answer_with_metadata, "dns:///localhost:{}", settings)]
