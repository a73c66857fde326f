"""Processors of the SDK's: into the pipeline, and baggage onto spans and log records."""

import logging
from collections.abc import Callable, Collection, MutableMapping
from typing import Generic, Protocol, TypeVar

from opentelemetry.context import Context
from opentelemetry.sdk._logs import (  # noqa: TID251 - a processor is a class of the SDK's
    LogRecordProcessor,
    ReadWriteLogRecord,
)
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor  # noqa: TID251 - likewise
from opentelemetry.trace import SpanKind

from rsketch_telemetry import baggage
from rsketch_telemetry.otlp import wire
from rsketch_telemetry.otlp.encode import LeftOut, log_item, span_item
from rsketch_telemetry.otlp.frame import Item, Scope
from rsketch_telemetry.pipeline import Pipeline
from rsketch_telemetry.redaction import scrub
from rsketch_telemetry.signal import Signal

__all__ = ["BaggageLogs", "BaggageSpans", "PipelineLogs", "PipelineSpans", "count_unencodable"]

_log = logging.getLogger("rsketch_telemetry")
_MAX_INLETS = 64


def count_unencodable(pipeline: Pipeline, signal: Signal, error: Exception) -> None:
    """Count an item that OTLP cannot hold, and say why at the first."""
    if pipeline.unencodable(signal) == 1:
        reason = scrub(f"{type(error).__name__}: {error}", 200)
        text = "telemetry: one of the %s cannot be encoded and is dropped (%s); this is said once"
        _log.warning(text, signal.items, reason)


T = TypeVar("T", contravariant=True)


class _Encode(Protocol[T]):
    """Makes an item of something finished."""

    def __call__(self, finished: T, left_out: LeftOut, /) -> Item: ...


class _Encoder(Generic[T]):
    """Encodes items one by one, so that one which OTLP cannot hold costs no other; says so once."""

    def __init__(self, pipeline: Pipeline, signal: Signal, encode: _Encode[T]) -> None:
        self._pipeline = pipeline
        self._signal = signal
        self._encode = encode
        self._left_out_before = False

    def append(self, finished: T) -> None:
        if not self._pipeline.takes(self._signal):
            return
        try:
            item = self._encode(finished, self._left_out)
        except Exception as error:  # noqa: BLE001 - the encoder raises what it likes on a value that it cannot hold
            count_unencodable(self._pipeline, self._signal, error)
            return
        self._pipeline.append(self._signal, item)

    def _left_out(self, error: Exception) -> None:
        if not self._left_out_before:
            self._left_out_before = True
            reason = scrub(f"{type(error).__name__}: {error}", 200)
            text = "telemetry: an attribute of one of the %s cannot be encoded and is left out (%s); this is said once"
            _log.warning(text, self._signal.items, reason)


class PipelineSpans(SpanProcessor):
    """
    Puts finished spans into the pipeline.

    Args:
        serving: Called at the start of each server span.
    """

    def __init__(self, pipeline: Pipeline, serving: Callable[[], None] | None = None) -> None:
        self._pipeline = pipeline
        self._encoder = _Encoder(pipeline, Signal.TRACES, span_item)
        self._serving = serving

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Do nothing with the span: only finished ones leave."""
        if self._serving is not None and span.kind is SpanKind.SERVER:
            self._serving()

    def on_end(self, span: ReadableSpan) -> None:
        """Encode the span and take it over."""
        context = span.get_span_context()
        if context is not None and context.trace_flags.sampled:
            self._encoder.append(span)

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Send what waits; return whether all of it was delivered."""
        return self._pipeline.flush(timeout_millis / 1000)


class PipelineLogs(LogRecordProcessor):
    """
    Puts log records into the pipeline.

    Attributes:
        pipeline: That one.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self._encoder = _Encoder(pipeline, Signal.LOGS, log_item)
        self._inlets: dict[str, Callable[[bytes], None]] = {}

    def inlet(self, name: str) -> Callable[[bytes], None]:
        """Return what takes over an encoded record of a logger that has nothing but a name."""
        known = self._inlets.get(name)
        return known if known is not None else self._new_inlet(name)

    def _new_inlet(self, name: str) -> Callable[[bytes], None]:
        scope = Scope(wire.text(1, name))
        if len(self._inlets) >= _MAX_INLETS:
            # A program may make loggers without end, and all inlets are looked into with every export.
            return lambda body: self.pipeline.append(Signal.LOGS, Item(scope, body))
        made = self._inlets[name] = self.pipeline.inlet(Signal.LOGS, scope)
        return made

    def on_emit(self, log_record: ReadWriteLogRecord) -> None:
        """Encode the record and take it over."""
        self._encoder.append(log_record)

    def shutdown(self) -> None:
        """Do nothing: the pipeline is shut down by its owner."""

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Send what waits; return whether all of it was delivered."""
        return self.pipeline.flush(timeout_millis / 1000)


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
    """
    Copies the listed entries of the context's baggage to each log record; what the record has by itself stays.

    Attributes:
        keys: Those on the list.
    """

    def __init__(self, keys: Collection[str]) -> None:
        self.keys = keys

    def on_emit(self, log_record: ReadWriteLogRecord) -> None:
        """Copy the entries."""
        record = log_record.log_record
        attributes = record.attributes
        # The SDK's own, made for this record: not what the program passed.
        if isinstance(attributes, MutableMapping):
            for key, value in baggage.entries(self.keys, record.context).items():
                if key not in attributes:
                    attributes[key] = value

    def shutdown(self) -> None:
        """Do nothing: nothing is held."""

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Do nothing: nothing is held."""
        return True
