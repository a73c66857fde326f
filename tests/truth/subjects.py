"""
Who is compared: nothing at all, ours, and what others offer, each set up as its own documentation says.

Peers get the SDK's stock setup. They are given their newest names (`OTEL_SEMCONV_STABILITY_OPT_IN`), and are told to
leave out what ours leaves out, by whatever means they have.
"""

from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import entry_points

from harness.children import BIN

from truth.frame import Subject
from truth.witness import CAPTURED, EXCLUDED

__all__ = ["BARE", "OURS", "SDK", "contrib", "plugin"]

_LAUNCHER = (str(BIN / "opentelemetry-instrument"),)
_COMMON = {
    "OTEL_SERVICE_NAME": "truth",
    "OTEL_PYTHON_EXCLUDED_URLS": f"{EXCLUDED}$",
    "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SERVER_REQUEST": f"{CAPTURED},authorization",
    "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SANITIZE_FIELDS": "authorization",
}

BARE = Subject(name="bare", patience=1.0)
OURS = Subject(
    name="ours",
    launcher=_LAUNCHER,
    environ={
        **_COMMON,
        # It is what is chosen without a word; where it could not serve, the program would not start now.
        "RSKETCH_TELEMETRY_RECORDER": "lean",
        "RSKETCH_TELEMETRY_OPT_IN_METRICS": "http.server.active_requests",
        # The programs use it themselves where they are their own client; its spans are not what is looked at.
        "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "httpx",
    },
    settle_seconds=5.0,
    patience=1.0,
)
SDK = replace(OURS, name="sdk", kind="ours", environ={**OURS.environ, "RSKETCH_TELEMETRY_RECORDER": "sdk"})


def contrib(*instrumentors: str) -> Subject:
    """Return contrib's instrumentors by their entry points; none where the program adds contrib's middleware itself."""
    return Subject(name="contrib", launcher=_LAUNCHER, environ=_stock(instrumentors))


def plugin(*instrumentors: str) -> Subject:
    """Return a third party's instrumentors by their entry points."""
    return Subject(name="plugin", launcher=_LAUNCHER, environ=_stock(instrumentors))


def _stock(instrumentors: tuple[str, ...]) -> Mapping[str, str]:
    installed = {entry.name for entry in entry_points(group="opentelemetry_instrumentor")}
    return {
        **_COMMON,
        "OTEL_PYTHON_DISTRO": "distro",
        "OTEL_PYTHON_CONFIGURATOR": "configurator",
        "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": ",".join(sorted(installed - set(instrumentors))),
        "OTEL_TRACES_EXPORTER": "otlp",
        "OTEL_METRICS_EXPORTER": "otlp",
        "OTEL_LOGS_EXPORTER": "otlp",
        "OTEL_SEMCONV_STABILITY_OPT_IN": "http,rpc",
    }
