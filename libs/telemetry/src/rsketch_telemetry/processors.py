"""Processors of the SDK's: into the pipeline, and baggage onto spans and log records."""

import copy
import logging
from collections.abc import Callable, Collection, MutableMapping

from opentelemetry.context import Context
from opentelemetry.sdk._logs import (  # noqa: TID251 - a processor is a class of the SDK's
    LogRecordProcessor,
    ReadableLogRecord,
    ReadWriteLogRecord,
)
from opentelemetry.sdk.resources import Resource  # noqa: TID251 - likewise
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor  # noqa: TID251 - likewise
from opentelemetry.trace import SpanKind

from rsketch_telemetry import baggage
from rsketch_telemetry.otlp.encode import log_item, span_item
from rsketch_telemetry.otlp.frame import Item
from rsketch_telemetry.pipeline import Pipeline
from rsketch_telemetry.redaction import scrub
from rsketch_telemetry.signal import Signal

__all__ = ["BaggageLogs", "BaggageSpans", "PipelineLogs", "PipelineSpans", "count_unencodable"]

_log = logging.getLogger("rsketch_telemetry")


def count_unencodable(pipeline: Pipeline, signal: Signal, error: Exception) -> None:
    """Count an item that OTLP cannot hold, and say why at the first."""
    if pipeline.unencodable(signal) == 1:
        reason = scrub(f"{type(error).__name__}: {error}", 200)
        text = "telemetry: one of the %s cannot be encoded and is dropped (%s); this is said once"
        _log.warning(text, signal.items, reason)


class _Encoder:
    """Encodes items one by one, so that one which OTLP cannot hold costs no other; says so once."""

    def __init__(self, pipeline: Pipeline, signal: Signal) -> None:
        self._pipeline = pipeline
        self._signal = signal

    def append(self, encode: Callable[[], Item]) -> None:
        if not self._pipeline.takes(self._signal):
            return
        try:
            item = encode()
        except Exception as error:  # noqa: BLE001 - the encoder raises what it likes on a value that it cannot hold
            count_unencodable(self._pipeline, self._signal, error)
            return
        self._pipeline.append(self._signal, item)


class PipelineSpans(SpanProcessor):
    """
    Puts finished spans into the pipeline.

    Args:
        serving: Called at the start of each server span.
    """

    def __init__(self, pipeline: Pipeline, serving: Callable[[], None] | None = None) -> None:
        self._pipeline = pipeline
        self._encoder = _Encoder(pipeline, Signal.TRACES)
        self._serving = serving

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Do nothing with the span: only finished ones leave."""
        if self._serving is not None and span.kind is SpanKind.SERVER:
            self._serving()

    def on_end(self, span: ReadableSpan) -> None:
        """Encode the span and take it over."""
        context = span.get_span_context()
        if context is not None and context.trace_flags.sampled:
            self._encoder.append(lambda: span_item(span))

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Send what waits; return whether all of it was delivered."""
        return self._pipeline.flush(timeout_millis / 1000)


class PipelineLogs(LogRecordProcessor):
    """Puts log records into the pipeline."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._encoder = _Encoder(pipeline, Signal.LOGS)

    def on_emit(self, log_record: ReadWriteLogRecord) -> None:
        """Encode the record and take it over."""
        self._encoder.append(lambda: log_item(_readable(log_record)))

    def shutdown(self) -> None:
        """Do nothing: the pipeline is shut down by its owner."""

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Send what waits; return whether all of it was delivered."""
        return self._pipeline.flush(timeout_millis / 1000)


def _readable(record: ReadWriteLogRecord) -> ReadableLogRecord:
    api_record = copy.copy(record.log_record)
    return ReadableLogRecord(
        log_record=api_record,
        # Framed once a request: encoding it again takes longer than the record does.
        resource=Resource.get_empty(),
        instrumentation_scope=record.instrumentation_scope,
        limits=record.limits,
    )


class BaggageSpans(SpanProcessor):
    """Copies the listed entries of the parent's baggage to each span; what the span has by itself stays."""

    def __init__(self, keys: Collection[str]) -> None:
        self._keys = keys

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Copy the entries."""
        for key, value in baggage.entries(self._keys, parent_context).items():
            if key not in (span.attributes or {}):
                span.set_attribute(key, value)


class BaggageLogs(LogRecordProcessor):
    """Copies the listed entries of the context's baggage to each log record; what the record has by itself stays."""

    def __init__(self, keys: Collection[str]) -> None:
        self._keys = keys

    def on_emit(self, log_record: ReadWriteLogRecord) -> None:
        """Copy the entries."""
        record = log_record.log_record
        attributes = record.attributes
        # The SDK's own, made for this record: not what the program passed.
        if isinstance(attributes, MutableMapping):
            for key, value in baggage.entries(self._keys, record.context).items():
                if key not in attributes:
                    attributes[key] = value

    def shutdown(self) -> None:
        """Do nothing: nothing is held."""

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Do nothing: nothing is held."""
        return True
