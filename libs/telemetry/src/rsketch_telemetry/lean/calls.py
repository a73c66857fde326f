"""The calls of which spans and durations are recorded, each its own span, and what each kind says at its end."""

from struct import Struct
from time import perf_counter_ns
from typing import ClassVar, Final

from opentelemetry._logs import SeverityNumber
from opentelemetry.trace import Span, SpanContext, SpanKind

from rsketch_telemetry import access, semconv
from rsketch_telemetry._w3c import Caller
from rsketch_telemetry.facts import Attributes, HttpOutcome, HttpRequest, RpcCall, RpcOutcome
from rsketch_telemetry.lean.cells import Duration, Open
from rsketch_telemetry.lean.span import ID_BYTES, F, LeanSpan, encoded_state
from rsketch_telemetry.lean.templates import Template
from rsketch_telemetry.otlp import wire
from rsketch_telemetry.sdk_recorder import complete

__all__ = ["HttpServerCall", "RpcClientCall", "RpcServerCall"]

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


class _Call(LeanSpan[F]):
    """What the three kinds have in common."""

    __slots__ = ("_elapsed_ns",)

    def _close(self, duration: Duration, elapsed_ns: int) -> bytes:
        """Take the end, and record the duration; return the ids as fields of the encoded span."""
        self._elapsed_ns = elapsed_ns
        self._finished = True
        ids = self._ids.to_bytes(ID_BYTES, "big")
        wanted = self._recorder.exemplars[self._flags & 1]
        duration.record(elapsed_ns, self._start_ns + elapsed_ns, ids if wanted else None)
        return ids

    @staticmethod
    def _above(parent: SpanContext | Caller) -> bytes:
        """Return the fields that say what the span's parent is."""
        above = _PARENT_ID + parent.span_id.to_bytes(8, "big") + (_REMOTE if parent.is_remote else _HERE)
        return above + wire.text(3, encoded_state(parent.trace_state)) if parent.trace_state else above

    def _complete(self, whole: Span, exception: BaseException | None) -> None:
        """End the SDK's span that is in this one's place."""
        attributes, end_ns = self._ended()
        complete(whole, attributes, exception if self._recorder.settings.exception_events else None, end_ns)


class HttpServerCall(_Call[HttpRequest]):
    """An HTTP request being served."""

    __slots__ = ("_outcome",)

    kind: ClassVar[SpanKind] = SpanKind.SERVER
    _serves: ClassVar[bool] = True

    def finish(self, outcome: HttpOutcome) -> None:
        """End the span and record the duration; see `Call`."""
        if self._finished:
            return
        elapsed_ns = perf_counter_ns() - self._clock_ns
        recorder, request = self._recorder, self._facts
        try:
            if outcome.exception is not None and recorder.settings.exception_events:
                self.whole()
            self._outcome = outcome
            extra = self._encoded_extra() if self._extra is not None else b""
            made = recorder.http[request[0]][outcome]
            ids = self._close(made.duration, elapsed_ns)
            if self._whole is not None:
                if outcome.route:
                    self._whole.update_name(self._name())
                self._complete(self._whole, outcome.exception)
            elif self._flags & 1:
                recorder.append(self._encoded(ids, made.constant, extra))
            if outcome.exception is not None:
                recorder.exception(semconv.HTTP_SERVER_EXCEPTION, outcome.exception, SeverityNumber.ERROR, self.inner)
            if access.LOGGER.isEnabledFor(made.level):
                access.http(request, outcome, elapsed_ns / 1e9, self.inner)
        except Exception:  # noqa: BLE001 - whatever fails in telemetry must not fail the request
            recorder.fault()
        if recorder.counts_requests:
            recorder.count_request(request.kind, -1)

    def _encoded(self, ids: bytes, constant: bytes, extra: bytes) -> bytes:
        kind, path, caller, peer, query, headers, _ = self._facts
        encoded, start_ns, at = self._recorder.encoded, self._start_ns, path.encode()
        parts = [
            ids,
            _TIMES(_START, start_ns, _END, start_ns + self._elapsed_ns),
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

    def _name(self) -> str:
        return self._facts.kind.span_name(self._outcome.route if self._finished else None)

    def _ended(self) -> tuple[Attributes, int]:
        outcome = self._outcome
        return outcome.attributes() | (outcome.headers or {}), self._start_ns + self._elapsed_ns


class _RpcCall(_Call[RpcCall]):
    """An RPC, served or made."""

    __slots__ = ("_outcome",)

    def _record(self, outcome: RpcOutcome, elapsed_ns: int) -> Template:
        recorder = self._recorder
        if outcome.exception is not None and recorder.settings.exception_events:
            self.whole()
        self._outcome = outcome
        extra = self._encoded_extra() if self._extra is not None else b""
        made = (recorder.rpc_served if self._serves else recorder.rpc_made)[self._facts][outcome.status_code]
        ids = self._close(made.duration, elapsed_ns)
        if self._whole is not None:
            self._complete(self._whole, outcome.exception)
        elif self._flags & 1:
            recorder.append(self._encoded(ids, made.constant, extra))
        return made

    def _encoded(self, ids: bytes, constant: bytes, extra: bytes) -> bytes:
        call, outcome, start_ns = self._facts, self._outcome, self._start_ns
        parts = [
            ids,
            _TIMES(_START, start_ns, _END, start_ns + self._elapsed_ns),
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
        end = outcome.attributes(server=self._serves) | outcome.span_attributes()
        return end, self._start_ns + self._elapsed_ns


class RpcServerCall(_RpcCall):
    """
    An RPC being served.

    Attributes:
        open: The series that it is counted in while it is served.
    """

    __slots__ = ("open",)

    kind: ClassVar[SpanKind] = SpanKind.SERVER
    _serves: ClassVar[bool] = True
    open: Open

    def finish(self, outcome: RpcOutcome) -> None:
        """End the span and record the duration; see `Call`."""
        if self._finished:
            return
        elapsed_ns = perf_counter_ns() - self._clock_ns
        recorder = self._recorder
        try:
            made = self._record(outcome, elapsed_ns)
            if outcome.exception is not None:
                recorder.exception(semconv.RPC_SERVER_EXCEPTION, outcome.exception, SeverityNumber.ERROR, self.inner)
            if access.LOGGER.isEnabledFor(made.level):
                access.rpc(self._facts, outcome, elapsed_ns / 1e9, self.inner)
        except Exception:  # noqa: BLE001 - whatever fails in telemetry must not fail the call
            recorder.fault()
        self.open.add(-1)


class RpcClientCall(_RpcCall):
    """An RPC being made."""

    __slots__ = ()

    kind: ClassVar[SpanKind] = SpanKind.CLIENT
    _serves: ClassVar[bool] = False

    def finish(self, outcome: RpcOutcome) -> None:
        """End the span and record the duration; see `Call`."""
        if self._finished:
            return
        elapsed_ns = perf_counter_ns() - self._clock_ns
        recorder = self._recorder
        try:
            self._record(outcome, elapsed_ns)
            if outcome.exception is not None:
                recorder.exception(semconv.RPC_CLIENT_EXCEPTION, outcome.exception, SeverityNumber.WARN, self.inner)
        except Exception:  # noqa: BLE001 - whatever fails in telemetry must not fail the call
            recorder.fault()
