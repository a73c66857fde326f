"""
The gRPC service behind this one: one channel for the life of the service.

Calls raise `grpc.aio.AioRpcError`; what that means to an HTTP caller is decided in `problems`.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration
from grpc_health.v1 import health_pb2, health_pb2_grpc
from rsketch_protos.hello.v1 import (
    SERVICE_NAME,
    HelloRequest,
    HelloResponse,
    HelloServiceAsyncStub,
    HelloServiceStub,
    HelloStreamRequest,
)

from rsketch_http.config import HttpConfig
from rsketch_http.errors import RefusedError

__all__ = ["Upstream", "open_upstream"]

_PROBE_SECONDS = 1.0
_SERVICE_CONFIG = {
    # One connection to each address that the name resolves to, not to the first one for ever.
    "loadBalancingConfig": [{"round_robin": {}}],
    "methodConfig": [
        {
            "name": [{"service": SERVICE_NAME}],
            # Greetings change nothing, so a call that a server on its way out has turned away goes to another one.
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.05s",
                "maxBackoff": "0.5s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
}
_OPTIONS = (
    ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
    # grpc asks for addresses at most every 30 s: for that long after a rollout it would know none but the old ones.
    ("grpc.dns_min_time_between_resolutions_ms", 500),
    # grpc waits up to two minutes between attempts; a service that is back must be used again at once.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 2000),
    # A proxy for the outside world has no business between two services of one deployment.
    ("grpc.enable_http_proxy", 0),
    # Otherwise channels to one target share the state of their attempts, across services opened one after another.
    ("grpc.use_local_subchannel_pool", 1),
)


class Upstream:
    """The calls that this service makes, over one channel."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._hello: HelloServiceAsyncStub = HelloServiceStub(channel)
        # Any: the stubs of this package know the methods of the servicer only.
        self._health: Any = health_pb2_grpc.HealthStub(channel)

    async def hello(self, name: str, *, timeout_seconds: float) -> str:
        """
        Return the greeting for *name*.

        Raises:
            RefusedError: No time is left for the call.
            grpc.aio.AioRpcError: It failed.
        """
        with _cancelled_there():
            response = await self._hello.Hello(HelloRequest(name=name), timeout=_left(timeout_seconds))
            return response.message

    async def stream(
        self, name: str, *, count: int, interval_seconds: float, timeout_seconds: float
    ) -> AsyncGenerator[str, None]:
        """
        Yield *count* greetings for *name*, *interval_seconds* apart; closing the iterator cancels the call.

        Raises:
            RefusedError: No time is left for the call.
            grpc.aio.AioRpcError: It failed, perhaps after some greetings.
        """
        interval = Duration()
        interval.FromTimedelta(timedelta(seconds=interval_seconds))
        request = HelloStreamRequest(name=name, count=count, interval=interval)
        call = self._hello.HelloStream(request, timeout=_left(timeout_seconds))
        try:
            with _cancelled_there():
                async for response in call:
                    assert isinstance(response, HelloResponse)
                    yield response.message
        finally:
            call.cancel()

    async def ready(self) -> bool:
        """Return whether the service says that it serves; one without health checks does when it can be reached."""
        request = health_pb2.HealthCheckRequest(service=SERVICE_NAME)
        try:
            response = await self._health.Check(request, timeout=_PROBE_SECONDS)
        except grpc.aio.AioRpcError as error:
            return error.code() is grpc.StatusCode.UNIMPLEMENTED
        return bool(response.status == health_pb2.HealthCheckResponse.SERVING)


@asynccontextmanager
async def open_upstream(config: HttpConfig) -> AsyncIterator[Upstream]:
    """Open the channel; nothing is connected before the first call."""
    channel = _channel(config)
    try:
        yield Upstream(channel)
    finally:
        await channel.close()


def _channel(config: HttpConfig) -> grpc.aio.Channel:
    if config.grpc_root_certificates is None:
        return grpc.aio.insecure_channel(config.grpc_target, options=_OPTIONS)
    credentials = grpc.ssl_channel_credentials(config.grpc_root_certificates)
    return grpc.aio.secure_channel(config.grpc_target, credentials, options=_OPTIONS)


def _left(seconds: float) -> float:
    if seconds <= 0:
        raise RefusedError(504, "No time was left to ask the greeting service.")
    return seconds


@contextmanager
def _cancelled_there() -> Iterator[None]:
    """Tell a call that the server cancelled from one that ends because our own task is cancelled."""
    try:
        yield
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise RefusedError(503, "The greeting service cancelled the request.") from None
