"""
Trace context in gRPC metadata, by whatever propagator is the global one when a call is made.

A propagator that fails costs a call its parent, never its life.
"""

import logging
from collections.abc import Iterable, Sequence
from typing import Any

from opentelemetry import baggage
from opentelemetry.context import Context
from opentelemetry.propagate import get_global_textmap
from opentelemetry.propagators.textmap import Getter
from opentelemetry.trace import SpanContext
from opentelemetry.trace.propagation import _SPAN_KEY

from rsketch_telemetry._once import Once
from rsketch_telemetry._w3c import NOTHING, is_pair, parent, traceparent
from rsketch_telemetry.lean.calls import RpcClientCall

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
(_BAGGAGE_KEY,) = baggage.set_baggage("key", "value", Context())
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
    found: str | bytes | None = None
    for name, value in metadata:
        if name in _CARRIERS:
            if name != "traceparent" or found is not None:
                return None
            found = value
    if found is None:
        return NOTHING
    return parent(found) if isinstance(found, str) else None


def inject(context: Context) -> dict[str, str]:
    """Return the metadata entries that carry *context*."""
    carrier: dict[str, str] = {}
    try:
        propagator = get_global_textmap()
        if is_pair(propagator) and (header := _alone_in(context)) is not None:
            return {"traceparent": header}
        propagator.inject(carrier, context)
    except Exception:  # noqa: BLE001 - a foreign propagator must not fail the call
        _failed()
    return {name.lower(): value for name, value in carrier.items() if _sendable(value)}


def _alone_in(context: Context) -> str | None:
    """Return the `traceparent` that says all there is to say of a context; None where the propagator must say."""
    span: Any = context.get(_SPAN_KEY)
    if span is None or context.get(_BAGGAGE_KEY):
        return None
    if type(span) is RpcClientCall:
        # It needs no `SpanContext` for that.
        return span.traceparent()
    named: SpanContext = span.get_span_context()
    return traceparent(named) if named.is_valid and not named.trace_state else None


def merged(metadata: Iterable[tuple[str, str | bytes]], entries: dict[str, str]) -> list[tuple[str, str | bytes]]:
    """Return *metadata* with *entries* in place of what it had under their names: a forwarded parent is a stale one."""
    if not metadata:
        return list(entries.items())
    return [(name, value) for name, value in metadata if name not in entries] + list(entries.items())


def _sendable(value: object) -> bool:
    """Whether gRPC takes *value*: it refuses the whole call for a character outside printable ASCII."""
    return isinstance(value, str) and value.isascii() and value.isprintable()
