"""Instructions that telemetry adds, as the gate counts them."""

from bench.telemetry.effort import Effort
from bench.telemetry.estimate import Estimate
from bench.telemetry.gate import SUBJECTS, count
from bench.telemetry.progress import say
from bench.telemetry.rows import Goal, Row

__all__ = ["measure"]

_GOALS = {"users": Goal(28_000)}
_ABOUT = {
    "users": "HTTP: instructions added, traces and metrics",
    "traced": "HTTP: the same, callers that send a `traceparent`",
    "record": "HTTP: the same, the access line as a log record too",
    "unsampled": "HTTP: the same, no traces",
    "grpc-server": "gRPC server: instructions added",
    "grpc-client": "gRPC client: instructions added",
}


def measure(_: Effort) -> list[Row]:
    """Count everything that the gate counts."""
    say("instructions")
    found = count(list(SUBJECTS))
    rows = []
    for name, each in found.items():
        off = each.apart * (each.count.bare + each.count.added)
        value = float(each.count.added)
        rows.append(
            Row(
                name=f"counted.{name}",
                about=_ABOUT[name],
                estimate=Estimate(value, value - off, value + off),
                unit="",
                goal=_GOALS.get(name),
                remark=f"to {each.count.bare:,}; the range is that of {each.apart:.2%} between runs",
            )
        )
    return rows
