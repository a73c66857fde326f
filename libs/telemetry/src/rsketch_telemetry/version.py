"""The version of this package, from its own metadata."""

from importlib.metadata import version

__all__ = ["__version__"]

__version__ = version("rsketch-telemetry")
