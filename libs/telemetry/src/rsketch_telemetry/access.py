"""
One line a call in the log, for both protocols: logger `rsketch_telemetry.access`, INFO, or WARNING where it failed.

The logger is off until someone sets its level to INFO, by `Telemetry.access_log` or by a logging configuration: an
application that brings its own access log keeps it.
"""

import logging
from typing import Final

from opentelemetry.context import Context

from rsketch_telemetry import _context, semconv
from rsketch_telemetry.facts import Attributes, HttpOutcome, HttpRequest, RpcCall, RpcOutcome

__all__ = ["LOGGER", "LOGGER_NAME", "OFF", "SECONDS", "http", "level", "rpc"]

LOGGER_NAME: Final = "rsketch_telemetry.access"
SECONDS: Final = "_rsketch_seconds"
"""How long the call took, on the record for our own formatters alone: no attribute of what is exported."""
OFF: Final = logging.CRITICAL + 10

LOGGER: Final = logging.getLogger(LOGGER_NAME)
if LOGGER.level == logging.NOTSET:
    LOGGER.setLevel(OFF)


def level(*, failed: bool) -> int:
    """Return the level of the line of a call."""
    return logging.WARNING if failed else logging.INFO


def http(request: HttpRequest, outcome: HttpOutcome, seconds: float, context: Context) -> None:
    """Log an HTTP request that ended, in its span's *context*."""
    error = outcome.error
    if not LOGGER.isEnabledFor(level(failed=error is not None)):
        return
    status = outcome.status_code if outcome.status_code is not None else "-"
    method = request.kind.method_original or request.kind.method
    line = f"{_printable(method)} {_printable(request.path)} {status} {seconds * 1000:.1f} ms"
    _emit(line, error, seconds, {semconv.HTTP_REQUEST_METHOD: request.kind.method, **outcome.attributes()}, context)


def rpc(call: RpcCall, outcome: RpcOutcome, seconds: float, context: Context) -> None:
    """Log an RPC that was served, in its span's *context*."""
    error = outcome.error(server=True)
    if not LOGGER.isEnabledFor(level(failed=error is not None)):
        return
    line = f"{_printable(call.method_original or call.method)} {outcome.status_code} {seconds * 1000:.1f} ms"
    _emit(line, error, seconds, call.metric_attributes() | outcome.attributes(server=True), context)


def _emit(line: str, error: str | None, seconds: float, attributes: Attributes, context: Context) -> None:
    token = _context.attach(context)
    try:
        # As `LOGGER.log` does it, which looks through the stack for the caller first: that is always this function.
        LOGGER.handle(
            LOGGER.makeRecord(
                LOGGER_NAME,
                level(failed=error is not None),
                _CODE.co_filename,
                _CODE.co_firstlineno,
                line,
                (),
                None,
                _CODE.co_name,
                {**attributes, SECONDS: seconds},
            )
        )
    finally:
        _context.detach(token)


_CODE = _emit.__code__


def _printable(text: str) -> str:
    """Return *text* with control characters escaped: a path must not forge a second log line."""
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")
