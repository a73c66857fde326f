"""
All that is not public in grpc.aio and that the instrumentors stand on; checked with grpcio 1.66.2 and 1.85.1.

- `grpc.aio._server.Server`: its constructor's `generic_handlers`, `interceptors` and `maximum_concurrent_rpcs`.
- An interceptor runs in the task of its RPC, and that task ends when the RPC does.
- `grpc.aio._channel.Channel`: its constructor's `target`; the four multi-callables, their `_method`, `_interceptors`
  and `_references[0]` (the channel).
- Call objects: `_interceptors_task`, `_cython_call.add_done_callback`, `_call`.
"""

import importlib
import sys
import weakref
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import grpc
import grpc.aio

__all__ = [
    "CHANNEL",
    "MULTI_CALLABLES",
    "SERVER",
    "Patches",
    "channel_of",
    "contrib_is_active",
    "from_contrib",
    "interceptors_of",
    "method_of",
    "when_over",
]

SERVER: type[Any] = importlib.import_module("grpc.aio._server").Server
CHANNEL: type[Any] = importlib.import_module("grpc.aio._channel").Channel
MULTI_CALLABLES: tuple[type[Any], ...] = tuple(
    getattr(importlib.import_module("grpc.aio._channel"), f"{shape}MultiCallable")
    for shape in ("UnaryUnary", "UnaryStream", "StreamUnary", "StreamStream")
)

_CONTRIB = "opentelemetry.instrumentation.grpc"

Over = Callable[[str, BaseException | None], None]
"""Told the name of a call's final status and, where the call failed before it had one, the exception."""


class Patches:
    """Attributes replaced for a while. They are those of classes, so names imported earlier are covered too."""

    def __init__(self) -> None:
        self._undo: list[tuple[type[Any], str, Any, Any]] = []

    def replace(self, owner: type[Any], name: str, make: Callable[[Any], Any]) -> None:
        """Put `make(original)` in the place of *owner*'s attribute *name*."""
        original = getattr(owner, name)
        replacement = make(original)
        self._undo.append((owner, name, original, replacement))
        setattr(owner, name, replacement)

    def restore(self) -> None:
        """Put every original back, except where somebody else has wrapped ours since."""
        while self._undo:
            owner, name, original, replacement = self._undo.pop()
            if owner.__dict__.get(name) is replacement:
                setattr(owner, name, original)


def contrib_is_active(instrumentor: str) -> bool:
    """Return whether opentelemetry-instrumentation-grpc's *instrumentor* is instrumenting; imports nothing."""
    module = sys.modules.get(_CONTRIB)
    instance = getattr(getattr(module, instrumentor, None), "_instance", None)
    return bool(getattr(instance, "is_instrumented_by_opentelemetry", False))


def from_contrib(interceptors: Iterable[object]) -> bool:
    """Return whether one of the interceptors is opentelemetry-instrumentation-grpc's, which records the call itself."""
    return any(type(one).__module__.startswith(_CONTRIB) for one in interceptors)


def method_of(multi_callable: Any) -> bytes:
    """Return the method, such as `/pkg.Service/Method`, that a multi-callable calls."""
    method: bytes = multi_callable._method
    return method


def interceptors_of(multi_callable: Any) -> Iterable[object]:
    """Return the client interceptors that a multi-callable's calls pass."""
    return multi_callable._interceptors or ()


def channel_of(multi_callable: Any) -> object:
    """Return the channel that a multi-callable belongs to."""
    return multi_callable._references[0]


def when_over(call: Any, over: Over) -> None:
    """
    Tell *over* once the call *call* of any kind has its final status.

    Nothing here refers to the call: a call that its owner drops is collected, and thereby cancelled, as before.
    """
    if (task := getattr(call, "_interceptors_task", None)) is not None:
        task.add_done_callback(partial(_intercepted, over))
    elif (core := getattr(call, "_cython_call", None)) is not None:
        # The public add_done_callback would tie the call into a reference cycle.
        core.add_done_callback(partial(_finished, over, weakref.ref(call)))
    elif (source := getattr(call, "_call", None)) is not None:
        # An interceptor gave an iterator of its own in place of this call's responses.
        when_over(source, over)
    else:
        _foreign(call, over)


def _intercepted(over: Over, task: Any) -> None:
    if task.cancelled():
        over(grpc.StatusCode.CANCELLED.name, None)
    elif (error := task.exception()) is None:
        when_over(task.result(), over)
    elif isinstance(error, grpc.aio.AioRpcError):
        over(error.code().name, None)
    else:
        over(grpc.StatusCode.UNKNOWN.name, error)


def _finished(over: Over, reference: Callable[[], Any]) -> None:
    call = reference()
    # A call that is gone was dropped by its owner, for which grpc.aio cancels it.
    over(_final_status(call) if call is not None else grpc.StatusCode.CANCELLED.name, None)


def _final_status(call: Any) -> str:
    """Return the status of a call that has one: its coroutine `code()` then returns without waiting."""
    coroutine = call.code()
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return str(stop.value.name)
    coroutine.close()
    return grpc.StatusCode.UNKNOWN.name


def _foreign(call: Any, over: Over) -> None:
    """Watch a call object that an interceptor made itself; grpc.aio's own wrapper of a mere response is one."""
    try:
        call.add_done_callback(lambda done: over(_final_status(done), None))
    except Exception:  # noqa: BLE001 - a response without a call refuses the callback: it is there, so all is well
        over(grpc.StatusCode.OK.name, None)
