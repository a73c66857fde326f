"""The recorder of plain configurations, and what it keeps of calls that are alike."""

import logging
import os
import threading
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter_ns, time_ns
from typing import Any, Final, TypeVar

from opentelemetry import baggage
from opentelemetry._logs import SeverityNumber
from opentelemetry.context import Context
from opentelemetry.sdk.trace import (  # noqa: TID251 - what a span becomes that more is asked of
    SpanProcessor,
    TracerProvider,
    _Span,
)
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, SpanKind
from opentelemetry.trace.propagation import _SPAN_KEY

from rsketch_telemetry import semconv
from rsketch_telemetry._once import Once
from rsketch_telemetry._w3c import Caller
from rsketch_telemetry.facts import (
    Attributes,
    HttpOutcome,
    HttpRequest,
    RpcCall,
    RpcOutcome,
)
from rsketch_telemetry.lean.calls import HttpServerCall, LeanCall, RpcClientCall, RpcServerCall
from rsketch_telemetry.lean.cells import Cells
from rsketch_telemetry.lean.ids import Ids, trace_id_of
from rsketch_telemetry.lean.sampling import Decide
from rsketch_telemetry.lean.span import RANDOM, LeanSpan
from rsketch_telemetry.lean.templates import Encoded, HttpTemplates, OpenCalls, OpenRequests, RpcTemplates
from rsketch_telemetry.recorder import Call, Recorder, guarded
from rsketch_telemetry.sdk_recorder import SdkRecorder

__all__ = ["LeanRecorder", "Plain"]

_log = logging.getLogger("rsketch_telemetry")

_FAULTS = 3
"""So many defects, and the SDK's way is taken for good."""
_NONE: Final = object()
_PACKAGE: Final = "rsketch_telemetry."
_new: Any = object.__new__
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plain:
    """
    A configuration that the lean recorder serves.

    Attributes:
        decisions: Of the sampler, for each kind of span.
        roots: What it decides of all roots, where it leaves all else to the parent's flag; else None.
        append: Takes over an encoded span of the scope.
        cells: The series of the scope.
        copies_baggage: Whether entries of baggage become attributes of spans.
        unencodable: Counts a span that could not be recorded.
    """

    tracers: TracerProvider
    decisions: Mapping[SpanKind, Decide]
    roots: bool | None
    append: Callable[[bytes], None]
    cells: Cells
    copies_baggage: bool
    unencodable: Callable[[], object]


class LeanRecorder:
    """
    Records by templates; whatever it does not serve, and everything once that is more, goes the SDK's way.

    Args:
        plain: What it has been chosen for.
        sdk: The recorder of the SDK's way, whose durations are those of *plain*.
    """

    def __init__(self, plain: Plain, sdk: SdkRecorder) -> None:
        self.settings = sdk.settings
        self.append = plain.append
        self.cells = plain.cells
        self.exemplars = plain.cells.exemplars
        simple = plain.roots is not None
        self._decide_server = None if simple else plain.decisions[SpanKind.SERVER]
        self._decide_client = None if simple else plain.decisions[SpanKind.CLIENT]
        self._copies_baggage = plain.copies_baggage
        self._counts_requests = semconv.HTTP_ACTIVE_REQUESTS in sdk.settings.opt_in_metrics
        self._exception = sdk.exception
        self._tracer: Any = sdk.tracer
        self._sdk: Recorder = guarded(sdk)
        self._unencodable = plain.unencodable
        self._faults = 0
        self._failed = Once("a call could not be recorded; this is said once")
        self._stood_down = False
        self._watched: Any = plain.tracers._active_span_processor
        self._processors: object = self._watched._span_processors
        self._generator: Any = plain.tracers.id_generator
        self._root_flags = _root_flags(self._generator) | (plain.roots is True)
        self._child_flags = RANDOM | simple
        self.http = HttpTemplates(self.cells)
        self.rpc_served = RpcTemplates(self.cells, server=True)
        self.rpc_made = RpcTemplates(self.cells, server=False)
        self.encoded = Encoded()
        self._forget()
        forget = weakref.WeakMethod(self._forget)
        # The series of a forked child are others.
        os.register_at_fork(after_in_child=lambda: (method := forget()) and method())

    def _forget(self) -> None:
        # Whoever held it is not in a forked child.
        self.lock = threading.RLock()
        for templates in (self.http, self.rpc_served, self.rpc_made):
            templates.forget()
        self._open_calls = OpenCalls(self.cells)
        self._open_requests = OpenRequests(self.cells)
        # Or parent and child would give the same.
        self._ids = Ids(self._generator)

    # What instrumentors call.

    def http_server(self, request: HttpRequest, parent: Context) -> Call[HttpOutcome]:
        """Start a SERVER span; see `Recorder`."""
        if self._watched._span_processors is self._processors or self._still_serves():
            try:
                made: HttpServerCall = _new(HttpServerCall)
                made._ends = self.http[request[0]]
                self._begin(made, request, parent, self._decide_server, int(request.waited_seconds * 1e9))
                if self._counts_requests:
                    made.count(self._open_requests[request.kind])
            except Exception:  # noqa: BLE001 - whatever fails in telemetry must not fail the request
                self.fault(lost=False)
            else:
                return made
        return self._sdk.http_server(request, parent)

    def rpc_server(self, call: RpcCall, parent: Context) -> Call[RpcOutcome]:
        """Start a SERVER span; see `Recorder`."""
        if self._watched._span_processors is self._processors or self._still_serves():
            try:
                made: RpcServerCall = _new(RpcServerCall)
                made._ends = self.rpc_served[call]
                self._begin(made, call, parent, self._decide_server)
                made.count(self._open_calls[call.method])
            except Exception:  # noqa: BLE001 - whatever fails in telemetry must not fail the call
                self.fault(lost=False)
            else:
                return made
        return self._sdk.rpc_server(call, parent)

    def rpc_client(self, call: RpcCall, parent: Context) -> Call[RpcOutcome]:
        """Start a CLIENT span; see `Recorder`."""
        if self._watched._span_processors is self._processors or self._still_serves():
            try:
                made: RpcClientCall = _new(RpcClientCall)
                made._ends = self.rpc_made[call]
                self._begin(made, call, parent, self._decide_client)
            except Exception:  # noqa: BLE001 - whatever fails in telemetry must not fail the call
                self.fault(lost=False)
            else:
                return made
        return self._sdk.rpc_client(call, parent)

    def _begin(
        self, span: LeanCall[Any, Any], facts: Any, parent: Context, decide: Decide | None, waited_ns: int = 0
    ) -> None:
        """
        Begin a span.

        Args:
            span: A new one.
            facts: Of the call.
            parent: The caller's context, or that in which the call is made.
            decide: Whether it is sampled; None where that follows from its parent, or the flags of a root say so.
            waited_ns: How long ago the call began.
        """
        span._recorder = self
        span._facts = facts
        span._parent_context = parent
        span._context = span._whole = span._extra = span.open = None
        span._finished = span._touched = False
        # As the API's functions leave it there; to ask what class it is takes longer than all this.
        above: Any = parent.get(_SPAN_KEY) if parent else None
        caller: SpanContext | Caller | None = None
        if type(above) is Caller:
            caller = above
        elif above is not None:
            context: SpanContext = above.get_span_context()
            caller = context if context.is_valid else None
        if caller is None:
            span._parent = None
            try:
                span._ids = self._ids.ready.pop()
            except IndexError:
                span._ids = self._ids.root()
            flags = self._root_flags
        else:
            span._parent = caller
            span._ids = self._ids.child(caller.trace_id)
            flags = caller.trace_flags & self._child_flags
        if decide is not None:
            given = caller.get_span_context() if isinstance(caller, Caller) else caller
            flags |= decide(given, int.from_bytes(trace_id_of(span._ids), "big"), span._begun)
        span._flags = flags
        span._start_ns = time_ns() - waited_ns
        span._clock_ns = perf_counter_ns() - waited_ns
        if self._copies_baggage and baggage.get_all(parent):
            # A processor of spans has to see it.
            span.whole()

    def in_flight(self, metric: str, change: int, attributes: Attributes) -> None:
        """Add to an up-down counter; see `Recorder`."""
        try:
            self.cells.open(metric, attributes).add(change)
        except Exception:  # noqa: BLE001 - whatever fails in telemetry must not fail the call
            self.fault()

    def _still_serves(self) -> bool:
        """Return whether nobody has come to see the spans of the SDK since this was chosen."""
        if self._stood_down:
            return False
        # One that a test has added may be gone again.
        if self._watched._span_processors == self._processors:
            self._processors = self._watched._span_processors
            return True
        own = all(type(each).__module__.startswith(_PACKAGE) for each in self._watched._span_processors)
        self._stand_down("a span processor was added", logging.DEBUG if own else logging.WARNING)
        return False

    def _stand_down(self, reason: str, level: int = logging.WARNING) -> None:
        # No tuple of processors is this one.
        self._stood_down, self._processors = True, _NONE
        _log.log(level, "telemetry: the SDK recorder takes over: %s", reason)

    def fault(self, *, lost: bool = True) -> None:
        """Take note of a defect, while its exception is handled; *lost* says whether it has cost a call its record."""
        if lost:
            self._unencodable()
        self._failed()
        self._faults += 1
        if self._faults == _FAULTS:
            self._stand_down("the lean one has failed repeatedly")

    def safely(self, act: Callable[[T], None], given: T) -> None:
        """Do what goes through the program's own logging or processors; a failure in there costs no record."""
        try:
            act(given)
        except Exception:  # noqa: BLE001 - whatever fails there must not fail the call
            self._failed()

    def say_exception(self, event: tuple[str, SeverityNumber], error: BaseException, span: LeanSpan[Any]) -> None:
        """Emit the log record of an exception that nobody handled: *event* is its name and how bad it is."""
        name, severity = event
        self.safely(lambda failed: self._exception(name, failed, severity, span.inner), error)

    # What calls ask.

    def whole(self, span: Any, *, copied: bool) -> Span:
        """
        Return a span of the SDK in the place of a `LeanSpan`.

        Args:
            copied: It has ended, and somebody wants to read it: what is made is nothing to be exported.
        """
        context = span.get_span_context()
        if not context.trace_flags.sampled:
            return NonRecordingSpan(context)
        tracer, parent = self._tracer, span._parent
        made = _Span(
            name=span._name(),
            context=context,
            parent=parent.get_span_context() if isinstance(parent, Caller) else parent,
            sampler=tracer.sampler,
            resource=tracer.resource,
            attributes={**span._begun(), **(span._extra or {})},
            kind=span.kind,
            span_processor=SpanProcessor() if copied else tracer.span_processor,
            instrumentation_info=tracer.instrumentation_info,
            record_exception=False,
            set_status_on_exception=False,
            limits=tracer._span_limits,
            instrumentation_scope=tracer._instrumentation_scope,
        )
        made.start(span._start_ns, span._parent_context)
        if copied:
            span._complete(made, None)
        return made


def _root_flags(generator: Any) -> int:
    random = getattr(generator, "is_trace_id_random", None)
    return RANDOM if random is not None and random() else 0
