"""
Instrumentors of the grpc.aio server and client.

The synchronous grpc stack is left to opentelemetry-instrumentation-grpc; one line says so where it is used without.

Both work on grpc.aio's classes, so `from grpc.aio import server` or `insecure_channel` may come before or after
`instrument()`. Servers must be made after it; one that was not says so when it starts. Of channels made before it,
calls are recorded too, with releases of grpcio that hide a channel's target without `server.address`.
"""

import logging
from abc import abstractmethod
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

from opentelemetry.instrumentation.instrumentor import BaseInstrumentor  # type: ignore[attr-defined] # it is untyped

from rsketch_telemetry import environment
from rsketch_telemetry._caller_context import quiet_propagators
from rsketch_telemetry._once import Once
from rsketch_telemetry.instrumentor_settings import InstrumentorSettings
from rsketch_telemetry.recorders import create_recorder

if TYPE_CHECKING:
    from rsketch_telemetry._grpc_internals import Patches
    from rsketch_telemetry._grpc_watch import Watch

__all__ = ["GrpcAioClientInstrumentor", "GrpcAioServerInstrumentor"]

_log = logging.getLogger("rsketch_telemetry")

_SCOPE = "rsketch_telemetry.grpc"


class _Instrumentor(BaseInstrumentor):  # type: ignore[misc] # as said above
    """
    What both have in common.

    `instrument()` takes `tracer_provider`, `meter_provider` and `logger_provider` (the global ones otherwise) and
    `settings`, an `InstrumentorSettings` (that of the process environment otherwise).
    """

    _contrib = ""
    _active: "tuple[Watch, Patches] | None" = None

    def instrumentation_dependencies(self) -> Collection[str]:
        """Return what must be installed for this to do anything."""
        return ("grpcio >= 1.66",)

    @abstractmethod
    def _patch(self, watch: "Watch", patches: "Patches", stood_down: Callable[[], None]) -> None:
        """Make grpc.aio record through *watch*."""

    def _instrument(self, **kwargs: Any) -> None:
        try:
            self._put_on(kwargs)
        except Exception as error:  # noqa: BLE001 - a grpcio that has changed inside must not fail the program
            _log.warning(
                "telemetry: %s stands down: it does not know this release of grpcio (%s: %s)",
                type(self).__name__,
                type(error).__name__,
                error,
            )

    def _put_on(self, kwargs: dict[str, Any]) -> None:
        # Imported here because grpcio is optional: without it this module still loads, and instrument() says why not.
        from rsketch_telemetry._grpc_internals import Patches, contrib_is_active
        from rsketch_telemetry._grpc_watch import Watch

        line = f"telemetry: {type(self).__name__} stands down: opentelemetry-instrumentation-grpc is active"
        stood_down = Once(line, level=logging.WARNING, traceback=False)
        if contrib_is_active(self._contrib):
            stood_down()
            return
        quiet_propagators()
        settings = kwargs.get("settings") or InstrumentorSettings.from_env(environment.process_environ())
        recorder = create_recorder(
            _SCOPE,
            tracer_provider=kwargs.get("tracer_provider"),
            meter_provider=kwargs.get("meter_provider"),
            logger_provider=kwargs.get("logger_provider"),
            settings=settings,
        )
        watch, patches = Watch(recorder, settings), Patches()
        try:
            self._patch(watch, patches, stood_down)
        except Exception:
            # All or nothing: what begins a record without what ends it is worse than neither.
            patches.restore()
            raise
        self._active = watch, patches

    def _uninstrument(self, **kwargs: Any) -> None:
        if self._active is not None:
            watch, patches = self._active
            watch.active = False
            patches.restore()
            self._active = None


class GrpcAioServerInstrumentor(_Instrumentor):
    """Records each RPC that a grpc.aio server made after `instrument()` serves."""

    _contrib = "GrpcAioInstrumentorServer"

    def _patch(self, watch: "Watch", patches: "Patches", stood_down: Callable[[], None]) -> None:
        from rsketch_telemetry._grpc_server import patch_server

        patch_server(watch, patches, stood_down)


class GrpcAioClientInstrumentor(_Instrumentor):
    """Records each call made over a grpc.aio channel, and sends the trace context with it."""

    _contrib = "GrpcAioInstrumentorClient"

    def _patch(self, watch: "Watch", patches: "Patches", stood_down: Callable[[], None]) -> None:
        from rsketch_telemetry._grpc_client import patch_client

        patch_client(watch, patches, stood_down)
