"""
OpenTelemetry traces, metrics and logs for Sanic and grpc.aio; see the README for the first ten lines.

pytest is told to leave the package as it is, where `opentelemetry-instrument` has imported it before its plug-in is:
PYTEST_DONT_REWRITE
"""

from rsketch_telemetry.annotations import annotate
from rsketch_telemetry.environment import ConfigurationError
from rsketch_telemetry.telemetry import Exported, Summary, Telemetry, configure, current, instrument
from rsketch_telemetry.version import __version__

__all__ = [
    "ConfigurationError",
    "Exported",
    "Summary",
    "Telemetry",
    "__version__",
    "annotate",
    "configure",
    "current",
    "instrument",
]
