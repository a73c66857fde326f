"""A server of ours in a child process, in each of the ways it can be started."""

import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from harness.children import BIN, Child, clean_environ, running
from harness.collector import Collector

__all__ = ["INSTRUMENTED", "MODULE", "QUICK", "Server", "StartMode", "exporting", "serving", "starting"]


@dataclass(frozen=True, slots=True)
class StartMode:
    """How the server is started; its name is how a test shows it."""

    name: str
    argv: tuple[str, ...]

    def __str__(self) -> str:
        return self.name

    def with_workers(self, count: int) -> "StartMode":
        """Return the same with several processes."""
        return StartMode(f"{self.name}-{count}-workers", (*self.argv, "--workers", str(count)))


INSTRUMENTED = StartMode("instrumented", (str(BIN / "opentelemetry-instrument"), "rsketch", "server"))
MODULE = StartMode("module", (sys.executable, "-m", "rsketch", "server"))

QUICK = {"OTEL_BSP_SCHEDULE_DELAY": "200", "OTEL_BLRP_SCHEDULE_DELAY": "200", "OTEL_METRIC_EXPORT_INTERVAL": "500"}
"""Export soon, for a test that waits for what arrives while the server still runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A server that serves: its process and the ports that its banner names."""

    child: Child
    http_port: int
    grpc_port: int

    @property
    def url(self) -> str:
        """Where its HTTP service is."""
        return f"http://127.0.0.1:{self.http_port}"

    @asynccontextmanager
    async def client(self) -> AsyncIterator[httpx.AsyncClient]:
        """Open an HTTP client for it that makes no telemetry of its own."""
        async with httpx.AsyncClient(base_url=self.url, trust_env=False, timeout=15) as client:
            yield client


@asynccontextmanager
async def starting(mode: StartMode, folder: Path, environ: Mapping[str, str]) -> AsyncIterator[Child]:
    """Start a server on free ports, unless *environ* says otherwise; it may not serve yet, or never."""
    ports = {"RSKETCH_HTTP_PORT": "0", "RSKETCH_GRPC_PORT": "0"}
    async with running(mode.argv, environ=clean_environ(folder, ports | dict(environ)), folder=folder) as child:
        yield child


@asynccontextmanager
async def serving(mode: StartMode, folder: Path, environ: Mapping[str, str]) -> AsyncIterator[Server]:
    """Run a server while open; it is ready when this yields."""
    async with starting(mode, folder, environ) as child:
        http = await child.written(r"\bhttp +http://127\.0\.0\.1:(\d+)")
        grpc = await child.written(r"\bgrpc +grpc://127\.0\.0\.1:(\d+)")
        server = Server(child=child, http_port=int(http[1]), grpc_port=int(grpc[1]))
        async with server.client() as client:
            ready = await client.get("/readyz")
        # The banner is the promise: whoever reads it may call.
        assert ready.status_code == 200, f"{ready.status_code} {ready.text}\n{child.text()}"
        yield server


def exporting(collector: Collector, protocol: str = "grpc") -> dict[str, str]:
    """Return the settings with which a server exports to *collector*."""
    return QUICK | {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoints[protocol],
        "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
    }
