"""The calls of which spans and durations are recorded, each its own span, and what each kind says at its end."""

import logging
from abc import abstractmethod
from collections.abc import Mapping
from struct import Struct
from time import perf_counter_ns
from typing import ClassVar, Final, Generic, Protocol, Self, TypeVar

from opentelemetry._logs import SeverityNumber
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanContext, SpanKind
from opentelemetry.trace.propagation import _SPAN_KEY

from rsketch_telemetry import access, semconv
from rsketch_telemetry._w3c import Caller
from rsketch_telemetry.facts import Attributes, HttpOutcome, HttpRequest, RpcCall, RpcOutcome
from rsketch_telemetry.lean.cells import Open
from rsketch_telemetry.lean.span import F, LeanSpan, encoded_state
from rsketch_telemetry.lean.templates import Template
from rsketch_telemetry.otlp import wire
from rsketch_telemetry.sdk_recorder import complete

__all__ = ["HttpServerCall", "LeanCall", "RpcClientCall", "RpcServerCall"]

# The fields of a Span (opentelemetry/proto/trace/v1/trace.proto) that are different with every call.
_PARENT_ID: Final = wire.tag(4) + wire.varint(8)
_TIMES: Final = Struct("<sQsQ").pack
_START: Final = wire.tag(7, 1)
_END: Final = wire.tag(8, 1)
_FLAGS: Final = wire.tag(16, 5)
_HAS_IS_REMOTE, _IS_REMOTE = 0x100, 0x200
_HERE: Final = _FLAGS + _HAS_IS_REMOTE.to_bytes(4, "little")
_REMOTE: Final = _FLAGS + (_HAS_IS_REMOTE | _IS_REMOTE).to_bytes(4, "little")
_SHORT = 512


class _Ending(Protocol):
    """How a call ended."""

    @property
    def exception(self) -> BaseException | None:
        """What nobody handled."""

    def without_exception(self) -> Self:
        """Return the same without it."""


Outcome = TypeVar("Outcome", bound=_Ending)


class _Heads(dict[int, bytes]):
    """What a text attribute begins with, by the number of bytes that follow."""

    def __init__(self, key: str) -> None:
        super().__init__()
        self._key = key

    def __missing__(self, length: int) -> bytes:
        whole = wire.attribute(9, self._key, "x" * length)
        head = whole[: len(whole) - length]
        if length < _SHORT:
            self[length] = head
        return head


_PATH = _Heads(semconv.URL_PATH)
_QUERY = _Heads(semconv.URL_QUERY)


class LeanCall(LeanSpan[F], Generic[F, Outcome]):
    """
    What the three kinds have in common: a call that ends; see `recorder.Call`.

    Attributes:
        open: The series that it is counted in until then; None where there is none.
    """

    __slots__ = ("_end_ns", "_ends", "_outcome", "open")

    _exception_event: ClassVar[tuple[str, SeverityNumber]]
    _end_ns: int
    _ends: Mapping[Outcome, Template]
    """What calls of this kind have in common, by their outcome."""
    _outcome: Outcome
    open: Open | None

    def count(self, among: Open) -> None:
        """Count the call among those in flight, until it ends."""
        self.open = among
        among.add(1)

    def finish(self, outcome: Outcome) -> None:
        """End the span and record the duration; only the first time counts."""
        elapsed_ns = perf_counter_ns() - self._clock_ns
        if self._finished:
            return
        recorder, whole, extra = self._recorder, None, b""
        self._outcome = outcome
        self._end_ns = end_ns = self._start_ns + elapsed_ns
        self._finished = True
        if self._touched or outcome.exception is not None:
            whole, extra = self._more(outcome)
        level = logging.NOTSET
        try:
            made, sampled = self._ends[outcome], self._flags & 1
            made.duration.record(elapsed_ns, end_ns, self._ids if recorder.exemplars[sampled] else None)
            if whole is not None:
                self._complete(whole, outcome.exception)
            elif sampled:
                # Looked up as what it is, and not as a method, which takes longer.
                append = recorder.append
                append(self._encoded(made.constant, extra))
            level = made.level
        except Exception:  # noqa: BLE001 - whatever fails in telemetry must not fail the call
            recorder.fault()
        if self.open is not None:
            self.open.add(-1)
        if outcome.exception is not None:
            recorder.say_exception(self._exception_event, outcome.exception, self)
        # It is seldom on; where its own level says so, that is seen without a call.
        if access.LOGGER.level <= level and access.LOGGER.isEnabledFor(level):
            # Not by a closure, which would make each call pay for its cells.
            recorder.safely(self._say, outcome)

    def _more(self, outcome: Outcome) -> tuple[Span | None, bytes]:
        """Return the SDK's span that is in this one's place, if one is, and the attributes of the program's own."""
        recorder, extra = self._recorder, b""
        with recorder.lock:
            try:
                extra = self._encoded_extra()
                if outcome.exception is not None and recorder.settings.exception_events:
                    self._become_whole()
            except Exception:  # noqa: BLE001 - whatever fails in telemetry must not fail the call
                recorder.fault(lost=False)
            if outcome.exception is not None:
                # Without what it refers to, which would live as long as the span.
                self._outcome = outcome.without_exception()
            return self._whole, extra

    @abstractmethod
    def _encoded(self, constant: bytes, extra: bytes) -> bytes:
        """Return the span's message."""

    def _say(self, outcome: Outcome) -> None:
        """Write the access line."""

    @staticmethod
    def _above(parent: SpanContext | Caller) -> bytes:
        """Return the fields that say what the span's parent is."""
        above = _PARENT_ID + parent.span_id.to_bytes(8, "big") + (_REMOTE if parent.is_remote else _HERE)
        return above + wire.text(3, encoded_state(parent.trace_state)) if parent.trace_state else above

    def _complete(self, whole: Span, exception: BaseException | None) -> None:
        """End the SDK's span that is in this one's place."""
        attributes, end_ns = self._ended()
        complete(whole, attributes, exception if self._recorder.settings.exception_events else None, end_ns)


class HttpServerCall(LeanCall[HttpRequest, HttpOutcome]):
    """An HTTP request being served."""

    __slots__ = ()

    kind: ClassVar[SpanKind] = SpanKind.SERVER
    _exception_event = semconv.HTTP_SERVER_EXCEPTION, SeverityNumber.ERROR

    def _encoded(self, constant: bytes, extra: bytes) -> bytes:
        kind, path, caller, peer, query, headers, _ = self._facts
        encoded, at = self._recorder.encoded, path.encode()
        parts = [
            self._ids,
            _TIMES(_START, self._start_ns, _END, self._end_ns),
            _HERE if self._parent is None else self._above(self._parent),
            constant,
            _PATH[len(at)],
            at,
            encoded[caller],
            encoded[peer],
            extra,
        ]
        if query is not None:
            said = query.encode()
            parts += (_QUERY[len(said)], said)
        if kind.method_original is not None:
            parts.append(wire.attribute(9, semconv.HTTP_REQUEST_METHOD_ORIGINAL, kind.method_original))
        if headers:
            parts.append(wire.attributes(9, headers))
        if self._outcome.headers:
            parts.append(wire.attributes(9, self._outcome.headers))
        return b"".join(parts)

    def _say(self, outcome: HttpOutcome) -> None:
        access.http(self._facts, outcome, (self._end_ns - self._start_ns) / 1e9, self.inner)

    def _complete(self, whole: Span, exception: BaseException | None) -> None:
        if self._outcome.route:
            whole.update_name(self._name())
        super()._complete(whole, exception)

    def _name(self) -> str:
        return self._facts.kind.span_name(self._outcome.route if self._finished else None)

    def _ended(self) -> tuple[Attributes, int]:
        outcome = self._outcome
        return outcome.attributes() | (outcome.headers or {}), self._end_ns


class _RpcCall(LeanCall[RpcCall, RpcOutcome]):
    """An RPC, served or made."""

    __slots__ = ()

    def _encoded(self, constant: bytes, extra: bytes) -> bytes:
        call, outcome = self._facts, self._outcome
        parts = [
            self._ids,
            _TIMES(_START, self._start_ns, _END, self._end_ns),
            _HERE if self._parent is None else self._above(self._parent),
            constant,
            extra,
        ]
        if outcome.peer is not None:
            parts.append(self._recorder.encoded[outcome.peer])
        if call.method_original is not None:
            parts.append(wire.attribute(9, semconv.RPC_METHOD_ORIGINAL, call.method_original))
        if call.metadata:
            parts.append(wire.attributes(9, call.metadata))
        if outcome.metadata:
            parts.append(wire.attributes(9, outcome.metadata))
        return b"".join(parts)

    def _name(self) -> str:
        return self._facts.span_name()

    def _ended(self) -> tuple[Attributes, int]:
        outcome = self._outcome
        end = outcome.attributes(server=self.kind is SpanKind.SERVER) | outcome.span_attributes()
        return end, self._end_ns


class RpcServerCall(_RpcCall):
    """An RPC being served."""

    __slots__ = ()

    kind: ClassVar[SpanKind] = SpanKind.SERVER
    _exception_event = semconv.RPC_SERVER_EXCEPTION, SeverityNumber.ERROR

    def _say(self, outcome: RpcOutcome) -> None:
        access.rpc(self._facts, outcome, (self._end_ns - self._start_ns) / 1e9, self.inner)


class RpcClientCall(_RpcCall):
    """An RPC being made."""

    __slots__ = ()

    kind: ClassVar[SpanKind] = SpanKind.CLIENT

    @property
    def inner(self) -> Context:
        """The context with this span in it; see `LeanSpan`. The span of a request being served stays what it is."""
        above = self._parent_context
        return Context({**above, _SPAN_KEY: self} if above else {_SPAN_KEY: self})

    _exception_event = semconv.RPC_CLIENT_EXCEPTION, SeverityNumber.WARN
