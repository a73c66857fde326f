"""Settings of the dashboard. Pure: the environment is passed in."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from rsketch_dashboard.errors import SettingError
from rsketch_dashboard.store import Limits

__all__ = ["HOST", "DashboardConfig", "forward_endpoint", "idle_seconds", "port"]

HOST = "127.0.0.1"
"""It listens on loopback alone: it has neither TLS nor passwords, and telemetry may hold what is not for everybody."""

_DURATION = re.compile(r"(?P<number>[0-9]+(?:\.[0-9]+)?)(?P<unit>ms|s|m|h)?")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, None: 1.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class DashboardConfig:
    """
    Where it listens, and what it keeps.

    Attributes:
        grpc_port: Of OTLP/gRPC; 0 asks the kernel for a free one.
        http_port: Of OTLP/HTTP and the page; likewise.
        file: The data file.
        idle_seconds: Without telemetry and without an open page for so long, it ends; 0 means never.
        forward: An OTLP/gRPC endpoint that gets whatever was stored as well, such as `http://localhost:14317`.
        limits: How much is kept.
    """

    grpc_port: int = 4317
    http_port: int = 4318
    file: Path
    idle_seconds: float = 900.0
    forward: str | None = None
    limits: Limits = field(default_factory=Limits)

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Self:
        """
        Read the settings from *environ*; an empty value counts as unset.

        Raises:
            SettingError: One is malformed; the message names the variable and what it accepts.
        """

        def given(name: str, default: str) -> str:
            return environ.get(name, "").strip() or default

        forward = given("RSKETCH_DASHBOARD_FORWARD", "")
        return cls(
            grpc_port=port("RSKETCH_DASHBOARD_GRPC_PORT", given("RSKETCH_DASHBOARD_GRPC_PORT", "4317")),
            http_port=port("RSKETCH_DASHBOARD_HTTP_PORT", given("RSKETCH_DASHBOARD_HTTP_PORT", "4318")),
            file=Path(file) if (file := given("RSKETCH_DASHBOARD_FILE", "")) else _default_file(environ),
            idle_seconds=idle_seconds("RSKETCH_DASHBOARD_IDLE", given("RSKETCH_DASHBOARD_IDLE", "15m")),
            forward=forward_endpoint("RSKETCH_DASHBOARD_FORWARD", forward) if forward else None,
        )


def port(setting: str, raw: str) -> int:
    """Return a TCP port; 0 asks for a free one. Raises SettingError."""
    if not re.fullmatch(r"[0-9]{1,5}", raw) or int(raw) > 65535:
        raise SettingError(setting, "a port from 0 to 65535", raw)
    return int(raw)


def idle_seconds(setting: str, raw: str) -> float:
    """Return a duration in seconds, written as `90`, `90s`, `15m` or `1h`. Raises SettingError."""
    found = _DURATION.fullmatch(raw)
    seconds = float(found["number"]) * _SECONDS[found["unit"]] if found else -1.0
    if not 0 <= seconds <= 7 * 86400:
        raise SettingError(setting, "a duration up to 168h such as 90s, 15m or 1h; 0 for never", raw)
    return seconds


def forward_endpoint(setting: str, raw: str) -> str:
    """Return an OTLP/gRPC endpoint as a URL. Raises SettingError."""
    try:
        url = urlsplit(raw)
        fine = url.scheme in ("http", "https") and bool(url.hostname) and url.port is not None
    except ValueError:
        fine = False
    if not fine or url.path.strip("/"):
        raise SettingError(setting, "an OTLP/gRPC endpoint such as http://localhost:14317", raw)
    return raw


def _default_file(environ: Mapping[str, str]) -> Path:
    """Return where state belongs (https://specifications.freedesktop.org/basedir-spec/latest/)."""
    state = environ.get("XDG_STATE_HOME", "")
    try:
        folder = Path(state if state.startswith("/") else f"{environ.get('HOME') or '~'}/.local/state").expanduser()
    except RuntimeError:
        raise SettingError("RSKETCH_DASHBOARD_FILE", "a path, and needs one where the user has no home", "") from None
    return folder / "rsketch" / "dashboard.duckdb"
