"""
The grpc.aio client's hook: the four multi-callables, at class level.

That is outside of the user's interceptors, so one logical call is one span, and it reaches channels and stubs made
before. What the caller gets is the very call object of grpc.aio: cancelling, reading and dropping it work as ever.
"""

import dataclasses
import functools
import inspect
import logging
import weakref
from collections.abc import Callable
from typing import Any

import grpc.aio
from opentelemetry import context as context_api
from opentelemetry.instrumentation.utils import is_instrumentation_enabled

from rsketch_telemetry import _grpc_internals as internals
from rsketch_telemetry import semconv
from rsketch_telemetry._grpc_propagation import inject, merged
from rsketch_telemetry._grpc_target import Endpoint, target_endpoint
from rsketch_telemetry._grpc_watch import Watch
from rsketch_telemetry._once import Once
from rsketch_telemetry.facts import Attributes, RpcCall, RpcOutcome, rpc_method
from rsketch_telemetry.recorder import Call
from rsketch_telemetry.redaction import clean

__all__ = ["patch_client"]

_METADATA_POSITION = 2
_MAX_METHODS = 400
_CONTRIB_SYNC = "GrpcInstrumentorClient"


def patch_client(watch: Watch, patches: internals.Patches, stood_down: Callable[[], None]) -> None:
    """
    Record every call made from now on. Of a channel that existed before, older releases of grpcio hide the target.

    Args:
        stood_down: Called when a call is left alone because contrib's interceptor is on its channel.
    """
    hook = _ClientHook(watch, stood_down)

    def constructor(original: Any) -> Any:
        signature = inspect.signature(original)

        @functools.wraps(original)
        def construct(channel: Any, *args: Any, **kwargs: Any) -> None:
            original(channel, *args, **kwargs)
            hook.learn(channel, lambda: signature.bind(channel, *args, **kwargs).arguments["target"])

        return construct

    def caller(original: Any) -> Any:
        @functools.wraps(original)
        def call(multi_callable: Any, *args: Any, **kwargs: Any) -> Any:
            record = hook.start(multi_callable, args, kwargs)
            if record is None:
                return original(multi_callable, *args, **kwargs)
            return hook.call(record, original, multi_callable, args, kwargs)

        return call

    def sync_constructor(original: Any) -> Any:
        @functools.wraps(original)
        def construct(channel: Any, *args: Any, **kwargs: Any) -> None:
            original(channel, *args, **kwargs)
            hook.meet_synchronous()

        return construct

    patches.replace(internals.CHANNEL, "__init__", constructor)
    patches.replace(internals.SYNC_CHANNEL, "__init__", sync_constructor)
    for owner in internals.MULTI_CALLABLES:
        patches.replace(owner, "__call__", caller)


class _ClientHook:
    def __init__(self, watch: Watch, stood_down: Callable[[], None]) -> None:
        self._watch = watch
        self._stood_down = stood_down
        self._endpoints: weakref.WeakKeyDictionary[Any, Endpoint] = weakref.WeakKeyDictionary()
        self._methods: set[bytes] = set()
        # Not a warning: exporters have such channels.
        self._synchronous = Once(
            "telemetry: calls over a synchronous gRPC channel have no telemetry of ours; "
            "opentelemetry-instrumentation-grpc has some for them",
            level=logging.INFO,
            traceback=False,
        )

    def meet_synchronous(self) -> None:
        """Say whose a channel is that is not of grpc.aio."""
        if is_instrumentation_enabled() and not internals.contrib_is_active(_CONTRIB_SYNC):
            self._synchronous()

    def learn(self, channel: Any, target: Callable[[], str | bytes]) -> None:
        """Remember what a channel talks to."""
        try:
            self._endpoints[channel] = _endpoint(target())
        except Exception:  # noqa: BLE001 - a grpcio that has changed inside must not fail the program
            self._watch.failed()

    def start(self, multi_callable: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call[RpcOutcome] | None:
        """Start the record of a call; None where it gets neither span nor metric."""
        try:
            method = internals.method_of(multi_callable)
            if self._watch.skips(_path(method)):
                return None
            if internals.from_contrib(internals.interceptors_of(multi_callable)):
                self._stood_down()
                return None
            endpoint = self._endpoint_of(internals.channel_of(multi_callable))
            facts = _facts(method, endpoint) if self._knows(method) else _other(method, endpoint)
            if self._watch.captures_requests:
                facts = dataclasses.replace(facts, metadata=self._request_metadata(args, kwargs))
            return self._watch.recorder.rpc_client(facts, context_api.get_current())
        except Exception:  # noqa: BLE001 - a grpcio that has changed inside must not fail the call
            self._watch.failed()
            return None

    def _endpoint_of(self, channel: Any) -> Endpoint:
        endpoint = self._endpoints.get(channel)
        if endpoint is None:
            # It was made before us.
            target = internals.target_of(channel)
            endpoint = self._endpoints[channel] = _endpoint(target) if target else (None, None)
        return endpoint

    def _knows(self, method: bytes) -> bool:
        """Return whether *method* is among the first so many: an application may make names up without end."""
        if method in self._methods:
            return True
        if len(self._methods) >= _MAX_METHODS:
            return False
        self._methods.add(method)
        return True

    def _request_metadata(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Attributes:
        given = args[_METADATA_POSITION] if len(args) > _METADATA_POSITION else kwargs.get("metadata")
        try:
            if iter(given or ()) is given:
                # It can be read once, and that is for gRPC to do.
                return {}
            return self._watch.request_metadata(merged(given or (), {}))
        except (TypeError, ValueError):
            # What is no metadata is for gRPC to refuse.
            return {}

    def call(
        self,
        record: Call[RpcOutcome],
        original: Any,
        multi_callable: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Make the call in its span's context, and have the record end with it."""
        args, kwargs = self._with_context(record, args, kwargs)
        token = context_api.attach(record.inner)
        try:
            call = original(multi_callable, *args, **kwargs)
        except Exception as error:
            record.finish(RpcOutcome(status_code="UNKNOWN", exception=error))
            raise
        finally:
            context_api.detach(token)
        try:
            internals.when_over(call, functools.partial(self._end, record))
        except Exception:  # noqa: BLE001 - as above
            self._watch.failed()
        return call

    def _end(self, record: Call[RpcOutcome], status: str, error: BaseException | None, source: Any) -> None:
        """
        End the record of a call.

        *error* is what failed before there was a status, as in an interceptor of the user's. An `AioRpcError` is not
        passed on as one: its status says all, and whether it is worth a log record is for the caller to say.
        """
        metadata = self._response_metadata(source) if self._watch.captures_responses else {}
        record.finish(RpcOutcome(status_code=status, exception=error, metadata=metadata))

    def _response_metadata(self, source: Any) -> Attributes:
        try:
            initial = internals.response_metadata(source, "initial_metadata")
            return self._watch.response_metadata(
                initial, lambda: internals.response_metadata(source, "trailing_metadata")
            )
        except Exception:  # noqa: BLE001 - a call object of an unknown make must not cost the record its end
            self._watch.failed()
            return {}

    def _with_context(
        self, record: Call[RpcOutcome], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments with the context in a copy of the user's metadata, which may be a constant of theirs."""
        entries = inject(record.inner)
        if not entries:
            return args, kwargs
        if len(args) > _METADATA_POSITION:
            before, metadata, after = (
                args[:_METADATA_POSITION],
                args[_METADATA_POSITION],
                args[_METADATA_POSITION + 1 :],
            )
            return (*before, _enriched(metadata, entries), *after), kwargs
        return args, {**kwargs, "metadata": _enriched(kwargs.get("metadata"), entries)}


def _endpoint(target: str | bytes) -> Endpoint:
    return target_endpoint(target.decode("utf-8", "replace") if isinstance(target, bytes) else target)


def _enriched(metadata: Any, entries: dict[str, str]) -> Any:
    """Return a copy of *metadata*, of its own kind, with *entries*; what is no metadata is left for gRPC to refuse."""
    try:
        pairs = merged(metadata or (), entries)
    except (TypeError, ValueError):
        return metadata
    if isinstance(metadata, tuple | list):
        return type(metadata)(pairs) if type(metadata) in {tuple, list} else tuple(pairs)
    return grpc.aio.Metadata(*pairs)


@functools.lru_cache(maxsize=1024)
def _path(method: bytes) -> str:
    return method.decode("utf-8", "replace")


@functools.lru_cache(maxsize=1024)
def _facts(method: bytes, endpoint: Endpoint) -> RpcCall:
    name, original = rpc_method(_path(method))
    return RpcCall(method=name, method_original=original, server_address=endpoint[0], server_port=endpoint[1])


def _other(method: bytes, endpoint: Endpoint) -> RpcCall:
    original = clean(_path(method).removeprefix("/"), 256)
    return RpcCall(method=semconv.OTHER, method_original=original, server_address=endpoint[0], server_port=endpoint[1])
