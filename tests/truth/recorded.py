"""What was recorded of one case, as lines that two runs of it can be compared by: without ids, times and ports."""

import re
from collections.abc import Mapping
from typing import Any, Final

from rsketch_telemetry.otlp.model import LogRecord, Span

from truth.arrivals import Counted
from truth.frame import Record

__all__ = ["recorded"]

_MASKED: Final = {
    "network.peer.port": "an ephemeral port",
    "client.port": "an ephemeral port",
    "server.port": "the port of the program, or of one that it calls",
    "exception.stacktrace": "lines of the library",
    "code.line.number": "a line of the library",
    "thread.id": "a thread",
    "network.peer.address": "a socket's path in a folder of its own, or an address",
    "server.address": "likewise",
}
"""Attributes of which it is compared that they are there, and their type."""
_OF_ONE_RUN: Final = re.compile(r"0x[0-9a-f]+|[0-9a-f]{8,}|(?<=:)\d{4,5}\b|\b\d+(?:\.\d+)? ?m?s\b|(?<=dur=)[\d.]+")
"""Ids, ports and durations within texts."""


def recorded(record: Record) -> tuple[str, ...]:
    """Return a line for each span, each series of durations and each event record, in one order."""
    window, own = record.window, {record.secret: "<secret>", record.trace_id: "<trace>"}
    lines = [
        *(_span(span, record) for span in window.spans),
        *(_series(counted) for counted in window.counted),
        # What programs, and grpc, log beside ours is a matter of time in part.
        *(_log(log, {span.span_id: span.name for span in window.spans}) for log in window.logs if log.event_name),
    ]
    return tuple(sorted(_plain(line, own) for line in lines))


def _span(span: Span, record: Record) -> str:
    names = {each.span_id: each.name for each in record.window.spans}
    parent = names.get(span.parent_span_id) or ("a caller's" if span.parent_span_id in record.parents else "none")
    events = [f"{event.name} {_pairs(event.attributes)}" for event in span.events]
    return (
        f"span {span.kind} {span.name!r} of {span.scope.name}, parent {parent}, {span.status} {span.status_message!r}, "
        f"state {span.trace_state!r}, flags {span.flags:#x}, dropped {span.dropped}, links {len(span.links)}, "
        f"events {events}: {_pairs(span.attributes)}"
    )


def _series(counted: Counted) -> str:
    exemplars = "with" if counted.exemplars else "without"
    return f"{counted.count} of {counted.metric}, {exemplars} exemplar: {_pairs(counted.attributes)}"


def _log(log: LogRecord, names: Mapping[str, str]) -> str:
    where = names.get(log.span_id, "no span")
    return f"log record {log.event_name!r} {log.severity_number} {log.body!r} in {where}: {_pairs(log.attributes)}"


def _pairs(attributes: Mapping[str, Any]) -> str:
    return ", ".join(_pair(key, value) for key, value in sorted(attributes.items()))


def _pair(key: str, value: Any) -> str:
    return f"{key}: {type(value).__name__}" if key in _MASKED else f"{key}={value!r}"


def _plain(line: str, own: Mapping[str, str]) -> str:
    for text, shown in own.items():
        line = line.replace(text, shown)
    return _OF_ONE_RUN.sub("<…>", line)
