"""One run of one container: a real process in the pod's namespaces."""

import contextlib
import json
import os
import selectors
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from kube.cluster.errors import ClusterError

__all__ = ["Process", "program"]

# Time for bubblewrap to set up a root; it takes milliseconds, but many may do it at once.
_SET_UP_SECONDS = 30.0


def program(name: str) -> str:
    """Where a program is."""
    found = shutil.which(name)
    if found is None:
        raise ClusterError(f"not found: {name}")
    return found


class Process:
    """
    A container that was started.

    Args:
        wrapped: Yields the command line, given the descriptor that bubblewrap is to report to.
        network: The file of the pod's network namespace.
        log: Where its output is appended.
        errors: Where its standard error goes instead, if not there too.
    """

    def __init__(
        self,
        wrapped: Callable[[int], Sequence[str]],
        *,
        network: Path,
        environment: Mapping[str, str],
        log: Path,
        errors: Path | None = None,
    ) -> None:
        self._environment = dict(environment)
        reading, writing = os.pipe()
        try:
            with log.open("ab") as output, (errors or log).open("ab") as complaints:
                self._monitor = subprocess.Popen(
                    [program("nsenter"), f"--net={network}", "--", *wrapped(writing)],
                    env=self._environment,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=complaints,
                    pass_fds=[writing],
                    # Ctrl-C is for the tests, which then end this in their own way.
                    start_new_session=True,
                )
        except BaseException:
            os.close(reading)
            raise
        finally:
            os.close(writing)
        self._child = self._child_of(reading)

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._monitor.poll() is None

    def wait(self, timeout: float | None = None) -> int | None:
        """Its exit code, 128 plus a signal's number as in Kubernetes; None if it still runs after so many seconds."""
        try:
            code = self._monitor.wait(timeout)
        except subprocess.TimeoutExpired:
            return None
        return code if code >= 0 else 128 - code

    def signal(self, number: signal.Signals) -> None:
        """Send its first process a signal; one that has ended is left alone."""
        if self.running and self._child is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._child, number)

    def kill(self) -> None:
        """End it at once, with all that it started."""
        self.signal(signal.SIGKILL)
        if self._child is None:
            self._monitor.kill()

    def execute(self, command: Sequence[str], timeout: float) -> subprocess.CompletedProcess[str]:
        """
        Run a command in the container, as its user and with its environment.

        Raises:
            subprocess.TimeoutExpired: It took longer than so many seconds.
        """
        enter = [
            program("nsenter"),
            *("--target", str(self._child), "--user", "--preserve-credentials"),
            *("--mount", "--pid", "--net", "--ipc", "--uts", "--"),
        ]
        return subprocess.run(
            [*enter, *command],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
        )

    def _child_of(self, reading: int) -> int | None:
        """The container's first process, once it is the program itself; None if it never came to that."""
        with os.fdopen(reading, "rb") as reports:
            told = _read(reports.fileno(), time.monotonic() + _SET_UP_SECONDS)
        try:
            child = int(json.loads(told)["child-pid"])
        except (ValueError, KeyError):
            return None
        deadline = time.monotonic() + _SET_UP_SECONDS
        # Until then a signal would meet bubblewrap, and as process 1 it would ignore it.
        while self.running and _image_of(child) == _image_of(self._monitor.pid) and time.monotonic() < deadline:
            time.sleep(0.002)
        return child


def _image_of(process: int) -> str | None:
    try:
        return str(Path(f"/proc/{process}/exe").readlink())
    except OSError:
        return None


def _read(descriptor: int, deadline: float) -> bytes:
    """Everything that is written until the other end is closed or the time is up."""
    found = b""
    with selectors.DefaultSelector() as ready:
        ready.register(descriptor, selectors.EVENT_READ)
        while ready.select(max(0.0, deadline - time.monotonic())):
            data = os.read(descriptor, 4096)
            found += data
            if not data or found.rstrip().endswith(b"}"):
                break
    return found
