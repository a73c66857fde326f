"""
What gRPC gets in place of a server's handlers, so that what they raise is known.

One that runs in the task of its RPC is replaced once, and finds the RPC at hand in the task's context. One that runs in
a thread of the server's pool, where there is no such context, is replaced for each RPC.
"""

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Any

from opentelemetry import context as context_api

from rsketch_telemetry._grpc_server_call import ServerCall, current_call

__all__ = ["Handlers"]

_SHAPES = {
    (False, False): "unary_unary",
    (False, True): "unary_stream",
    (True, False): "stream_unary",
    (True, True): "stream_stream",
}
_MAX_KEPT = 1024
_MAX_TRIED = 64

CallOf = Callable[[], ServerCall | None]
"""Returns the RPC at hand; None where somebody runs a handler outside of one."""
_Behaviour = Callable[..., Any]


class Handlers:
    """The replaced handlers of one server."""

    def __init__(self) -> None:
        # By identity, as most cannot be hashed or referred to weakly; held, so that an identity stays taken.
        self._kept: dict[int, tuple[Any, _Handler]] = {}
        # Those that have served once: an application may make a handler for each call, with much that it refers to.
        self._tried: dict[int, tuple[Any, _Handler]] = {}

    def watched(self, handler: Any, call: ServerCall) -> Any:
        """Return a handler that does what *handler* does, and tells *call*; None where there is none."""
        kept = self._kept.get(id(handler))
        if kept is not None:
            return kept[1]
        if handler is None:
            call.missing()
            return None
        if id(handler) in self._tried:
            return self._keep(handler)
        shape = _SHAPES[bool(handler.request_streaming), bool(handler.response_streaming)]
        behaviour = getattr(handler, shape)
        if behaviour is None:
            call.reached = True
            return handler
        inside = _inside(behaviour)
        if inside is not None:
            call_of = current_call.get
            return self._try(handler, _Handler(handler, shape, inside(behaviour, call_of), call_of))
        wrap = _sync_stream if handler.response_streaming else _sync
        return _Handler(handler, shape, wrap(behaviour, call), lambda: call)

    def _try(self, handler: Any, made: "_Handler") -> "_Handler":
        if len(self._tried) >= _MAX_TRIED:
            self._tried.clear()
        self._tried[id(handler)] = handler, made
        return made

    def _keep(self, handler: Any) -> "_Handler":
        if len(self._kept) >= _MAX_KEPT:
            self._kept.clear()
        kept = self._kept[id(handler)] = self._tried.pop(id(handler))
        return kept[1]


class _Handler:
    """
    What gRPC gets in place of a handler.

    Where the server refuses the RPC for too many others, gRPC does not even look what kind of handler it has: that is
    how the refusal is told from a message that never came.
    """

    def __init__(self, handler: Any, shape: str, wrapped: _Behaviour, call_of: CallOf) -> None:
        self._call_of = call_of
        self._request_streaming = handler.request_streaming
        self.response_streaming = handler.response_streaming
        self.unary_unary = self.unary_stream = self.stream_unary = self.stream_stream = None
        setattr(self, shape, wrapped)
        # Where the handler itself reads or writes, an exception in there is its own to handle.
        reads = handler.request_streaming
        writes = handler.response_streaming and inspect.iscoroutinefunction(getattr(handler, shape))
        deserialize, serialize = handler.request_deserializer, handler.response_serializer
        self.request_deserializer = deserialize if reads else _noting(deserialize, call_of)
        self.response_serializer = serialize if writes else _serializing(serialize, call_of)

    @property
    def request_streaming(self) -> Any:
        """What it says, and that gRPC asked."""
        call = self._call_of()
        if call is not None:
            call.reached = True
        return self._request_streaming


def _inside(behaviour: _Behaviour) -> Callable[[_Behaviour, CallOf], _Behaviour] | None:
    """Return what wraps a handler that runs in the task of its RPC; None for one that runs in a thread."""
    if inspect.iscoroutinefunction(behaviour):
        return _coroutine
    return _generator if inspect.isasyncgenfunction(behaviour) else None


def _noting(transform: _Behaviour | None, call_of: CallOf) -> _Behaviour | None:
    """Return *transform*, of a message, so that what it raises is noted."""
    if transform is None:
        return None

    def noting(message: Any) -> Any:
        try:
            return transform(message)
        except Exception as error:
            _note(call_of(), error)
            raise

    return noting


def _serializing(serialize: _Behaviour | None, call_of: CallOf) -> _Behaviour:
    """Return the serializer *serialize* of responses, and have noted where it gives what gRPC does not send."""
    noted = _noting(serialize, call_of)

    def serializing(response: Any) -> Any:
        message = response if noted is None else noted(response)
        if message is not None and not isinstance(message, bytes):
            # As gRPC says it, a moment later.
            _note(call_of(), TypeError(f"Expected bytes, got {type(message).__name__}"))
        return message

    return serializing


def _note(call: ServerCall | None, error: BaseException) -> None:
    if call is not None:
        call.failed(error)


def _coroutine(behaviour: _Behaviour, call_of: CallOf) -> _Behaviour:
    async def serve(request: Any, context: Any) -> Any:
        call = call_of()
        if call is not None and call.servicer is None:
            call.meet(context)
        try:
            return await behaviour(request, context)
        except BaseException as error:
            _note(call, error)
            raise

    return serve


def _generator(behaviour: _Behaviour, call_of: CallOf) -> _Behaviour:
    async def serve(request: Any, context: Any) -> AsyncIterator[Any]:
        call = call_of()
        if call is not None and call.servicer is None:
            call.meet(context)
        responses = behaviour(request, context)
        try:
            async for response in responses:
                yield response
        except (Exception, asyncio.CancelledError) as error:
            _note(call, error)
            raise
        finally:
            # Where gRPC drops the generator half-way, the user's is closed with it and not some time later.
            if (close := getattr(responses, "aclose", None)) is not None:
                await close()

    return serve


def _sync(behaviour: _Behaviour, call: ServerCall) -> _Behaviour:
    """Run in a thread of the server's pool, which knows nothing of the RPC's context."""

    def serve(request: Any, context: Any) -> Any:
        token = context_api.attach(call.inner)
        try:
            with call.heard():
                return behaviour(request, context)
        except BaseException as error:
            call.failed(error)
            raise
        finally:
            context_api.detach(token)

    return serve


def _sync_stream(behaviour: _Behaviour, call: ServerCall) -> _Behaviour:
    """Run in the loop's thread; gRPC iterates over the result in a thread of the server's pool."""

    def serve(request: Any, context: Any) -> Iterator[Any]:
        try:
            return _stepped(behaviour(request, context), call)
        except BaseException as error:
            call.failed(error)
            raise

    return serve


def _stepped(responses: Iterable[Any], call: ServerCall) -> Iterator[Any]:
    iterator: Iterator[Any] | None = None
    while True:
        # By step: the thread goes on to other calls, and a generator that is dropped ends who knows where.
        token = context_api.attach(call.inner)
        try:
            with call.heard():
                iterator = iter(responses) if iterator is None else iterator
                response = next(iterator)
        except StopIteration:
            return
        except BaseException as error:
            call.failed(error)
            raise
        finally:
            context_api.detach(token)
        yield response
