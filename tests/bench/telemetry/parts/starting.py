"""What telemetry adds to a start, and to a server that does nothing."""

import re
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from bench.figures import written
from bench.process import get
from bench.telemetry.effort import Effort
from bench.telemetry.estimate import Launches, added
from bench.telemetry.external import Program, started
from bench.telemetry.parts.hosted import program
from bench.telemetry.progress import say
from bench.telemetry.rows import Row
from bench.telemetry.server import resident_bytes
from bench.telemetry.sink import Sink, sink

__all__ = ["import_seconds", "measure"]

_REST_SECONDS = 1.5
_IMPORT = re.compile(r"import time: +(\d+) \| +\d+ \|")


def measure(effort: Effort) -> list[Row]:
    """Measure starts, and the memory at rest."""
    answered: list[tuple[float, float]] = []
    imports: list[tuple[float, float]] = []
    resident: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as name, sink() as collector:
        for at in range(effort.starts):
            say(f"start, {at + 1} of {effort.starts}")
            folder = Path(name) / str(at)
            folder.mkdir()
            seconds, memory, importing = zip(*_both(folder, collector, first=at % 2), strict=True)
            answered.append(seconds)
            resident.append(memory)
            imports.append(importing)
    return [
        _row("first", "start: until the first answer", [answered], "ms"),
        _row("imports", "start: imports alone (`-X importtime`)", [imports], "ms"),
        _row("rest", "memory at rest, after one request", [resident], "MiB"),
    ]


def _both(folder: Path, collector: Sink, *, first: int) -> list[tuple[float, float, float]]:
    """Return what a start takes without telemetry and with."""
    programs = [program(folder / "bare", None), program(folder / "traced", collector)]
    order = [0, 1] if first else [1, 0]
    found = {at: _start(programs[at]) for at in order}
    return [found[0], found[1]]


def _start(one: Program) -> tuple[float, float, float]:
    """Return ms until an answer, MiB at rest, and ms of imports: those of another start, as timing them takes time."""
    begun = time.perf_counter()
    with started(one) as process:
        get(process.port, "/hello")
        milliseconds = (time.perf_counter() - begun) * 1e3
        time.sleep(_REST_SECONDS)
        mebibytes = resident_bytes(process.pid) / 2**20
    (one.folder / "output.txt").unlink()
    with started(replace(one, environ={**one.environ, "PYTHONPROFILEIMPORTTIME": "1"})) as process:
        get(process.port, "/hello")
    return milliseconds, mebibytes, import_seconds((one.folder / "output.txt").read_text()) * 1e3


def import_seconds(text: str) -> float:
    """Return the seconds of all imports in what `-X importtime` says."""
    return sum(int(found[1]) for found in _IMPORT.finditer(text)) / 1e6


def _row(name: str, about: str, launches: Launches, unit: str) -> Row:
    estimate = added(launches)
    bare = sorted(before for launch in launches for before, _ in launch)
    remark = f"bare {written(bare[len(bare) // 2])}"
    return Row(
        name=f"starting.{name}",
        about=f"{about}, added",
        estimate=estimate,
        unit=unit,
        noise=estimate.is_noise,
        remark=remark,
    )
