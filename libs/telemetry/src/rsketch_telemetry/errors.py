"""The errors that rsketch-telemetry raises; everything else it keeps to itself and logs."""

__all__ = ["TelemetryError"]


class TelemetryError(Exception):
    """Base of the package's errors: the caller used the API in a way that cannot work."""
