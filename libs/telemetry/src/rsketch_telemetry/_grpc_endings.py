"""
How grpc core saw the end of each RPC that a grpc.aio server serves.

A handler is not told: what reads a stream sees the same end of it whether the caller had said all, left, was late or
sent a message beyond the limit, and then answers into the void. Core knows whether the status went out. It says so in
an operation that grpc.aio waits for beside the task of each RPC, which is where this listens; checked with grpcio
1.66.2 and 1.85.1:

- `_handle_cancellation_from_core(task, state, loop)` waits for that operation, `execute_batch(state, operations, loop)`
  starts it, and `_ServicerContext(state, …)` is the view of an RPC's state that handlers get.
- A message that core refused, for its size as a rule, fails the operation that reads it; that the caller left or is
  late does not. All that is heard of the failure is a line for debugging.
- Nor can a response leave that is beyond the server's own limit: the operation that sends it fails, and is logged.
- `_send_initial_metadata(state, metadata, …)` sends what a handler gives before its first message.
"""

import asyncio
import functools
import importlib
import logging
from collections.abc import Callable, Sequence
from typing import Any

from rsketch_telemetry._grpc_internals import Patches
from rsketch_telemetry._grpc_propagation import Metadata
from rsketch_telemetry._grpc_server_call import ServerCall, current_call
from rsketch_telemetry._grpc_watch import Watch
from rsketch_telemetry._once import Once

__all__ = ["Endings"]

_CORE: Any = importlib.import_module("grpc._cython.cygrpc")
_LOGGER = logging.getLogger(_CORE.__name__)
_NEEDED = (
    "ReceiveCloseOnServerOperation",
    "_ServicerContext",
    "_handle_cancellation_from_core",
    "_send_initial_metadata",
    "execute_batch",
)
_REFUSED = "Failed to receive any message from Core"
_UNSENT = "ExecuteBatchError raised in core"

Task = asyncio.Task[Any]


class Endings:
    """The RPCs under way, of all servers."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._by_task: dict[Task, ServerCall] = {}
        self._by_state: dict[Any, ServerCall] = {}

    def patch(self, patches: Patches, *, initial_metadata: bool) -> None:
        """
        Listen from now on.

        Args:
            initial_metadata: Whether to listen to that, too.
        """
        if not all(hasattr(_CORE, name) for name in _NEEDED):
            _unknown()
            return
        patches.replace(_CORE, "_handle_cancellation_from_core", self._closing)
        patches.replace(_CORE, "execute_batch", self._batch)
        patches.replace(_LOGGER, "debug", _noting(_REFUSED, logging.DEBUG, lambda call: setattr(call, "refused", True)))
        patches.replace(
            _LOGGER, "exception", _noting(_UNSENT, logging.ERROR, lambda call: setattr(call, "unsent", True))
        )
        if initial_metadata:
            patches.replace(_CORE, "_send_initial_metadata", self._sending)

    def serving(self, task: Task) -> ServerCall:
        """Return the RPC that the current task *task* serves; its record ends by itself."""
        call = self._by_task.get(task)
        if call is None:
            # Core is not heard, so the end of the task has to do.
            call = ServerCall(self._watch, None)
            task.add_done_callback(call.over)
        return call

    def _closing(self, original: Any) -> Any:
        @functools.wraps(original)
        async def handle_cancellation_from_core(task: Task, state: Any, *more: Any) -> None:
            call = self._begin(task, state, *more)
            try:
                await original(task, state, *more)
            finally:
                self._by_task.pop(task, None)
                self._by_state.pop(state, None)
                if call is not None:
                    call.closed(task)

        return handle_cancellation_from_core

    def _begin(self, task: Task, state: Any, loop: Any = None, *_: Any) -> ServerCall | None:
        try:
            call = ServerCall(self._watch, _CORE._ServicerContext(state, None, None, loop))
        except Exception:  # noqa: BLE001 - a grpcio that has changed inside must not fail the call
            self._watch.failed()
            return None
        self._by_task[task] = self._by_state[state] = call
        return call

    def _batch(self, original: Any) -> Any:
        kind = _CORE.ReceiveCloseOnServerOperation

        # On every operation's way, so it looks at as little as it can, and leaves the waiting to the original.
        def execute_batch(call: Any, operations: Sequence[Any], loop: Any) -> Any:
            if operations and type(operations[0]) is kind and (known := self._by_state.get(call)) is not None:
                known.operation = operations[0]
            return original(call, operations, loop)

        return execute_batch

    def _sending(self, original: Any) -> Any:
        def send_initial_metadata(state: Any, metadata: Metadata, *args: Any) -> Any:
            if (call := self._by_state.get(state)) is not None:
                call.initial_metadata = metadata
            return original(state, metadata, *args)

        return send_initial_metadata


def _noting(beginning: str, level: int, note: Callable[[ServerCall], None]) -> Callable[[Any], Any]:
    """Return what makes a logger's method note, of the RPC at hand, that it is given a line with that *beginning*."""

    def replacement(original: Any) -> Any:
        @functools.wraps(original)
        def log(message: object, *args: Any, **kwargs: Any) -> None:
            if isinstance(message, str) and message.startswith(beginning) and (call := current_call.get()) is not None:
                note(call)
            if _LOGGER.isEnabledFor(level):
                # So that the line is still said to come from where it came from.
                original(message, *args, **{**kwargs, "stacklevel": kwargs.get("stacklevel", 1) + 1})

        return log

    return replacement


_unknown = Once(
    "telemetry: this release of grpcio does not tell how an RPC ended: the status of one that did not reach its caller "
    "may be recorded as if it had",
    level=logging.WARNING,
    traceback=False,
)
