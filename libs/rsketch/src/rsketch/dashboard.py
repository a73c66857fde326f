"""
Whether a server brings a dashboard along: a viewer of its telemetry for whoever develops on this machine.

Told from settings alone, nothing is opened here. The dashboard is another package's command, which is never imported;
it is known by the name of its entry point and by what it answers at `/-/identity` (`rsketch.launch`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self
from urllib.parse import urlsplit

from rsketch_telemetry import Summary

from rsketch import settings
from rsketch.service import Address

__all__ = [
    "COMMAND",
    "HOST",
    "DashboardConfig",
    "for_workers",
    "is_destination",
    "is_wanted",
    "obstacle",
    "of_supervisor",
]

COMMAND: Final = "dashboard"
"""Under which it is published in `rsketch.commands`."""
HOST: Final = "127.0.0.1"

_ADDRESS = "RSKETCH_DASHBOARD_ADDRESS"
_ENDPOINTS = tuple(f"OTEL_EXPORTER_OTLP_{signal}ENDPOINT" for signal in ("", "TRACES_", "METRICS_", "LOGS_"))
_LOOPBACK = frozenset({HOST, "localhost"})
_NO = frozenset({"", "0", "false"})


@dataclass(frozen=True, slots=True, kw_only=True)
class DashboardConfig:
    """
    Whether a dashboard may be started, and where it listens.

    Attributes:
        allowed: Whether it may; other reasons may speak against it.
        grpc_port: Receives OTLP over gRPC.
        http_port: Receives OTLP over HTTP, and shows its pages.
    """

    allowed: bool = True
    grpc_port: int = 4317
    http_port: int = 4318

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Self:
        """Read the settings from *environ*. Raises ConfigError where one is malformed."""
        # Not port 0: which one it got only the dashboard would know.
        return cls(
            allowed=settings.boolean(environ, "RSKETCH_DASHBOARD", default=cls().allowed),
            grpc_port=settings.integer(environ, "RSKETCH_DASHBOARD_GRPC_PORT", cls().grpc_port, low=1, high=65535),
            http_port=settings.integer(environ, "RSKETCH_DASHBOARD_HTTP_PORT", cls().http_port, low=1, high=65535),
        )

    @property
    def ports(self) -> tuple[int, int]:
        """Both ports."""
        return self.grpc_port, self.http_port

    @property
    def address(self) -> str:
        """Where its pages are, as `host:port`."""
        return f"{HOST}:{self.http_port}"


def is_wanted(config: DashboardConfig, environ: Mapping[str, str], summary: Summary) -> bool:
    """
    Return whether a dashboard would serve somebody: telemetry leaves, nobody has said where to, and this is no cluster.

    Args:
        config: The dashboard's settings.
        environ: All settings.
        summary: What this process's telemetry does.
    """
    leaves = bool(summary.destinations)
    return config.allowed and leaves and not _has_receiver(config, environ) and not _is_unattended(environ)


def obstacle(config: DashboardConfig, summary: Summary, services: Mapping[str, Address]) -> str | None:
    """Return why a dashboard that is wanted cannot be had with these settings, for the banner, or None."""
    for name, address in services.items():
        if address.port in config.ports:
            return f"not started: port {address.port} is that of service {name}"
    if not any(is_destination(port, summary) for port in config.ports):
        # Exporters may be configured before the host runs, so it cannot send them there by itself.
        endpoint = f"OTEL_EXPORTER_OTLP_ENDPOINT=http://{HOST}:{config.grpc_port}"
        return f"not started: telemetry does not go to port {config.grpc_port}; set {endpoint} too"
    return None


def for_workers(environ: Mapping[str, str], address: str | None) -> Mapping[str, str]:
    """Return *environ* with where the dashboard is, if there is one: workers start none, only their supervisor does."""
    others = {name: value for name, value in environ.items() if name != _ADDRESS}
    return {**others, _ADDRESS: address} if address else others


def of_supervisor(environ: Mapping[str, str]) -> str | None:
    """Return what `for_workers` told this worker."""
    return settings.text(environ, _ADDRESS, "") or None


def is_destination(port: int, summary: Summary) -> bool:
    """Return whether telemetry goes to *port* of this machine."""
    places = [urlsplit(to.endpoint) for to in summary.destinations]
    return any(place.hostname in _LOOPBACK and place.port == port for place in places)


def _has_receiver(config: DashboardConfig, environ: Mapping[str, str]) -> bool:
    """Whether somebody has said where telemetry goes: a collector of theirs may start later, and needs the port."""
    stated = {settings.text(environ, name, "").rstrip("/") for name in _ENDPOINTS} - {""}
    # On ports of its own the dashboard gets telemetry only where the endpoint is stated.
    moved = config.ports != DashboardConfig().ports
    own = {f"http://{host}:{port}" for host in _LOOPBACK for port in config.ports} if moved else set()
    return bool(settings.text(environ, "OTEL_CONFIG_FILE", "")) or not stated <= own


def _is_unattended(environ: Mapping[str, str]) -> bool:
    """Whether this is a cluster or a build, where nobody looks."""
    in_kubernetes = bool(settings.text(environ, "KUBERNETES_SERVICE_HOST", ""))
    return in_kubernetes or settings.text(environ, "CI", "").lower() not in _NO
