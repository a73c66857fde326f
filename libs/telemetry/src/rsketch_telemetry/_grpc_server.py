"""
The grpc.aio server's hook: an interceptor before all others, which sees every RPC that reaches Python.

It starts the record before the user's interceptors run, and the record lasts until gRPC is done with the RPC, so
whatever happens in between is in it: a refusal by an interceptor, a method that does not exist, a response that cannot
be serialized. What gRPC refuses before Python hears of it is not seen; of a call with more metadata than its limit
Python hears as of one that was cancelled, and so it is recorded.
"""

import asyncio
import dataclasses
import functools
import inspect
import logging
import math
import time
import weakref
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

import grpc
import grpc.aio
from opentelemetry.instrumentation.utils import is_instrumentation_enabled

from rsketch_telemetry import _grpc_internals as internals
from rsketch_telemetry import semconv
from rsketch_telemetry._context import current
from rsketch_telemetry._grpc_endings import Endings
from rsketch_telemetry._grpc_handlers import Handlers
from rsketch_telemetry._grpc_propagation import extract
from rsketch_telemetry._grpc_server_call import ServerCall
from rsketch_telemetry._grpc_watch import Watch, suppressed
from rsketch_telemetry._once import Once
from rsketch_telemetry.facts import RpcCall, rpc_method
from rsketch_telemetry.redaction import clean
from rsketch_telemetry.telemetry import serving

__all__ = ["patch_server"]

_MAX_LEARNT = 400


def patch_server(watch: Watch, patches: internals.Patches, stood_down: Callable[[], None]) -> None:
    """
    Give every server made from now on a hook.

    Args:
        stood_down: Called when a server is left alone because contrib's interceptor is on it.
    """
    endings = Endings(watch)
    endings.patch(patches, initial_metadata=watch.captures_initial_metadata)
    replacements = _Replacements(watch, endings, stood_down)
    patches.replace(internals.SERVER, "__init__", replacements.constructor)
    patches.replace(internals.SERVER, "start", replacements.start)
    patches.replace(internals.SERVER, "stop", replacements.stop)
    patches.replace(internals.SERVER, "add_generic_rpc_handlers", replacements.add_generic)
    patches.replace(internals.SERVER, "add_registered_method_handlers", replacements.add_registered)
    patches.replace(internals.SYNC_SERVER, "__init__", replacements.sync_constructor)


class _Replacements:
    """What stands in the place of the server class's methods, and the hooks of the servers made through it."""

    def __init__(self, watch: Watch, endings: Endings, stood_down: Callable[[], None]) -> None:
        self._watch = watch
        self._endings = endings
        self._stood_down = stood_down
        self._hooks: weakref.WeakKeyDictionary[Any, _ServerHook | None] = weakref.WeakKeyDictionary()
        self._too_early = _line("a grpc.aio server made before instrument() has no telemetry")
        self._synchronous = _line(
            "a thread-pool grpc.server has no telemetry of ours; opentelemetry-instrumentation-grpc has some for it"
        )

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
            self._hooks[server] = None
            self._stood_down()
            return
        hook = _ServerHook(self._watch, self._endings, limits_responses=_limits_responses(arguments.get("options")))
        hook.learn_generic(handlers)
        arguments["interceptors"] = (hook, *interceptors)
        self._hooks[server] = hook

    def add_generic(self, original: Any) -> Any:
        """Return `add_generic_rpc_handlers` that tells the server's hook."""

        @functools.wraps(original)
        def add_generic_rpc_handlers(server: Any, generic_rpc_handlers: Iterable[grpc.GenericRpcHandler]) -> None:
            handlers = tuple(generic_rpc_handlers)
            original(server, handlers)
            if (hook := self._hooks.get(server)) is not None:
                hook.learn_generic(handlers)

        return add_generic_rpc_handlers

    def add_registered(self, original: Any) -> Any:
        """Return `add_registered_method_handlers` that tells the server's hook."""

        @functools.wraps(original)
        def add_registered_method_handlers(server: Any, service_name: str, method_handlers: Mapping[str, Any]) -> None:
            original(server, service_name, method_handlers)
            if (hook := self._hooks.get(server)) is not None:
                hook.learn_registered(service_name, method_handlers)

        return add_registered_method_handlers

    def stop(self, original: Any) -> Any:
        """Return `stop` that tells the server's hook."""

        @functools.wraps(original)
        async def stop(server: Any, grace: float | None) -> None:
            if (hook := self._hooks.get(server)) is not None:
                hook.will_abort(time.monotonic() + (grace or 0))
            await original(server, grace)

        return stop

    def start(self, original: Any) -> Any:
        """Return `start` that is heard of, also where a server was made too early to have a hook."""

        @functools.wraps(original)
        async def start(server: Any) -> None:
            if server not in self._hooks:
                self._too_early()
            await original(server)
            serving()

        return start

    def sync_constructor(self, original: Any) -> Any:
        """Return the `__init__` of the synchronous server that says whose it is, unless contrib has it."""
        signature = inspect.signature(original)

        @functools.wraps(original)
        def construct(server: Any, *args: Any, **kwargs: Any) -> None:
            original(server, *args, **kwargs)
            interceptors = signature.bind(server, *args, **kwargs).arguments.get("interceptors") or ()
            if is_instrumentation_enabled() and not internals.from_contrib(interceptors):
                self._synchronous()

        return construct


def _line(text: str) -> Once:
    return Once(f"telemetry: {text}", level=logging.WARNING, traceback=False)


def _limits_responses(options: Any) -> bool:
    """Return whether *options*, as a server is given them, say more than that a response may have any size."""
    return any(name == "grpc.max_send_message_length" and value != -1 for name, value, *_ in options or ())


class _ServerHook(grpc.aio.ServerInterceptor):
    """
    The first interceptor of one server.

    Args:
        limits_responses: Whether a response may be too large to be sent.
    """

    def __init__(self, watch: Watch, endings: Endings, *, limits_responses: bool) -> None:
        self.limits_responses = limits_responses
        self._watch = watch
        self._endings = endings
        self._aborts_at = math.inf
        self._handlers = Handlers()
        self._facts: dict[str, RpcCall] = {}
        self._learnt = 0
        self._generic: list[grpc.GenericRpcHandler] = []

    def learn_generic(self, handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """Remember handlers that are asked for each method."""
        self._generic.extend(handlers)

    def learn_registered(self, service: str, methods: Iterable[str]) -> None:
        """Remember the methods that generated code registers by name."""
        for method in methods:
            if not self._watch.excludes(path := f"/{service}/{method}"):
                self._learn(path)

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
            return self._handlers.watched(handler, call)
        except Exception:  # noqa: BLE001 - a handler of an unknown make is served as it is
            self._watch.failed()
            call.reached = True
            return handler

    def _start(self, details: grpc.HandlerCallDetails) -> ServerCall | None:
        """Start the record of the RPC that the current task serves; None where it gets neither span nor metric."""
        try:
            task = asyncio.current_task()
            if task is None or not self._watch.active or ((here := current()) and suppressed(here)):
                return None
            facts = self._facts.get(details.method) or self._learnt_facts(details)
            if facts is None:
                return None
            metadata = details.invocation_metadata or ()
            if self._watch.captures_requests:
                facts = dataclasses.replace(facts, metadata=self._watch.request_metadata(metadata))
            call = self._endings.serving(task)
            call.begin(self._watch.recorder.rpc_server(facts, extract(metadata)), self)
        except Exception:  # noqa: BLE001 - a grpcio that has changed inside must not fail the call
            self._watch.failed()
            return None
        return call

    def _learnt_facts(self, details: grpc.HandlerCallDetails) -> RpcCall | None:
        """
        Return the facts of a method that may be known, whatever the user's interceptors will make of the call.

        None for one whose calls get no record.

        Asked before them because the answer is the span's name, and of the server because an interceptor that refuses
        strangers answers for any method they invent: those must not become labels.
        """
        if self._watch.excludes(details.method):
            return None
        # A handler that serves whatever it is asked for, as a proxy's does, must not make labels without end either.
        if self._learnt >= _MAX_LEARNT or not any(_serves(handler, details) for handler in self._generic):
            return RpcCall(method=semconv.OTHER, method_original=clean(details.method.removeprefix("/"), 256))
        self._learnt += 1
        return self._learn(details.method)

    def _learn(self, path: str) -> RpcCall:
        method, original = rpc_method(path)
        facts = self._facts[path] = RpcCall(method=method, method_original=original)
        return facts


def _serves(handler: grpc.GenericRpcHandler, details: grpc.HandlerCallDetails) -> bool:
    try:
        return handler.service(details) is not None
    except Exception:  # noqa: BLE001 - gRPC asks again, and there the exception belongs
        return False
