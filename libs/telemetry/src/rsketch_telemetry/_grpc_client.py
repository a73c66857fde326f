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
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import grpc.aio
from opentelemetry.instrumentation.utils import is_instrumentation_enabled

from rsketch_telemetry import _grpc_internals as internals
from rsketch_telemetry import semconv
from rsketch_telemetry._context import attach, current, detach
from rsketch_telemetry._grpc_propagation import inject, merged
from rsketch_telemetry._grpc_target import Endpoint, target_endpoint
from rsketch_telemetry._grpc_watch import Watch, suppressed
from rsketch_telemetry._once import Once
from rsketch_telemetry.facts import Attributes, RpcCall, RpcOutcome, rpc_method
from rsketch_telemetry.recorder import Call
from rsketch_telemetry.redaction import clean

__all__ = ["patch_client"]

_METADATA_POSITION = 2
_MAX_METHODS = 400
_OK = grpc.StatusCode.OK.name
_UNKNOWN = grpc.StatusCode.UNKNOWN.name
_SUCCESS = RpcOutcome(status_code=_OK, kept=True)
_KEPT = "_rsketch_telemetry"
"""The attribute of a multi-callable with the facts of its calls: a weak dictionary would take longer than the rest."""
_STRANGER: tuple[object, RpcCall | None] = None, None
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

    def sync_constructor(original: Any) -> Any:
        @functools.wraps(original)
        def construct(channel: Any, *args: Any, **kwargs: Any) -> None:
            original(channel, *args, **kwargs)
            hook.meet_synchronous()

        return construct

    patches.replace(internals.CHANNEL, "__init__", constructor)
    patches.replace(internals.SYNC_CHANNEL, "__init__", sync_constructor)
    for owner in internals.MULTI_CALLABLES:
        patches.replace(owner, "__call__", hook.caller)


class _ClientHook:
    def __init__(self, watch: Watch, stood_down: Callable[[], None]) -> None:
        self._watch = watch
        self._stood_down = stood_down
        self._endpoints: weakref.WeakKeyDictionary[Any, Endpoint] = weakref.WeakKeyDictionary()
        self._methods: set[bytes] = set()
        # A multi-callable may be older than this.
        self._mark = object()
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

    def caller(self, original: Any) -> Any:
        """Return `__call__` that records the call, and makes it in its span's context."""

        @functools.wraps(original)
        def call(multi_callable: Any, *args: Any, **kwargs: Any) -> Any:
            record = self._start(multi_callable, args, kwargs)
            if record is None:
                return original(multi_callable, *args, **kwargs)
            inner = record.inner
            if entries := inject(inner):
                args = _with_entries(entries, multi_callable, args, kwargs)
            token = attach(inner)
            try:
                made = original(multi_callable, *args, **kwargs)
            except Exception as error:
                record.finish(RpcOutcome(status_code=_UNKNOWN, exception=error))
                raise
            finally:
                detach(token)
            self._follow(made, record)
            return made

        return call

    def _start(self, multi_callable: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call[RpcOutcome] | None:
        """Start the record of a call; None where it gets neither span nor metric."""
        try:
            mark, facts = getattr(multi_callable, _KEPT, _STRANGER)
            if mark is not self._mark:
                facts = self._meet(multi_callable)
            context = current()
            if facts is None or not self._watch.active or (context and suppressed(context)):
                return None
            if self._watch.captures_requests:
                facts = dataclasses.replace(facts, metadata=self._request_metadata(args, kwargs))
            return self._watch.recorder.rpc_client(facts, context)
        except Exception:  # noqa: BLE001 - a grpcio that has changed inside must not fail the call
            self._watch.failed()
            return None

    def _meet(self, multi_callable: Any) -> RpcCall | None:
        """Keep with a multi-callable what its calls have in common, and return it; None where they are left alone."""
        facts: RpcCall | None = None
        method = internals.method_of(multi_callable)
        if internals.from_contrib(internals.interceptors_of(multi_callable)):
            self._stood_down()
        elif not self._watch.excludes(_path(method)):
            endpoint = self._endpoint_of(internals.channel_of(multi_callable))
            facts = _facts(method, endpoint) if self._knows(method) else _other(method, endpoint)
        setattr(multi_callable, _KEPT, (self._mark, facts))
        return facts

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

    def _follow(self, call: Any, record: Call[RpcOutcome]) -> None:
        """Have the record end with its call."""
        try:
            internals.when_over(call, self._end, record)
        except Exception:  # noqa: BLE001 - as above
            self._watch.failed()

    def _end(self, record: Call[RpcOutcome], status: str, error: BaseException | None, source: Any) -> None:
        """
        End the record of a call.

        *error* is what failed before there was a status, as in an interceptor of the user's. An `AioRpcError` is not
        passed on as one: its status says all, and whether it is worth a log record is for the caller to say.
        """
        if self._watch.captures_responses:
            metadata = self._response_metadata(source)
            record.finish(RpcOutcome(status_code=status, exception=error, metadata=metadata))
        elif status == _OK and error is None:
            record.finish(_SUCCESS)
        else:
            record.finish(RpcOutcome(status_code=status, exception=error))

    def _response_metadata(self, source: Any) -> Attributes:
        try:
            initial = internals.response_metadata(source, "initial_metadata")
            return self._watch.response_metadata(
                initial, lambda: internals.response_metadata(source, "trailing_metadata")
            )
        except Exception:  # noqa: BLE001 - a call object of an unknown make must not cost the record its end
            self._watch.failed()
            return {}


class _Injected(grpc.aio.Metadata):
    """
    Metadata of a call that has none of its user's and passes no interceptor: gRPC reads it once.

    Made in a third of the time; what else metadata offers is there when it is asked for.
    """

    def __init__(self, entries: dict[str, str]) -> None:
        self._entries = entries

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._entries.items())

    def __getattr__(self, name: str) -> Any:
        return getattr(grpc.aio.Metadata(*self), name)


def _with_entries(
    entries: dict[str, str], multi_callable: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Any, ...]:
    """Put *entries* into a copy of the user's metadata, which may be a constant; return what is given by position."""
    at = _METADATA_POSITION
    if len(args) > at:
        return (*args[:at], _enriched(args[at], entries), *args[at + 1 :])
    metadata = kwargs.get("metadata")
    alone = metadata is None and not internals.interceptors_of(multi_callable)
    kwargs["metadata"] = _Injected(entries) if alone else _enriched(metadata, entries)
    return args


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
