"""Child processes with a clean environment, their output by lines, and proof that nothing of them is left."""

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

__all__ = ["BIN", "Child", "clean_environ", "running"]

BIN = Path(sys.executable).parent
"""Where the commands of the environment under test are. Not resolved: in a virtual environment it is a link."""


class Child:
    """
    A process in a session of its own.

    Attributes:
        lines: What it has written so far to both of its outputs, without line ends.
    """

    def __init__(self, name: str, process: asyncio.subprocess.Process) -> None:
        self.name = name
        self.lines: list[str] = []
        self._process = process
        self._written = asyncio.Condition()
        self._reading = [
            asyncio.create_task(self._read(stream)) for stream in (process.stdout, process.stderr) if stream
        ]

    @property
    def pid(self) -> int:
        """Its process id, which is also that of its session and of its process group."""
        return self._process.pid

    @property
    def status(self) -> int | None:
        """Its exit status, minus the signal that ended it, or None while it runs."""
        return self._process.returncode

    def text(self) -> str:
        """Return what it has written."""
        return "\n".join(self.lines)

    def matching(self, pattern: str) -> list[str]:
        """Return the lines in which *pattern* is found."""
        return [line for line in self.lines if re.search(pattern, line)]

    async def written(self, pattern: str, seconds: float = 20.0) -> re.Match[str]:
        """
        Return the first match of *pattern* in a line of output, waiting for it.

        Raises:
            AssertionError: It ended or the time was over without it; the message holds the output.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds), self._written:
                while (found := self._find(pattern)) is None and not self._silent():
                    await self._written.wait()
                if found is not None:
                    return found
        raise AssertionError(f"{self.name} (status {self.status}) did not write {pattern!r} but:\n{self.text()}")

    async def stop(self, number: signal.Signals = signal.SIGTERM, seconds: float = 15.0) -> int:
        """Send a signal to the process alone, as a supervisor would, and return its exit status."""
        if self.status is None:
            self._process.send_signal(number)
        return await self.ended(seconds)

    async def ended(self, seconds: float = 15.0) -> int:
        """
        Return its exit status when it has ended and its output is read to the end.

        Raises:
            AssertionError: It still runs when the time is over, or something that it started holds its output open.
        """
        try:
            async with asyncio.timeout(seconds):
                status = await self._process.wait()
                await asyncio.gather(*self._reading)
        except TimeoutError:
            left = ", ".join(self.left()) or "nothing"
            raise AssertionError(
                f"{self.name} has not ended after {seconds:g} s; running: {left}\n{self.text()}"
            ) from None
        return status

    def left(self) -> list[str]:
        """Return the processes of its session that still run: itself, children, orphans."""
        return [f"{pid} {command}" for pid, command in _session(self.pid)]

    async def kill(self) -> None:
        """End whatever is left of its session; nothing where it has ended well."""
        while left := _session(self.pid):
            for pid, _ in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            # An orphan is not ours to wait for: look again until the kernel has ended it.
            await asyncio.sleep(0.01)
        await self._process.wait()
        # Nobody holds the outputs open any more, so reading ends, and asyncio closes its pipes only then.
        await asyncio.wait(self._reading, timeout=5)

    def _find(self, pattern: str) -> re.Match[str] | None:
        return next((found for line in self.lines if (found := re.search(pattern, line))), None)

    def _silent(self) -> bool:
        return all(task.done() for task in self._reading)

    async def _read(self, stream: asyncio.StreamReader) -> None:
        try:
            async for line in stream:
                async with self._written:
                    self.lines.append(line.decode(errors="replace").rstrip("\n"))
                    self._written.notify_all()
        finally:
            # Whoever waits for a line learns that none will come.
            asyncio.get_running_loop().call_soon(lambda: asyncio.ensure_future(self._wake()))

    async def _wake(self) -> None:
        async with self._written:
            self._written.notify_all()


def _session(leader: int) -> list[tuple[int, str]]:
    """Return pid and command of the processes that run in the session of *leader*."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            # The second field is the command in brackets, which may hold anything; state and session come after it.
            state, _, _, session = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
            if int(session) == leader and state != "Z":
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                found.append((int(folder.name), command.strip()))
    return found


@asynccontextmanager
async def running(
    argv: Sequence[str | Path], *, environ: Mapping[str, str], folder: Path, name: str = ""
) -> AsyncIterator[Child]:
    """Run a command while open; what is left of it at the end is killed."""
    process = await asyncio.create_subprocess_exec(
        *argv,
        env=dict(environ),
        cwd=folder,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    child = Child(name or Path(argv[0]).name, process)
    try:
        yield child
    finally:
        await child.kill()


def clean_environ(folder: Path, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """
    Return an environment that holds nothing of the one the tests run in, and *more*.

    A server without an endpoint starts no dashboard, which would outlive the test; `RSKETCH_DASHBOARD` brings it back.
    """
    base = {"PATH": f"{BIN}:/usr/bin:/bin", "HOME": str(folder), "LANG": "C.UTF-8", "RSKETCH_DASHBOARD": "0"}
    return base | dict(more or {})
