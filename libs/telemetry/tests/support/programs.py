"""Programs of the tests, each run to its end in a process of its own: telemetry is configured once a process."""

import asyncio
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rsketch_telemetry.otlp.model import MetricPoint
from rsketch_telemetry.otlp.receiver import Receiver, ReceiverConfig
from rsketch_telemetry.otlp.store import TelemetryStore

__all__ = ["ANY_PORT", "Ended", "own_points", "run"]

ANY_PORT = ReceiverConfig(grpc_port=0, http_port=0)

# What every program begins with: `say` reports a value to the test, `threads` names those that export.
PRELUDE = """
import json, logging, os, sys, threading
from opentelemetry import _logs, metrics, trace
import rsketch_telemetry

said = {}

def say(**values):
    said.update(values)
    with open("said.json", "w") as file:
        json.dump(said, file)

def threads():
    return sorted(each.name for each in threading.enumerate() if each is not threading.main_thread())

def work():
    trace.get_tracer("test").start_span("work").end()
"""


@dataclass(frozen=True, slots=True)
class Ended:
    """A program that has ended: what it wrote and what it said to the test."""

    stdout: str
    stderr: str
    said: dict[str, Any]


async def run(
    program: str, at: Receiver, folder: Path, environ: Mapping[str, str | None] | None = None, *, launcher: bool = False
) -> Ended:
    """Run a program to its end among a few defaults and *environ*, where None leaves one out."""
    (folder / "app.py").write_text(PRELUDE + program)
    given = {
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
        "HOME": str(folder),
        "OTEL_SERVICE_NAME": "shop",
        "OTEL_EXPORTER_OTLP_ENDPOINT": at.grpc_endpoint,
        **(environ or {}),
    }
    prefix = [str(Path(sys.executable).with_name("opentelemetry-instrument"))] if launcher else []
    child = await asyncio.create_subprocess_exec(
        *prefix,
        sys.executable,
        "app.py",
        cwd=folder,
        env={name: value for name, value in given.items() if value is not None},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        stdout, stderr = await child.communicate()
    assert child.returncode == 0, stderr.decode()
    answers = folder / "said.json"
    return Ended(stdout.decode(), stderr.decode(), json.loads(answers.read_text()) if answers.exists() else {})


def own_points(store: TelemetryStore) -> list[MetricPoint]:
    """Return the points that the program itself has made."""
    # Older releases of the SDK measure themselves, and cannot be asked not to.
    others = ("rsketch_telemetry.", "opentelemetry")
    return [point for point in store.points if not point.scope.name.startswith(others)]
