"""
Standard logging, correlated: formatters that name the current span, and the handler that sends records over OTLP.

The handler is called beside the program's own handlers and changes nothing of what they do.
"""

import json
import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Literal

from opentelemetry import context as context_api
from opentelemetry import trace
from opentelemetry._logs import Logger, LoggerProvider, LogRecord, SeverityNumber

from rsketch_telemetry import access, annotations, semconv
from rsketch_telemetry.facts import error_name
from rsketch_telemetry.pipeline import SUPPRESSED
from rsketch_telemetry.redaction import REDACTED, as_text, clean, names_secret, scrub

__all__ = ["OtlpHandler", "formatter", "install", "uninstall"]

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", access.SECONDS}
_SLOW_SECONDS = 0.5
"""A call that took so long is worth a look."""
_NESTED = 3
_SEVERITIES = (
    (logging.CRITICAL, SeverityNumber.FATAL),
    (logging.ERROR, SeverityNumber.ERROR),
    (logging.WARNING, SeverityNumber.WARN),
    (logging.INFO, SeverityNumber.INFO),
    (logging.DEBUG, SeverityNumber.DEBUG),
)


def formatter(form: Literal["text", "json"] = "text", *, trace_url: str | None = None) -> logging.Formatter:
    """
    Return a formatter that puts `trace_id` and `span_id` of the current span into each line.

    Args:
        form: Of a line.
        trace_url: What the address of a trace's page begins with, before its id, such as `http://127.0.0.1:4318/t/`.
            A line that is worth a look then has the link as well: an error, or the access line of a call that failed
            or took half a second or more.
    """
    return _JsonFormatter(trace_url) if form == "json" else _TextFormatter(trace_url)


class _Correlated(logging.Formatter):
    """What both forms know of the current span."""

    def __init__(self, trace_url: str | None) -> None:
        super().__init__()
        self._trace_url = trace_url

    def _ids(self, record: logging.LogRecord) -> dict[str, str]:
        """Return `trace_id` and `span_id`, and `trace_url` where the line deserves it; nothing outside a span."""
        context = trace.get_current_span().get_span_context()
        if not context.is_valid:
            return {}
        ids = {"trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}"}
        # A trace that was sampled away is on no page.
        if self._trace_url and context.trace_flags.sampled and _deserves_a_look(record):
            ids["trace_url"] = self._trace_url + ids["trace_id"]
        return ids


class _TextFormatter(_Correlated):
    """`12:00:00.123 INFO  rsketch: message trace_id=… span_id=…`, the ids only inside a span; at last the link."""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S.%f")[:-3]
        line = f"{moment} {record.levelname:<7} {record.name}: {record.getMessage()}"
        for name, value in self._ids(record).items():
            # The link stands bare: a terminal opens it with a click.
            line += f" {value}" if name == "trace_url" else f" {name}={value}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


class _JsonFormatter(_Correlated):
    """One JSON object a line: time, level, logger, message, ids, link, exception, and what `extra` held."""

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, object] = {
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **self._ids(record),
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields | _extra(record), ensure_ascii=True, default=str)


def _deserves_a_look(record: logging.LogRecord) -> bool:
    if record.name != access.LOGGER_NAME:
        return record.levelno >= logging.ERROR
    seconds: float = getattr(record, access.SECONDS, 0.0)
    return record.levelno >= logging.WARNING or seconds >= _SLOW_SECONDS


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}


class OtlpHandler(logging.Handler):
    """Turns each record into an OpenTelemetry log record of a logger of the same name."""

    def __init__(self, loggers: LoggerProvider) -> None:
        super().__init__()
        self._loggers = loggers
        # As the SDK has them, but without its locks: a finalizer may log while this thread holds one.
        self._known: dict[str, Logger] = {}
        self._emitting = threading.local()

    def filter(self, record: logging.LogRecord) -> bool:
        """Leave out telemetry's own lines, which would feed on themselves, and those of an export under way."""
        if record.name == access.LOGGER_NAME:
            return True
        own = record.name.startswith(("opentelemetry.", "rsketch_telemetry"))
        return not own and not any(context_api.get_value(key) for key in SUPPRESSED)

    def emit(self, record: logging.LogRecord) -> None:
        """Record it; never raises."""
        depth = getattr(self._emitting, "depth", 0)
        if depth > _NESTED:
            # A finalizer may log while another record is made, even in another's; more is what logs its own logging.
            return
        self._emitting.depth = depth + 1
        try:
            self._logger(record.name).emit(_api_record(record))
        except Exception:  # noqa: BLE001 - logging's own rule: a handler never raises into the program
            self.handleError(record)
        finally:
            self._emitting.depth = depth

    def _logger(self, name: str) -> Logger:
        known = self._known.get(name)
        if known is None:
            known = self._known[name] = self._loggers.get_logger(name)
        return known


def _is_recorded_anyway(logger: str, error: BaseException) -> bool:
    """Return whether an exception in a framework's own line ends up in a record of its own, with the call it ended."""
    # Of a status below 500 no call makes a record: the line is all there is.
    return logger in _FRAMEWORKS and annotations.is_served() and getattr(error, "status_code", None) in _SERVER_ERRORS


def _api_record(record: logging.LogRecord) -> LogRecord:
    attributes: dict[str, Any] = {"code.file.path": clean(record.pathname), "code.line.number": record.lineno}
    if record.funcName:
        attributes["code.function.name"] = record.funcName
    attributes |= {str(name): _plain(str(name), value) for name, value in _extra(record).items()}
    error = record.exc_info[1] if record.exc_info else None
    if error is not None and record.exc_info and not _is_recorded_anyway(record.name, error):
        attributes[semconv.EXCEPTION_TYPE] = error_name(error)
        attributes[semconv.EXCEPTION_MESSAGE] = scrub(as_text(error))
        attributes[semconv.EXCEPTION_STACKTRACE] = scrub(logging.Formatter().formatException(record.exc_info))
    return LogRecord(
        timestamp=int(record.created * 1e9),
        observed_timestamp=time.time_ns(),
        context=context_api.get_current(),
        severity_number=_severity(record.levelno),
        severity_text=record.levelname,
        body=scrub(_message(record)),
        attributes=attributes,
    )


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # noqa: BLE001 - the program's handlers complain of it already; what is known is worth sending
        return as_text(record.msg)


def _plain(name: str, value: object) -> str | int | float | bool:
    if names_secret(name):
        return REDACTED
    if isinstance(value, (bool, float)) or (isinstance(value, int) and -(2**63) <= value < 2**63):
        return value
    return scrub(as_text(value), 4096)


def _severity(level: int) -> SeverityNumber:
    return next((number for floor, number in _SEVERITIES if level >= floor), SeverityNumber.TRACE)


_FRAMEWORKS = frozenset({"sanic.error", "grpc._cython.cygrpc"})
"""Loggers by which frameworks say that a handler failed."""
_SERVER_ERRORS = frozenset({None, *range(500, 600)})

_Call = Callable[[logging.Logger, logging.LogRecord], None]
_installed: list[tuple[_Call, _Call]] = []
"""What each `install` put in place, and what was there before."""


def install(loggers: LoggerProvider) -> None:
    """
    Send over OTLP what any logger of this process lets through.

    Hooked behind the loggers rather than added to the root logger: a handler there would be removed by the program's
    own `dictConfig`, would keep `basicConfig` from doing anything, would miss loggers that do not propagate, and would
    silence `logging.lastResort`.
    """
    handler = OtlpHandler(loggers)
    # Not necessarily logging's own: others hook themselves in here, too.
    before = logging.Logger.callHandlers

    def call_handlers(logger: logging.Logger, record: logging.LogRecord) -> None:
        before(logger, record)
        if (call_handlers, before) in _installed:
            handler.handle(record)

    logging.Logger.callHandlers = call_handlers  # type: ignore[assignment, method-assign]  # the hook
    _installed.append((call_handlers, before))


def uninstall() -> None:
    """Take the hook away again; where another one stands on it, it only does nothing any more."""
    while _installed:
        ours, before = _installed.pop()
        if logging.Logger.callHandlers is ours:
            logging.Logger.callHandlers = before  # type: ignore[assignment, method-assign]  # the hook
