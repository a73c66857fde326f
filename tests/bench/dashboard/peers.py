"""
What else pip installs that shows OTLP, measured beside ours: each in an environment of its own, from `pins/*.txt`.

A peer answers when it likes: some before they have stored. So its CPU time is read when it has come to rest.
"""

import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.dashboard.queries import load, sent
from bench.dashboard.started import dashboard
from bench.environments import install, pinned
from bench.figures import Figure, written
from bench.process import Measured, free_port, get, running, until

__all__ = ["table"]

_PINS = Path(__file__).parent / "pins"
_REPEATS = 3
_WARM = 2_000
_SPANS = 20_000
_REST_SECONDS = 1.0
_MOST_SECONDS = 180.0
_HEAD = ("", "version", "takes", "shows", "spans a CPU-second", "start", "memory then", "installed")
_NOT_MEASURED = (
    ("`sonar-tui`", "draws into a terminal, and its ports 4317 and 4318 cannot be changed"),
    ("`agent-triage`, `minitrail`, `clustertrace`", "for agents' runs: they show none of an ordinary service"),
    ("`datasette-otel-viewer`", "shows what Datasette itself sends"),
    ("`rotel`", "a collector without a page"),
    (".NET's Aspire dashboard, grafana/otel-lgtm, Jaeger", "containers or binaries, not on PyPI"),
    ("otel-desktop-viewer, otel-tui", "Go programs, not on PyPI"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Peer:
    """
    One of the others.

    Attributes:
        name: Of its distribution.
        command: Its arguments; `{http}`, `{grpc}` and `{folder}` are filled in.
        environ: What it needs in its environment, likewise.
        protocol: That it is measured over.
        takes: Protocols, and `shows` signals, as its documentation says.
    """

    name: str
    command: Sequence[str]
    environ: Mapping[str, str] = field(default_factory=dict)
    protocol: str = "http"
    takes: str
    shows: str


_PEERS = (
    _Peer(
        name="arize-phoenix",
        command=("phoenix", "serve"),
        environ={
            "PHOENIX_PORT": "{http}",
            "PHOENIX_GRPC_PORT": "{grpc}",
            "PHOENIX_HOST": "127.0.0.1",
            "PHOENIX_WORKING_DIR": "{folder}",
            "PHOENIX_TELEMETRY_ENABLED": "false",
            "PHOENIX_ALLOW_EXTERNAL_RESOURCES": "false",
        },
        protocol="grpc",
        takes="gRPC, HTTP",
        shows="traces",
    ),
    _Peer(
        name="trace-view",
        command=("tv", "--port", "{http}", "--db", "{folder}/traces.db", "serve"),
        takes="HTTP",
        shows="traces",
    ),
)


def table(folder: Path) -> Iterator[str]:
    """Yield the lines of the table, ours first, and what could not be measured."""
    yield _line(*_HEAD)
    yield _line(*["---"] * len(_HEAD))
    yield _ours(folder)
    for peer in _PEERS:
        print(f"bench: {peer.name}", file=sys.stderr, flush=True)
        yield _measured(peer, folder)
    yield ""
    yield "Not measured:"
    yield ""
    yield from (f"- {name}: {why}." for name, why in _NOT_MEASURED)


def _ours(folder: Path) -> str:
    values, starts, memory = [], [], []
    for at in range(_REPEATS):
        with tempfile.TemporaryDirectory(dir=folder) as own, dashboard(Path(own)) as measured:
            starts.append(measured.started_seconds)
            values.append(_per_cpu_second(measured, "grpc", measured.grpc_port, at))
            memory.append(measured.resident_bytes() / 1e6)
    installed = "its environment, which has the tests' browser driver too"
    shown = ("rsketch-dashboard", "", "gRPC, HTTP", "traces, metrics, logs")
    return _line(*shown, *_cells(values, starts, memory), installed)


def _measured(peer: _Peer, folder: Path) -> str:
    with tempfile.TemporaryDirectory(dir=folder) as own:
        environment = Path(own) / "environment"
        pins = _PINS / f"{peer.name}.txt"
        install(pins, environment)
        version = pinned(pins, peer.name)
        size = sum(path.lstat().st_size for path in environment.rglob("*") if not path.is_symlink()) / 1e6
        values, starts, memory = [], [], []
        for at in range(_REPEATS):
            with _started(peer, environment, Path(own) / f"data-{at}") as (measured, port, seconds):
                starts.append(seconds)
                values.append(_per_cpu_second(measured, peer.protocol, port, at))
                memory.append(measured.resident_bytes() / 1e6)
        shown = (peer.name, version, peer.takes, peer.shows)
        return _line(*shown, *_cells(values, starts, memory), f"{size:,.0f} MB")


@contextmanager
def _started(peer: _Peer, environment: Path, folder: Path) -> Iterator[tuple[Measured, int, float]]:
    folder.mkdir()
    http, grpc = free_port(), free_port()

    def filled(text: str) -> str:
        return text.format(http=http, grpc=grpc, folder=folder)

    program, *arguments = map(filled, peer.command)
    # Nothing of ours: neither our modules nor our settings.
    environ = {"PATH": os.defpath, "HOME": str(folder), **{name: filled(text) for name, text in peer.environ.items()}}
    begun = time.perf_counter()
    with running((str(environment / "bin" / program), *arguments), folder=folder, environ=environ) as process:
        until(lambda: _answers(http), process, seconds=120)
        yield Measured(process), grpc if peer.protocol == "grpc" else http, time.perf_counter() - begun


def _answers(port: int) -> bool:
    try:
        return get(port, "/")[0] < 500
    except OSError:
        return False


def _per_cpu_second(measured: Measured, protocol: str, port: int, at: int) -> float:
    sent(load(port, protocol=protocol, spans=_WARM, seed=10 * at))
    before = _at_rest(measured)
    sent(load(port, protocol=protocol, spans=_SPANS, seed=10 * at + 1))
    return _SPANS / (_at_rest(measured) - before)


def _at_rest(measured: Measured) -> float:
    """Return the CPU time once nearly none is used any more."""
    end = time.monotonic() + _MOST_SECONDS
    seconds = measured.cpu_seconds()
    while time.monotonic() < end:
        time.sleep(_REST_SECONDS)
        before, seconds = seconds, measured.cpu_seconds()
        if seconds - before < 0.05 * _REST_SECONDS:
            break
    return seconds


def _cells(values: Sequence[float], starts: Sequence[float], memory: Sequence[float]) -> tuple[str, str, str]:
    figure = Figure(name="", values=values, unit="")
    low, high = figure.interval()
    start, resident = (Figure(name="", values=each, unit="").median for each in (starts, memory))
    return f"**{written(figure.median)}** [{written(low)}..{written(high)}]", f"{start:.1f} s", f"{resident:.0f} MB"


def _line(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"
