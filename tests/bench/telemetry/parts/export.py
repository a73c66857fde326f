"""What it takes to send a span once it is encoded, apart from everything else."""

from collections.abc import Mapping
from typing import Any, Final

from bench.figures import written
from bench.telemetry import children, variants
from bench.telemetry.effort import Effort
from bench.telemetry.estimate import added
from bench.telemetry.progress import say
from bench.telemetry.rows import Row
from bench.telemetry.sink import Sink, sink

__all__ = ["measure"]

_PROGRAM = "bench.telemetry.export_rounds"
_SPANS = 1000
_PROTOCOLS: Final[Mapping[str, str]] = {"grpc": "OTLP over gRPC", "http/protobuf": "OTLP over HTTP"}


def measure(effort: Effort) -> list[Row]:
    """Measure both protocols."""
    launches: dict[str, list[list[tuple[float, float]]]] = {protocol: [] for protocol in _PROTOCOLS}
    with sink() as collector:
        for at in range(effort.launches):
            for protocol in _PROTOCOLS:
                say(f"export, {at + 1} of {effort.launches}: {protocol}")
                launches[protocol].append(_launch(collector, protocol, effort.pairs))
    return [_row(protocol, launches[protocol]) for protocol in _PROTOCOLS]


def _launch(collector: Sink, protocol: str, rounds: int) -> list[tuple[float, float]]:
    settings = {
        **children.SETTLED,
        **variants.LEAN,
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.grpc if protocol == "grpc" else collector.http,
    }
    before = collector.counts().all_spans
    found: Any = children.said(_PROGRAM, ("--rounds", str(rounds), "--spans", str(_SPANS)), settings)
    came = collector.counts().all_spans - before
    if came != found["spans"]:
        raise RuntimeError(f"{found['spans']} spans were sent over {protocol}, and {came} came")
    return [(0.0, took / 1e3) for took in found["took"]]


def _row(protocol: str, launches: list[list[tuple[float, float]]]) -> Row:
    least = min(took for launch in launches for _, took in launch)
    return Row(
        name=f"export.{protocol.partition('/')[0]}",
        about=f"frame and send a span: {_PROTOCOLS[protocol]}, {_SPANS:,} a request",
        estimate=added(launches),
        remark=f"least {written(least)}",
    )
