"""
Programs of others under load, each of them twice: as it is, and with telemetry, slice by slice in turn.

They cannot be told to put telemetry on or off, or to send what is left, so two processes are compared, and what each
took is read when both have come to rest, without what it took to start. Launches tell how much they differ by chance.
"""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from bench.process import HOST, free_port, until
from bench.telemetry.load import Load, Ran
from bench.telemetry.server import cores, session_cpu_ns

__all__ = ["Compared", "Process", "Program", "compare", "started"]

_START_SECONDS = 60.0
_STOP_SECONDS = 20.0
_EXPORT_SECONDS = 5.5
"""Batches wait for five seconds, by the SDK's default and by ours."""
_REST_SECONDS = 30.0
_LOOK_SECONDS = 0.5
_IDLE = 0.02
"""Of a core: less is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """
    How a server is started.

    Attributes:
        command: `{port}` is filled in.
        environ: All of its environment; `{port}` is filled in.
        folder: Where it runs; what it says goes into a file there.
        everywhere: Whether it may have the cores of the load as well.
    """

    command: Sequence[str]
    environ: Mapping[str, str]
    folder: Path
    everywhere: bool = False


@dataclass(slots=True)
class Compared:
    """
    What the launches of two programs gave.

    Attributes:
        cpu: µs of CPU a request of one and of the other, a pair a launch.
        speed: Requests a second, pair by pair and launch by launch.
        served: Requests with telemetry, those before anything was measured as well.
    """

    cpu: list[list[tuple[float, float]]] = field(default_factory=list)
    speed: list[list[tuple[float, float]]] = field(default_factory=list)
    served: int = 0


def compare(bare: Program, traced: Program, load: Load, found: Compared, *, turns: int, seconds: int) -> None:
    """
    Launch both and load them in turn.

    Raises:
        RuntimeError: One does not start, or does not answer with success.
    """
    speed = []
    with started(bare) as one, started(traced) as other:
        load.run(one.port, 1, cores()[1])
        warm = load.run(other.port, 1, cores()[1])
        for process in (one, other):
            process.begin()
        for at in range(turns):
            order = (one, other) if at % 2 else (other, one)
            ran = {process: process.serve(load, seconds) for process in order}
            speed.append((ran[one].per_second, ran[other].per_second))
        _rest((one, other))
        found.cpu.append([(one.used_us(), other.used_us())])
        other.end()
    found.speed.append(speed)
    found.served += warm.requests + other.served


class Process:
    """A program that runs."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self._process = process
        self.pid = process.pid
        self.port = port
        self.served = 0
        self._before_ns = 0

    def begin(self) -> None:
        """Count from now on."""
        self._before_ns = session_cpu_ns(self._process.pid)

    def serve(self, load: Load, seconds: int) -> Ran:
        """Load it for so long."""
        ran = load.run(self.port, seconds, cores()[1])
        self.served += ran.requests
        return ran

    def used_us(self) -> float:
        """Return the µs of CPU that each request took so far."""
        return (session_cpu_ns(self.pid) - self._before_ns) / 1e3 / self.served

    def end(self) -> None:
        """End it as a supervisor does, so that it sends what is still to be sent."""
        self._process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_STOP_SECONDS)


def _rest(processes: Sequence[Process]) -> None:
    """Wait until everything has been exported that is exported at intervals, and nearly no CPU is used any more."""
    time.sleep(_EXPORT_SECONDS)
    end = time.monotonic() + _REST_SECONDS
    used = sum(session_cpu_ns(process.pid) for process in processes)
    while time.monotonic() < end:
        time.sleep(_LOOK_SECONDS)
        before, used = used, sum(session_cpu_ns(process.pid) for process in processes)
        if used - before < _IDLE * _LOOK_SECONDS * 1e9:
            return


@contextmanager
def started(program: Program) -> Iterator[Process]:
    """Run a program while open; it listens."""
    port = free_port()
    command = [word.format(port=port) for word in program.command]
    environ = {name: value.format(port=port) for name, value in program.environ.items()}
    file = program.folder / "output.txt"
    with file.open("ab") as output:
        process = subprocess.Popen(
            command,
            env=environ,
            cwd=program.folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            if not program.everywhere:
                os.sched_setaffinity(process.pid, cores()[0])
            try:
                until(lambda: _listens(port), process, seconds=_START_SECONDS)
            except RuntimeError as error:
                raise RuntimeError(f"{error}:\n{file.read_text()[-2000:]}") from None
            yield Process(process, port)
        finally:
            # It leads its process group, which may hold children of its own.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection((HOST, port), timeout=1.0):
        return True
    return False
