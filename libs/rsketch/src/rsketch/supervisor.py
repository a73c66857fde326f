"""
Keeps a number of worker processes alive: starts them, replaces those that die, and ends them together.

It serves nothing itself, starts processes with exec and never by fork alone (grpc's threads do not survive that), and
learns about its workers over the links only.
"""

import asyncio
import logging
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence

from rsketch.backoff import Backoff
from rsketch.errors import StartError, UsageError
from rsketch.fate import fate
from rsketch.link import READY, REFUSED
from rsketch.stop import Stop

__all__ = ["Supervisor"]

# Telemetry tells the workers of one host apart by it.
_WORKER = "RSKETCH_TELEMETRY_WORKER"
_FRUITLESS_STARTS = 5
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)

logger = logging.getLogger(__name__)


class Supervisor:
    """
    A set of workers that live and end together.

    Args:
        command: What starts a worker; its number is added as the last argument.
        environ: Their environment.
        count: How many.
        stop: Ends them: each drains on its own.
        on_ready: Called once, when each worker has said that it serves.
    """

    def __init__(
        self,
        command: Sequence[str],
        environ: Mapping[str, str],
        *,
        count: int,
        stop: Stop,
        on_ready: Callable[[], None],
    ) -> None:
        self._command = command
        self._environ = environ
        self._numbers = range(1, count + 1)
        self._stop = stop
        self._on_ready = on_ready
        self._served: set[int] = set()
        self._unclean: list[str] = []
        self._alive: dict[int, _Worker] = {}

    async def run(self) -> None:
        """
        Supervise until the stop is requested and the last worker has ended.

        Raises:
            UsageError: A worker says that this configuration can never work.
            StartError: A worker never comes to serve, or does not end cleanly. All workers have ended.
        """
        self._stop.attach()
        try:
            async with asyncio.TaskGroup() as group:
                for number in self._numbers:
                    group.create_task(self._keep(number))
        except ExceptionGroup as failures:
            # Several workers fail for one reason: the first says it.
            raise failures.exceptions[0] from None
        if self._unclean:
            raise StartError(f"{self._unclean[0]} while it stopped")

    def kill(self) -> None:
        """End all workers at once, without a drain. May be called from a signal handler."""
        for worker in list(self._alive.values()):
            worker.process.kill()

    async def _keep(self, number: int) -> None:
        """Start worker *number*, and start it again whenever it dies before the stop."""
        backoff = Backoff()
        fruitless = 0
        while not self._stop.requested():
            worker = self._alive[number] = self._start(number)
            try:
                said = await self._stop.until(worker.said())
                if said == READY:
                    self._mark(worker)
                await self._stop.until(worker.exited())
            finally:
                await worker.end()
            if not self._stop.requested():
                fruitless = 0 if said == READY else fruitless + 1
                self._judge(worker, said or "", fruitless)
                await self._pause(worker, backoff.after(worker.lived_seconds))
            elif worker.process.returncode:
                # Not raised here: that would cut short the drain of the others.
                self._unclean.append(str(worker))

    def _start(self, number: int) -> "_Worker":
        return _Worker(number, [*self._command, "--worker", str(number)], self._environ)

    def _mark(self, worker: "_Worker") -> None:
        if len(self._served) == len(self._numbers):
            logger.info("worker %d (pid %d) serves", worker.number, worker.process.pid)
            return
        self._served.add(worker.number)
        if len(self._served) == len(self._numbers):
            self._on_ready()

    def _judge(self, worker: "_Worker", said: str, fruitless: int) -> None:
        """Give up where a worker that never served cannot be expected to; one that did is always tried again."""
        if worker.number in self._served:
            return
        if said.startswith(REFUSED):
            raise UsageError(said.removeprefix(REFUSED))
        if fruitless >= _FRUITLESS_STARTS:
            raise StartError(f"{worker}; it did not start in {fruitless} attempts")

    async def _pause(self, worker: "_Worker", delay_seconds: float) -> None:
        logger.warning("%s; the next one starts in %.1f s", worker, delay_seconds)
        await self._stop.until(asyncio.sleep(delay_seconds))


class _Worker:
    """One process and the supervisor's end of its link."""

    def __init__(self, number: int, command: Sequence[str], environ: Mapping[str, str]) -> None:
        self.number = number
        self._loop = asyncio.get_running_loop()
        self._born = self._loop.time()
        self._died = asyncio.Event()
        self._socket, theirs = socket.socketpair()
        self._socket.setblocking(False)  # noqa: FBT003 - the socket's own interface
        with theirs:
            self.process = _spawn(command, {**environ, _WORKER: str(number)}, theirs)
        self.lived_seconds = 0.0
        # The kernel's one portable way to wait for a process; SIGCHLD belongs to the loop.
        threading.Thread(target=self._reap, name=f"rsketch-worker-{self.process.pid}", daemon=True).start()

    async def said(self) -> str:
        """Return what the worker says about its start; empty where it dies without a word."""
        words = b""
        while not words.endswith(b"\n"):
            try:
                more = await self._loop.sock_recv(self._socket, 4096)
            except OSError:
                return ""
            if not more:
                return ""
            words += more
        return words.decode(errors="replace").strip()

    async def exited(self) -> None:
        """Return when the process has ended."""
        await self._died.wait()

    async def end(self) -> None:
        """Ask the worker to end, and wait until it has. A second call does nothing."""
        self._socket.close()
        await self.exited()

    def __str__(self) -> str:
        """Which worker it was and how it ended."""
        return f"worker {self.number} (pid {self.process.pid}) {fate(self.process.returncode or 0)}"

    def _reap(self) -> None:
        self.process.wait()
        self._loop.call_soon_threadsafe(self._bury)

    def _bury(self) -> None:
        self.lived_seconds = self._loop.time() - self._born
        self._died.set()


def _spawn(command: Sequence[str], environ: Mapping[str, str], link: socket.socket) -> "subprocess.Popen[bytes]":
    """
    Start a worker with the stop signals blocked; it lets them through once it can handle them.

    A Ctrl-C reaches the whole process group, so also a worker that is still importing and would die of it.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
    try:
        return subprocess.Popen(command, env=environ, stdin=link.fileno())  # noqa: S603 - our own command
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
