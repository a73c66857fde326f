"""OpenTelemetry traces, metrics and logs for Sanic and grpc.aio; see the README for the first ten lines."""

from rsketch_telemetry.annotations import annotate
from rsketch_telemetry.telemetry import Exported, Summary, Telemetry, configure, current, instrument
from rsketch_telemetry.version import __version__

__all__ = [
    "Exported",
    "Summary",
    "Telemetry",
    "__version__",
    "annotate",
    "configure",
    "current",
    "instrument",
]
