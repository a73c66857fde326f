"""The three kinds of telemetry."""

from enum import Enum

__all__ = ["Signal"]


class Signal(Enum):
    """A kind of telemetry; the value is its name in OTLP paths and `OTEL_*` variables."""

    TRACES = "traces"
    METRICS = "metrics"
    LOGS = "logs"

    @property
    def items(self) -> str:
        """What its items are called in a sentence."""
        return {"traces": "spans", "metrics": "metrics", "logs": "log records"}[self.value]
