"""
Trace context in gRPC metadata, by whatever propagator is the global one when a call is made.

A propagator that fails costs a call its parent, never its life.
"""

import logging
from collections.abc import Iterable, Sequence

from opentelemetry import baggage, trace
from opentelemetry.context import Context
from opentelemetry.propagate import get_global_textmap
from opentelemetry.propagators.textmap import Getter

from rsketch_telemetry._once import Once
from rsketch_telemetry._w3c import NOTHING, is_pair, parent, traceparent

__all__ = ["Metadata", "extract", "inject", "merged"]

Metadata = Sequence[tuple[str, str | bytes]]


class _MetadataGetter(Getter[Metadata]):
    """Reads text entries of metadata; binary ones (`…-bin`) are never context."""

    def get(self, carrier: Metadata, key: str) -> list[str] | None:
        wanted = key.lower()
        return [value for name, value in carrier if name == wanted and isinstance(value, str)] or None

    def keys(self, carrier: Metadata) -> list[str]:
        return [name for name, value in carrier if isinstance(value, str)]


_GETTER = _MetadataGetter()
_CARRIERS = frozenset({"baggage", "traceparent", "tracestate"})
# One for both sides: they have the same propagator.
_failed = Once("trace context could not be propagated over gRPC; this is said once", level=logging.WARNING)


def extract(metadata: Metadata) -> Context:
    """Return the caller's context; an empty one where *metadata* carries none."""
    try:
        propagator = get_global_textmap()
        if is_pair(propagator):
            found = _alone(metadata)
            if found is not None:
                return found
        # Not on top of the current context: that is the one the server was started in, which is nobody's caller.
        return propagator.extract(metadata, Context(), getter=_GETTER)
    except Exception:  # noqa: BLE001 - a foreign propagator must not fail the call
        _failed()
        return Context()


def _alone(metadata: Metadata) -> Context | None:
    """Return the context of a caller that has sent a `traceparent` and nothing else, or nothing; None for any other."""
    header: str | bytes | None = None
    for name, value in metadata:
        if name in _CARRIERS:
            if name != "traceparent" or header is not None:
                return None
            header = value
    if header is None:
        return NOTHING
    return parent(header) if isinstance(header, str) else None


def inject(context: Context) -> dict[str, str]:
    """Return the metadata entries that carry *context*."""
    carrier: dict[str, str] = {}
    try:
        propagator = get_global_textmap()
        span = trace.get_current_span(context).get_span_context()
        if is_pair(propagator) and span.is_valid and not span.trace_state and not baggage.get_all(context):
            return {"traceparent": traceparent(span)}
        propagator.inject(carrier, context)
    except Exception:  # noqa: BLE001 - a foreign propagator must not fail the call
        _failed()
    return {name.lower(): value for name, value in carrier.items() if _sendable(value)}


def merged(metadata: Iterable[tuple[str, str | bytes]], entries: dict[str, str]) -> list[tuple[str, str | bytes]]:
    """Return *metadata* with *entries* in place of what it had under their names: a forwarded parent is a stale one."""
    if not metadata:
        return list(entries.items())
    return [(name, value) for name, value in metadata if name not in entries] + list(entries.items())


def _sendable(value: object) -> bool:
    """Whether gRPC takes *value*: it refuses the whole call for a character outside printable ASCII."""
    return isinstance(value, str) and value.isascii() and value.isprintable()
