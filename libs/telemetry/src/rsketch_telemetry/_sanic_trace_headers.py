"""The response headers that name a request's span to its client, for those who ask for them."""

from collections.abc import Collection

from opentelemetry import trace
from opentelemetry.context import Context
from sanic.compat import Header

__all__ = ["pairs"]


def pairs(wanted: Collection[str], context: Context, present: Header) -> list[tuple[bytes, bytes]]:
    """
    Return the header lines to add to a response.

    Args:
        wanted: Of `traceresponse` and `server-timing`.
        present: The application's own headers: its traceresponse is left alone, and to its timings one is added.
    """
    span = trace.get_current_span(context).get_span_context()
    if not span.is_valid:
        return []
    trace_id, span_id = trace.format_trace_id(span.trace_id), trace.format_span_id(span.span_id)
    value = f"00-{trace_id}-{span_id}-{span.trace_flags:02x}"
    lines = []
    if "traceresponse" in wanted and "traceresponse" not in present:
        lines.append((b"traceresponse", value.encode()))
    if "server-timing" in wanted:
        lines.append((b"server-timing", f'traceparent;desc="{value}"'.encode()))
    return lines
