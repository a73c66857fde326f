"""Servers under measurement: on cores of their own, spoken to by lines, and what the kernel knows of them."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from bench.telemetry import children

__all__ = ["Server", "cores", "cpu_ns", "resident_bytes", "server", "session_cpu_ns"]


class Server:
    """A program of ours that serves, and answers lines."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.pid = process.pid
        self.port: int = self._answer()["port"]

    def turn(self, mode: str) -> None:
        """Put something else around the requests."""
        self.port = self._ask(mode)["port"]

    def flush(self) -> None:
        """Let it send what is left."""
        self._ask("flush")

    def cpu_ns(self) -> int:
        """Return the processor time that it has used, of all its threads."""
        return cpu_ns(self.pid)

    def _ask(self, line: str) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._process.args!r} has ended with {self._process.wait()}")
        return json.loads(line)


@contextmanager
def server(module: str, arguments: Sequence[str], settings: Mapping[str, str]) -> Iterator[Server]:
    """Run a module of ours while open, on the server's cores."""
    command = (sys.executable, "-m", module, *arguments)
    with subprocess.Popen(
        command,
        env=children.environ(settings),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            os.sched_setaffinity(process.pid, cores()[0])
            yield Server(process)
        finally:
            process.kill()


def cores() -> tuple[set[int], set[int]]:
    """Return the server's cores and those of everybody else; the same one where there is only one."""
    first, *others = sorted(os.sched_getaffinity(0))
    return {first}, set(others) or {first}


def cpu_ns(pid: int) -> int:
    """Return the processor time that the threads of a process have used, to the nanosecond; of the living ones."""
    used = 0
    for task in Path(f"/proc/{pid}/task").glob("[0-9]*"):
        # A thread may end meanwhile.
        with suppress(OSError):
            used += int((task / "schedstat").read_text().split()[0])
    return used


def session_cpu_ns(leader: int) -> int:
    """Return the same of all processes of a session."""
    return sum(cpu_ns(pid) for pid in _session(leader))


def resident_bytes(leader: int) -> int:
    """Return the memory that the processes of a session have in use."""
    return sum(_resident_bytes(pid) for pid in _session(leader))


def _session(leader: int) -> list[int]:
    pids = [int(path.name) for path in Path("/proc").glob("[0-9]*")]
    found = []
    for pid in pids:
        with suppress(OSError):
            if os.getsid(pid) == leader:
                found.append(pid)
    return found


def _resident_bytes(pid: int) -> int:
    with suppress(OSError):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))
    return 0
