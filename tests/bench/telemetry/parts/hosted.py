"""The app under Sanic's own server, started as a program: without telemetry, and by `opentelemetry-instrument`."""

import sys
from pathlib import Path

from bench.telemetry import children, variants
from bench.telemetry.external import Program
from bench.telemetry.sink import Sink

__all__ = ["program"]

_INSTRUMENT = str(Path(sys.executable).parent / "opentelemetry-instrument")


def program(folder: Path, collector: Sink | None, *, workers: int = 0) -> Program:
    """Return how it is started; without a collector, without telemetry."""
    folder.mkdir()
    command = [sys.executable, "-m", "bench.telemetry.hosted", "--port", "{port}", "--workers", str(workers)]
    several = workers > 1
    if collector is None:
        return Program(command=command, environ=children.environ({}), folder=folder, everywhere=several)
    settings = {
        "OTEL_SERVICE_NAME": "measured",
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.grpc,
        "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "asgi,grpc_aio_client,grpc_aio_server,grpc_client,grpc_server",
        **variants.LEAN,
    }
    environ = children.environ(settings)
    return Program(command=[_INSTRUMENT, *command], environ=environ, folder=folder, everywhere=several)
