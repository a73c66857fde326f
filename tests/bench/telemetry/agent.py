"""
What ddtrace takes for its agent: a process that says yes to everything, and counts.

    python -m bench.telemetry.agent

It writes its port as a line of JSON, answers each line that comes in with the number of traces so far, as the requests
say in their heads, and ends with its input.
"""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["Agent", "agent"]


class Agent:
    """An agent that runs."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.url = f"http://127.0.0.1:{self._line()['port']}"

    def traces(self) -> int:
        """Ask for how many traces have come."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return int(self._line()["traces"])

    def _line(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())


@contextmanager
def agent(cores: set[int]) -> Iterator[Agent]:
    """Run an agent while open, on these cores."""
    command = (sys.executable, "-m", "bench.telemetry.agent")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            os.sched_setaffinity(process.pid, cores)
            yield Agent(process)
        finally:
            process.kill()


class _Counting:
    def __init__(self) -> None:
        self.traces = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                fields = dict(_fields(head.decode("latin-1")))
                if "chunked" in fields.get("transfer-encoding", ""):
                    await _chunks(reader)
                else:
                    await reader.readexactly(int(fields.get("content-length", "0")))
                self.traces += int(fields.get("x-datadog-trace-count", "0"))
                body = b'{"rate_by_service":{}}'
                length = f"Content-Length: {len(body)}\r\n".encode()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n" + length + b"\r\n" + body)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


def _fields(head: str) -> Iterator[tuple[str, str]]:
    for line in head.split("\r\n")[1:]:
        name, found, value = line.partition(":")
        if found:
            yield name.strip().lower(), value.strip()


async def _chunks(reader: asyncio.StreamReader) -> None:
    while size := int((await reader.readline()).split(b";")[0], 16):
        await reader.readexactly(size + 2)
    await reader.readline()


async def _serve() -> None:
    counting = _Counting()
    server = await asyncio.start_server(counting.serve, "127.0.0.1", 0, limit=2**20)
    print(json.dumps({"port": server.sockets[0].getsockname()[1]}), flush=True)
    while await asyncio.to_thread(sys.stdin.readline):
        print(json.dumps({"traces": counting.traces}), flush=True)


if __name__ == "__main__":
    asyncio.run(_serve())
