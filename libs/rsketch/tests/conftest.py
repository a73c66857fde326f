"""Starts the real command in child processes, with two services that a stranger's distribution publishes."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

DEADLINE_SECONDS = 20.0
SERVICES = {"alpha": "stranger:alpha", "beta": "stranger:beta"}


class Host:
    """
    One `rsketch` process, its error output, and what the services wrote to their journal.

    Args:
        arguments: What comes after `rsketch`.
        folder: Where its files are; it holds the distribution.
        settings: Added to a clean environment.
    """

    def __init__(self, arguments: tuple[str, ...], folder: Path, settings: dict[str, str]) -> None:
        self._errors = folder / "stderr"
        self._journal = folder / "journal"
        environ = {
            "PATH": os.environ["PATH"],  # noqa: TID251 - a child needs one
            "PYTHONPATH": f"{folder}:{Path(__file__).parent}",
            "STRANGER_JOURNAL": str(self._journal),
            "OTEL_SDK_DISABLED": "true",
        }
        with self._errors.open("ab") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "rsketch", *arguments],
                env=environ | settings,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
            )

    @property
    def errors(self) -> str:
        """What it wrote to stderr until now."""
        return self._errors.read_text()

    @property
    def journal(self) -> list[str]:
        """What its services wrote until now, without process ids."""
        return [line.split(" ", 1)[1] for line in self._lines()]

    def pids(self) -> set[int]:
        """Every process in which a service was opened."""
        return {int(line.split(" ", 1)[0]) for line in self._lines()}

    def serving(self) -> "Host":
        """Wait for the banner."""
        return self.until(lambda: "\n  workers" in self.errors)

    def until(self, condition: Callable[[], object]) -> "Host":
        """Wait for a condition; fail when it does not come true in time."""
        end = time.monotonic() + DEADLINE_SECONDS
        while not condition():
            assert time.monotonic() < end, self.errors
            time.sleep(0.01)
        return self

    def port(self, name: str) -> int:
        """The port that the banner shows for a service."""
        found = re.search(rf"^  {name} +grpc://127\.0\.0\.1:(\d+)$", self.errors, re.MULTILINE)
        assert found, self.errors
        return int(found[1])

    def ask(self, name: str, word: bytes = b"?") -> int:
        """Connect to a service and return the process id that it answers with."""
        with socket.create_connection(("127.0.0.1", self.port(name)), timeout=DEADLINE_SECONDS) as connection:
            connection.sendall(word)
            return int(connection.recv(64))

    def send(self, number: signal.Signals) -> "Host":
        """Send a signal to the process that was started, not to its workers."""
        self.process.send_signal(number)
        return self

    def send_all(self, number: signal.Signals) -> "Host":
        """Send a signal to the whole process group, as a terminal does."""
        os.killpg(self.process.pid, number)
        return self

    def status(self) -> int:
        """Wait for the end and return the exit status."""
        return self.process.wait(DEADLINE_SECONDS)

    def output(self) -> str:
        """Wait for the end and return what it wrote to stdout."""
        return self.process.communicate(timeout=DEADLINE_SECONDS)[0].decode()

    def close(self) -> None:
        """Leave nothing behind, however the test went."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()

    def _lines(self) -> list[str]:
        return self._journal.read_text().splitlines() if self._journal.exists() else []


Start = Callable[..., Host]


def publish(folder: Path, entries: dict[str, str], name: str = "stranger", group: str = "rsketch.services") -> None:
    """Write what an installed distribution leaves behind: its metadata and its entry points."""
    info = folder / f"{name}-1.5.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.5\n")
    lines = [f"{entry} = {where}" for entry, where in entries.items()]
    (info / "entry_points.txt").write_text("\n".join([f"[{group}]", *lines, ""]))


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Return a function that starts `rsketch` with arguments and settings; each process is ended after the test."""
    publish(tmp_path, SERVICES)
    hosts: list[Host] = []

    def started(*arguments: str, **settings: str) -> Host:
        hosts.append(Host(arguments, tmp_path, settings))
        return hosts[-1]

    yield started
    for host in hosts:
        host.close()
