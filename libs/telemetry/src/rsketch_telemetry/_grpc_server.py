"""
The grpc.aio server's hook: an interceptor before all others, which sees every RPC that reaches Python.

It starts the record before the user's interceptors run and ends it when the task of the RPC does, so whatever happens
in between is in it: a refusal by an interceptor, a method that does not exist, a response that cannot be serialized. A
handler is wrapped only to learn what gRPC keeps to itself: the status that was set and the exception that was raised.
"""

import asyncio
import functools
import inspect
import math
import time
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from typing import Any

import grpc
import grpc.aio
from opentelemetry import context as context_api

from rsketch_telemetry import _grpc_internals as internals
from rsketch_telemetry import semconv
from rsketch_telemetry._grpc_target import Endpoint, peer_endpoint
from rsketch_telemetry._grpc_watch import Watch
from rsketch_telemetry.facts import RpcCall, RpcOutcome, rpc_method
from rsketch_telemetry.recorder import Call
from rsketch_telemetry.redaction import clean

__all__ = ["patch_server"]

_MAX_KNOWN = 4096
_DEADLINE_SLACK_SECONDS = 0.02
_DEADLINE_SLACK_SHARE = 0.02
_STATUS_NAMES: dict[object, str] = {code.value[0]: code.name for code in grpc.StatusCode}
_SHAPES = {
    (False, False): "unary_unary",
    (False, True): "unary_stream",
    (True, False): "stream_unary",
    (True, True): "stream_stream",
}
_MAKERS: dict[str, Callable[..., Any]] = {
    "unary_unary": grpc.unary_unary_rpc_method_handler,
    "unary_stream": grpc.unary_stream_rpc_method_handler,
    "stream_unary": grpc.stream_unary_rpc_method_handler,
    "stream_stream": grpc.stream_stream_rpc_method_handler,
}


def patch_server(watch: Watch, patches: internals.Patches, stood_down: Callable[[], None]) -> None:
    """
    Give every server made from now on a hook.

    Args:
        stood_down: Called when a server is left alone because contrib's interceptor is on it.
    """
    replacements = _Replacements(watch, stood_down)
    patches.replace(internals.SERVER, "__init__", replacements.constructor)
    patches.replace(internals.SERVER, "stop", replacements.stop)
    patches.replace(internals.SERVER, "add_generic_rpc_handlers", replacements.add_generic)
    patches.replace(internals.SERVER, "add_registered_method_handlers", replacements.add_registered)


class _Replacements:
    """What stands in the place of the server class's methods, and the hooks of the servers made through it."""

    def __init__(self, watch: Watch, stood_down: Callable[[], None]) -> None:
        self._watch = watch
        self._stood_down = stood_down
        self._hooks: weakref.WeakKeyDictionary[Any, _ServerHook] = weakref.WeakKeyDictionary()

    def constructor(self, original: Any) -> Any:
        """Return `__init__` with a hook put before the user's interceptors."""
        signature = inspect.signature(original)

        @functools.wraps(original)
        def construct(server: Any, *args: Any, **kwargs: Any) -> None:
            bound = signature.bind(server, *args, **kwargs)
            self._hook(server, bound.arguments)
            original(*bound.args, **bound.kwargs)

        return construct

    def _hook(self, server: Any, arguments: dict[str, Any]) -> None:
        interceptors = tuple(arguments.get("interceptors") or ())
        handlers = tuple(arguments.get("generic_handlers") or ())
        arguments.update(interceptors=interceptors, generic_handlers=handlers)
        if internals.from_contrib(interceptors):
            self._stood_down()
            return
        hook = _ServerHook(self._watch, limited=arguments.get("maximum_concurrent_rpcs") is not None)
        hook.learn_generic(handlers)
        arguments["interceptors"] = (hook, *interceptors)
        self._hooks[server] = hook

    def add_generic(self, original: Any) -> Any:
        """Return `add_generic_rpc_handlers` that tells the server's hook."""

        @functools.wraps(original)
        def add_generic_rpc_handlers(server: Any, generic_rpc_handlers: Iterable[grpc.GenericRpcHandler]) -> None:
            handlers = tuple(generic_rpc_handlers)
            original(server, handlers)
            if server in self._hooks:
                self._hooks[server].learn_generic(handlers)

        return add_generic_rpc_handlers

    def add_registered(self, original: Any) -> Any:
        """Return `add_registered_method_handlers` that tells the server's hook."""

        @functools.wraps(original)
        def add_registered_method_handlers(server: Any, service_name: str, method_handlers: Mapping[str, Any]) -> None:
            original(server, service_name, method_handlers)
            if server in self._hooks:
                self._hooks[server].learn_registered(service_name, method_handlers)

        return add_registered_method_handlers

    def stop(self, original: Any) -> Any:
        """Return `stop` that tells the server's hook."""

        @functools.wraps(original)
        async def stop(server: Any, grace: float | None) -> None:
            if server in self._hooks:
                self._hooks[server].will_abort(time.monotonic() + (grace or 0))
            await original(server, grace)

        return stop


class _ServerHook(grpc.aio.ServerInterceptor):
    """
    The first interceptor of one server.

    Args:
        limited: Whether the server refuses calls beyond a number of concurrent ones.
    """

    def __init__(self, watch: Watch, *, limited: bool) -> None:
        self.watch = watch
        self.limited = limited
        self._aborts_at = math.inf
        self._known: set[str] = set()
        self._generic: list[grpc.GenericRpcHandler] = []

    def learn_generic(self, handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """Remember handlers that are asked for each method."""
        self._generic.extend(handlers)

    def learn_registered(self, service: str, methods: Iterable[str]) -> None:
        """Remember the methods that generated code registers by name."""
        self._known.update(f"/{service}/{method}" for method in methods)

    def will_abort(self, at: float) -> None:
        """Remember when, by the monotonic clock, the server will abort what is still running."""
        self._aborts_at = min(self._aborts_at, at)

    def aborts(self) -> bool:
        """Return whether the server aborts what is still running."""
        return time.monotonic() >= self._aborts_at

    async def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]], details: grpc.HandlerCallDetails
    ) -> Any:
        """Record the RPC whose task this runs in."""
        call = self._start(details)
        if call is None:
            return await continuation(details)
        try:
            handler = await continuation(details)
        except Exception as error:
            call.failed(error)
            raise
        try:
            return call.watched(handler)
        except Exception:  # noqa: BLE001 - a handler of an unknown make is served as it is
            self.watch.failed()
            return handler

    def _start(self, details: grpc.HandlerCallDetails) -> "_ServerCall | None":
        """Start the record of the RPC that the current task serves; None where it gets neither span nor metric."""
        try:
            task = asyncio.current_task()
            if task is None or self.watch.skips(details.method):
                return None
            facts = _facts(details.method) if self._knows(details) else _other(details.method)
            parent = self.watch.propagation.extract(details.invocation_metadata or ())
            call = _ServerCall(self, self.watch.recorder.rpc_server(facts, parent))
            # Never detached: the task is this RPC's own, and its context ends with it. That spares a generator's
            # finalizer, which may run in another task, from detaching what was attached here.
            context_api.attach(call.context)
            task.add_done_callback(call.over)
        except Exception:  # noqa: BLE001 - a grpcio that has changed inside must not fail the call
            self.watch.failed()
            return None
        return call

    def _knows(self, details: grpc.HandlerCallDetails) -> bool:
        """
        Return whether the server has the method, whatever the user's interceptors will make of the call.

        Asked before them because the answer is the span's name, and of the server because an interceptor that refuses
        strangers answers for any method they invent: those must not become labels.
        """
        if details.method in self._known:
            return True
        if not any(_serves(handler, details) for handler in self._generic):
            return False
        if len(self._known) < _MAX_KNOWN:
            self._known.add(details.method)
        return True


def _serves(handler: grpc.GenericRpcHandler, details: grpc.HandlerCallDetails) -> bool:
    try:
        return handler.service(details) is not None
    except Exception:  # noqa: BLE001 - gRPC asks again, and there the exception belongs
        return False


@functools.lru_cache(maxsize=1024)
def _facts(path: str) -> RpcCall:
    method, original = rpc_method(path)
    return RpcCall(method=method, method_original=original)


def _other(path: str) -> RpcCall:
    return RpcCall(method=semconv.OTHER, method_original=clean(path.removeprefix("/"), 256))


class _ServerCall:
    """One RPC: what is learnt of it on the way, and its end."""

    def __init__(self, hook: _ServerHook, record: Call[RpcOutcome]) -> None:
        self.context = record.context
        self._hook = hook
        self._record = record
        self._found = True
        self._behaviour: Any = None
        self._servicer: Any = None
        self._time_allowed: float | None = None
        self._peer: Endpoint = (None, None)
        self._error: BaseException | None = None

    def failed(self, error: BaseException) -> None:
        """Note the exception that ends the RPC; the first is the cause."""
        if self._error is None:
            self._error = error

    def over(self, task: "asyncio.Task[Any]") -> None:
        """End the record: the RPC's task has ended."""
        outcome = self._outcome(interrupted=task.cancelling() > 0)
        # An exception refers to its frames and these to us: what is kept here would live until the next collection.
        self._error = self._servicer = None
        self._record.end(outcome)

    def watched(self, handler: Any) -> Any:
        """Return a handler that does what *handler* does, and tells us; None where there is none."""
        if handler is None:
            self._found = False
            return None
        shape = _SHAPES[bool(handler.request_streaming), bool(handler.response_streaming)]
        self._behaviour = getattr(handler, shape)
        if self._behaviour is None:
            return handler
        wrapper = self._wrapper(streams=handler.response_streaming)
        reads = handler.request_streaming
        writes = handler.response_streaming and inspect.iscoroutinefunction(self._behaviour)
        # Where the handler itself reads or writes, an exception in there is its own to handle.
        return _MAKERS[shape](
            wrapper,
            handler.request_deserializer if reads else self._noting(handler.request_deserializer),
            handler.response_serializer if writes else self._noting(handler.response_serializer),
        )

    def _wrapper(self, *, streams: bool) -> Callable[..., Any]:
        """Return the wrapper of the behaviour's own kind, told apart as gRPC does it."""
        if inspect.iscoroutinefunction(self._behaviour):
            return self._coroutine
        if inspect.isasyncgenfunction(self._behaviour):
            return self._generator
        return self._sync_stream if streams else self._sync

    def _noting(self, transform: Callable[[Any], Any] | None) -> Callable[[Any], Any] | None:
        if transform is None:
            return None

        def noting(message: Any) -> Any:
            try:
                return transform(message)
            except Exception as error:
                self.failed(error)
                raise

        return noting

    async def _coroutine(self, request: Any, context: Any) -> Any:
        self._serving(context)
        try:
            return await self._behaviour(request, context)
        except BaseException as error:
            self.failed(error)
            raise

    async def _generator(self, request: Any, context: Any) -> AsyncIterator[Any]:
        self._serving(context)
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
        servicer = _SyncServicerContext(context)
        self._serving(servicer)
        token = context_api.attach(self.context)
        try:
            return self._behaviour(request, servicer)
        except BaseException as error:
            self.failed(error)
            raise
        finally:
            context_api.detach(token)

    def _sync_stream(self, request: Any, context: Any) -> Iterator[Any]:
        """Run in the loop's thread; gRPC iterates over the result in a thread of the server's pool."""
        servicer = _SyncServicerContext(context)
        self._serving(servicer)
        try:
            return self._stepped(self._behaviour(request, servicer))
        except BaseException as error:
            self.failed(error)
            raise

    def _stepped(self, responses: Iterable[Any]) -> Iterator[Any]:
        iterator: Iterator[Any] | None = None
        while True:
            # By step: the thread goes on to other calls, and a generator that is dropped ends who knows where.
            token = context_api.attach(self.context)
            try:
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

    def _serving(self, servicer: Any) -> None:
        """Take what only the context of a handler tells, while there is one."""
        try:
            self._time_allowed = servicer.time_remaining()
            self._peer = peer_endpoint(servicer.peer())
        except Exception:  # noqa: BLE001 - a context of an unknown make must not fail the call
            self._hook.watch.failed()
        self._servicer = servicer

    def _outcome(self, *, interrupted: bool) -> RpcOutcome:
        """
        Return what the caller got.

        Args:
            interrupted: Whether gRPC stopped the task: the caller had cancelled, its deadline passed, the server stops.
        """
        address, port = self._peer
        status, error = self._status(interrupted=interrupted)
        return RpcOutcome(status_code=status, exception=error, peer_address=address, peer_port=port)

    def _status(self, *, interrupted: bool) -> tuple[str, BaseException | None]:
        cut_off = interrupted and not (self._hook.aborts() and self._is_answered())
        if cut_off or (self._servicer is not None and not self._servicer.done()):
            return self._interruption(), None
        if self._servicer is None:
            return self._unserved()
        status = _status_name(self._servicer.code())
        if self._error is None or isinstance(self._error, grpc.aio.AbortError):
            return status, None
        return "UNKNOWN" if status == "OK" else status, self._error

    def _is_answered(self) -> bool:
        """Return whether the status is on its way: a server that stops then ends the task, but takes no answer back."""
        return self._servicer is not None and bool(getattr(self._servicer, "inner", self._servicer).done())

    def _unserved(self) -> tuple[str, BaseException | None]:
        """Return what the caller got without the handler: it was not found, not allowed, or had nothing to answer."""
        if self._error is not None:
            return "UNKNOWN", self._error
        if not self._found:
            return "UNIMPLEMENTED", None
        return "RESOURCE_EXHAUSTED" if self._hook.limited else "CANCELLED", None

    def _interruption(self) -> str:
        if self._hook.aborts():
            return "UNAVAILABLE"
        return "DEADLINE_EXCEEDED" if self._is_late() else "CANCELLED"

    def _is_late(self) -> bool:
        """
        Return whether the deadline is what ended the RPC.

        The caller's clock starts before ours and gRPC rounds the time it sends up, so its end comes before ours does.
        """
        if self._servicer is None or self._time_allowed is None:
            return False
        remaining = self._servicer.time_remaining()
        return bool(remaining <= max(_DEADLINE_SLACK_SECONDS, self._time_allowed * _DEADLINE_SLACK_SHARE))


class _SyncServicerContext:
    """The context of a handler in a thread, which tells no one the status that the handler set."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self._code: Any = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def set_code(self, code: Any) -> None:
        self.inner.set_code(code)
        self._code = code

    def abort(self, code: Any, *args: Any, **kwargs: Any) -> Any:
        self._code = code
        return self.inner.abort(code, *args, **kwargs)

    def code(self) -> Any:
        return self._code

    def done(self) -> bool:
        """Return True: what is asked only once the RPC is over, and nothing but its task's end can stop a thread's."""
        return True


def _status_name(code: Any) -> str:
    """Return the name of a status given as gRPC takes it: a member, its number, or None for OK."""
    if code is None:
        return "OK"
    return _STATUS_NAMES.get(code if isinstance(code, int) else code.value[0], "UNKNOWN")
