"""
All that is not public in the SDK and that the lean recorder stands on; checked with 1.40.0 and 1.45.2.

- `_Span` and its constructor's arguments; `Tracer.span_processor`, `_span_limits`, `_instrumentation_scope`,
  `instrumentation_info`, `sampler`, `resource`.
- `TracerProvider._active_span_processor._span_processors`, a tuple that is replaced when one is added.
- `TracerProvider._span_limits`.
- The decision of a `StaticSampler`, the delegates of a `ParentBased`.
- The key of the current span in a context.
"""

import inspect
from typing import Any

from opentelemetry.sdk.trace import _Span  # noqa: TID251 - what is checked

from rsketch_telemetry.lean.span import ROOM_NEEDED

__all__ = ["check", "limits"]

_ARGUMENTS = (
    "attributes",
    "context",
    "instrumentation_info",
    "instrumentation_scope",
    "kind",
    "limits",
    "name",
    "parent",
    "record_exception",
    "resource",
    "sampler",
    "set_status_on_exception",
    "span_processor",
)
_OF_A_TRACER = (
    "_instrumentation_scope",
    "_span_limits",
    "instrumentation_info",
    "resource",
    "sampler",
    "span_processor",
)


def check(tracers: Any) -> None:
    """Raise LookupError where something of it is missing; the rest is found missing when it is looked at."""
    parameters = inspect.signature(_Span.__init__).parameters
    tracer = tracers.get_tracer("rsketch_telemetry.lean")
    missing = [name for name in _ARGUMENTS if name not in parameters]
    missing += [name for name in _OF_A_TRACER if not hasattr(tracer, name)]
    if not isinstance(tracers._active_span_processor._span_processors, tuple):
        missing.append("_span_processors")
    if missing:
        raise LookupError(", ".join(missing))


def limits(tracers: Any) -> str | None:
    """Return which limit of attributes could be met by the spans of calls; None where none could."""
    given = tracers._span_limits
    if given.max_span_attribute_length is not None:
        return f"a value has at most {given.max_span_attribute_length} characters"
    if given.max_span_attributes is not None and given.max_span_attributes < ROOM_NEEDED:
        return f"a span has at most {given.max_span_attributes} of them"
    return None
