"""
A span that is an identity and a clock until somebody asks more of it.

Of most calls nobody does: what their spans say stands in templates. Attributes of the program's own are kept beside
that. Whatever else is put on a span, an event, a link, a status, a name, or an attribute that is one of ours, makes it
one of the SDK's with the same ids, which is written on and exported as ever.
"""

from abc import abstractmethod
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, Protocol, TypeVar

from opentelemetry.attributes import BoundedAttributes
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState
from opentelemetry.trace.propagation import _SPAN_KEY
from opentelemetry.util import types

from rsketch_telemetry._w3c import Caller
from rsketch_telemetry.annotations import RESERVED, SERVER_SPAN
from rsketch_telemetry.facts import Attributes
from rsketch_telemetry.lean.ids import span_id_of, trace_id_of
from rsketch_telemetry.otlp import wire

if TYPE_CHECKING:
    from rsketch_telemetry.lean.recorder import LeanRecorder

F = TypeVar("F", bound="Facts")

__all__ = [
    "RANDOM",
    "ROOM_NEEDED",
    "F",
    "LeanSpan",
    "encoded_state",
]

ROOM_NEEDED: Final = 64
"""The least limit of attributes with which spans are served; half of it is for ours."""
_ROOM = ROOM_NEEDED // 2
RANDOM: Final[int] = getattr(TraceFlags, "RANDOM_TRACE_ID", 0)
"""The flag of a trace whose id is random; releases of the API before 1.42 have none, and neither have their spans."""
_FLAGS = {flags: TraceFlags(flags) for flags in (0, 1, RANDOM, RANDOM | 1)}


class Facts(Protocol):
    """What is known of a call when it begins."""

    def attributes(self) -> Attributes:
        """Return the attributes that its span begins with."""


class _OfTheSdk:
    """An attribute of the SDK's span; not by `__getattr__`, which makes each other attribute slow."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, span: "LeanSpan[Any]", owner: type) -> Any:
        return getattr(span.whole(), self._name)


class LeanSpan(Span, Generic[F]):
    """The span of a call, and its clock; see `LeanRecorder` for how it begins."""

    __slots__ = (
        "_clock_ns",
        "_context",
        "_extra",
        "_facts",
        "_finished",
        "_flags",
        "_ids",
        "_parent",
        "_parent_context",
        "_recorder",
        "_start_ns",
        "_touched",
        "_whole",
    )

    # What only the SDK's spans have, for who knows that they are.
    attributes = _OfTheSdk()
    context = _OfTheSdk()
    dropped_attributes = _OfTheSdk()
    dropped_events = _OfTheSdk()
    dropped_links = _OfTheSdk()
    end_time = _OfTheSdk()
    events = _OfTheSdk()
    instrumentation_info = _OfTheSdk()
    instrumentation_scope = _OfTheSdk()
    links = _OfTheSdk()
    name = _OfTheSdk()
    parent = _OfTheSdk()
    resource = _OfTheSdk()
    start_time = _OfTheSdk()
    status = _OfTheSdk()
    to_json = _OfTheSdk()

    kind: ClassVar[SpanKind]

    # An instance is made by the recorder, which takes half the time of a constructor.
    _recorder: "LeanRecorder"
    _facts: F
    _parent_context: Context
    _parent: SpanContext | Caller | None
    _ids: bytes
    """Trace id and span id, as the first two fields of the encoded span; see `lean.ids`."""
    _flags: int
    _start_ns: int
    _clock_ns: int
    _context: SpanContext | None
    _whole: Span | None
    _finished: bool
    _touched: bool
    """
    Whether there may be more than the facts.

    Who adds something sets this and then looks whether the span has ended; the end does it the other way round. So one
    of them sees the other, and the end of a span that nobody has touched takes no lock.
    """
    _extra: BoundedAttributes | None
    """Attributes of the program's own, cleaned as the SDK does it."""

    def _begun(self) -> Attributes:
        """Return what the span begins with, which samplers see."""
        return self._facts.attributes()

    @abstractmethod
    def _name(self) -> str:
        """Return what it is called now."""

    @abstractmethod
    def _ended(self) -> tuple[Attributes, int]:
        """Return what its end has added, and when that was, in nanoseconds since the epoch."""

    @property
    def inner(self) -> Context:
        """The context with this span in it, made anew each time: kept in here it would be a reference cycle."""
        above = self._parent_context
        entries: dict[str, object] = {_SPAN_KEY: self, SERVER_SPAN: self}
        return Context({**above, **entries} if above else entries)

    def traceparent(self) -> str | None:
        """Return the header that names this span, without a `SpanContext`; None where a `tracestate` goes with it."""
        if self._parent is not None and self._parent.trace_state:
            return None
        return f"00-{trace_id_of(self._ids).hex()}-{span_id_of(self._ids).hex()}-{self._flags:02x}"

    def whole(self) -> Span:
        """Return the SDK's span that takes this one's place: from now on, or where this has ended a copy."""
        if self._whole is not None:
            return self._whole
        with self._recorder.lock:
            self._touched = True
            if self._finished and self._whole is None:
                return self._recorder.whole(self, copied=True)
            return self._become_whole()

    def _become_whole(self) -> Span:
        if self._whole is None:
            self._whole = self._recorder.whole(self, copied=False)
        return self._whole

    # What follows is the API of `Span`.

    def get_span_context(self) -> SpanContext:
        """Return the ids and flags that a child or another process is told."""
        context = self._context
        if context is None:
            self._context = context = SpanContext(
                int.from_bytes(trace_id_of(self._ids), "big"),
                int.from_bytes(span_id_of(self._ids), "big"),
                is_remote=False,
                trace_flags=_FLAGS[self._flags],
                trace_state=self._parent.trace_state if self._parent else None,
            )
        return context

    def is_recording(self) -> bool:
        """Return whether the span is sampled and has not ended."""
        if self._whole is not None:
            return self._whole.is_recording()
        return bool(self._flags & 1) and not self._finished

    def set_attributes(self, attributes: Mapping[str, types.AttributeValue]) -> None:
        """Set attributes."""
        for key, value in attributes.items():
            self.set_attribute(key, value)

    def set_attribute(self, key: str, value: types.AttributeValue) -> None:
        """Set an attribute."""
        with self._recorder.lock:
            extra = self._room_for(key)
            if extra is not None:
                extra[key] = value
                return
        self.whole().set_attribute(key, value)

    def _room_for(self, key: object) -> BoundedAttributes | None:
        """Return where an attribute can be kept; None where the SDK must see to it."""
        self._touched = True
        if self._whole is not None or self._finished or not self._flags & 1:
            return None
        if not isinstance(key, str) or not key or key.partition(".")[0] in RESERVED:
            # The SDK counts it as dropped, or it may stand in the place of one of ours.
            return None
        if self._extra is None:
            self._extra = BoundedAttributes(immutable=False)
        # So few that they cannot reach the limit together with ours.
        return self._extra if len(self._extra) < _ROOM or key in self._extra else None

    def _encoded_extra(self) -> bytes:
        """Return the fields of the program's attributes; where OTLP cannot hold one, this becomes a span of the SDK."""
        try:
            return wire.attributes(9, self._extra) if self._extra is not None and self._whole is None else b""
        except (TypeError, ValueError):
            self._become_whole()
            return b""

    def add_event(self, name: str, attributes: types.Attributes = None, timestamp: int | None = None) -> None:
        """Add an event."""
        self.whole().add_event(name, attributes, timestamp)

    def add_link(self, context: SpanContext, attributes: types.Attributes = None) -> None:
        """Add a link."""
        self.whole().add_link(context, attributes)

    def update_name(self, name: str) -> None:
        """Call the span by another name; where the call has a route, its end has the last word."""
        self.whole().update_name(name)

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        """Set the status."""
        self.whole().set_status(status, description)

    def record_exception(
        self,
        exception: BaseException,
        attributes: types.Attributes = None,
        timestamp: int | None = None,
        escaped: bool = False,  # noqa: FBT001, FBT002 - as the API has it
    ) -> None:
        """Add an event for an exception."""
        self.whole().record_exception(exception, attributes, timestamp, escaped)

    def end(self, end_time: int | None = None) -> None:
        """End the span before its call ends."""
        self.whole().end(end_time)

    def __exit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        self.whole().__exit__(exc_type, exc_val, exc_tb)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.get_span_context()!r})"


def encoded_state(state: TraceState) -> str:
    """Return a trace state as OTLP has it."""
    return ",".join([f"{key}={value}" for key, value in state.items()])
