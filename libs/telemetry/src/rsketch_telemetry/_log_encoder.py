"""
Records of standard logging straight into the pipeline, encoded here.

The way through the SDK makes four objects of each record, cleans its attributes and hands it to processors; where none
of that changes anything, a record takes a tenth of the time without. What is exported is the same.
"""

import logging
import sys
import time
from struct import Struct
from typing import Any, Final

from opentelemetry.context import Context
from opentelemetry.sdk import _logs as sdk  # noqa: TID251 - it is the SDK that is left out
from opentelemetry.sdk._logs import _internal  # noqa: TID251 - likewise
from opentelemetry.trace import Span
from opentelemetry.trace.propagation import _SPAN_KEY

from rsketch_telemetry import _context, _log_facts, baggage
from rsketch_telemetry.otlp import wire
from rsketch_telemetry.pipeline import Pipeline
from rsketch_telemetry.processors import BaggageLogs, PipelineLogs
from rsketch_telemetry.redaction import REDACTED, names_secret
from rsketch_telemetry.signal import Signal

__all__ = ["LogEncoder", "log_encoder"]

# The fields of a LogRecord (opentelemetry/proto/logs/v1/logs.proto).
_SEVERITY_NUMBER, _SEVERITY_TEXT, _BODY, _ATTRIBUTES = 2, 3, 5, 6
_FLAGS: Final = tuple(wire.fixed32(8, flags) for flags in range(256))
_TIMES: Final = Struct("<cQcQ").pack
_TIME, _OBSERVED = wire.tag(1, 1), wire.tag(11, 1)
_TRACE_ID: Final = wire.tag(9) + wire.varint(16)
_SPAN_ID: Final = wire.tag(10) + wire.varint(8)
_KEPT: Final = 4096


def log_encoder(loggers: object, pipeline: Pipeline) -> "LogEncoder | None":
    """Return what encodes records for *pipeline* as *loggers* would have them; None where only *loggers* can do it."""
    if type(loggers) is not sdk.LoggerProvider or not pipeline.takes(Signal.LOGS):
        return None
    try:
        return LogEncoder(loggers) if _is_plain(loggers, pipeline) else None
    except Exception:  # noqa: BLE001 - a release of the SDK that is another one inside
        return None


def _is_plain(loggers: sdk.LoggerProvider, pipeline: Pipeline) -> bool:
    """Return whether all that a record meets in the SDK is ours."""
    multi = loggers._multi_log_record_processor
    if type(multi) is not _internal.SynchronousMultiLogRecordProcessor or loggers._disabled:
        return False
    # What older releases do not have, they do not do.
    default = getattr(_internal, "_default_logger_configurator", None)
    counts = type(getattr(loggers, "_logger_metrics", None)).__name__ not in {"NoneType", "NoOpLoggerMetrics"}
    if getattr(loggers, "_logger_configurator", None) is not default or counts or _limits(loggers)[1] is not None:
        return False
    processors = multi._log_record_processors
    last = processors[-1] if processors else None
    return (
        type(last) is PipelineLogs
        and last.pipeline is pipeline
        and all(type(each) is BaggageLogs for each in processors[:-1])
    )


def _limits(loggers: sdk.LoggerProvider) -> tuple[int | None, int | None]:
    """Return how many attributes a record may have, and how long their values may be."""
    limits: Any = getattr(loggers, "_log_record_limits", None) or sdk.LogRecordLimits()
    return (
        getattr(limits, "max_log_record_attributes", limits.max_attributes),
        getattr(limits, "max_log_record_attribute_length", limits.max_attribute_length),
    )


class LogEncoder:
    """Encodes records and hands them over, as long as the logger provider has no other processors than now."""

    def __init__(self, loggers: sdk.LoggerProvider) -> None:
        self._multi = loggers._multi_log_record_processor
        self._processors = processors = self._multi._log_record_processors
        self._logs = next(each for each in processors if isinstance(each, PipelineLogs))
        self._keys = tuple(key for each in processors if isinstance(each, BaggageLogs) for key in each.keys)
        most = _limits(loggers)[0]
        self._room = (sys.maxsize if most is None else most) - len(_log_facts.OWN) - len(self._keys)
        self._pairs = _Pairs()
        self._code = _Code()
        self._heads = _Heads()
        self._severities: dict[tuple[int, str], bytes] = {}

    def take(self, record: logging.LogRecord) -> bool:
        """Hand a record over to the pipeline; return whether that was possible: if not, it is for the SDK to record."""
        if self._multi._log_record_processors is not self._processors:
            return False
        try:
            encoded = self._encoded(record)
            append = self._logs.inlet(record.name)
        except Exception:  # noqa: BLE001 - whatever is odd about it, the SDK knows what becomes of such a record
            return False
        append(encoded)
        return True

    def _encoded(self, record: logging.LogRecord) -> bytes:
        context = _context.current()
        body = _log_facts.body(record).encode()
        pairs = self._pairs
        extra = [
            pairs[name, value] if type(value) in _REPEATED else pairs.encoded(name, value)
            for name, value in vars(record).items()
            if name not in _STANDARD
        ]
        if len(extra) > self._room:
            raise ValueError("too many attributes")
        return b"".join(
            (
                _TIMES(_TIME, int(record.created * 1e9), _OBSERVED, time.time_ns()),
                self._severity(record.levelno, record.levelname),
                self._heads[len(body)],
                body,
                self._code[record.pathname, record.lineno, record.funcName],
                *extra,
                wire.attributes(_ATTRIBUTES, _log_facts.exception(record)) if record.exc_info else b"",
                self._baggage(record, context) if self._keys else b"",
                _ids(context),
            )
        )

    def _baggage(self, record: logging.LogRecord, context: Context) -> bytes:
        carried = baggage.entries(self._keys, context)
        if carried:
            own = _log_facts.given(record)
            carried = {key: value for key, value in carried.items() if key not in own}
        return wire.attributes(_ATTRIBUTES, carried)

    def _severity(self, level: int, name: str) -> bytes:
        known = self._severities.get((level, name))
        if known is None:
            if len(self._severities) >= _KEPT:
                self._severities.clear()
            number = _log_facts.severity(level).value
            known = wire.uint64(_SEVERITY_NUMBER, number) + wire.text(_SEVERITY_TEXT, name)
            self._severities[level, name] = known
        return known


_STANDARD = _log_facts.STANDARD
_REPEATED = frozenset({str, int})
_SHORT = 256


class _Pairs(dict[tuple[str, str | int], bytes]):
    """Attributes of the program's; those whose values come again and again, methods and routes for some, are kept."""

    def __init__(self) -> None:
        super().__init__()
        self._names = _Names()

    def __missing__(self, pair: tuple[str, str | int]) -> bytes:
        name, value = pair
        masked = self._masked(name, value)
        encoded = wire.attributes(_ATTRIBUTES, {name: masked})
        # What was masked must not stay here either.
        if masked == value and len(encoded) < _SHORT:
            if len(self) >= _KEPT:
                self.clear()
            self[pair] = encoded
        return encoded

    def encoded(self, name: str, value: object) -> bytes:
        """Return one that is not kept."""
        return wire.attributes(_ATTRIBUTES, {name: self._masked(name, value)})

    def _masked(self, name: str, value: object) -> _log_facts.Plain:
        return REDACTED if self._names[name] else _log_facts.plain(value)


class _Names(dict[str, bool]):
    """Whether attributes of a name are credentials. Raises ValueError for names that are not the program's to give."""

    def __missing__(self, name: str) -> bool:
        if not name or name in _log_facts.OWN:
            raise ValueError(f"an attribute called {name!r}")
        if len(self) >= _KEPT:
            self.clear()
        self[name] = secret = names_secret(name)
        return secret


class _Heads(dict[int, bytes]):
    """What a body begins with that is a text, by its number of bytes."""

    def __missing__(self, size: int) -> bytes:
        text = wire.tag(1) + wire.varint(size)
        head = wire.tag(_BODY) + wire.varint(len(text) + size) + text
        if size < _KEPT:
            self[size] = head
        return head


class _Code(dict[tuple[str, int, str | None], bytes]):
    """The encoded attributes of the places that records come from."""

    def __missing__(self, place: tuple[str, int, str | None]) -> bytes:
        if len(self) >= _KEPT:
            self.clear()
        self[place] = encoded = wire.attributes(_ATTRIBUTES, _log_facts.code(*place))
        return encoded


def _ids(context: Context) -> bytes:
    """Return the fields that say which span a record is of; none outside one."""
    current = context.get(_SPAN_KEY)
    if not isinstance(current, Span):
        return b""
    span = current.get_span_context()
    trace_id, span_id, flags = span.trace_id, span.span_id, span.trace_flags
    encoded = _TRACE_ID + trace_id.to_bytes(16, "big") if trace_id else b""
    if span_id:
        encoded += _SPAN_ID + span_id.to_bytes(8, "big")
    return encoded + _FLAGS[flags]
