"""
All that is not public in grpc.aio and that the instrumentors stand on; checked with grpcio 1.66.2 and 1.85.1.

- `grpc.aio._server.Server`: its constructor's `generic_handlers` and `interceptors`; so `grpc._server._Server`'s.
- An interceptor runs in the task of its RPC.
- `grpc.aio._channel.Channel`: its constructor's `target`; the four multi-callables, their `_method`, `_interceptors`
  and `_references[0]` (the channel).
- `cygrpc.AioChannel.target`, which 1.66 does not have.
- Call objects: `_interceptors_task`, `_cython_call.add_done_callback` and `.is_ok`, `_call`; the tasks `_call_response`
  and `_preparation`, which fail where gRPC refuses the request before there is a status.
"""

import asyncio
import importlib
import sys
import weakref
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import grpc
import grpc.aio

__all__ = [
    "CHANNEL",
    "MULTI_CALLABLES",
    "SERVER",
    "SYNC_CHANNEL",
    "SYNC_SERVER",
    "Patches",
    "channel_of",
    "contrib_is_active",
    "from_contrib",
    "interceptors_of",
    "method_of",
    "response_metadata",
    "target_of",
    "when_over",
]

SERVER: type[Any] = importlib.import_module("grpc.aio._server").Server
SYNC_CHANNEL: type[Any] = importlib.import_module("grpc._channel").Channel
SYNC_SERVER: type[Any] = importlib.import_module("grpc._server")._Server
CHANNEL: type[Any] = importlib.import_module("grpc.aio._channel").Channel
MULTI_CALLABLES: tuple[type[Any], ...] = tuple(
    getattr(importlib.import_module("grpc.aio._channel"), f"{shape}MultiCallable")
    for shape in ("UnaryUnary", "UnaryStream", "StreamUnary", "StreamStream")
)

# Where a release has no such thing, its calls are asked for their status in a longer way.
_TELLS_OK = hasattr(getattr(importlib.import_module("grpc._cython.cygrpc"), "_AioCall", None), "is_ok")

_CONTRIB = "opentelemetry.instrumentation.grpc"
_INHERITED = object()

_CANCELLED = grpc.StatusCode.CANCELLED.name
_OK = grpc.StatusCode.OK.name
_UNKNOWN = grpc.StatusCode.UNKNOWN.name

Over = Callable[[Any, str, BaseException | None, Any], None]
"""
Told the subject, a call's final status, the exception where it failed before it had one, and what has its metadata.
"""


class Patches:
    """Attributes replaced for a while. They are those of classes, so names imported earlier are covered too."""

    def __init__(self) -> None:
        self._undo: list[tuple[Any, str, Any, Any]] = []

    def replace(self, owner: Any, name: str, make: Callable[[Any], Any]) -> None:
        """Put `make(original)` in the place of *owner*'s attribute *name*."""
        own = vars(owner).get(name, _INHERITED)
        replacement = make(getattr(owner, name))
        self._undo.append((owner, name, own, replacement))
        setattr(owner, name, replacement)

    def restore(self) -> None:
        """Put every original back, except where somebody else has wrapped ours since."""
        while self._undo:
            owner, name, own, replacement = self._undo.pop()
            if vars(owner).get(name) is not replacement:
                continue
            if own is _INHERITED:
                delattr(owner, name)
            else:
                setattr(owner, name, own)


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


def when_over(call: Any, over: Over, subject: Any) -> None:
    """
    Tell *over* of *subject* once the call *call* of any kind has its final status.

    Nothing here refers to the call: a call that its owner drops is collected, and thereby cancelled, as before.
    """
    if (core := getattr(call, "_cython_call", None)) is not None:
        refused = partial(_refused, over, subject)
        # The public add_done_callback would tie the call into a reference cycle.
        core.add_done_callback(partial(_finished, over, subject, refused, weakref.ref(call)))
        if (sending := getattr(call, "_call_response", None) or getattr(call, "_preparation", None)) is not None:
            sending.add_done_callback(refused)
    elif (task := getattr(call, "_interceptors_task", None)) is not None:
        task.add_done_callback(partial(_intercepted, over, subject))
    elif (source := getattr(call, "_call", None)) is not None:
        # An interceptor gave an iterator of its own in place of this call's responses.
        when_over(source, over, subject)
    else:
        _foreign(call, over, subject)


def target_of(channel: Any) -> str | bytes | None:
    """Return the target that a channel was made for; None where the release of grpcio hides it."""
    target: str | bytes | None = getattr(getattr(channel, "_channel", None), "target", None)
    return target


def response_metadata(call: Any, kind: str) -> Sequence[tuple[str, str | bytes]]:
    """Return what a call that is over, or its error, has of the *kind* `initial_metadata` or `trailing_metadata`."""
    return tuple(_at_once(getattr(call, kind)()) or ()) if hasattr(call, kind) else ()


def _intercepted(over: Over, subject: Any, task: Any) -> None:
    if task.cancelled():
        over(subject, _CANCELLED, None, None)
    elif (error := task.exception()) is None:
        when_over(task.result(), over, subject)
    elif isinstance(error, grpc.aio.AioRpcError):
        over(subject, error.code().name, None, error)
    else:
        over(subject, _UNKNOWN, error, None)


def _finished(over: Over, subject: Any, refused: Callable[[Any], None], reference: Callable[[], Any]) -> None:
    call = reference()
    if call is None:
        # It was dropped by its owner, for which grpc.aio cancels it.
        over(subject, _CANCELLED, None, None)
        return
    if (response := getattr(call, "_call_response", None)) is not None:
        # The loop need not be bothered with what has nothing to say any more.
        response.remove_done_callback(refused)
    over(subject, _OK if _TELLS_OK and call._cython_call.is_ok() else _final_status(call), None, call)


def _refused(over: Over, subject: Any, task: Any) -> None:
    """End a call whose request gRPC did not take: such a call never has a status."""
    # Not by `exception()`, which would keep asyncio from complaining of a failure that nobody has looked at.
    if (error := getattr(task, "_exception", None)) is not None and not isinstance(error, grpc.aio.AioRpcError):
        over(subject, _UNKNOWN, error, None)


def _final_status(call: Any) -> str:
    """Return the status of a call that is over."""
    return str(getattr(_at_once(call.code()), "name", _UNKNOWN))


def _at_once(value: Any) -> Any:
    """Return the result of a coroutine that has not to wait for it; None where it would have to."""
    if not asyncio.iscoroutine(value):
        return value
    try:
        value.send(None)
    except StopIteration as stop:
        return stop.value
    value.close()
    return None


def _foreign(call: Any, over: Over, subject: Any) -> None:
    """Watch a call object that an interceptor made itself; grpc.aio's own wrapper of a mere response is one."""

    def done(finished: Any) -> None:
        try:
            status = _final_status(finished)
        except Exception:  # noqa: BLE001 - it need not have all that gRPC's own have
            status = _UNKNOWN
        over(subject, status, None, finished)

    try:
        call.add_done_callback(done)
    except Exception:  # noqa: BLE001 - a response without a call refuses the callback: it is there, so all is well
        over(subject, _OK, None, None)
