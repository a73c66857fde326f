"""
Load from outside, on cores of its own: wrk for HTTP and h2load for gRPC, and what they say.

Both send what was made before, and as fast as it is answered.
"""

import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["PROGRAMS", "Load", "Ran", "grpc_load", "http_load", "missing", "parse_h2load", "parse_wrk"]

PROGRAMS = {"wrk": "wrk", "h2load": "nghttp2-client"}
"""And the Debian packages that they come from."""

_CONNECTIONS = 16
_STREAMS = 4
_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Ran:
    """
    What a load generator says of one run.

    Attributes:
        requests: Answered.
        per_second: Of them.
        failed: Answers that were no success, and what was not answered for an error.
    """

    requests: int
    per_second: float
    failed: int


@dataclass(frozen=True, slots=True)
class Load:
    """A command that makes load; `{port}` and `{seconds}` are filled in."""

    command: Sequence[str]
    connections: int

    def run(self, port: int, seconds: int, cores: set[int]) -> Ran:
        """
        Make load for so long.

        Raises:
            RuntimeError: Something was not answered with success.
        """
        words = [word.format(port=port, seconds=seconds) for word in self.command]
        pinned = ("taskset", "--cpu-list", ",".join(map(str, sorted(cores))), *words)
        ran = subprocess.run(pinned, capture_output=True, text=True, timeout=_SECONDS + seconds, check=False)
        parse = parse_wrk if self.command[0] == "wrk" else parse_h2load
        found = parse(ran.stdout)
        if found is None or found.failed:
            how = "made no load" if found is None else f"had {found.failed:,} failures in {found.requests:,} requests"
            raise RuntimeError(f"{words[0]} {how}:\n{' '.join(words)}\n{ran.stdout[-2000:]}{ran.stderr[-1000:]}")
        return found


def http_load(requests: Sequence[bytes], folder: Path) -> Load:
    """Return what sends these requests again and again; *folder* must last as long."""
    script = folder / "requests.lua"
    # A string of Lua is one of JSON, but for what is not ASCII.
    listed = ",\n".join(json.dumps(request.decode("ascii")) for request in requests)
    script.write_text(
        f"local requests = {{\n{listed}\n}}\nlocal at = 0\n"
        "function request()\n  at = at % #requests + 1\n  return requests[at]\nend\n"
    )
    command = (
        "wrk",
        "-t1",
        f"-c{_CONNECTIONS}",
        "-d{seconds}s",
        "--timeout",
        "20s",
        "-s",
        str(script),
        "http://127.0.0.1:{port}",
    )
    return Load(command, _CONNECTIONS)


def grpc_load(path: str, message: bytes, folder: Path) -> Load:
    """Return what sends this message to a method again and again; *folder* must last as long."""
    body = folder / "message.bin"
    body.write_bytes(b"\0" + len(message).to_bytes(4, "big") + message)
    headers = ("-H", "content-type: application/grpc", "-H", "te: trailers", "-H", "user-agent: grpc-c/46.0.0")
    clients = ("-t1", f"-c{_CONNECTIONS // _STREAMS}", f"-m{_STREAMS}", "-D{seconds}", "--warm-up-time=0")
    return Load(("h2load", *clients, *headers, "-d", str(body), f"http://127.0.0.1:{{port}}{path}"), _CONNECTIONS)


def missing(programs: Sequence[str] = tuple(PROGRAMS)) -> list[str]:
    """Return the Debian packages of the programs that are not here."""
    return [PROGRAMS[program] for program in programs if shutil.which(program) is None]


def parse_wrk(text: str) -> Ran | None:
    """Return what wrk says; None where it says nothing."""
    ran = re.search(r"(\d+) requests in ", text)
    speed = re.search(r"Requests/sec: +([\d.]+)", text)
    if ran is None or speed is None:
        return None
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    # Those that wrk cuts at its end are no errors, and it does not count them.
    errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
    failed = (int(refused[1]) if refused else 0) + (sum(map(int, errors.groups())) if errors else 0)
    return Ran(int(ran[1]), float(speed[1]), failed)


def parse_h2load(text: str) -> Ran | None:
    """Return what h2load says; None where it says nothing."""
    speed = re.search(r"finished in [\d.]+m?s, ([\d.]+) req/s", text)
    ran = re.search(r"(\d+) done, (\d+) succeeded, (\d+) failed", text)
    if speed is None or ran is None:
        return None
    # Errors and timeouts are among the failed.
    return Ran(int(ran[2]), float(speed[1]), int(ran[3]))
