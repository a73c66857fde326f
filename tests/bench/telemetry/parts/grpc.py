"""What telemetry adds to an RPC, in process, on the server and on the client apart."""

from typing import Any

from bench.figures import written
from bench.telemetry import children, variants
from bench.telemetry.effort import Effort
from bench.telemetry.estimate import Estimate, added
from bench.telemetry.grpc_service import SIDES
from bench.telemetry.progress import say
from bench.telemetry.rows import Goal, Row
from bench.telemetry.server import cores
from bench.telemetry.sink import sink

__all__ = ["measure"]

_PROGRAM = "bench.telemetry.grpc_slices"


def measure(effort: Effort) -> list[Row]:
    """Measure both sides."""
    launches: dict[str, list[list[tuple[float, float]]]] = {side: [] for side in SIDES}
    others: dict[str, list[list[tuple[float, float]]]] = {side: [] for side in SIDES}
    sending: list[list[tuple[float, float]]] = []
    with sink(cores()[0]) as collector:
        for at in range(effort.launches):
            say(f"gRPC in process, {at + 1} of {effort.launches}")
            settings = {**children.SETTLED, **variants.LEAN, "OTEL_EXPORTER_OTLP_ENDPOINT": collector.grpc}
            before = collector.counts()
            found: Any = children.said(_PROGRAM, ("--pairs", str(effort.pairs // 2)), settings)
            came = collector.counts().all_spans - before.all_spans
            if came != 2 * found["served_with"]:
                raise RuntimeError(f"of twice {found['served_with']} calls with telemetry {came} spans came")
            sending.append([(0.0, took / 1e3) for took in found["sending"]])
            for side in SIDES:
                launches[side].append(_microseconds(found["loop"][side]))
                others[side].append(_microseconds(found["others"][side]))
    return [_row(side, launches[side], added(others[side]), added(sending)) for side in SIDES]


def _microseconds(pairs: list[tuple[float, float]]) -> list[tuple[float, float]]:
    return [(without / 1e3, with_it / 1e3) for without, with_it in pairs]


def _row(side: str, launches: list[list[tuple[float, float]]], others: Estimate, sending: Estimate) -> Row:
    pairs = [pair for launch in launches for pair in launch]
    least = min(after for _, after in pairs) - min(before for before, _ in pairs)
    bare = written(sorted(before for before, _ in pairs)[len(pairs) // 2])
    recording = added(launches)
    threads = f"gRPC's own threads {others.low:+.1f} .. {others.high:+.1f}"
    parts = f"on the loop's thread {written(recording.value)}, sending {written(sending.value)}; {threads}"
    return Row(
        name=f"grpc.{side}",
        about=f"gRPC {side}: traces and metrics",
        estimate=recording.shifted(sending),
        goal=Goal(10),
        noise=recording.is_noise,
        remark=f"{parts}; least {written(least)}, bare {bare} on the loop's thread, for both sides",
    )
