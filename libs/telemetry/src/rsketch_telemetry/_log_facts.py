"""
What is exported of a record of standard logging: plain, bounded values without credentials.

Whoever makes an OpenTelemetry log record of it, the SDK or our encoder, says the same: what is said is decided here.
"""

import logging
from typing import Any, Final

from opentelemetry._logs import SeverityNumber

from rsketch_telemetry import access, annotations, semconv
from rsketch_telemetry.facts import Attributes, error_name
from rsketch_telemetry.redaction import REDACTED, as_text, clean, names_secret, scrub

__all__ = ["OWN", "STANDARD", "Plain", "body", "code", "exception", "given", "masked", "plain", "severity"]

STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", access.SECONDS}
"""What a record has by itself; all else is the program's `extra`."""
_CODE_FILE, _CODE_LINE, _CODE_FUNCTION = "code.file.path", "code.line.number", "code.function.name"
OWN: Final = frozenset(
    {
        _CODE_FILE,
        _CODE_LINE,
        _CODE_FUNCTION,
        semconv.EXCEPTION_TYPE,
        semconv.EXCEPTION_MESSAGE,
        semconv.EXCEPTION_STACKTRACE,
    }
)
"""Attributes that a log record may have without the program's doing."""
_MAX_VALUE_LENGTH = 4096
_SEVERITIES = (
    (logging.CRITICAL, SeverityNumber.FATAL),
    (logging.ERROR, SeverityNumber.ERROR),
    (logging.WARNING, SeverityNumber.WARN),
    (logging.INFO, SeverityNumber.INFO),
    (logging.DEBUG, SeverityNumber.DEBUG),
)
_FRAMEWORKS = frozenset({"sanic.error", "grpc._cython.cygrpc"})
"""Loggers by which frameworks say that a handler failed."""
_SERVER_ERRORS = frozenset({None, *range(500, 600)})

Plain = str | int | float | bool


def severity(level: int) -> SeverityNumber:
    """Return the severity of a level, its own or the next one below that has a name."""
    return next((number for floor, number in _SEVERITIES if level >= floor), SeverityNumber.TRACE)


def body(record: logging.LogRecord) -> str:
    """Return the message."""
    try:
        message = record.getMessage()
    except Exception:  # noqa: BLE001 - the program's handlers complain of it already; what is known is worth sending
        message = as_text(record.msg)
    return scrub(message)


def code(pathname: str, line: int, function: str | None) -> Attributes:
    """Return the attributes that say where in the program a record was made."""
    attributes: Attributes = {_CODE_FILE: clean(pathname), _CODE_LINE: line}
    if function:
        attributes[_CODE_FUNCTION] = function
    return attributes


def given(record: logging.LogRecord) -> dict[str, Any]:
    """Return what the program put on a record beside the message, as it is."""
    return {name: value for name, value in vars(record).items() if name not in STANDARD}


def masked(name: str, value: object) -> Plain:
    """Return the value of an attribute of the program's, as it may be exported."""
    return REDACTED if names_secret(name) else plain(value)


def plain(value: object) -> Plain:
    """Return a value, of a name that promises no credential, as it may be exported."""
    if type(value) is str:
        return scrub(value, _MAX_VALUE_LENGTH)
    if isinstance(value, (bool, float)) or (isinstance(value, int) and -(2**63) <= value < 2**63):
        return value
    return scrub(as_text(value), _MAX_VALUE_LENGTH)


def exception(record: logging.LogRecord) -> Attributes:
    """Return the attributes of a record's exception; none where there is none, or where it has a record of its own."""
    error = record.exc_info[1] if record.exc_info else None
    if error is None or not record.exc_info or _is_recorded_anyway(record.name, error):
        return {}
    return {
        semconv.EXCEPTION_TYPE: error_name(error),
        semconv.EXCEPTION_MESSAGE: scrub(as_text(error)),
        semconv.EXCEPTION_STACKTRACE: scrub(logging.Formatter().formatException(record.exc_info)),
    }


def _is_recorded_anyway(logger: str, error: BaseException) -> bool:
    """Return whether an exception in a framework's own line ends up in a record of its own, with the call it ended."""
    # Of a status below 500 no call makes a record: the line is all there is.
    return logger in _FRAMEWORKS and annotations.is_served() and getattr(error, "status_code", None) in _SERVER_ERRORS
