"""
The process as metrics: processor time, memory, threads, descriptors and the garbage collector's work.

Read from the kernel and the interpreter when metrics are collected, and only then, so that it is always the process
that collects, a forked child included. What a system does not tell is left out.
See https://opentelemetry.io/docs/specs/semconv/system/process-metrics/ and
https://opentelemetry.io/docs/specs/semconv/runtime/cpython-metrics/.
"""

import gc
import os
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider, Observation
from opentelemetry.util.types import Attributes

from rsketch_telemetry import semconv
from rsketch_telemetry.version import __version__

try:
    import resource
except ImportError:  # pragma: no cover - systems that are no Unix
    resource = None  # type: ignore[assignment]  # asked for before each use

__all__ = ["SCOPE", "observe"]

SCOPE: Final = "rsketch_telemetry.process"

CONTEXT_SWITCHES: Final = "process.context_switches"
CPU_TIME: Final = "process.cpu.time"
FILE_DESCRIPTORS: Final = "process.unix.file_descriptor.count"
MEMORY_USAGE: Final = "process.memory.usage"
MEMORY_VIRTUAL: Final = "process.memory.virtual"
THREADS: Final = "process.thread.count"
UPTIME: Final = "process.uptime"
GC_COLLECTED: Final = "cpython.gc.collected_objects"
GC_COLLECTIONS: Final = "cpython.gc.collections"
GC_UNCOLLECTABLE: Final = "cpython.gc.uncollectable_objects"

CONTEXT_SWITCH_TYPE: Final = "process.context_switch.type"
CPU_MODE: Final = "cpu.mode"
GC_GENERATION: Final = "cpython.gc.generation"

_PROC = Path("/proc/self")
# Places in /proc/self/stat behind the name of the program, which may have blanks in it (proc_pid_stat(5)).
_STAT_THREADS, _STAT_START = 17, 19

_Values = Iterable[tuple[int | float, Attributes]]
_Read = Callable[[], _Values]


def observe(meters: MeterProvider) -> None:
    """Let *meters* collect this process from now on; reads nothing yet."""
    meter = meters.get_meter(SCOPE, __version__, semconv.SCHEMA_URL)
    for name, unit, description, read in _COUNTERS:
        meter.create_observable_counter(name, _callbacks(read), unit, description)
    for name, unit, description, read in _LEVELS:
        meter.create_observable_up_down_counter(name, _callbacks(read), unit, description)
    _observe_uptime(meter)


def _observe_uptime(meter: Meter) -> None:
    meter.create_observable_gauge(UPTIME, _callbacks(_uptime), "s", "The time the process has been running.")


def _callbacks(read: _Read) -> Sequence[Callable[[CallbackOptions], Iterable[Observation]]]:
    def callback(_: CallbackOptions) -> Iterable[Observation]:
        try:
            return [Observation(value, attributes) for value, attributes in read()]
        except (OSError, ValueError, IndexError):
            # This system does not tell it, or in another form.
            return []

    return [callback]


def _cpu_time() -> _Values:
    if resource is not None:
        used = resource.getrusage(resource.RUSAGE_SELF)
        yield used.ru_utime, {CPU_MODE: "user"}
        yield used.ru_stime, {CPU_MODE: "system"}


def _context_switches() -> _Values:
    if resource is not None:
        used = resource.getrusage(resource.RUSAGE_SELF)
        yield used.ru_nvcsw, {CONTEXT_SWITCH_TYPE: "voluntary"}
        yield used.ru_nivcsw, {CONTEXT_SWITCH_TYPE: "involuntary"}


def _memory(place: int) -> _Read:
    """Return what reads a number of pages from `/proc/self/statm`, as bytes."""

    def read() -> _Values:
        pages = int((_PROC / "statm").read_text().split()[place])
        yield pages * os.sysconf("SC_PAGE_SIZE"), {}

    return read


def _stat(place: int) -> int:
    return int((_PROC / "stat").read_text(errors="replace").rpartition(")")[2].split()[place])


def _threads() -> _Values:
    yield _stat(_STAT_THREADS), {}


def _descriptors() -> _Values:
    # Without the one that lists them.
    yield len(os.listdir(_PROC / "fd")) - 1, {}  # noqa: PTH208 - names alone, of what may be gone a moment later


def _uptime() -> _Values:
    started = _stat(_STAT_START) / os.sysconf("SC_CLK_TCK")
    yield time.clock_gettime(time.CLOCK_BOOTTIME) - started, {}


def _generations(what: str) -> _Read:
    def read() -> _Values:
        for number, generation in enumerate(gc.get_stats()):
            yield generation[what], {GC_GENERATION: number}

    return read


_COUNTERS: tuple[tuple[str, str, str, _Read], ...] = (
    (CPU_TIME, "s", "Total CPU seconds broken down by different CPU modes.", _cpu_time),
    (
        CONTEXT_SWITCHES,
        "{context_switch}",
        "Number of times the process has been context switched.",
        _context_switches,
    ),
    (
        GC_COLLECTIONS,
        "{collection}",
        "The number of times a generation was collected since interpreter start.",
        _generations("collections"),
    ),
    (
        GC_COLLECTED,
        "{object}",
        "The total number of objects collected inside a generation since interpreter start.",
        _generations("collected"),
    ),
    (
        GC_UNCOLLECTABLE,
        "{object}",
        "The total number of objects which were found to be uncollectable inside a generation since interpreter start.",
        _generations("uncollectable"),
    ),
)
_LEVELS: tuple[tuple[str, str, str, _Read], ...] = (
    (MEMORY_VIRTUAL, "By", "The amount of committed virtual memory.", _memory(0)),
    (MEMORY_USAGE, "By", "The amount of physical memory in use.", _memory(1)),
    (THREADS, "{thread}", "Process threads count.", _threads),
    (
        FILE_DESCRIPTORS,
        "{file_descriptor}",
        "Number of unix file descriptors in use by the process.",
        _descriptors,
    ),
)
