"""
The one OTLP receiver: gRPC and HTTP on two ports, one handler behind both.

For tests, checks and tools on one machine; it listens on loopback by default, and has neither TLS nor authentication.
It needs the extra `[receiver]`. What it serves is never traced: all of it runs with OpenTelemetry's suppression of
instrumentation set, so that a receiver in an instrumented process cannot report itself to itself for ever. An
instrumentor that ignores the suppression would: with such a one, give the receiver a process of its own.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from opentelemetry.instrumentation.utils import suppress_instrumentation

from rsketch_telemetry.otlp.grpc_receiver import serve_grpc
from rsketch_telemetry.otlp.handler import Answer, Export, Handler, PartialSuccess, Refusal, Request
from rsketch_telemetry.otlp.http_receiver import App, serve_http
from rsketch_telemetry.signal import Signal

__all__ = [
    "Answer",
    "App",
    "Export",
    "Handler",
    "PartialSuccess",
    "Receiver",
    "ReceiverConfig",
    "Refusal",
    "Request",
    "Signal",
    "receive",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiverConfig:
    """
    Where the receiver listens and how much it takes.

    Attributes:
        host: IP address to listen on.
        grpc_port: TCP port of OTLP/gRPC; 0 asks the kernel for a free one.
        http_port: TCP port of OTLP/HTTP; 0 asks the kernel for a free one.
        wire_bytes: Limit of an HTTP body as it is sent.
        message_bytes: Limit of a message once decompressed.
        close_seconds: Time for requests in flight once closing has begun; then they are cut.
    """

    host: str = "127.0.0.1"
    grpc_port: int = 4317
    http_port: int = 4318
    wire_bytes: int = 16 * 1024 * 1024
    message_bytes: int = 16 * 1024 * 1024
    close_seconds: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Receiver:
    """Where an open receiver listens, with both ports resolved."""

    host: str
    grpc_port: int
    http_port: int

    @property
    def grpc_endpoint(self) -> str:
        """For `OTEL_EXPORTER_OTLP_ENDPOINT` with the protocol grpc."""
        return f"http://{_netloc(self.host, self.grpc_port)}"

    @property
    def http_endpoint(self) -> str:
        """For `OTEL_EXPORTER_OTLP_ENDPOINT` with the protocol http/protobuf or http/json."""
        return f"http://{_netloc(self.host, self.http_port)}"


@asynccontextmanager
async def receive(
    handler: Handler,
    config: ReceiverConfig | None = None,
    *,
    extend: Callable[[App], None] | None = None,
    refused: Callable[[Refusal], None] | None = None,
) -> AsyncIterator[Receiver]:
    """
    Receive OTLP while open; every request that can be decoded goes to *handler*.

    Several may be open in one process. Closing lets requests in flight finish within `close_seconds`.

    Args:
        extend: Adds routes and middleware to the app of the HTTP port, before it starts.
        refused: Called for each request that cannot be decoded and so does not reach the handler. What gRPC or Sanic
            refuse by themselves, such as a message over the limit, is not among them.

    Raises:
        OSError: A port is taken, or the host is not one of this machine.
    """
    config = config or ReceiverConfig()
    async with AsyncExitStack() as opened:
        # Servers keep the context in which they were started for all that they serve.
        with suppress_instrumentation():
            grpc_port, http_port = await _open(handler, config, opened, extend, refused)
        yield Receiver(host=config.host, grpc_port=grpc_port, http_port=http_port)


async def _open(
    handler: Handler,
    config: ReceiverConfig,
    opened: AsyncExitStack,
    extend: Callable[[App], None] | None,
    refused: Callable[[Refusal], None] | None,
) -> tuple[int, int]:
    grpc_port = await opened.enter_async_context(
        serve_grpc(
            handler,
            netloc=_netloc(config.host, config.grpc_port),
            message_bytes=config.message_bytes,
            close_seconds=config.close_seconds,
            refused=refused,
        )
    )
    http_port = await opened.enter_async_context(
        serve_http(
            handler,
            host=config.host,
            port=config.http_port,
            wire_bytes=config.wire_bytes,
            message_bytes=config.message_bytes,
            close_seconds=config.close_seconds,
            extend=extend,
            refused=refused,
        )
    )
    return grpc_port, http_port


def _netloc(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
