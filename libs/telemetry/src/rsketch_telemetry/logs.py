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
from typing import TYPE_CHECKING, Any, Literal

from opentelemetry import context as context_api
from opentelemetry import trace
from opentelemetry._logs import Logger, LoggerProvider, LogRecord

from rsketch_telemetry import access
from rsketch_telemetry._log_facts import body, code, exception, given, masked, severity
from rsketch_telemetry.pipeline import SUPPRESSED, Pipeline

if TYPE_CHECKING:
    from rsketch_telemetry._log_encoder import LogEncoder

__all__ = ["OtlpHandler", "formatter", "install", "uninstall"]

_SLOW_SECONDS = 0.5
"""A call that took so long is worth a look."""
_NESTED = 3
_SECOND = 1_000_000
_ENCODER = json.JSONEncoder(default=str)


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

    _last: tuple[int | None, str] = (None, "")
    """The second of the line before, and how it is written."""

    def format(self, record: logging.LogRecord) -> str:
        line = f"{self._moment(record.created)} {record.levelname:<7} {record.name}: {record.getMessage()}"
        for name, value in self._ids(record).items():
            # The link stands bare: a terminal opens it with a click.
            line += f" {value}" if name == "trace_url" else f" {name}={value}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line

    def _moment(self, created: float) -> str:
        """Return the local time of day with milliseconds; of many lines in one second it is looked up once."""
        microseconds, second = round(created % 1 * 1e6), int(created // 1)
        if microseconds == _SECOND:
            microseconds, second = 0, second + 1
        known, text = self._last
        if second != known:
            text = datetime.fromtimestamp(second).astimezone().strftime("%H:%M:%S")
            self._last = second, text
        return f"{text}.{microseconds // 1000:03d}"


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
        return _ENCODER.encode(fields | given(record))


def _deserves_a_look(record: logging.LogRecord) -> bool:
    if record.name != access.LOGGER_NAME:
        return record.levelno >= logging.ERROR
    seconds: float = getattr(record, access.SECONDS, 0.0)
    return record.levelno >= logging.WARNING or seconds >= _SLOW_SECONDS


class OtlpHandler(logging.Handler):
    """
    Turns each record into an OpenTelemetry log record of a logger of the same name.

    Args:
        loggers: Has the loggers.
        encoder: Takes over the records that it can encode itself.
    """

    def __init__(self, loggers: LoggerProvider, encoder: "LogEncoder | None" = None) -> None:
        super().__init__()
        self._loggers = loggers
        self._encoder = encoder
        # As the SDK has them, but without its locks: a finalizer may log while this thread holds one.
        self._known: dict[str, Logger] = {}
        self._emitting = threading.local()

    def filter(self, record: logging.LogRecord) -> bool:
        """Leave out telemetry's own lines, which would feed on themselves, and those of an export under way."""
        if record.name == access.LOGGER_NAME:
            return True
        own = record.name.startswith(("opentelemetry.", "rsketch_telemetry"))
        return not own and not any(context_api.get_value(key) for key in SUPPRESSED)

    def handle(self, record: logging.LogRecord) -> bool:
        """Record what passes the filter. Without the lock of a handler: there is no stream that threads would share."""
        try:
            passed = self.filter(record)
        except Exception:  # noqa: BLE001 - as in `emit`: a record that another process has sent may have no name
            self.handleError(record)
            return False
        if passed:
            self.emit(record)
        return passed

    def emit(self, record: logging.LogRecord) -> None:
        """Record it; never raises."""
        depth = getattr(self._emitting, "depth", 0)
        if depth > _NESTED:
            # A finalizer may log while another record is made, even in another's; more is what logs its own logging.
            return
        self._emitting.depth = depth + 1
        try:
            if self._encoder is None or not self._encoder.take(record):
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


def _api_record(record: logging.LogRecord) -> LogRecord:
    attributes: dict[str, Any] = dict(code(record.pathname, record.lineno, record.funcName))
    attributes |= {str(name): masked(str(name), value) for name, value in given(record).items()}
    return LogRecord(
        timestamp=int(record.created * 1e9),
        observed_timestamp=time.time_ns(),
        context=context_api.get_current(),
        severity_number=severity(record.levelno),
        severity_text=record.levelname,
        body=body(record),
        attributes=attributes | exception(record),
    )


_Call = Callable[[logging.Logger, logging.LogRecord], None]
_installed: list[tuple[_Call, _Call]] = []
"""What each `install` put in place, and what was there before."""


def install(loggers: LoggerProvider, pipeline: Pipeline | None = None) -> None:
    """
    Send over OTLP what any logger of this process lets through.

    Args:
        loggers: What records are made with.
        pipeline: Where *loggers* send them, if there alone. Records then go there by a way that costs a tenth, and are
            the same; None always has them made by *loggers*, and so has any processor of records that is not ours.

    Hooked behind the loggers rather than added to the root logger: a handler there would be removed by the program's
    own `dictConfig`, would keep `basicConfig` from doing anything, would miss loggers that do not propagate, and would
    silence `logging.lastResort`.
    """
    handler = OtlpHandler(loggers, _encoder(loggers, pipeline))
    # Not necessarily logging's own: others hook themselves in here, too.
    before = logging.Logger.callHandlers

    def call_handlers(logger: logging.Logger, record: logging.LogRecord) -> None:
        before(logger, record)
        if (call_handlers, before) in _installed:
            handler.handle(record)

    logging.Logger.callHandlers = call_handlers  # type: ignore[assignment, method-assign]  # the hook
    _installed.append((call_handlers, before))


def _encoder(loggers: LoggerProvider, pipeline: Pipeline | None) -> "LogEncoder | None":
    if pipeline is None:
        return None
    # Imported late: it needs the SDK, which whoever only writes lines has no use for.
    from rsketch_telemetry._log_encoder import log_encoder

    return log_encoder(loggers, pipeline)


def uninstall() -> None:
    """Take the hook away again; where another one stands on it, it only does nothing any more."""
    while _installed:
        ours, before = _installed.pop()
        if logging.Logger.callHandlers is ours:
            logging.Logger.callHandlers = before  # type: ignore[assignment, method-assign]  # the hook
