"""Whatever is logged: the record is the same with the SDK and without, and its line has the right time."""

import logging
import warnings
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest
from hostile import TEXT
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import baggage, trace
from opentelemetry import context as context_api
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags
from piped import Records, taken
from rsketch_telemetry import logs
from rsketch_telemetry._log_encoder import log_encoder

_NAMES = st.one_of(
    st.sampled_from(["item", "tenant", "password", "http.route", "code.file.path", "exception.type", "msg", "1", ""]),
    st.text(max_size=8),
    TEXT,
)
_VALUES = st.one_of(
    st.sampled_from(["tea", "token=hunter22", 1, True, 1.0, "1", 200, "/users/<id:int>"]),
    TEXT,
    st.integers(),
    st.floats(),
    st.booleans(),
    st.none(),
    st.binary(max_size=9),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=3),
)
_ERRORS = st.sampled_from([None, (None, None, None), *[(type(e), e, None) for e in (ValueError("pwd=hunter22"),)]])
_RECORDS = st.builds(
    lambda extra, fields: logging.makeLogRecord({**extra, **fields}),
    st.dictionaries(_NAMES, _VALUES, max_size=8).map(lambda extra: {f"{name}": extra[name] for name in extra}),
    st.fixed_dictionaries(
        {
            "name": st.one_of(st.sampled_from(["root", "shop.web", "sanic.error"]), st.text(max_size=9), TEXT),
            "levelno": st.integers(0, 80),
            "levelname": st.one_of(st.sampled_from(["INFO", "ERROR"]), TEXT),
            "msg": st.one_of(TEXT, st.sampled_from(["sold %s", "%d and %d", 17])),
            "args": st.one_of(st.just(()), st.tuples(TEXT)),
            "pathname": TEXT,
            "lineno": st.integers(0, 2**40),
            "funcName": st.one_of(st.none(), TEXT),
            "created": st.floats(0, 2**32),
            "exc_info": _ERRORS,
        }
    ),
)
_SPANS = st.one_of(
    st.none(),
    st.builds(
        SpanContext,
        st.integers(0, 2**128 - 1),
        st.integers(0, 2**64 - 1),
        is_remote=st.booleans(),
        trace_flags=st.integers(0, 255).map(TraceFlags),
    ),
)
_KEYS = ("tenant", "item")
_PLAIN = {"name": "shop", "levelno": logging.INFO, "levelname": "INFO", "msg": "sold"}


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Keep the SDK from saying what it leaves out: the examples are full of it."""
    logging.disable()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    logging.disable(logging.NOTSET)


@given(_RECORDS, _SPANS, st.dictionaries(st.sampled_from([*_KEYS, "other"]), TEXT))
def test_any_record_is_the_same_without_the_sdk(
    record: logging.LogRecord, span: SpanContext | None, carried: dict[str, str]
) -> None:
    """A record of anything is exported as the SDK has it made, or dropped where it is dropped then."""
    made = Records(_KEYS)
    context = context_api.Context()
    for key, value in carried.items():
        context = baggage.set_baggage(key, value, context)
    if span is not None:
        context = trace.set_span_in_context(NonRecordingSpan(span), context)
    token = context_api.attach(context)
    theirs, ours, _ = made.both(record)
    context_api.detach(token)

    assert ours.SerializeToString(deterministic=True) == theirs.SerializeToString(deterministic=True)


@given(st.lists(st.tuples(st.sampled_from(["a", "b"]), _VALUES), min_size=2, max_size=6))
def test_values_that_are_equal_are_not_taken_for_each_other(pairs: list[tuple[str, Any]]) -> None:
    """What is kept of one record says nothing of the next: 1 is neither true nor 1.0."""
    made = Records()
    encoder = log_encoder(made.loggers, made.pipeline)
    assert encoder is not None
    for name, value in pairs:
        record = logging.makeLogRecord({**_PLAIN, name: value})
        assert encoder.take(record)
        (ours,) = taken(made.lane).resource_logs[0].scope_logs[0].log_records
        logs.OtlpHandler(made.loggers).handle(record)
        (theirs,) = taken(made.lane).resource_logs[0].scope_logs[0].log_records

        assert _attributes(ours) == _attributes(theirs)


def _attributes(record: Any) -> list[bytes]:
    # As bytes, in which NaN is equal to itself.
    return [each.SerializeToString(deterministic=True) for each in record.attributes]


@given(st.lists(st.floats(0, 2**32), min_size=1, max_size=4))
def test_any_time_is_written_as_datetime_has_it(moments: list[float]) -> None:
    """The time of a line is that of its record, whatever the times of the lines before were."""
    form = logs.formatter("text")
    for created in moments:
        line = form.format(logging.makeLogRecord({**_PLAIN, "created": created}))

        assert line.partition(" ")[0] == datetime.fromtimestamp(created).astimezone().strftime("%H:%M:%S.%f")[:-3]
