"""
The collector between the servers and the receiver: rotel, which none of us wrote.

Whatever it delivers is checked against the telemetry contract when it is closed: on its way to the receiver of the test
it passes one of the harness's own.
"""

import os
import random
import socket
import subprocess
import sys
import sysconfig
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from importlib.metadata import distribution
from pathlib import Path

import grpc
import grpc.aio
import pytest
from rsketch_telemetry.conformance import check
from rsketch_telemetry.otlp.handler import service
from rsketch_telemetry.otlp.receiver import Answer, Export, ReceiverConfig, Refusal, receive
from rsketch_telemetry.otlp.store import TelemetryStore

from harness.children import Child, clean_environ, running

__all__ = ["Collector", "collecting", "free_ports", "runnable"]

_ATTEMPTS = 3
_LOWEST_PORT = 10240
_OURS = ("rsketch_telemetry.", "rsketch-telemetry")
"""Scopes, and the resource's distribution, that must keep to the contract; a test may send what it likes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Collector:
    """
    A running collector and its endpoints, as `OTEL_EXPORTER_OTLP_ENDPOINT` takes them.

    Attributes:
        passed: Everything that has passed through it.
        exempt: Ids of rules that a test leaves out, each with the reason; see `exempted`.
    """

    child: Child
    endpoints: dict[str, str]
    passed: TelemetryStore
    exempt: dict[str, str] = field(default_factory=dict)

    def exempted(self, reason: str, *rules: str) -> None:
        """Leave out some rules, for telemetry that is wrong on purpose; the reason is for the reader of the test."""
        assert reason, "a test that is not checked says why"
        assert rules, "name the rules"
        self.exempt.update(dict.fromkeys(rules, reason))

    async def drain(self) -> None:
        """Stop it; what it has accepted is delivered by then."""
        status = await self.child.stop()
        assert status == 0, self.child.text()

    def check(self, *, complete: bool = False) -> None:
        """
        Fail where something of ours passed that the contract does not allow.

        Args:
            complete: Whether all that the servers made has passed, none of it sampled away and none of them killed:
                then spans, metrics and logs must agree with each other.
        """
        found = check(self.passed.spans, self.passed.points, self.passed.logs, complete=complete)
        wrong = {
            str(violation)
            for violation in found
            if violation.scope.startswith(_OURS) and not violation.advice and violation.rule not in self.exempt
        }
        assert not wrong, "the contract does not allow what passed the collector:\n" + "\n".join(sorted(wrong))


@asynccontextmanager
async def collecting(deliver_to: str, folder: Path) -> AsyncIterator[Collector]:
    """
    Run a collector while open.

    Args:
        deliver_to: The OTLP/gRPC endpoint that it exports to.
        folder: For whatever it writes.
    """
    async with grpc.aio.insecure_channel(deliver_to.removeprefix("http://")) as channel:
        watched = _Watched(channel)
        async with (
            receive(watched, ReceiverConfig(grpc_port=0, http_port=0)) as between,
            _running(_agent(), between.grpc_endpoint, folder, watched.passed) as collector,
        ):
            yield collector
    collector.check()


class _Watched:
    """Between the collector and where it delivers: keeps what passes, and hands on the answer."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel
        self.passed = TelemetryStore()

    async def handle(self, export: Export) -> Answer:
        """Keep and hand on one request."""
        await self.passed.handle(export)
        send: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(
            f"/{service(export.signal)}/Export"
        )
        try:
            await send(export.request.SerializeToString())
        except grpc.aio.AioRpcError as error:
            return Refusal(code=error.code(), message=error.details() or "")
        return None


@asynccontextmanager
async def _running(agent: Path, deliver_to: str, folder: Path, passed: TelemetryStore) -> AsyncIterator[Collector]:
    for attempt in range(1, _ATTEMPTS + 1):
        ports = free_ports(2)
        argv: list[str | Path] = [agent, *_arguments(deliver_to, folder, *ports)]
        async with running(argv, environ=_environ(folder), folder=folder, name="rotel") as child:
            # It binds before it says this, and ends with an error where a port is taken.
            await child.written("Starting Rotel|unable to bind")
            if child.matching("unable to bind") and attempt < _ATTEMPTS:
                continue
            endpoints = {"grpc": f"http://127.0.0.1:{ports[0]}", "http/protobuf": f"http://127.0.0.1:{ports[1]}"}
            yield Collector(child=child, endpoints=endpoints, passed=passed)
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

    They are held together until all are known, so that they differ. They are not among those that the kernel hands to
    outgoing connections, of which any may take one before it is used; who uses them tries again then.
    """
    with ExitStack() as held:
        return [_bound(held.enter_context(socket.socket())) for _ in range(count)]


def _bound(free: socket.socket) -> int:
    for _ in range(200):
        with suppress(OSError):
            free.bind(("127.0.0.1", random.randrange(_LOWEST_PORT, max(2 * _LOWEST_PORT, _ephemeral_port()))))
            return int(free.getsockname()[1])
    raise RuntimeError("no free port was found in 200 tries")


def _ephemeral_port() -> int:
    """Return the lowest port that the kernel chooses by itself."""
    return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])


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
