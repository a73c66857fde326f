"""The collector between the servers and the receiver: rotel, which none of us wrote."""

import os
import socket
import subprocess
import sys
import sysconfig
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path

import pytest

from harness.children import Child, clean_environ, running

__all__ = ["Collector", "collecting", "free_ports", "runnable"]

_ATTEMPTS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Collector:
    """A running collector and its endpoints, as `OTEL_EXPORTER_OTLP_ENDPOINT` takes them."""

    child: Child
    endpoints: dict[str, str]

    async def drain(self) -> None:
        """Stop it; what it has accepted is delivered by then."""
        status = await self.child.stop()
        assert status == 0, self.child.text()


@asynccontextmanager
async def collecting(deliver_to: str, folder: Path) -> AsyncIterator[Collector]:
    """
    Run a collector while open.

    Args:
        deliver_to: The OTLP/gRPC endpoint that it exports to.
        folder: For whatever it writes.
    """
    agent = _agent()
    for attempt in range(1, _ATTEMPTS + 1):
        ports = free_ports(2)
        argv: list[str | Path] = [agent, *_arguments(deliver_to, folder, *ports)]
        async with running(argv, environ=_environ(folder), folder=folder, name="rotel") as child:
            # It binds before it says this, and ends with an error where a port is taken.
            await child.written("Starting Rotel|unable to bind")
            if child.matching("unable to bind") and attempt < _ATTEMPTS:
                continue
            endpoints = {"grpc": f"http://127.0.0.1:{ports[0]}", "http/protobuf": f"http://127.0.0.1:{ports[1]}"}
            yield Collector(child=child, endpoints=endpoints)
            return


def _arguments(deliver_to: str, folder: Path, grpc_port: int, http_port: int) -> list[str]:
    settings = {
        "otlp-grpc-endpoint": f"127.0.0.1:{grpc_port}",
        "otlp-http-endpoint": f"127.0.0.1:{http_port}",
        "exporter": "otlp",
        "otlp-exporter-protocol": "grpc",
        "otlp-exporter-endpoint": deliver_to,
        "otlp-exporter-retry-initial-backoff": "100ms",
        "batch-timeout": "50ms",
        "pid-file": str(folder / "rotel.pid"),
        "log-file": str(folder / "rotel.log"),
    }
    return ["start", *(f"--{name}={value}" for name, value in settings.items())]


def free_ports(count: int) -> list[int]:
    """
    Return different ports that were free a moment ago.

    They are held together until all are known, so that they differ. Somebody else may take one before it is used;
    who uses them tries again then.
    """
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _agent() -> Path:
    agent = Path(str(distribution("rotel").locate_file("rotel/rotel-agent")))
    return runnable(agent, ci=os.environ.get("CI") == "true")  # noqa: TID251 - the tests' own switch


def runnable(agent: Path, *, ci: bool) -> Path:
    """
    Return *agent* if it can run here.

    Otherwise skip the test with one line that says what to install; with *ci* fail it, for a build must not go green
    without the tests that need a collector, whereas on a laptop the others are still worth running.
    """
    trial = subprocess.run([agent, "version"], env=_environ(Path.cwd()), capture_output=True, text=True, check=False)
    if trial.returncode == 0:
        return agent
    reason = f"the collector rotel does not start: {(trial.stderr or trial.stdout).strip()[:200]}"
    if "libpython3.11" in trial.stderr:
        reason = "the collector rotel needs libpython3.11.so.1.0: install the Debian package libpython3.11"
    if ci:
        pytest.fail(reason, pytrace=False)
    print(f"\nSKIPPED end-to-end test: {reason}", file=sys.__stderr__)
    pytest.skip(reason)


def _environ(folder: Path) -> dict[str, str]:
    # A Python that was not built by the distribution has its library beside itself.
    libraries = sysconfig.get_config_var("LIBDIR") or ""
    return clean_environ(folder, {"LD_LIBRARY_PATH": libraries})
