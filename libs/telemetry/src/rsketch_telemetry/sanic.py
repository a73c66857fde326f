"""
The instrumentor of Sanic servers: one SERVER span and one duration a request, from its head to its last byte.

    SanicInstrumentor().instrument()

covers every application of the process, those made before included, under Sanic's own server and as an ASGI
application. A connection that was open before is covered from its client's next connection on.
"""

import logging
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from opentelemetry._logs import LoggerProvider
from opentelemetry.context import Context
from opentelemetry.instrumentation.instrumentor import BaseInstrumentor  # type: ignore[attr-defined]  # its module is untyped
from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import TracerProvider

from rsketch_telemetry import environment
from rsketch_telemetry._caller_context import quiet_propagators
from rsketch_telemetry.instrumentor_settings import InstrumentorSettings
from rsketch_telemetry.recorder import Recorder
from rsketch_telemetry.recorders import create_recorder

if TYPE_CHECKING:
    from rsketch_telemetry._sanic_hooks import Parent, SanicHooks

__all__ = ["SanicInstrumentor"]

_log = logging.getLogger("rsketch_telemetry")


class SanicInstrumentor(BaseInstrumentor):  # type: ignore[misc]  # its base is untyped
    """Instruments Sanic, which it imports only when `instrument` is called."""

    _hooks: "SanicHooks | None" = None

    def instrumentation_dependencies(self) -> Collection[str]:
        """Return the releases of Sanic that this is made for."""
        return ("sanic >= 24.12",)

    def _instrument(
        self,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        logger_provider: LoggerProvider | None = None,
        settings: InstrumentorSettings | None = None,
        # What a distro means for other instrumentors.
        **_: Any,
    ) -> None:
        """
        Instrument Sanic.

        Args:
            tracer_provider: None for the global one; so for the other providers.
            settings: None for those of the process environment, by which health endpoints are excluded.
        """
        if _other_instrumentor():
            _log.warning("telemetry: SanicInstrumentor stands down: opentelemetry-instrumentation-sanic is active")
            return
        quiet_propagators()
        given = settings or InstrumentorSettings.from_env(environment.process_environ())
        recorder = create_recorder(
            __name__,
            tracer_provider=tracer_provider,
            meter_provider=meter_provider,
            logger_provider=logger_provider,
            settings=given,
        )
        try:
            self._hooks = _installed(recorder, given)
        except Exception as error:  # noqa: BLE001 - a Sanic that has changed inside must not fail the program
            _log.warning(
                "telemetry: SanicInstrumentor stands down: it does not know this release of Sanic (%s: %s)",
                type(error).__name__,
                error,
            )

    def _uninstrument(self, **_: Any) -> None:
        """Leave Sanic as it was; requests in flight end their spans."""
        if self._hooks is not None:
            self._hooks.remove()
            self._hooks = None


def _installed(recorder: Recorder, settings: InstrumentorSettings) -> "SanicHooks":
    from rsketch_telemetry._sanic_hooks import SanicHooks

    hooks = SanicHooks(recorder, settings, _parent())
    hooks.install()
    return hooks


def _other_instrumentor() -> bool:
    """Return whether the community's instrumentor is on: it marks the constructor that it replaces."""
    import sanic

    return getattr(sanic.Sanic.__init__, "_otel_instrumented", False) is True


def _parent() -> "Parent":
    """Return what reads a caller's context; it finds none where OTEL_PROPAGATORS cannot be used."""
    try:
        from rsketch_telemetry._sanic_parent import parent_context
    except Exception as error:  # noqa: BLE001 - the API's import loads whatever the environment names
        _log.warning("no trace context is taken from requests, because OTEL_PROPAGATORS cannot be used: %s", error)
        return lambda _: Context()
    return parent_context
