"""Which dashboards there are, by the names of their files."""

from collections.abc import Mapping
from typing import Final

from kube.dashboards.model import Dashboard
from kube.dashboards.processes import RUNTIME, TELEMETRY
from kube.dashboards.red import GRPC, HTTP

__all__ = ["DASHBOARDS"]

DASHBOARDS: Final[Mapping[str, Dashboard]] = {"grpc": GRPC, "http": HTTP, "runtime": RUNTIME, "telemetry": TELEMETRY}
