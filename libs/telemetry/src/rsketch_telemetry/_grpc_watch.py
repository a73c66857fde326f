"""What the hooks of both sides share: where facts go, and which calls get none."""

from collections.abc import Callable, Iterable
from functools import lru_cache

from opentelemetry.context import Context

from rsketch_telemetry import semconv
from rsketch_telemetry._grpc_propagation import Metadata
from rsketch_telemetry._once import Once
from rsketch_telemetry.facts import Attributes, captured
from rsketch_telemetry.instrumentor_settings import InstrumentorSettings
from rsketch_telemetry.pipeline import SUPPRESSED
from rsketch_telemetry.recorder import Recorder

__all__ = ["Watch", "suppressed"]

_PLAIN, _KEY = SUPPRESSED


class Watch:
    """
    One instrumentation from `instrument()` to `uninstrument()`.

    Attributes:
        active: False after `uninstrument()`: servers and channels made before go on without telemetry.
        failed: To be called where a hook fails; the call goes on without telemetry.
        captures_requests: Whether metadata of requests is recorded; so for the next two.
    """

    def __init__(self, recorder: Recorder, settings: InstrumentorSettings) -> None:
        self.recorder = recorder
        self.active = True
        self.failed = Once("a gRPC call could not be watched; this is said once")
        self._excluded = settings.excluded_services
        self._masked = settings.masked_headers
        self._request = settings.rpc_request_metadata
        self._response = settings.rpc_response_metadata
        self._trailers = settings.rpc_response_trailers
        self.captures_requests = bool(self._request)
        self.captures_initial_metadata = bool(self._response)
        self.captures_responses = bool(self._response or self._trailers)

    def excludes(self, path: str) -> bool:
        """Return whether calls of a method never get any."""
        return service_of(path) in self._excluded

    def request_metadata(self, metadata: Iterable[tuple[str, str | bytes]]) -> Attributes:
        """Return the attributes of what is to be recorded of a request's metadata."""
        return captured(semconv.RPC_REQUEST_HEADER, metadata, self._request, self._masked)

    def response_metadata(self, initial: Metadata, trailers: Callable[[], Metadata]) -> Attributes:
        """Return the attributes of what is to be recorded of a response's metadata; *trailers* is asked if needed."""
        if not self.captures_responses:
            return {}
        first = captured(semconv.RPC_RESPONSE_HEADER, initial, self._response, self._masked)
        return first | captured(semconv.RPC_RESPONSE_TRAILER, trailers() or (), self._trailers, self._masked)


def suppressed(context: Context) -> bool:
    """Return whether instrumentation is switched off in a context, as `is_instrumentation_enabled` has it."""
    return bool(context.get(_PLAIN) or context.get(_KEY))


@lru_cache(maxsize=1024)
def service_of(path: str) -> str:
    """Return the service in `/pkg.Service/Method`."""
    return path.removeprefix("/").rpartition("/")[0]
