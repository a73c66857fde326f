"""One RPC that a grpc.aio server serves: what is learnt of it on the way, and the status its caller got."""

import asyncio
from contextlib import AbstractContextManager
from typing import Any, Protocol

import grpc
import grpc.aio

from rsketch_telemetry._grpc_endings import Ending, Endings, current
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
    The record of one RPC; the task that makes it is the RPC's own.

    Args:
        record: Started already.
        server: Of the RPC.
    """

    def __init__(self, watch: Watch, record: Call[RpcOutcome], server: Server, endings: Endings, task: Any) -> None:
        # Asked once: it may be made anew each time.
        self.context = record.inner
        self._watch = watch
        self._record = record
        self._server = server
        self._found = True
        self._reached = False
        self._error: BaseException | None = None
        self._time_allowed: float | None = None
        self._peer: Peer | None = None
        self._ending: Ending = endings.claim(task, self)
        if self._ending.context is not None:
            self._meet(self._ending.context)

    def failed(self, error: BaseException) -> None:
        """Note the exception that ends the RPC; the first is the cause."""
        if self._error is None:
            self._error = error

    def missing(self) -> None:
        """Note that the server has no handler."""
        self._found = False

    def heard(self) -> AbstractContextManager[None]:
        """Listen to the end of the RPC also in the thread of a handler."""
        return self._ending.heard()

    def reached(self) -> None:
        """Note that the server lets the RPC go to its handler, instead of refusing it."""
        self._reached = True

    def meet(self, context: Any) -> None:
        """Take what only the context of a handler tells, while there is one, and where nothing was known before."""
        if self._ending.context is None:
            self._meet(context)

    def _meet(self, context: Any) -> None:
        self._ending.context = context
        try:
            self._time_allowed = context.time_remaining()
            self._peer = peer_of(context.peer())
        except Exception:  # noqa: BLE001 - a context of an unknown make must not fail the call
            self._watch.failed()

    def over(self, task: "asyncio.Task[Any]") -> None:
        """End the record: the RPC has ended, and so has its task."""
        try:
            outcome = self._plain() or self._outcome(interrupted=task.cancelling() > 0)
        except Exception:  # noqa: BLE001 - as above
            self._watch.failed()
            outcome = RpcOutcome(status_code=_UNKNOWN)
        # An exception refers to its frames and these to us: what is kept here would live until the next collection,
        # and what the task's context refers to as long as whatever the handler has left running.
        self._error = self._ending.context = None
        self._record.finish(outcome)

    def _plain(self) -> RpcOutcome | None:
        """Return the outcome of an RPC whose handler has answered, as most have; None for any other."""
        ending = self._ending
        if ending.cancelled is not False or not self._reached or self._error is not None:
            return None
        if ending.context is None or self._watch.captures_responses:
            return None
        code = ending.context.code()
        return RpcOutcome(status_code=_OK if not code else _status_name(code), peer=self._peer)

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
        return self._watch.response_metadata(self._ending.initial_metadata, self._trailers)

    def _trailers(self) -> Any:
        """Return what went out with the status; a cancelled RPC has none."""
        context = self._ending.context
        return () if context is None or self._ending.cancelled else context.trailing_metadata()

    def _is_cut_off(self, *, interrupted: bool) -> bool:
        """Return whether the RPC ended without a status of the server's."""
        if self._ending.cancelled is not None:
            return self._ending.cancelled
        return interrupted or (self._ending.context is not None and not self._ending.context.done())

    def _answer(self) -> tuple[str, BaseException | None]:
        """Return the status that the server sent, and what the application raised."""
        if not self._found:
            return _UNIMPLEMENTED, None
        if not self._reached and self._error is None:
            # There is a handler, nothing has gone wrong, and it was not asked: there were too many calls already.
            return _RESOURCE_EXHAUSTED, None
        status = _status_name(self._ending.context.code() if self._ending.context is not None else None)
        if self._error is None or isinstance(self._error, grpc.aio.AbortError):
            return status, None
        return _UNKNOWN if status == _OK else status, self._error

    def _interruption(self) -> str:
        """Return what the caller got instead of a status of the server's."""
        if self._ending.refused or (self._ending.unsent and self._server.limits_responses):
            return _RESOURCE_EXHAUSTED
        if self._server.aborts():
            return _UNAVAILABLE
        return _DEADLINE_EXCEEDED if self._is_late() else _CANCELLED

    def _is_late(self) -> bool:
        """
        Return whether the deadline is what ended the RPC.

        The caller's clock starts before ours and gRPC rounds the time it sends up, so its end comes before ours does.
        """
        if self._ending.context is None or self._time_allowed is None:
            return False
        remaining = self._ending.context.time_remaining()
        return bool(remaining <= max(_DEADLINE_SLACK_SECONDS, self._time_allowed * _DEADLINE_SLACK_SHARE))


def current_call() -> ServerCall | None:
    """Return the RPC that the current task serves."""
    ending = current.get()
    return ending.call if ending is not None else None


def _status_name(code: Any) -> str:
    """Return the name of a status given as gRPC takes it: a member, its number, or None for OK."""
    if code is None:
        return _OK
    number = code if isinstance(code, int) else code.value[0]
    return _STATUS_NAMES.get(number, _UNKNOWN)
