"""
Spans in the terminal: each trace's part in this process as a tree, one line a span, when its outermost span ends.

Made for a loaded server: ending a span only queues a few values, a thread of its own formats and writes at a bounded
rate, and what does not fit is counted and said, never waited for.
"""

import os
import queue
import threading
import time
import weakref
from collections import OrderedDict
from typing import NamedTuple, TextIO

from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.trace import SpanKind, StatusCode

__all__ = ["SpanTree"]

_MAX_TRACES = 1000
_MAX_SPANS = 100
_MAX_WAITING = 100
_MAX_TEXT = 120
_LINES_PER_SECOND = 200
_SHOWN = ("http.response.status_code", "rpc.status_code", "error.type")


class _Line(NamedTuple):
    span_id: int
    parent_id: int
    start_ns: int
    end_ns: int
    name: str
    kind: SpanKind
    failed: bool
    remarks: tuple[str, ...]


class _Trace:
    """The spans of one trace in this process: how many are open, and those that ended."""

    def __init__(self) -> None:
        self.open = 0
        self.ended: list[_Line] = []
        self.dropped = 0


class SpanTree(SpanProcessor):
    """
    Writes finished traces to a stream.

    Args:
        stream: Text stream; an error in writing ends the display, never the program.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._colour = stream.isatty()
        self._start()
        begin = weakref.WeakMethod(self._start)
        os.register_at_fork(after_in_child=lambda: (method := begin()) and method())

    def _start(self) -> None:
        """Begin with nothing, here and in a forked child, where neither the thread nor the locks' owners are."""
        self._traces: OrderedDict[int, _Trace] = OrderedDict()
        # Both may be entered twice by one thread: a finalizer that ends a span runs in the middle of anything.
        self._lock = threading.RLock()
        self._finished: queue.SimpleQueue[tuple[int, _Trace] | None] = queue.SimpleQueue()
        self._missed = 0
        self._ending = False
        self._writer = threading.Thread(target=self._write, name="rsketch-telemetry-console", daemon=True)
        self._writer.start()

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Count the span as open in its trace."""
        trace_id = span.get_span_context().trace_id
        with self._lock:
            found = self._traces.get(trace_id)
            if found is None:
                found = self._traces[trace_id] = _Trace()
                if len(self._traces) > _MAX_TRACES:
                    # Open for longest: its spans may never end.
                    self._traces.popitem(last=False)
                    self._missed += 1
            found.open += 1

    def on_end(self, span: ReadableSpan) -> None:
        """Keep what its line needs; queue the trace when its last open span has ended."""
        context = span.get_span_context()
        if context is None:
            return
        with self._lock:
            found = self._traces.get(context.trace_id)
            if found is None:
                return
            found.open -= 1
            if len(found.ended) < _MAX_SPANS:
                found.ended.append(_line(span, context.span_id))
            else:
                found.dropped += 1
            if found.open > 0:
                return
            del self._traces[context.trace_id]
            if self._finished.qsize() >= _MAX_WAITING:
                self._missed += 1
                return
        self._finished.put((context.trace_id, found))

    def shutdown(self) -> None:
        """Write what is queued, within a second."""
        self._ending = True
        self._finished.put(None)
        self._writer.join(1.0)

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Do nothing: lines are for the eye, not for a record."""
        return True

    def _write(self) -> None:
        while (item := self._finished.get()) is not None:
            lines = render(item[0], item[1].ended, item[1].dropped, colour=self._colour)
            missed, self._missed = self._missed, 0
            if missed:
                lines.append(f"… {missed} more traces are not shown")
            # Not every terminal has every letter; one that it lacks must not end the display.
            encoding = getattr(self._stream, "encoding", None) or "utf-8"
            text = "".join(f"{line}\n" for line in lines).encode(encoding, "replace").decode(encoding)
            try:
                self._stream.write(text)
                self._stream.flush()
            except (OSError, ValueError):
                return
            if self._finished.qsize() and not self._ending:
                time.sleep(len(lines) / _LINES_PER_SECOND)


def _line(span: ReadableSpan, span_id: int) -> _Line:
    attributes = span.attributes or {}
    return _Line(
        span_id=span_id,
        parent_id=span.parent.span_id if span.parent else 0,
        start_ns=span.start_time or 0,
        end_ns=span.end_time or 0,
        name=_shown(span.name),
        kind=span.kind,
        failed=span.status.status_code is StatusCode.ERROR,
        remarks=tuple(dict.fromkeys(_shown(str(attributes[name])) for name in _SHOWN if name in attributes)),
    )


def _shown(text: str) -> str:
    """Return *text* cut, and without what a terminal would obey."""
    text = text[:_MAX_TEXT]
    return text if text.isprintable() else ascii(text)


def render(trace_id: int, spans: list[_Line], dropped: int = 0, *, colour: bool = False) -> list[str]:
    """Return a trace as text: children below their parent in order of start, spans with a parent elsewhere on top."""
    known = {span.span_id for span in spans}
    children: dict[int, list[_Line]] = {}
    for span in sorted(spans, key=lambda each: each.start_ns):
        children.setdefault(span.parent_id if span.parent_id in known else 0, []).append(span)
    lines = [f"trace {trace_id:032x}"]
    waiting = [(span, 1) for span in reversed(children.get(0, []))]
    while waiting:
        span, depth = waiting.pop()
        lines.append(_text(span, depth, colour=colour))
        waiting.extend((child, depth + 1) for child in reversed(children.get(span.span_id, [])))
    return [*lines, f"  … {dropped} more spans"] if dropped else lines


def _text(span: _Line, depth: int, *, colour: bool) -> str:
    milliseconds = (span.end_ns - span.start_ns) / 1e6
    name = f"{'  ' * depth}{span.name}"
    line = f"{name:<60} {span.kind.name.lower():<8} {milliseconds:>9.1f} ms  {' '.join(span.remarks)}".rstrip()
    line += " ERROR" if span.failed else ""
    return f"\x1b[31m{line}\x1b[0m" if colour and span.failed else line
