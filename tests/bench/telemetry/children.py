"""Programs of the benchmark in processes of their own: what they see of the environment, and what they say."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["SETTLED", "TESTS", "environ", "said"]

TESTS = Path(__file__).parents[2]

SETTLED: Mapping[str, str] = {
    "OTEL_SERVICE_NAME": "measured",
    "OTEL_BSP_SCHEDULE_DELAY": "3600000",
    "OTEL_BLRP_SCHEDULE_DELAY": "3600000",
    "OTEL_METRIC_EXPORT_INTERVAL": "3600000",
    "RSKETCH_TELEMETRY_PROCESS_METRICS": "false",
    "PYTHONHASHSEED": "0",
    "PYTHONDONTWRITEBYTECODE": "1",
}
"""Settings with which a process does the same each time: what exports sleeps, and nothing is done at intervals."""

_FOREIGN = ("OTEL_", "RSKETCH_", "SANIC_", "DD_", "LOGFIRE_")
_SECONDS = 600.0


def environ(settings: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a child: this process's without anybody's telemetry settings, and *settings*."""
    found = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}  # noqa: TID251
    # A child may run in another folder.
    where = [str(Path(entry).resolve()) for entry in found.pop("PYTHONPATH", str(TESTS)).split(os.pathsep)]
    return {**found, "PYTHONPATH": os.pathsep.join(where), **settings}


def said(module: str, arguments: Sequence[str], settings: Mapping[str, str]) -> Any:
    """
    Run a module of ours; return what it says in the last line, which is JSON.

    Raises:
        RuntimeError: It failed; the message has what it said.
    """
    command = (sys.executable, "-m", module, *arguments)
    ran = subprocess.run(command, env=environ(settings), capture_output=True, text=True, timeout=_SECONDS, check=False)
    if ran.returncode:
        raise RuntimeError(f"{module} {' '.join(arguments)} failed ({ran.returncode}):\n{ran.stderr[-3000:]}")
    return json.loads(ran.stdout.splitlines()[-1])
