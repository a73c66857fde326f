"""
The W3C's trace context by the shortest way, for where the global propagator is the one that the API begins with.

Only what most calls carry: nothing, or a `traceparent` alone. Whoever finds more, or another propagator, asks that.
See https://www.w3.org/TR/trace-context/.
"""

import re
from functools import lru_cache
from typing import Final

from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState
from opentelemetry.trace.propagation import _SPAN_KEY
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

__all__ = ["NOTHING", "Caller", "is_pair", "parent", "traceparent"]

NOTHING: Final = Context()
"""The context of a caller that has sent none."""

# The one version that there is; the propagator knows what to make of a later one.
_TRACEPARENT = re.compile("00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_NO_TRACE, _NO_SPAN = "0" * 32, "0" * 16
_FLAGS = tuple(TraceFlags(flags) for flags in range(256))


def is_pair(propagator: object) -> bool:
    """Return whether a propagator is the API's pair of trace context and baggage, and nothing else."""
    return type(propagator) is CompositePropagator and _has_pair(propagator)


# Whatever else may be a propagator need not have a hash.
@lru_cache(maxsize=8)
def _has_pair(propagator: CompositePropagator) -> bool:
    parts = getattr(propagator, "_propagators", ())
    return [type(each) for each in parts] == [TraceContextTextMapPropagator, W3CBaggagePropagator]


class Caller(NonRecordingSpan):
    """The span that a `traceparent` names; its `SpanContext` is made when somebody asks for it."""

    is_remote: Final = True
    trace_state: Final = TraceState()

    def __init__(self, trace_id: int, span_id: int, trace_flags: TraceFlags) -> None:
        self.trace_id = trace_id
        self.span_id = span_id
        self.trace_flags = trace_flags

    def get_span_context(self) -> SpanContext:
        """Return it."""
        return SpanContext(self.trace_id, self.span_id, is_remote=True, trace_flags=self.trace_flags)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.get_span_context()!r})"


def parent(header: str) -> Context | None:
    """Return the context that a `traceparent` without a `tracestate` stands for; None where the propagator must say."""
    found = _TRACEPARENT.fullmatch(header)
    if found is None:
        return None
    trace_id, span_id, flags = found.groups()
    if trace_id == _NO_TRACE or span_id == _NO_SPAN:
        return NOTHING
    return Context({_SPAN_KEY: Caller(int(trace_id, 16), int(span_id, 16), _FLAGS[int(flags, 16)])})


def traceparent(span: SpanContext) -> str:
    """Return the header that names a valid span."""
    return f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}"
