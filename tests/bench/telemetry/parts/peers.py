"""
What the stacks of others add to a request, each in an environment of its own, and ours beside them, in the same run.

All send to the same counting receiver, and ddtrace to one that it takes for its agent. Each is started as its
documentation says. A stack that cannot be installed, or does not serve, is a line that says so.
"""

import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bench.environments import install, pinned
from bench.figures import written
from bench.telemetry import grpc_service, traffic, variants
from bench.telemetry.agent import Agent, agent
from bench.telemetry.effort import Effort
from bench.telemetry.estimate import added, ratio, times
from bench.telemetry.external import Compared, Program, compare
from bench.telemetry.load import Load, grpc_load, http_load, missing
from bench.telemetry.progress import say
from bench.telemetry.rows import Goal, Row
from bench.telemetry.server import cores
from bench.telemetry.sink import Sink, sink

__all__ = ["measure"]

_PROGRAMS = Path(__file__).parents[1] / "peers"
_PINS = Path(__file__).parents[1] / "pins"
_LEAST_TIMES = Goal(25, least=True)
_MOST_LAUNCHES = 3
_MOST_TURNS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stack:
    """
    A program, and how it gets its telemetry.

    Attributes:
        about: In words; `{version}` is filled in.
        pins: Of its environment; empty for ours.
        distribution: Whose version is told.
        program: A file in `peers/`, and arguments that both have.
        traced: What stands before the program, and arguments, with telemetry.
        environ: Beside, with telemetry; `{grpc}`, `{http}` and `{agent}` are filled in.
        spans: A request; 0 where those that come are counted by traces.
    """

    about: str
    pins: str = ""
    distribution: str = ""
    program: Sequence[str]
    launcher: Sequence[str] = ()
    traced: Sequence[str] = ()
    environ: Mapping[str, str] = field(default_factory=dict)
    spans: int = 1

    @property
    def is_grpc(self) -> bool:
        return self.program[0] == "grpc_app.py"


_INSTRUMENT = ("opentelemetry-instrument",)
_OTLP = {"OTEL_SERVICE_NAME": "measured", "OTEL_EXPORTER_OTLP_ENDPOINT": "{grpc}"}
_OTLP_HTTP = {**_OTLP, "OTEL_EXPORTER_OTLP_ENDPOINT": "{http}", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}
_DDTRACE = {
    "DD_SERVICE": "measured",
    "DD_TRACE_AGENT_URL": "{agent}",
    "DD_INSTRUMENTATION_TELEMETRY_ENABLED": "false",
    "DD_REMOTE_CONFIGURATION_ENABLED": "false",
}
_SANIC = ("asgi_app.py", "--framework", "sanic")
_FASTAPI = ("asgi_app.py", "--framework", "fastapi")
_OURS = "rsketch-telemetry"

_STACKS: Final[Mapping[str, _Stack]] = {
    "ours": _Stack(
        about="Sanic + rsketch-telemetry",
        program=("sanic_app.py",),
        launcher=_INSTRUMENT,
        environ={**_OTLP, **variants.LEAN},
    ),
    "ours-grpc": _Stack(
        about="grpc.aio + rsketch-telemetry",
        program=("grpc_app.py",),
        launcher=_INSTRUMENT,
        environ={**_OTLP, **variants.LEAN},
    ),
    "sanic-contrib": _Stack(
        about="Sanic + opentelemetry-instrumentation-sanic {version}",
        pins="sanic-contrib",
        distribution="opentelemetry-instrumentation-sanic",
        program=("sanic_app.py",),
        launcher=_INSTRUMENT,
        environ=_OTLP,
    ),
    "sanic-ddtrace": _Stack(
        about="Sanic + ddtrace {version} (spans only)",
        pins="sanic-ddtrace",
        distribution="ddtrace",
        program=("sanic_app.py",),
        launcher=("ddtrace-run",),
        environ=_DDTRACE,
        spans=0,
    ),
    "asgi-contrib": _Stack(
        about="Sanic on uvicorn + contrib ASGI {version} (three spans)",
        pins="asgi-contrib",
        distribution="opentelemetry-instrumentation-asgi",
        program=_SANIC,
        launcher=_INSTRUMENT,
        traced=("--stack", "contrib"),
        environ=_OTLP,
        spans=3,
    ),
    "asgi-contrib-quiet": _Stack(
        about="Sanic on uvicorn + contrib ASGI {version} (one span)",
        pins="asgi-contrib",
        distribution="opentelemetry-instrumentation-asgi",
        program=_SANIC,
        launcher=_INSTRUMENT,
        traced=("--stack", "contrib-quiet"),
        environ=_OTLP,
    ),
    "asgi-logfire": _Stack(
        about="Sanic on uvicorn + logfire {version}",
        pins="asgi-logfire",
        distribution="logfire",
        program=_SANIC,
        traced=("--stack", "logfire"),
        environ=_OTLP_HTTP,
    ),
    "fastapi-contrib": _Stack(
        about="FastAPI + contrib {version}",
        pins="fastapi-contrib",
        distribution="opentelemetry-instrumentation-fastapi",
        program=_FASTAPI,
        launcher=_INSTRUMENT,
        environ=_OTLP,
        spans=3,
    ),
    "fastapi-logfire": _Stack(
        about="FastAPI + logfire {version}",
        pins="fastapi-logfire",
        distribution="logfire",
        program=_FASTAPI,
        traced=("--stack", "logfire"),
        environ=_OTLP_HTTP,
    ),
    "grpc-contrib": _Stack(
        about="grpc.aio + contrib {version} (no server metrics)",
        pins="grpc-contrib",
        distribution="opentelemetry-instrumentation-grpc",
        program=("grpc_app.py",),
        launcher=_INSTRUMENT,
        environ=_OTLP,
    ),
}


@dataclass(slots=True)
class _Measured:
    """What a stack gave: `problem` says why it is nothing."""

    found: Compared = field(default_factory=Compared)
    came: int = 0
    problem: str = ""


def measure(effort: Effort) -> list[Row]:
    """Measure all stacks."""
    if packages := missing():
        return [Row(name="peer", about="others", estimate=None, remark=f"apt-get install {' '.join(packages)}")]
    launches, turns = min(effort.launches, _MOST_LAUNCHES), min(effort.turns, _MOST_TURNS)
    measured = {name: _Measured() for name in _STACKS}
    with _bench() as bench:
        for name, stack in _STACKS.items():
            measured[name].problem = bench.install(name, stack)
        for at in range(launches):
            for name, stack in _STACKS.items():
                if not measured[name].problem:
                    say(f"others, {at + 1} of {launches}: {name}")
                    bench.launch(name, stack, measured[name], at, turns, effort.seconds)
        return [row for name in _STACKS for row in _rows(name, bench.about(name), measured)]


class _Bench:
    """The folder of the environments, and what the stacks send to."""

    def __init__(self, folder: Path, collector: Sink, listening: Agent) -> None:
        self._folder = folder
        self._collector = collector
        self._agent = listening
        self._loads: Mapping[bool, Load] = {
            False: http_load(traffic.requests("hello"), folder),
            True: grpc_load(grpc_service.PATH, b"\x08\x07", folder),
        }

    def install(self, name: str, stack: _Stack) -> str:
        """Make the environment of a stack, unless another one has made it; return why that failed."""
        if not stack.pins or self._bin(stack).exists():
            return ""
        say(f"others, installing: {stack.pins}")
        try:
            install(_PINS / f"{stack.pins}.txt", self._folder / stack.pins)
        except (OSError, RuntimeError) as error:
            say(f"OTHERS: {name} CANNOT BE INSTALLED: {error}")
            return f"cannot be installed: {error}"
        return ""

    def about(self, name: str) -> str:
        stack = _STACKS[name]
        version = pinned(_PINS / f"{stack.pins}.txt", stack.distribution) if stack.pins else ""
        return stack.about.format(version=version)

    def launch(self, name: str, stack: _Stack, measured: _Measured, at: int, turns: int, seconds: int) -> None:
        """Measure one launch; what goes wrong is the stack's problem, and the others go on."""
        before = self._came(stack)
        bare, loaded = (self._program(stack, f"{name}-{at}", traced=traced) for traced in (False, True))
        try:
            compare(bare, loaded, self._loads[stack.is_grpc], measured.found, turns=turns, seconds=seconds)
        except (OSError, RuntimeError) as error:
            say(f"OTHERS: {name} FAILED: {error}")
            measured.problem = str(error).splitlines()[0]
        measured.came += self._came(stack) - before

    def _program(self, stack: _Stack, name: str, *, traced: bool) -> Program:
        folder = self._folder / f"{name}-{'traced' if traced else 'bare'}"
        folder.mkdir()
        where = {"grpc": self._collector.grpc, "http": self._collector.http, "agent": self._agent.url}
        environ = {"PATH": f"{self._bin(stack)}:{os.defpath}", "HOME": str(folder)}
        program, *arguments = stack.program
        command = [str(self._bin(stack) / "python"), str(_PROGRAMS / program), "--port", "{port}", *arguments]
        if traced:
            environ |= {key: value.format(**where) for key, value in stack.environ.items()}
            command = [*(str(self._bin(stack) / word) for word in stack.launcher), *command, *stack.traced]
        return Program(command=command, environ=environ, folder=folder)

    def _bin(self, stack: _Stack) -> Path:
        return self._folder / stack.pins / "bin" if stack.pins else Path(sys.executable).parent

    def _came(self, stack: _Stack) -> int:
        return self._collector.counts().all_spans if stack.spans else self._agent.traces()


@contextmanager
def _bench() -> Iterator[_Bench]:
    away = cores()[1]
    with tempfile.TemporaryDirectory() as folder, sink(away) as collector, agent(away) as listening:
        yield _Bench(Path(folder), collector, listening)


def _rows(name: str, about: str, all_measured: Mapping[str, _Measured]) -> Iterator[Row]:
    stack, measured = _STACKS[name], all_measured[name]
    if measured.problem or not measured.found.cpu:
        yield Row(name=f"peer.{name}", about=about, estimate=None, remark=measured.problem or "nothing was measured")
        return
    found = measured.found
    cpu = added(found.cpu)
    expected = max(1, stack.spans) * found.served
    lost = max(0, expected - measured.came)
    bare = sorted(without for launch in found.cpu for without, _ in launch)
    share = ratio(found.speed)
    parts = [f"bare {written(bare[len(bare) // 2])}", f"throughput {share.value:.0%} of bare".replace("%", " %")]
    if lost:
        parts.append(f"**lost {lost:,} of {expected:,} {'spans' if stack.spans else 'traces'}**")
    kind = "ours" if name.startswith("ours") else "peer"
    yield Row(name=f"{kind}.{name}", about=about, estimate=cpu, noise=cpu.is_noise, remark="; ".join(parts))
    ours = all_measured["ours-grpc" if stack.is_grpc else "ours"].found
    if kind == "peer" and ours.cpu:
        yield Row(
            name=f"times.{name}",
            about=f"{about}: times what ours adds",
            estimate=times(ours.cpu, found.cpu),
            unit="times",
            goal=_LEAST_TIMES,
        )
