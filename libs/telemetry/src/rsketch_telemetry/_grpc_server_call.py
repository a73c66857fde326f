"""
One RPC that a grpc.aio server serves: what is learnt of it on the way, and the status its caller got.

A handler is wrapped to learn the exception that it raised; its context is the one that gRPC made.
"""

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Any, Protocol

import grpc
import grpc.aio
from opentelemetry import context as context_api

from rsketch_telemetry._grpc_endings import Ending, Endings
from rsketch_telemetry._grpc_target import peer_of
from rsketch_telemetry._grpc_watch import Watch
from rsketch_telemetry.facts import Peer, RpcOutcome
from rsketch_telemetry.recorder import Call

__all__ = ["Server", "ServerCall"]

_DEADLINE_SLACK_SECONDS = 0.02
_DEADLINE_SLACK_SHARE = 0.02
_STATUS_NAMES: dict[object, str] = {code.value[0]: code.name for code in grpc.StatusCode}
_SHAPES = {
    (False, False): "unary_unary",
    (False, True): "unary_stream",
    (True, False): "stream_unary",
    (True, True): "stream_stream",
}


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
        self.context = record.inner
        self._watch = watch
        self._record = record
        self._server = server
        self._found = True
        self._reached = False
        self._error: BaseException | None = None
        self._behaviour: Any = None
        self._time_allowed: float | None = None
        self._peer: Peer | None = None
        self._ending: Ending = endings.claim(task, self._over)
        if self._ending.context is not None:
            self._meet(self._ending.context)

    def failed(self, error: BaseException) -> None:
        """Note the exception that ends the RPC; the first is the cause."""
        if self._error is None:
            self._error = error

    def watched(self, handler: Any) -> Any:
        """Return a handler that does what *handler* does, and tells us; None where there is none."""
        if handler is None:
            self._found = False
            return None
        shape = _SHAPES[bool(handler.request_streaming), bool(handler.response_streaming)]
        self._behaviour = getattr(handler, shape)
        if self._behaviour is None:
            self.reached()
            return handler
        return _Handler(self, handler, shape)

    def reached(self) -> None:
        """Note that the server lets the RPC go to its handler, instead of refusing it."""
        self._reached = True

    def wrapper(self, *, streams: bool) -> Callable[..., Any]:
        """Return the wrapper of the behaviour's own kind, told apart as gRPC does it."""
        if inspect.iscoroutinefunction(self._behaviour):
            return self._coroutine
        if inspect.isasyncgenfunction(self._behaviour):
            return self._generator
        return self._sync_stream if streams else self._sync

    def noting(self, transform: Callable[[Any], Any] | None) -> Callable[[Any], Any] | None:
        """Return *transform*, of a message, so that what it raises is noted."""
        if transform is None:
            return None

        def noting(message: Any) -> Any:
            try:
                return transform(message)
            except Exception as error:
                self.failed(error)
                raise

        return noting

    def serializing(self, serialize: Callable[[Any], Any] | None) -> Callable[[Any], Any]:
        """Return the serializer *serialize* of responses, and have noted where it gives what gRPC does not send."""
        noted = self.noting(serialize)

        def serializing(response: Any) -> Any:
            message = response if noted is None else noted(response)
            if not isinstance(message, bytes | None):
                # As gRPC says it, a moment later.
                self.failed(TypeError(f"Expected bytes, got {type(message).__name__}"))
            return message

        return serializing

    def _meet(self, context: Any) -> None:
        """Take what only the context of a handler tells, while there is one."""
        self._ending.context = context
        try:
            self._time_allowed = context.time_remaining()
            self._peer = peer_of(context.peer())
        except Exception:  # noqa: BLE001 - a context of an unknown make must not fail the call
            self._watch.failed()

    async def _coroutine(self, request: Any, context: Any) -> Any:
        if self._ending.context is None:
            self._meet(context)
        try:
            return await self._behaviour(request, context)
        except BaseException as error:
            self.failed(error)
            raise

    async def _generator(self, request: Any, context: Any) -> AsyncIterator[Any]:
        if self._ending.context is None:
            self._meet(context)
        responses = self._behaviour(request, context)
        try:
            async for response in responses:
                yield response
        except (Exception, asyncio.CancelledError) as error:
            self.failed(error)
            raise
        finally:
            # Where gRPC drops the generator half-way, the user's is closed with it and not some time later.
            if (close := getattr(responses, "aclose", None)) is not None:
                await close()

    def _sync(self, request: Any, context: Any) -> Any:
        """Run in a thread of the server's pool, which knows nothing of this RPC's context."""
        token = context_api.attach(self.context)
        try:
            with self._ending.heard():
                return self._behaviour(request, context)
        except BaseException as error:
            self.failed(error)
            raise
        finally:
            context_api.detach(token)

    def _sync_stream(self, request: Any, context: Any) -> Iterator[Any]:
        """Run in the loop's thread; gRPC iterates over the result in a thread of the server's pool."""
        try:
            return self._stepped(self._behaviour(request, context))
        except BaseException as error:
            self.failed(error)
            raise

    def _stepped(self, responses: Iterable[Any]) -> Iterator[Any]:
        iterator: Iterator[Any] | None = None
        while True:
            # By step: the thread goes on to other calls, and a generator that is dropped ends who knows where.
            token = context_api.attach(self.context)
            try:
                with self._ending.heard():
                    iterator = iter(responses) if iterator is None else iterator
                    response = next(iterator)
            except StopIteration:
                return
            except BaseException as error:
                self.failed(error)
                raise
            finally:
                context_api.detach(token)
            yield response

    def _over(self, task: "asyncio.Task[Any]") -> None:
        """End the record: the RPC has ended, and so has its task."""
        try:
            outcome = self._outcome(interrupted=task.cancelling() > 0)
        except Exception:  # noqa: BLE001 - as above
            self._watch.failed()
            outcome = RpcOutcome(status_code=grpc.StatusCode.UNKNOWN.name)
        # An exception refers to its frames and these to us: what is kept here would live until the next collection,
        # and what the task's context refers to as long as whatever the handler has left running.
        self._error = self._ending.context = None
        self._record.finish(outcome)

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
            metadata=self._watch.response_metadata(self._ending.initial_metadata, self._trailers),
        )

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
            return grpc.StatusCode.UNIMPLEMENTED.name, None
        if not self._reached and self._error is None:
            # There is a handler, nothing has gone wrong, and it was not asked: there were too many calls already.
            return grpc.StatusCode.RESOURCE_EXHAUSTED.name, None
        status = _status_name(self._ending.context.code() if self._ending.context is not None else None)
        if self._error is None or isinstance(self._error, grpc.aio.AbortError):
            return status, None
        return grpc.StatusCode.UNKNOWN.name if status == grpc.StatusCode.OK.name else status, self._error

    def _interruption(self) -> str:
        """Return what the caller got instead of a status of the server's."""
        if self._ending.refused or (self._ending.unsent and self._server.limits_responses):
            return grpc.StatusCode.RESOURCE_EXHAUSTED.name
        if self._server.aborts():
            return grpc.StatusCode.UNAVAILABLE.name
        return grpc.StatusCode.DEADLINE_EXCEEDED.name if self._is_late() else grpc.StatusCode.CANCELLED.name

    def _is_late(self) -> bool:
        """
        Return whether the deadline is what ended the RPC.

        The caller's clock starts before ours and gRPC rounds the time it sends up, so its end comes before ours does.
        """
        if self._ending.context is None or self._time_allowed is None:
            return False
        remaining = self._ending.context.time_remaining()
        return bool(remaining <= max(_DEADLINE_SLACK_SECONDS, self._time_allowed * _DEADLINE_SLACK_SHARE))


class _Handler:
    """
    What gRPC gets in place of a handler.

    Where the server refuses the RPC for too many others, gRPC does not even look what kind of handler it has: that is
    how the refusal is told from a message that never came.
    """

    def __init__(self, call: ServerCall, handler: Any, shape: str) -> None:
        self._call = call
        self._request_streaming = handler.request_streaming
        self.response_streaming = handler.response_streaming
        self.unary_unary = self.unary_stream = self.stream_unary = self.stream_stream = None
        behaviour = getattr(handler, shape)
        setattr(self, shape, call.wrapper(streams=handler.response_streaming))
        # Where the handler itself reads or writes, an exception in there is its own to handle.
        reads = handler.request_streaming
        writes = handler.response_streaming and inspect.iscoroutinefunction(behaviour)
        self.request_deserializer = handler.request_deserializer if reads else call.noting(handler.request_deserializer)
        self.response_serializer = (
            handler.response_serializer if writes else call.serializing(handler.response_serializer)
        )

    @property
    def request_streaming(self) -> Any:
        """What it says, and that gRPC asked."""
        self._call.reached()
        return self._request_streaming


def _status_name(code: Any) -> str:
    """Return the name of a status given as gRPC takes it: a member, its number, or None for OK."""
    if code is None:
        return grpc.StatusCode.OK.name
    number = code if isinstance(code, int) else code.value[0]
    return _STATUS_NAMES.get(number, grpc.StatusCode.UNKNOWN.name)
