"""
What `opentelemetry-instrument` loads: the distro, and the configurator that sets the providers.

Both are chosen by `rsketch_telemetry.selectors`. Of instrumentors that do the same work as ours, only ours are loaded.
"""

import logging
import os
import sys
from collections.abc import Mapping
from typing import Any, Final

from opentelemetry.instrumentation.auto_instrumentation import initialize
from opentelemetry.instrumentation.dependencies import DependencyConflictError
from opentelemetry.instrumentation.distro import BaseDistro  # type: ignore[attr-defined]  # its module is untyped
from opentelemetry.util._importlib_metadata import EntryPoint, entry_points

from rsketch_telemetry import environment
from rsketch_telemetry.redaction import scrub
from rsketch_telemetry.telemetry import configure

__all__ = ["RsketchConfigurator", "RsketchDistro", "instrument"]

_log = logging.getLogger("rsketch_telemetry")

SELECTORS: Final = {"OTEL_PYTHON_DISTRO": "rsketch", "OTEL_PYTHON_CONFIGURATOR": "rsketch"}
"""What makes upstream choose the two classes below."""

_USAGE = 2
"""The exit status of who is asked for what cannot be done."""
_OURS = frozenset({"rsketch_sanic", "rsketch_grpc_aio_server", "rsketch_grpc_aio_client"})
_REPLACED = {
    "sanic": "rsketch_sanic",
    "grpc_aio_server": "rsketch_grpc_aio_server",
    "grpc_aio_client": "rsketch_grpc_aio_client",
}
"""Entry points of other packages, and ours that do their work: a call must not be recorded twice."""


class RsketchDistro(BaseDistro):  # type: ignore[misc]  # upstream opts out of type checking
    """Sees to it that each call is recorded by one instrumentor. Everything else is the configurator's."""

    loading = False
    """Whether instrumentors have been loaded, or are about to be."""

    _said = False

    def _configure(self, **kwargs: Any) -> None:
        RsketchDistro.loading = True
        _loader.addFilter(_is_news)

    def load_instrumentor(self, entry_point: EntryPoint, **kwargs: Any) -> None:
        """Load an instrumentor, unless one of ours does its work."""
        environ = environment.process_environ()
        disabled = {name.strip() for name in environ.get("OTEL_PYTHON_DISABLED_INSTRUMENTATIONS", "").split(",")}
        if entry_point.name in _OURS:
            entry_point.load()().instrument(**kwargs)
        elif _REPLACED.get(entry_point.name, "") not in {"", *disabled}:
            self._say_who_stands_down()
        else:
            self._load_foreign(entry_point, kwargs)

    def _load_foreign(self, entry_point: EntryPoint, options: dict[str, Any]) -> None:
        """Load another package's instrumentor; where it fails the others are loaded all the same."""
        if entry_point.name == "logging":
            # Its handler would send each record a second time.
            options["enable_log_auto_instrumentation"] = False
        try:
            super().load_instrumentor(entry_point, **options)
        except (ImportError, DependencyConflictError):
            # Upstream's loader knows what to say of these.
            raise
        except Exception as error:  # noqa: BLE001 - left alone, upstream gives all telemetry up for it
            reason = scrub(f"{type(error).__name__}: {error}", 200)
            _log.warning("telemetry: instrumentor %s cannot be loaded: %s", entry_point.name, reason)

    def _say_who_stands_down(self) -> None:
        """Say it at the first, for all that are installed."""
        if self._said:
            return
        self._said = True
        found = entry_points(group="opentelemetry_instrumentor")
        names = sorted({each.name for each in found if each.name in _REPLACED})
        # A warning, as under the launcher no logging is configured yet and nothing less is shown. Whoever runs a
        # program that was made for this library expects nothing else.
        level = logging.DEBUG if configure().identified else logging.WARNING
        _log.log(level, "telemetry: ours take the place of the instrumentors %s", ", ".join(names))


def instrument(environ: Mapping[str, str] | None = None) -> None:
    """Load every installed instrumentor once; see `rsketch_telemetry.instrument`."""
    if RsketchDistro.loading:
        return
    given = environment.process_environ() if environ is None else environ
    # With our own settings, which the instrumentors read for themselves.
    with environment.presented({**environment.checked(given)[0], **SELECTORS}, prefix=environment.READ):
        initialize()


class RsketchConfigurator:
    """Sets the providers; upstream calls it after the distro and before the instrumentors."""

    def configure(self, **_: object) -> None:
        """Configure this process from its environment; a second call does nothing."""
        try:
            configure()
        except environment.ConfigurationError as error:
            # Here the interpreter is still starting: upstream logs an exception with its traceback and goes on without
            # telemetry, and of SystemExit Python makes a fatal error of twenty lines.
            print(f"telemetry: {error}", file=sys.stderr, flush=True)
            os._exit(_USAGE)


_loader = logging.getLogger("opentelemetry.instrumentation.auto_instrumentation._load")


def _is_news(record: logging.LogRecord) -> bool:
    """Drop upstream's warning that its own configurator was not loaded: that is what the selectors ask for."""
    return "not loaded because" not in str(record.msg)
