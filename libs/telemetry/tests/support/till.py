"""The gRPC service of the tests: where it listens and how it is called, in bytes and without generated code."""

from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest

__all__ = ["SERVICE", "Channel", "Handler", "listening", "path", "status_of"]

SERVICE = "shop.v1.Till"

# The stubs know neither handlers nor channels without serializers, which is what bytes need.
Handler = Any
Channel = Any


@asynccontextmanager
async def listening(server: grpc.aio.Server, address: str = "127.0.0.1:0") -> AsyncIterator[int]:
    """Let *server* serve, and yield its port."""
    port = server.add_insecure_port(address)
    await server.start()
    try:
        yield port
    finally:
        await server.stop(None)


def path(method: str, service: str = SERVICE) -> str:
    """Return a method as the wire has it."""
    return f"/{service}/{method}"


async def status_of(call: Awaitable[Any]) -> grpc.StatusCode:
    """Return the status with which a call fails."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code()
