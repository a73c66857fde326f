"""Records that are encoded without the SDK: the same as with it, and never where it has something else to do."""

import logging
import sys
import warnings
from collections.abc import Mapping
from typing import Any

import pytest
from opentelemetry import baggage, trace
from opentelemetry import context as context_api
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags
from piped import Records, piped, taken
from rsketch_telemetry import access, logs
from rsketch_telemetry._log_encoder import log_encoder
from rsketch_telemetry.processors import BaggageLogs
from rsketch_telemetry.signal import Signal


def _made(
    extra: Mapping[str, object] | None = None,
    *args: object,
    name: str = "shop.web",
    level: int = logging.INFO,
    msg: object = "sold",
) -> logging.LogRecord:
    logger = logging.Logger(name)  # noqa: LOG001 - of any name
    return logger.makeRecord(name, level, "/srv/tea.py", 12, msg, args, None, "sell", extra)


def _with(record: logging.LogRecord, **fields: object) -> logging.LogRecord:
    vars(record).update(fields)
    return record


def _raised() -> Any:
    try:
        int("token=hunter22")
    except ValueError:
        return sys.exc_info()


@pytest.mark.parametrize(
    "record",
    [
        *(_made(level=level) for level in (1, 9, 10, 15, 20, 25, 30, 40, 50, 70)),
        _made(name="shop"),
        _made(name="root"),
        _made(name="", msg=""),
        _made(None, "tea", 3, msg="sold %s for %d"),
        _made(None, 1, msg="%d and %d"),
        _made(msg={"sold": "tea"}),
        _made(msg="é password=hunter22 \ud800 https://shop.example/?card=4111"),
        _made(msg="x" * 20_000),
        _made({access.SECONDS: 0.5, "item": "tea"}, level=logging.WARNING),
        _made({"item": "tea", "price": 2.5, "count": 3, "big": 2**70, "negative": -5, "yes": True, "no": False}),
        _made({"gone": None, "many": [1, "a"], "place": {"at": "home"}, "one": 1, "true": True, "1": 1.0}),
        _made({"password": "hunter22", "api_key": 17, "said": "token=hunter22"}),
        _made({f"field{number}": number for number in range(60)}),
        _made({"http.route": "/users/<id:int>", "http.response.status_code": 200}),
        _with(_made(), exc_info=_raised()),
        _with(_made({"item": 1}, name="sanic.error"), exc_info=_raised()),
        _with(_made(), exc_info=(None, None, None)),
        _with(_made(), funcName=None),
        _with(_made(), levelname="LOUD"),
        _with(_made(), pathname="tea\udfff.py"),
        _with(_made(), created=0.0),
    ],
)
@pytest.mark.parametrize("flags", [None, 0, 1, 3])
def test_records_are_the_same_without_the_sdk(record: logging.LogRecord, flags: int | None) -> None:
    """What the pipeline encodes itself is what it gets from the SDK, inside a span of any kind and outside one."""
    made = Records(("tenant", "item"))
    context = baggage.set_baggage("tenant", "acme", baggage.set_baggage("item", "no"))
    if flags is not None:
        span = SpanContext(0xABC, 0xDEF, is_remote=False, trace_flags=TraceFlags(flags))
        context = trace.set_span_in_context(NonRecordingSpan(span), context)
    token = context_api.attach(context)
    theirs, ours, alone = made.both(record)
    context_api.detach(token)

    assert alone
    assert ours == theirs


@pytest.mark.parametrize(
    "record",
    [
        _made({"code.file.path": "other.py", "exception.type": "odd"}),
        _made({"": "nothing"}),
        _made({"\ud800": 1}),
        _made(name="\ud800"),
        _made({f"field{number}": number for number in range(200)}),
        _with(_made(), levelname="\ud800"),
        _with(_made(), created=-1.0),
    ],
)
@pytest.mark.filterwarnings("ignore:Log record attributes were dropped")
def test_odd_records_are_left_to_the_sdk(record: logging.LogRecord, caplog: pytest.LogCaptureFixture) -> None:
    """It alone says what becomes of what it drops, and of what it cannot hold."""
    made = Records()
    encoder = log_encoder(made.loggers, made.pipeline)
    assert encoder is not None

    assert not encoder.take(record)
    logs.OtlpHandler(made.loggers, encoder).handle(record)
    made.lane.settle()
    assert len(made.lane.segment) + made.lane.tally.unencodable == 1


def test_a_processor_of_the_programs_own_gets_every_record() -> None:
    """One that is added while the program runs has the records made by the SDK from then on; none is exported twice."""
    made = Records()
    logs.install(made.loggers, made.pipeline)
    exporter = InMemoryLogRecordExporter()  # type: ignore[no-untyped-call]  # the SDK's
    try:
        logging.getLogger("shop").warning("one")
        made.loggers.add_log_record_processor(SimpleLogRecordProcessor(exporter))
        logging.getLogger("shop").warning("two")
    finally:
        logs.uninstall()

    assert [each.log_record.body for each in exporter.get_finished_logs()] == ["two"]
    assert [record.body.string_value for record in _records(taken(made.lane))] == ["one", "two"]


def _records(request: ExportLogsServiceRequest) -> list[Any]:
    return [each for scope in request.resource_logs[0].scope_logs for each in scope.log_records]


@pytest.mark.parametrize(
    ("variable", "value"), [("OTEL_ATTRIBUTE_COUNT_LIMIT", "3"), ("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "2")]
)
def test_limits_are_the_sdks_to_keep(variable: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records have as many attributes as are allowed, as long as they may be."""
    monkeypatch.setenv(variable, value)
    made = Records()
    with warnings.catch_warnings():
        # Newer releases of the SDK warn of what they leave out.
        warnings.simplefilter("ignore")
        theirs, ours, alone = made.both(_made({"item": "tea", "price": 2.5}))

    assert not alone
    assert ours == theirs


def test_others_among_the_processors_have_the_records_made_by_the_sdk() -> None:
    """So has a pipeline that is another one, and one that takes no records."""
    made, other, before, behind = Records(), Records(), Records(), Records()
    traces, _ = piped(Signal.TRACES)
    foreign = SimpleLogRecordProcessor(InMemoryLogRecordExporter())  # type: ignore[no-untyped-call]  # the SDK's
    first = before.loggers._multi_log_record_processor
    first._log_record_processors = (foreign, *first._log_record_processors)
    behind.loggers.add_log_record_processor(BaggageLogs(("tenant",)))

    assert log_encoder(made.loggers, made.pipeline)
    for loggers, pipeline in (
        (made.loggers, other.pipeline),
        (made.loggers, traces),
        (before.loggers, before.pipeline),
        (behind.loggers, behind.pipeline),
        (object(), made.pipeline),
    ):
        assert not log_encoder(loggers, pipeline)


def test_what_was_masked_is_not_kept() -> None:
    """What is remembered for the next record holds nothing that may not leave the process."""
    made = Records()
    encoder = log_encoder(made.loggers, made.pipeline)
    assert encoder is not None
    encoder.take(_made({"item": "tea", "said": "token=hunter22", "password": "hunter22"}, msg="pwd=hunter22"))

    assert "tea" in repr(encoder._pairs)
    assert "hunter22" not in f"{vars(encoder)}"


def test_loggers_without_end_have_their_own_scopes() -> None:
    """A program that makes a logger for each connection has each record in the scope of its logger."""
    made = Records()
    encoder = log_encoder(made.loggers, made.pipeline)
    assert encoder is not None
    for number in range(200):
        assert encoder.take(_made(name=f"connection{number}", msg=str(number)))
    scopes = taken(made.lane).resource_logs[0].scope_logs

    assert {scope.scope.name: scope.log_records[0].body.string_value for scope in scopes} == {
        f"connection{number}": str(number) for number in range(200)
    }
    assert len(made.lane.inlets) < 100
