"""The dashboard of this environment, started for measurement."""

import http.client
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.process import Measured, free_port, get, running, until

__all__ = ["Dashboard", "dashboard", "identity"]

_START_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Dashboard(Measured):
    """The dashboard: its ports and file, and after how many seconds it answered."""

    grpc_port: int
    http_port: int
    file: Path
    started_seconds: float


@contextmanager
def dashboard(folder: Path, file: Path | None = None) -> Iterator[Dashboard]:
    """Run the dashboard of this environment while open, on free ports and never idle."""
    file = file or folder / "dashboard.duckdb"
    grpc_port, http_port = free_port(), free_port()
    ports = ("--grpc-port", str(grpc_port), "--http-port", str(http_port))
    command = (sys.executable, "-m", "rsketch_dashboard", *ports, "--file", str(file), "--idle", "0")
    begun = time.perf_counter()
    with running(command, folder=folder) as process:
        try:
            until(lambda: identity(http_port) is not None, process, seconds=_START_SECONDS)
        except RuntimeError as error:
            raise RuntimeError(f"{error}:\n{(folder / 'output.txt').read_text()[-2000:]}") from None
        started = Dashboard(process, grpc_port, http_port, file, time.perf_counter() - begun)
        yield started
        started.end()


def identity(port: int) -> Any:
    """Return what a dashboard says of itself; None while there is none."""
    with suppress(OSError, http.client.HTTPException):
        status, body = get(port, "/-/identity")
        return json.loads(body) if status == 200 else None
    return None
