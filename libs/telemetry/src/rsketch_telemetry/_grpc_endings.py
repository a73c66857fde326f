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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from rsketch_telemetry._grpc_internals import Patches
from rsketch_telemetry._grpc_propagation import Metadata
from rsketch_telemetry._once import Once

__all__ = ["Ending", "Endings", "current"]

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


class Ending:
    """
    What is known of the end of one RPC.

    Attributes:
        context: A view of the RPC's state, as handlers get it; None until there is one.
        cancelled: Whether the RPC ended without the status of the server; None where core cannot be heard.
        refused: Whether core refused a message of the caller's.
        unsent: Whether core did not send something, because it is too large or the caller left at that moment.
        call: Whose it is, told of it by `over`; None where nobody asked.
        initial_metadata: What the handler sent before its first message, where that is listened to.
    """

    __slots__ = ("call", "cancelled", "context", "initial_metadata", "operation", "refused", "unsent")

    def __init__(self, context: Any = None) -> None:
        self.context = context
        self.cancelled: bool | None = None
        self.refused = False
        self.unsent = False
        self.initial_metadata: Metadata = ()
        self.operation: Any = None
        self.call: Any = None

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Listen also in the thread of a handler."""
        token = current.set(self)
        try:
            yield
        finally:
            current.reset(token)


current: ContextVar[Ending | None] = ContextVar("rsketch-rpc-ending", default=None)


class Endings:
    """
    The RPCs under way, of all servers.

    Args:
        failed: Called where listening fails; the RPC goes on.
    """

    def __init__(self, failed: Callable[[], None]) -> None:
        self._failed = failed
        self._by_task: dict[Task, Ending] = {}
        self._by_state: dict[Any, Ending] = {}

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
        patches.replace(
            _LOGGER, "debug", _noting(_REFUSED, logging.DEBUG, lambda ending: setattr(ending, "refused", True))
        )
        patches.replace(
            _LOGGER, "exception", _noting(_UNSENT, logging.ERROR, lambda ending: setattr(ending, "unsent", True))
        )
        if initial_metadata:
            patches.replace(_CORE, "_send_initial_metadata", self._sending)

    def claim(self, task: Task, call: Any) -> Ending:
        """Return the ending of the RPC that the current task *task* serves; `call.over(task)` is called after it."""
        ending = self._by_task.get(task)
        if ending is None:
            # Core is not heard, so the end of the task has to do.
            ending = Ending()
            task.add_done_callback(call.over)
        ending.call = call
        current.set(ending)
        return ending

    def _closing(self, original: Any) -> Any:
        @functools.wraps(original)
        async def handle_cancellation_from_core(task: Task, state: Any, *more: Any) -> None:
            ending = self._begin(task, state, *more)
            try:
                await original(task, state, *more)
            finally:
                self._end(task, state, ending)

        return handle_cancellation_from_core

    def _begin(self, task: Task, state: Any, loop: Any = None, *_: Any) -> Ending | None:
        try:
            ending = Ending(_CORE._ServicerContext(state, None, None, loop))
        except Exception:  # noqa: BLE001 - a grpcio that has changed inside must not fail the call
            self._failed()
            return None
        self._by_task[task] = self._by_state[state] = ending
        return ending

    def _end(self, task: Task, state: Any, ending: Ending | None) -> None:
        self._by_task.pop(task, None)
        self._by_state.pop(state, None)
        if ending is None or ending.call is None:
            return
        try:
            ending.cancelled = bool(ending.operation.cancelled()) if ending.operation is not None else None
        except Exception:  # noqa: BLE001 - as above
            self._failed()
        ending.operation = None
        if task.done():
            ending.call.over(task)
        else:
            task.add_done_callback(ending.call.over)

    def _batch(self, original: Any) -> Any:
        kind = _CORE.ReceiveCloseOnServerOperation

        # On every operation's way, so it looks at as little as it can, and leaves the waiting to the original.
        def execute_batch(call: Any, operations: Sequence[Any], loop: Any) -> Any:
            if operations and type(operations[0]) is kind and (ending := self._by_state.get(call)) is not None:
                ending.operation = operations[0]
            return original(call, operations, loop)

        return execute_batch

    def _sending(self, original: Any) -> Any:
        def send_initial_metadata(state: Any, metadata: Metadata, *args: Any) -> Any:
            if (ending := self._by_state.get(state)) is not None:
                ending.initial_metadata = metadata
            return original(state, metadata, *args)

        return send_initial_metadata


def _noting(beginning: str, level: int, note: Callable[[Ending], None]) -> Callable[[Any], Any]:
    """Return what makes a logger's method note, of the RPC at hand, that it is given a line with that *beginning*."""

    def replacement(original: Any) -> Any:
        @functools.wraps(original)
        def log(message: object, *args: Any, **kwargs: Any) -> None:
            if isinstance(message, str) and message.startswith(beginning) and (ending := current.get()) is not None:
                note(ending)
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
