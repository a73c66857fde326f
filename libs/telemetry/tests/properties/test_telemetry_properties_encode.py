"""Whatever is recorded: the encoders say what upstream's say, and refuse what upstream's refuse."""

import inspect
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from hostile import TEXT
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.common import _internal as upstream
from opentelemetry.exporter.otlp.proto.common._internal import _encode_value
from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.common.v1.common_pb2 import InstrumentationScope as ScopeMessage
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord as LogMessage
from opentelemetry.proto.resource.v1.resource_pb2 import Resource as ResourceMessage
from opentelemetry.proto.trace.v1.trace_pb2 import Span as SpanMessage
from opentelemetry.sdk._logs import LogRecordLimits, ReadableLogRecord, ReadWriteLogRecord
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
)
from rsketch_telemetry.otlp import wire
from rsketch_telemetry.otlp.encode import log_item, resource_message, span_item
from rsketch_telemetry.otlp.frame import Item

_OLDER = "allow_null" in inspect.signature(_encode_value).parameters
"""A release that leaves out an attribute of a span with None in it; ours is encoded as newer ones do it."""

_PLAIN = st.one_of(
    TEXT,
    st.text(max_size=5),
    st.integers(),
    st.integers(-(2**65), 2**65),
    st.floats(),
    st.booleans(),
    # Bytes that are no text are None for older releases.
    st.text("abc", max_size=9).map(str.encode) if _OLDER else st.one_of(st.binary(max_size=9), st.none()),
)
_VALUES = st.recursive(
    _PLAIN,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(st.text(max_size=3), inner, max_size=3),
    ),
    max_leaves=8,
)
_ATTRIBUTES = st.dictionaries(st.one_of(st.text(max_size=8), TEXT), _VALUES, max_size=6)
_TIMES = st.one_of(st.integers(0, 2**64 - 1), st.sampled_from([0, 1, 2**63, 2**64, -1]))
_STATES = st.lists(st.sampled_from([("a", "1"), ("b@c", "x y"), ("d", "")]), unique=True).map(TraceState)
_CONTEXTS = st.builds(
    SpanContext,
    st.integers(1, 2**128 - 1),
    st.integers(1, 2**64 - 1),
    is_remote=st.booleans(),
    trace_flags=st.sampled_from([0, 1, 3]).map(TraceFlags),
    trace_state=_STATES,
)
_EVENTS = st.tuples(TEXT, _ATTRIBUTES, _TIMES)
_LIMITS = st.one_of(st.none(), st.integers(0, 4))
_SCOPES = st.builds(
    InstrumentationScope, st.text(max_size=9), st.none() | st.text(max_size=3), st.none() | st.text(max_size=9)
)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Keep the SDK from saying with a traceback what it leaves out: the examples are full of it."""
    logging.disable()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    logging.disable(logging.NOTSET)


def _exact(kind: type[Any], message: bytes) -> bytes:
    """Return a message as its canonical bytes; NaN, too, is then equal to itself."""
    parsed: bytes = kind.FromString(message).SerializeToString(deterministic=True)
    return parsed


def _canonical(message: Any) -> bytes:
    """Return one of upstream's messages likewise; older releases of it have None as a value that is absent."""
    if _OLDER:
        _fill(message)
    canonical: bytes = message.SerializeToString(deterministic=True)
    return canonical


def _fill(message: Any) -> None:
    for field in ("value", "body"):
        if field in message.DESCRIPTOR.fields_by_name and message.DESCRIPTOR.fields_by_name[field].message_type:
            getattr(message, field).SetInParent()
    for descriptor, value in message.ListFields():
        if descriptor.message_type:
            for each in value if isinstance(value, Sequence) else [value]:
                _fill(each)


def _outcome(encode: Callable[[], Any]) -> Any:
    try:
        return encode()
    except Exception:
        return None


def _assert_same(kind: type[Any], ours: Item | None, theirs: tuple[Any, str, Any] | None) -> None:
    assert (ours is None) == (theirs is None)
    if ours is not None and theirs is not None:
        scope, schema_url, message = theirs
        assert _exact(kind, ours.body) == _canonical(message)
        assert _exact(ScopeMessage, ours.scope.message) == _canonical(scope)
        assert ours.scope.schema_url == schema_url


def _theirs_of_span(span: ReadableSpan) -> tuple[Any, str, Any]:
    spans = encode_spans([span]).resource_spans[0].scope_spans[0]
    return spans.scope, spans.schema_url, spans.spans[0]


@given(_VALUES)
def test_any_value(value: object) -> None:
    """A value of any kind is the same message, or raises as upstream's does."""
    ours, theirs = _outcome(lambda: wire.any_value(value)), _outcome(lambda: _encode_value(value))

    assert (ours is None) == (theirs is None)
    assert ours is None or _exact(AnyValue, ours) == _canonical(theirs)


@given(
    name=TEXT,
    parent=st.none() | _CONTEXTS,
    kind=st.sampled_from(SpanKind),
    attributes=_ATTRIBUTES,
    events=st.lists(_EVENTS, max_size=4),
    links=st.lists(st.tuples(_CONTEXTS, _ATTRIBUTES), max_size=4),
    status=st.tuples(st.sampled_from(StatusCode), st.none() | TEXT),
    times=st.tuples(_TIMES, _TIMES),
    limits=st.tuples(*[_LIMITS] * 6),
    scope=st.tuples(st.text(max_size=9), st.none() | st.text(max_size=3), st.none() | st.text(max_size=9)),
)
def test_any_span(
    name: str,
    parent: SpanContext | None,
    kind: SpanKind,
    attributes: dict[str, Any],
    events: list[tuple[str, dict[str, Any], int]],
    links: list[tuple[SpanContext, dict[str, Any]]],
    status: tuple[StatusCode, str | None],
    times: tuple[int, int],
    limits: tuple[int | None, ...],
    scope: tuple[str, str | None, str | None],
) -> None:
    """A span of the SDK, with whatever it has kept and dropped, is the same message."""
    provider = TracerProvider(ALWAYS_ON, span_limits=SpanLimits(*limits), shutdown_on_exit=False)
    span = provider.get_tracer(*scope).start_span(
        name,
        trace.set_span_in_context(NonRecordingSpan(parent), Context()) if parent else Context(),
        kind,
        attributes,
        [Link(*link) for link in links],
        start_time=times[0],
    )
    for event in events:
        span.add_event(*event)
    span.set_status(Status(*status) if status[0] is StatusCode.ERROR else status[0])
    span.end(times[1])
    assert isinstance(span, ReadableSpan)

    _assert_same(SpanMessage, _outcome(lambda: span_item(span)), _outcome(lambda: _theirs_of_span(span)))


@given(
    parent=st.none() | _CONTEXTS,
    times=st.tuples(st.none() | _TIMES, st.none() | _TIMES),
    attributes=st.none() | _ATTRIBUTES,
    scope=st.none() | _SCOPES,
    context=st.none() | _CONTEXTS,
)
def test_any_readable_span(
    parent: SpanContext | None,
    times: tuple[int | None, int | None],
    attributes: dict[str, Any] | None,
    scope: InstrumentationScope | None,
    context: SpanContext | None,
) -> None:
    """So is one that others have made, with what the SDK always has left out."""
    span = ReadableSpan(
        "made",
        context,
        parent,
        Resource.get_empty(),
        attributes,
        start_time=times[0],
        end_time=times[1],
        instrumentation_scope=scope,
    )

    _assert_same(SpanMessage, _outcome(lambda: span_item(span)), _outcome(lambda: _theirs_of_span(span)))


def _theirs_of_log(record: ReadWriteLogRecord) -> tuple[Any, str, Any]:
    readable = ReadableLogRecord(
        record.log_record, Resource.get_empty(), record.instrumentation_scope, limits=record.limits
    )
    logs = encode_logs([readable]).resource_logs[0].scope_logs[0]
    return logs.scope, logs.schema_url, logs.log_records[0]


@given(
    times=st.tuples(st.none() | _TIMES, st.none() | _TIMES),
    context=st.none() | _CONTEXTS,
    severity=st.none() | st.sampled_from(SeverityNumber),
    texts=st.tuples(st.none() | TEXT, st.none() | TEXT),
    body=_VALUES,
    attributes=st.none() | _ATTRIBUTES,
    limits=st.tuples(_LIMITS, _LIMITS),
    scope=st.none() | _SCOPES,
)
def test_any_log_record(
    times: tuple[int | None, int | None],
    context: SpanContext | None,
    severity: SeverityNumber | None,
    texts: tuple[str | None, str | None],
    body: Any,
    attributes: dict[str, Any] | None,
    limits: tuple[int | None, int | None],
    scope: InstrumentationScope | None,
) -> None:
    """A log record is the same message, whatever its body and its attributes are."""
    record = ReadWriteLogRecord(
        LogRecord(
            timestamp=times[0],
            observed_timestamp=times[1],
            context=trace.set_span_in_context(NonRecordingSpan(context), Context()) if context else None,
            severity_number=severity,
            severity_text=texts[0],
            body=body,
            attributes=attributes,
            event_name=texts[1],
        ),
        Resource.get_empty(),
        scope,
        LogRecordLimits(*limits),
    )

    _assert_same(LogMessage, _outcome(lambda: log_item(record)), _outcome(lambda: _theirs_of_log(record)))


@given(_ATTRIBUTES)
def test_any_resource(attributes: dict[str, Any]) -> None:
    """A resource is the same message."""
    resource = Resource(attributes)
    theirs = upstream._encode_resource(resource)

    assert _exact(ResourceMessage, resource_message(resource)) == _canonical(theirs)
