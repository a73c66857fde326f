"""Health of a server that is either serving or draining."""

import asyncio

import grpc
from grpc_health.v1 import health
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

__all__ = ["DrainingHealthServicer"]


class DrainingHealthServicer(health.aio.HealthServicer):
    """
    The standard health servicer, with watches that end when the server drains.

    The standard watch never ends by itself: one client that watches would make every stop last as long as the drain
    may take. Nor can it be cancelled from outside without cutting off a message that it may be sending.

    Args:
        names: What is SERVING until the shutdown begins; `""` stands for the whole server.
    """

    def __init__(self, *names: str) -> None:
        super().__init__()
        self._names = names
        self._draining = asyncio.Event()

    async def start(self) -> None:
        """Answer SERVING for the names from now on."""
        for name in self._names:
            await self.set(name, HealthCheckResponse.SERVING)

    async def Watch(  # noqa: N802 - the name is that of the .proto file
        self,
        request: HealthCheckRequest,
        context: grpc.aio.ServicerContext[HealthCheckRequest, HealthCheckResponse],
    ) -> None:
        """Send the status, and once the server drains NOT_SERVING and the end; SERVICE_UNKNOWN for other names."""
        known = request.service in self._names
        status = HealthCheckResponse.SERVING if known else HealthCheckResponse.SERVICE_UNKNOWN
        if not self._draining.is_set():
            await context.write(HealthCheckResponse(status=status))
            await self._draining.wait()
        if known:
            await context.write(HealthCheckResponse(status=HealthCheckResponse.NOT_SERVING))

    async def enter_graceful_shutdown(self) -> None:
        """Answer NOT_SERVING from now on, and end the watches."""
        self._draining.set()
        await super().enter_graceful_shutdown()
