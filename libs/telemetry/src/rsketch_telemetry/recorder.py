"""
The seam between instrumentors and telemetry: facts of a call go in, a span, a duration and log records come out.

Two rules hold for every recorder: the metric's value is the span's duration, and no failure in here reaches a caller.
"""

from collections.abc import Callable
from typing import Protocol, TypeVar

from opentelemetry.context import Context

from rsketch_telemetry._once import Once
from rsketch_telemetry.facts import Attributes, HttpOutcome, HttpRequest, RpcCall, RpcOutcome

__all__ = ["Call", "Recorder", "guarded"]

Outcome = TypeVar("Outcome", contravariant=True)


class Call(Protocol[Outcome]):
    """One call being recorded."""

    @property
    def inner(self) -> Context:
        """The context with this call's span in it. Attach it around the code that serves or makes the call."""

    def finish(self, outcome: Outcome) -> None:
        """End the span and record the duration; only the first time counts."""


class Recorder(Protocol):
    """Turns the facts of calls into telemetry."""

    def http_server(self, request: HttpRequest, parent: Context) -> Call[HttpOutcome]:
        """Start the record of an HTTP request whose caller's context is *parent*."""

    def rpc_server(self, call: RpcCall, parent: Context) -> Call[RpcOutcome]:
        """Start the record of an RPC served, whose caller's context is *parent*."""

    def rpc_client(self, call: RpcCall, parent: Context) -> Call[RpcOutcome]:
        """Start the record of an RPC made from the context *parent*."""

    def in_flight(self, metric: str, change: int, attributes: Attributes) -> None:
        """Add *change* to an up-down counter of things that are open, such as `semconv.RSKETCH_WEBSOCKETS`."""


class _Unrecorded:
    """Stands in for a call that could not be recorded, so that the call itself goes on."""

    def __init__(self, context: Context) -> None:
        self._within = context

    @property
    def inner(self) -> Context:
        return self._within

    def finish(self, outcome: object) -> None:
        """Do nothing."""


def guarded(recorder: Recorder) -> Recorder:
    """Return a recorder that logs one line where *recorder* fails and lets the call go on."""
    return _Guarded(recorder)


class _Guarded:
    def __init__(self, inner: Recorder) -> None:
        self._inner = inner
        # A defect, of ours or of a span processor.
        self._failed = Once("a call could not be recorded; this is said once")

    def http_server(self, request: HttpRequest, parent: Context) -> Call[HttpOutcome]:
        return self._start(lambda: self._inner.http_server(request, parent), parent)

    def rpc_server(self, call: RpcCall, parent: Context) -> Call[RpcOutcome]:
        return self._start(lambda: self._inner.rpc_server(call, parent), parent)

    def rpc_client(self, call: RpcCall, parent: Context) -> Call[RpcOutcome]:
        return self._start(lambda: self._inner.rpc_client(call, parent), parent)

    def in_flight(self, metric: str, change: int, attributes: Attributes) -> None:
        try:
            self._inner.in_flight(metric, change, attributes)
        except Exception:  # noqa: BLE001 - whatever fails in telemetry must not fail the call
            self._failed()

    def _start(self, start: Callable[[], Call[Outcome]], parent: Context) -> Call[Outcome]:
        try:
            return _GuardedCall(start(), self._failed)
        except Exception:  # noqa: BLE001 - whatever fails in telemetry must not fail the call
            self._failed()
            return _Unrecorded(parent)


class _GuardedCall(Call[Outcome]):
    def __init__(self, call: Call[Outcome], failed: Callable[[], None]) -> None:
        self._call = call
        self._failed = failed
        self._within = call.inner

    @property
    def inner(self) -> Context:
        return self._within

    def finish(self, outcome: Outcome) -> None:
        try:
            self._call.finish(outcome)
        except Exception:  # noqa: BLE001 - whatever fails in telemetry must not fail the call
            self._failed()
