"""
Keeps callers from writing the log.

The API's propagators log each malformed member of a header that a caller sent, as it came: up to hundreds of lines a
request, with whatever the caller put there.
"""

import logging
import time

__all__ = ["quiet_propagators"]

_EVERY_SECONDS = 300.0
# What logs when headers are read, and in which functions where the logger also serves an application's own calls.
_LOGGERS: dict[str, frozenset[str]] = {
    "opentelemetry.baggage.propagation": frozenset(),
    "opentelemetry.trace.propagation.tracecontext": frozenset(),
    "opentelemetry.trace.span": frozenset({"from_header"}),
}


def quiet_propagators() -> None:
    """Let the propagators complain at most once in five minutes, without the header; a second call does nothing."""
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(_seldom)


class _Seldom(logging.Filter):
    def __init__(self) -> None:
        super().__init__()
        self._not_before = float("-inf")

    def filter(self, record: logging.LogRecord) -> bool:
        functions = _LOGGERS.get(record.name)
        if functions is None or (functions and record.funcName not in functions):
            return True
        now = time.monotonic()
        if now < self._not_before:
            return False
        self._not_before = now + _EVERY_SECONDS
        record.msg, record.args = "a caller sent malformed trace context; this is said at most once in five minutes", ()
        return True


_seldom = _Seldom()
