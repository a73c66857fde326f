"""The host: finds installed services and runs them with telemetry switched on."""

from rsketch.errors import ConfigError, RsketchError, StartError
from rsketch.service import REUSE_PORT, Address, Command, Service

__all__ = ["REUSE_PORT", "Address", "Command", "ConfigError", "RsketchError", "Service", "StartError"]
