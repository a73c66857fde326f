"""Fixtures: a small greeting service on a real gRPC server, and the HTTP service in front of it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field

import grpc
import httpx
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from rsketch_http.config import HttpConfig
from rsketch_http.server import serving
from rsketch_protos.hello.v1 import (
    SERVICE_NAME,
    HelloRequest,
    HelloResponse,
    HelloServiceServicer,
    HelloStreamRequest,
    add_HelloServiceServicer_to_server,
)

Context = grpc.aio.ServicerContext[HelloRequest, HelloResponse]


@dataclass
class Greeter(HelloServiceServicer):
    """
    Greets; some names make it misbehave.

    `fail-<STATUS>` ends the call with that status; a stream does so after its first greeting. `stuck` never answers.
    `moving` is turned away at first, as by a server on its way out.
    """

    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    seconds_left: list[float] = field(default_factory=list)
    peers: set[str] = field(default_factory=set)
    turned_away: int = 0

    async def Hello(self, request: HelloRequest, context: Context) -> HelloResponse:  # noqa: N802
        """Greet once."""
        self.peers.add(context.peer())
        self.seconds_left.append(context.time_remaining())
        await self._misbehave(request.name, context)
        return HelloResponse(message=f"Hello, {request.name}!")

    async def HelloStream(  # noqa: N802
        self, request: HelloStreamRequest, context: Context
    ) -> AsyncIterator[HelloResponse]:
        """Greet several times."""
        if not request.name:
            await self._misbehave(request.name, context)
        for number in range(request.count):
            if number:
                await self._pause(request.interval.ToTimedelta().total_seconds())
            yield HelloResponse(message=f"Hello, {request.name}!")
            await self._misbehave(request.name, context)

    async def _pause(self, seconds: float) -> None:
        self.arrived.set()
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    async def _misbehave(self, name: str, context: Context) -> None:
        if not name:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "name: must not be empty")
        if name == "stuck":
            await self._pause(60)
        if name == "moving" and self.turned_away < 2:
            self.turned_away += 1
            await context.abort(grpc.StatusCode.UNAVAILABLE, "on the way out")
        if name.startswith("fail-"):
            await context.abort(grpc.StatusCode[name.removeprefix("fail-")], "told by upstream")


@dataclass
class Upstream:
    """A running greeting service."""

    server: grpc.aio.Server
    port: int
    greeter: Greeter
    health: health.aio.HealthServicer

    async def set_serving(self, *, serving: bool) -> None:
        """Change what its health check says."""
        status = health_pb2.HealthCheckResponse
        await self.health.set(SERVICE_NAME, status.SERVING if serving else status.NOT_SERVING)


@asynccontextmanager
async def greeting_service(port: int = 0, credentials: grpc.ServerCredentials | None = None) -> AsyncIterator[Upstream]:
    """Run a greeting service on loopback."""
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    greeter, checks = Greeter(), health.aio.HealthServicer()
    add_HelloServiceServicer_to_server(greeter, server)
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    target = f"localhost:{port}" if credentials else f"127.0.0.1:{port}"
    bound = server.add_secure_port(target, credentials) if credentials else server.add_insecure_port(target)
    upstream = Upstream(server, bound, greeter, checks)
    await upstream.set_serving(serving=True)
    await server.start()
    try:
        yield upstream
    finally:
        await server.stop(0)


OpenUpstream = Callable[..., AbstractAsyncContextManager[Upstream]]
OpenClient = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]


@pytest.fixture
def open_upstream() -> OpenUpstream:
    """Open a greeting service."""
    return greeting_service


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    """A greeting service."""
    async with greeting_service() as running:
        yield running


@pytest.fixture
def open_client() -> OpenClient:
    """Open the HTTP service with settings, and a client for it."""

    @asynccontextmanager
    async def opened(upstream_port: int, environ: dict[str, str] | None = None) -> AsyncIterator[httpx.AsyncClient]:
        defaults = {
            "RSKETCH_HTTP_PORT": "0",
            "RSKETCH_HTTP_GRPC_TARGET": f"127.0.0.1:{upstream_port}",
            "RSKETCH_HTTP_DRAIN_SECONDS": "5s",
        }
        config = HttpConfig.from_env({**defaults, **(environ or {})})
        # TouchUp rewrites Sanic for the whole process and would change what the tests of other packages see.
        async with serving(config, touch_up=False) as at, httpx.AsyncClient(base_url=str(at), trust_env=False) as http:
            yield http

    return opened


@pytest.fixture
async def client(upstream: Upstream, open_client: OpenClient) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an HTTP service with default settings."""
    async with open_client(upstream.port) as http:
        yield http
