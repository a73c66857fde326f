"""What the hooks of both sides share: where facts go, and which calls get none."""

from functools import lru_cache

from opentelemetry.instrumentation.utils import is_instrumentation_enabled

from rsketch_telemetry._grpc_propagation import Propagation
from rsketch_telemetry._once import Once
from rsketch_telemetry.instrumentor_settings import InstrumentorSettings
from rsketch_telemetry.recorder import Recorder

__all__ = ["Watch"]


class Watch:
    """
    One instrumentation from `instrument()` to `uninstrument()`.

    Attributes:
        active: False after `uninstrument()`: servers and channels made before go on without telemetry.
        failed: To be called where a hook fails; the call goes on without telemetry.
    """

    def __init__(self, recorder: Recorder, settings: InstrumentorSettings) -> None:
        self.recorder = recorder
        self.propagation = Propagation()
        self.active = True
        self.failed = Once("a gRPC call could not be watched; this is said once")
        self._excluded = settings.excluded_services

    def skips(self, path: str) -> bool:
        """Return whether a call of the method `/pkg.Service/Method` gets neither span nor metric."""
        return not self.active or service_of(path) in self._excluded or not is_instrumentation_enabled()


@lru_cache(maxsize=1024)
def service_of(path: str) -> str:
    """Return the service in `/pkg.Service/Method`."""
    return path.removeprefix("/").rpartition("/")[0]
