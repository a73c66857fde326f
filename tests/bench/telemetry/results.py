"""
What was measured, part by part, in a file beside the code.

The document is made of it, so that a part can be measured again without the others.
"""

import json
import os
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.telemetry.rows import Row

__all__ = ["Part", "machine", "read", "write"]

_PACKAGES = ("rsketch-telemetry", "opentelemetry-sdk", "sanic", "uvloop", "grpcio")


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """
    Rows that are measured together.

    Attributes:
        machine: On what.
        about: How, in a few words: launches, turns, minutes.
    """

    rows: Sequence[Row]
    machine: str
    about: str = ""


def read(file: Path) -> dict[str, Part]:
    """Return the parts by name."""
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    return {name: _part(given) for name, given in found.items()}


def _part(given: dict[str, Any]) -> Part:
    return Part(**{**given, "rows": [Row.from_json(row) for row in given["rows"]]})


def write(file: Path, parts: dict[str, Part]) -> None:
    """Write the parts."""
    shown = {
        name: {"machine": part.machine, "about": part.about, "rows": [row.as_json() for row in part.rows]}
        for name, part in parts.items()
    }
    file.write_text(json.dumps(shown, ensure_ascii=False, indent=1) + "\n")


def machine() -> str:
    """Return this machine and the versions that matter, in a line."""
    processor = next(_values("/proc/cpuinfo", "model name"), platform.machine())
    memory = int(next(_values("/proc/meminfo", "MemTotal")).split()[0]) / 1024**2
    packages = ", ".join(f"{name} {version(name)}" for name in _PACKAGES)
    hardware = f"{processor}, {os.cpu_count()} cores, {memory:.0f} GiB, Linux {platform.release()}"
    return f"{hardware}, CPython {platform.python_version()}, {packages}"


def _values(path: str, name: str) -> Iterator[str]:
    lines = (line.partition(":") for line in Path(path).read_text().splitlines())
    return (value.strip() for key, _, value in lines if key.strip() == name)
