"""Ingest: spans per CPU-second of the dashboard's process, end to end, and what each slice of the way takes."""

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from rsketch_dashboard.store import Store
from rsketch_dashboard.store.dictionary import Dictionary, Ids
from rsketch_dashboard.store.rows import span_rows
from rsketch_dashboard.store.schema import FAMILIES

from bench.dashboard.load import PROTOCOLS
from bench.dashboard.queries import load, sent
from bench.dashboard.started import Dashboard, dashboard
from bench.dashboard.traffic import Traffic
from bench.figures import Figure, Goal

__all__ = ["GOAL", "end_to_end", "per_cpu_second", "slices"]

GOAL = Goal(50_000, least=True)
_NAMES = {"grpc": "gRPC", "http": "HTTP, protobuf", "http-gzip": "HTTP, protobuf, gzip"}
_WARM = 20_000
_SPANS = 100_000
_SLICE_SPANS = 30_000
_TOGETHER = 4
"""Requests in one transaction, as they come under load."""


def end_to_end(folder: Path, repeats: int) -> tuple[list[Figure], list[float]]:
    """Return spans per CPU-second by protocol, and how long each start took: a fresh process and file a repeat."""
    values: dict[str, list[float]] = {protocol: [] for protocol in PROTOCOLS}
    starts = []
    for at in range(repeats):
        with tempfile.TemporaryDirectory(dir=folder) as own, dashboard(Path(own)) as measured:
            starts.append(measured.started_seconds)
            per_cpu_second(measured, "grpc", _WARM, 1000 * at)
            for turn, protocol in enumerate(_turned(PROTOCOLS, at)):
                values[protocol].append(per_cpu_second(measured, protocol, _SPANS, 1000 * at + turn + 1))
    shown = [
        Figure(name=f"spans a CPU-second, {_NAMES[protocol]}", values=values[protocol], unit="", goal=GOAL)
        for protocol in PROTOCOLS
    ]
    return shown, starts


def per_cpu_second(measured: Dashboard, protocol: str, spans: int, seed: int) -> float:
    """Send *spans* spans that were never sent before; return how many of them the process takes with one CPU-second."""
    port = measured.grpc_port if protocol == "grpc" else measured.http_port
    generator = load(port, protocol=protocol, spans=spans, seed=seed)
    before = measured.cpu_seconds()
    sent(generator)
    return spans / (measured.cpu_seconds() - before)


def slices(folder: Path, repeats: int) -> list[Figure]:
    """Return the CPU time of each slice in this process, microseconds a span."""
    found: dict[str, list[float]] = {"decode": [], "rows": [], "store": []}
    with tempfile.TemporaryDirectory(dir=folder) as own:
        store = Store(Path(own) / "slices.duckdb")
        try:
            for at in range(repeats):
                for name, took in _slice(store, list(Traffic(9_000_000 + at).spans(_SLICE_SPANS, time.time_ns()))):
                    found[name].append(took)
        finally:
            store.close()
    about = {
        "decode": "what the receiver does: bytes to a message",
        "rows": "a part of what follows: bytes to rows, attributes interned",
        "store": f"encoding, rows, append and commit; {_TOGETHER} requests a transaction",
    }
    return [Figure(name=f"slice: {name}", values=found[name], unit="µs a span", about=about[name]) for name in found]


def _slice(store: Store, bodies: Sequence[bytes]) -> Iterator[tuple[str, float]]:
    decoded: list[Any] = []
    yield "decode", _cpu(lambda: decoded.extend(map(ExportTraceServiceRequest.FromString, bodies)))
    words = Dictionary(FAMILIES["spans"], Ids())
    yield "rows", _cpu(lambda: [span_rows(body, words) for body in bodies])
    groups = [decoded[at : at + _TOGETHER] for at in range(0, len(decoded), _TOGETHER)]
    yield "store", _cpu(lambda: [store.append(group) for group in groups])


def _cpu(work: Callable[[], object]) -> float:
    begun = time.process_time()
    work()
    return (time.process_time() - begun) / _SLICE_SPANS * 1e6


def _turned(names: Sequence[str], by: int) -> list[str]:
    """Return the names in another order each time: whatever comes later meets a larger file."""
    return [*names[by % len(names) :], *names[: by % len(names)]]
