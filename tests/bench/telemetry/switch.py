"""Telemetry of one process, switched on and off between slices, with everything that belongs to a variant."""

import functools
import logging
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Protocol

import rsketch_telemetry
from opentelemetry._logs import get_logger_provider
from rsketch_telemetry import logs
from rsketch_telemetry.sanic import SanicInstrumentor
from sanic import Request, Sanic

from bench.telemetry.application import App
from bench.telemetry.variants import HttpVariant, Line

__all__ = ["Switch", "create_switch", "log_into"]

_ACCESS = ("sanic.access", "rsketch_telemetry.access")
_SANIC_LINE = "%(asctime)s %(levelname)s %(name)s: %(request)s %(status)s %(byte)s"
_LINE = "%(asctime)s %(levelname)s %(name)s: %(message)s"


_SANIC: Any = Sanic
"""Its methods may be replaced, whatever their types are."""

_HandleRequest = Callable[[App, Request], Coroutine[Any, Any, None]]


class Switch(Protocol):
    """What stands around requests, and may be taken away."""

    def on(self) -> None:
        """Put it on, for the connections to come."""

    def off(self) -> None:
        """Take it off, for the connections to come."""

    def flush(self) -> None:
        """Send what is still to be sent."""


def create_switch(variant: HttpVariant, app: App) -> Switch:
    """Configure telemetry as the process environment says and return its switch, which is off."""
    switch: Switch = _Wrapper() if variant.wrapped else _Telemetry(app, variant.line)
    switch.off()
    return switch


def log_into(file: Path) -> None:
    """Write what the app logs into a file, as services do that have no other place; the access lines as well."""
    handler = logging.FileHandler(file)
    handler.setFormatter(logging.Formatter(_LINE))
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    sanic_handler = logging.FileHandler(file)
    sanic_handler.setFormatter(logging.Formatter(_SANIC_LINE))
    access = logging.getLogger("sanic.access")
    access.addHandler(sanic_handler)
    access.setLevel(logging.INFO)
    access.propagate = False


class _Telemetry:
    """Ours."""

    def __init__(self, app: App, line: Line) -> None:
        self._app = app
        self._line = line
        self._telemetry = rsketch_telemetry.configure()
        providers = self._telemetry._providers
        self._pipeline = providers.pipeline if providers is not None else None
        self._telemetry.start()
        self._instrumentor = SanicInstrumentor()
        self._exports_logs = any(each.signal == "logs" for each in self._telemetry.summary.destinations)
        # What is logged without telemetry is not to be exported either.
        self._telemetry.detach_logging()

    def on(self) -> None:
        self._instrumentor.instrument()
        self._app.config.ACCESS_LOG = False
        self._telemetry.access_log = bool(self._line)
        if self._exports_logs:
            logs.install(get_logger_provider(), self._pipeline)

    def off(self) -> None:
        if self._instrumentor.is_instrumented_by_opentelemetry:
            self._instrumentor.uninstrument()
        self._app.config.ACCESS_LOG = bool(self._line)
        self._telemetry.access_log = False
        logs.uninstall()

    def flush(self) -> None:
        if not self._telemetry.flush(30.0):
            raise RuntimeError("telemetry could not send what there was")


class _Wrapper:
    """A function around each request, as telemetry has one, that does nothing."""

    def __init__(self) -> None:
        self._original: Any = None

    def on(self) -> None:
        self._original = original = vars(_SANIC)["handle_request"]
        _SANIC.handle_request = _through(original)

    def off(self) -> None:
        if self._original is not None:
            _SANIC.handle_request = self._original
            self._original = None

    def flush(self) -> None:
        pass


def _through(original: _HandleRequest) -> _HandleRequest:
    @functools.wraps(original)
    async def handle_request(app: App, request: Request) -> None:
        await original(app, request)

    return handle_request
