"""Start, memory, size, dropping, and being killed: with an empty file and with a million spans."""

import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from rsketch_dashboard.store import Limits, Store

from bench.dashboard.queries import load, sent
from bench.dashboard.started import Dashboard, dashboard
from bench.figures import Figure, Goal

__all__ = ["SPANS", "after_queries", "dropping", "fill", "killed", "starts"]

SPANS = 1_000_000
_OVER_SECONDS = 7200
_LOGS = SPANS // 3
_POINTS = 60_000
_START_GOAL = Goal(2.0)


def fill(folder: Path) -> tuple[Path, list[Figure]]:
    """Make a data file with a million spans; return it and what that says of memory and size."""
    with dashboard(folder) as measured:
        options = {"spans": SPANS, "logs": _LOGS, "points": _POINTS, "over": _OVER_SECONDS, "seed": 1}
        sent(load(measured.grpc_port, **options))
        most = measured.resident_bytes("VmHWM")
        file = measured.file
    size = file.stat().st_size
    about = f"with {_LOGS:,} log records and {_POINTS:,} points; closed"
    return file, [
        Figure(name="file of 1 M spans", values=[size / 1e6], unit="MB", about=about),
        Figure(name="most memory while they arrived, as fast as they could", values=[most / 1e6], unit="MB"),
    ]


def starts(folder: Path, file: Path, repeats: int) -> list[Figure]:
    """Return how long the start with a million spans takes, and the memory after it."""
    seconds, memory = [], []
    for _ in range(repeats):
        with dashboard(folder, file) as measured:
            seconds.append(measured.started_seconds)
            time.sleep(1.0)
            memory.append(measured.resident_bytes() / 1e6)
    return [
        Figure(name="start, 1 M spans", values=seconds, unit="s", goal=_START_GOAL),
        Figure(name="memory, 1 M spans, nobody asks", values=memory, unit="MB", goal=Goal(300)),
    ]


def dropping(folder: Path, file: Path) -> Figure:
    """Return how long the oldest segment takes to go, with its roll-ups and the traces that are kept."""
    copy = folder / "dropping.duckdb"
    shutil.copy(file, copy)
    took = []
    # A million and two have come, so one segment has gone already.
    for left in range(8, 3, -1):
        store = Store(copy, Limits(spans=left * 100_000))
        try:
            begun = time.perf_counter()
            store.retain()
            took.append((time.perf_counter() - begun) * 1000)
        finally:
            store.close()
    copy.unlink()
    return Figure(name="drop of a segment of 100 k spans", values=took, unit="ms", about="on the writer's thread")


def killed(folder: Path, file: Path, repeats: int) -> Figure:
    """Return how long the start takes after kill -9 under load."""
    copy = folder / "killed.duckdb"
    shutil.copy(file, copy)
    seconds = []
    for at in range(repeats):
        with dashboard(folder, copy) as measured:
            sent(load(measured.grpc_port, spans=20_000, seed=7_000_000 + at))
            measured.end(signal.SIGKILL)
        seconds.append(_start(folder, copy))
    copy.unlink()
    return Figure(name="start after kill -9", values=seconds, unit="s", goal=_START_GOAL, about="1 M spans")


def _start(folder: Path, file: Path) -> float:
    with dashboard(folder, file) as measured:
        return measured.started_seconds


def after_queries(measured: Dashboard) -> Iterator[Figure]:
    """Yield the memory of a dashboard that has answered every query."""
    memory = [measured.resident_bytes() / 1e6]
    yield Figure(name="memory, 1 M spans, after all queries", values=memory, unit="MB", goal=Goal(300))
    yield Figure(name="most memory during the queries", values=[measured.resident_bytes("VmHWM") / 1e6], unit="MB")
