"""One RPC that a grpc.aio server serves: what is learnt of it on the way, and the status its caller got."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from typing import Any, Protocol

import grpc
import grpc.aio

from rsketch_telemetry import _context
from rsketch_telemetry._grpc_propagation import Metadata
from rsketch_telemetry._grpc_target import peer_of
from rsketch_telemetry._grpc_watch import Watch
from rsketch_telemetry.facts import Attributes, Peer, RpcOutcome
from rsketch_telemetry.recorder import Call

__all__ = ["Server", "ServerCall", "current_call"]

_DEADLINE_SLACK_SECONDS = 0.02
_DEADLINE_SLACK_SHARE = 0.02
_STATUS_NAMES: dict[object, str] = {code.value[0]: code.name for code in grpc.StatusCode}
# Once: an enumeration's member takes four calls to say its name.
_OK = grpc.StatusCode.OK.name
_CANCELLED = grpc.StatusCode.CANCELLED.name
_DEADLINE_EXCEEDED = grpc.StatusCode.DEADLINE_EXCEEDED.name
_RESOURCE_EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED.name
_UNAVAILABLE = grpc.StatusCode.UNAVAILABLE.name
_UNIMPLEMENTED = grpc.StatusCode.UNIMPLEMENTED.name
_UNKNOWN = grpc.StatusCode.UNKNOWN.name


class Server(Protocol):
    """
    What a call has to know of its server.

    Attributes:
        limits_responses: Whether a response may be too large to be sent.
    """

    limits_responses: bool

    def aborts(self) -> bool:
        """Return whether the server aborts what is still running."""


class ServerCall:
    """
    One RPC; the task that serves it is its own.

    Args:
        watch: For the servers of one instrumentation.
        servicer: A view of the RPC's state, as handlers get it; None until there is one.

    Attributes:
        inner: The context that it is served in, once it `begin`s.
        reached: Whether the server lets it go to its handler, instead of refusing it.
        refused: Whether core refused a message of the caller's.
        unsent: Whether core did not send something, because it is too large or the caller left at that moment.
        operation: Core's, that tells of the end; None where core cannot be heard.
        initial_metadata: What the handler sent before its first message, where that is listened to.
    """

    __slots__ = (
        "_cancelled",
        "_error",
        "_found",
        "_peer",
        "_record",
        "_server",
        "_time_allowed",
        "_watch",
        "initial_metadata",
        "inner",
        "operation",
        "reached",
        "refused",
        "servicer",
        "unsent",
    )

    _server: Server

    def __init__(self, watch: Watch, servicer: Any) -> None:
        self._watch = watch
        self.servicer = servicer
        self.operation: Any = None
        self.initial_metadata: Metadata = ()
        self.reached = self.refused = self.unsent = False
        self._found = True
        self._record: Call[RpcOutcome] | None = None
        self._cancelled: bool | None = None
        """Whether it ended without the status of the server; None where core cannot be heard."""
        self._error: BaseException | None = None
        self._time_allowed: float | None = None
        self._peer: Peer | None = None

    def begin(self, record: Call[RpcOutcome], server: Server) -> None:
        """Attach the context of *record* to the current task, which serves this."""
        self._record = record
        self._server = server
        # Asked once: it may be made anew each time.
        self.inner = record.inner
        if self.servicer is not None:
            self._ask(self.servicer)
        # Never detached: the task is this RPC's own, and its context ends with it. That spares a generator's
        # finalizer, which may run in another task, from detaching what was attached here.
        current_call.set(self)
        _context.attach(self.inner)

    def failed(self, error: BaseException) -> None:
        """Note the exception that ends the RPC; the first is the cause."""
        if self._error is None:
            self._error = error

    def missing(self) -> None:
        """Note that the server has no handler."""
        self._found = False

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Listen to the end of the RPC also in the thread of a handler."""
        token = current_call.set(self)
        try:
            yield
        finally:
            current_call.reset(token)

    def meet(self, servicer: Any) -> None:
        """Take what only the context of a handler tells, where nothing was known before."""
        if self.servicer is None:
            self.servicer = servicer
            self._ask(servicer)

    def _ask(self, servicer: Any) -> None:
        try:
            self._time_allowed = servicer.time_remaining()
            self._peer = peer_of(servicer.peer())
        except Exception:  # noqa: BLE001 - a context of an unknown make must not fail the call
            self._watch.failed()

    def closed(self, task: "asyncio.Task[Any]") -> None:
        """End the record, or have it end with the RPC's *task*: core is done with the RPC."""
        if self._record is None:
            return
        try:
            cancelled = self.operation.cancelled() if self.operation is not None else None
            # None, too, where nobody has waited for the operation: core has not said.
            self._cancelled = None if cancelled is None else bool(cancelled)
            self.operation = None
            outcome = self._plain()
        except Exception:  # noqa: BLE001 - as above
            self._watch.failed()
            outcome = None
        if outcome is not None:
            self._end(outcome)
        elif task.done():
            self.over(task)
        else:
            task.add_done_callback(self.over)

    def over(self, task: "asyncio.Task[Any]") -> None:
        """End the record: the RPC has ended, and so has its task."""
        try:
            outcome = self._outcome(interrupted=task.cancelling() > 0)
        except Exception:  # noqa: BLE001 - as above
            self._watch.failed()
            outcome = RpcOutcome(status_code=_UNKNOWN)
        self._end(outcome)

    def _end(self, outcome: RpcOutcome) -> None:
        record = self._record
        # An exception refers to its frames and these to us: what is kept here would live until the next collection,
        # and what the task's context refers to as long as whatever the handler has left running.
        self._record = self._error = self.servicer = None
        if record is not None:
            record.finish(outcome)

    def _plain(self) -> RpcOutcome | None:
        """Return the outcome of an RPC that was answered OK, after which nothing happens; None for any other."""
        if self._cancelled is not False or not self.reached or self._error is not None or self.servicer.code():
            return None
        return None if self._watch.captures_responses else _success(self._peer)

    def _outcome(self, *, interrupted: bool) -> RpcOutcome:
        """
        Return what the caller got.

        Args:
            interrupted: Whether gRPC stopped the task: the caller had cancelled, its deadline passed, the server stops.
        """
        if self._is_cut_off(interrupted=interrupted):
            # What gRPC raises into a handler whose caller is gone is no exception of the handler's.
            known = isinstance(self._error, asyncio.CancelledError | grpc.aio.BaseError)
            status, error = self._interruption(), None if known else self._error
        else:
            status, error = self._answer()
        return RpcOutcome(
            status_code=status,
            exception=error,
            peer=self._peer,
            metadata=self._response_metadata() if self._watch.captures_responses else None,
        )

    def _response_metadata(self) -> Attributes:
        return self._watch.response_metadata(self.initial_metadata, self._trailers)

    def _trailers(self) -> Any:
        """Return what went out with the status; a cancelled RPC has none."""
        context = self.servicer
        return () if context is None or self._cancelled else context.trailing_metadata()

    def _is_cut_off(self, *, interrupted: bool) -> bool:
        """Return whether the RPC ended without a status of the server's."""
        if self._cancelled is not None:
            return self._cancelled
        return interrupted or (self.servicer is not None and not self.servicer.done())

    def _answer(self) -> tuple[str, BaseException | None]:
        """Return the status that the server sent, and what the application raised."""
        if not self._found:
            return _UNIMPLEMENTED, None
        if not self.reached and self._error is None:
            # There is a handler, nothing has gone wrong, and it was not asked: there were too many calls already.
            return _RESOURCE_EXHAUSTED, None
        status = _status_name(self.servicer.code() if self.servicer is not None else None)
        if self._error is None or isinstance(self._error, grpc.aio.AbortError):
            return status, None
        return _UNKNOWN if status == _OK else status, self._error

    def _interruption(self) -> str:
        """Return what the caller got instead of a status of the server's."""
        if self.refused or (self.unsent and self._server.limits_responses):
            return _RESOURCE_EXHAUSTED
        if self._server.aborts():
            return _UNAVAILABLE
        return _DEADLINE_EXCEEDED if self._is_late() else _CANCELLED

    def _is_late(self) -> bool:
        """
        Return whether the deadline is what ended the RPC.

        The caller's clock starts before ours and gRPC rounds the time it sends up, so its end comes before ours does.
        """
        if self.servicer is None or self._time_allowed is None:
            return False
        remaining = self.servicer.time_remaining()
        return bool(remaining <= max(_DEADLINE_SLACK_SECONDS, self._time_allowed * _DEADLINE_SLACK_SHARE))


current_call: ContextVar[ServerCall | None] = ContextVar("rsketch-rpc-served", default=None)
"""The RPC that the current task serves."""


@lru_cache(maxsize=1024)
def _success(peer: Peer | None) -> RpcOutcome:
    return RpcOutcome(status_code=_OK, peer=peer, kept=True)


def _status_name(code: Any) -> str:
    """Return the name of a status given as gRPC takes it: a member, its number, or None for OK."""
    if code is None:
        return _OK
    number = code if isinstance(code, int) else code.value[0]
    return _STATUS_NAMES.get(number, _UNKNOWN)
