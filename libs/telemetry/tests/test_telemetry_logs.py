import json
import logging
import logging.config
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

import grpc
import grpc.aio
import pytest
import sanic_server
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk._logs import LoggerProvider, ReadableLogRecord
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, TraceFlags
from recording import Instrumented, Recording, attributes, until
from rsketch_telemetry import Telemetry, access, logs
from rsketch_telemetry.facts import HttpOutcome, http_request
from rsketch_telemetry.grpc import GrpcAioServerInstrumentor
from rsketch_telemetry.sdk import create_providers
from sanic import Request
from sanic.response import HTTPResponse
from till import SERVICE, Channel, Handler, listening, path

SPAN = NonRecordingSpan(SpanContext(0xABC, 0xDEF, is_remote=False, trace_flags=TraceFlags(1)))


@contextmanager
def _exported() -> Iterator[InMemoryLogRecordExporter]:
    exporter = InMemoryLogRecordExporter()  # type: ignore[no-untyped-call]  # the SDK's
    provider = LoggerProvider(shutdown_on_exit=False)
    provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))
    logs.install(provider)
    try:
        yield exporter
    finally:
        logs.uninstall()


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    enabled = [each for each in logging.root.manager.loggerDict.values() if not getattr(each, "disabled", True)]
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for logger in enabled:
        # By default dictConfig switches off every logger that it does not name.
        logger.disabled = False  # type: ignore[union-attr]  # not a placeholder


def _bodies(exporter: InMemoryLogRecordExporter) -> list[object]:
    return [record.log_record.body for record in exporter.get_finished_logs()]


def _only(exporter: InMemoryLogRecordExporter) -> ReadableLogRecord:
    (record,) = exporter.get_finished_logs()
    return record


def test_logging_can_be_detached(caplog: pytest.LogCaptureFixture) -> None:
    """No record is exported from then on; the program's own handlers get it as before."""
    telemetry = Telemetry(create_providers({"OTEL_TRACES_EXPORTER": "none"}, {}, []))
    with _exported() as exporter:
        telemetry.detach_logging()
        logging.getLogger("shop").warning("sold")
    telemetry.shutdown()

    assert _bodies(exporter) == []
    assert caplog.messages == ["sold"]


def test_a_record_is_exported_with_its_span_and_extras() -> None:
    """Body, severity, logger, ids, source and what `extra` held."""
    with _exported() as exporter, trace.use_span(SPAN):
        logging.getLogger("shop.web").warning("sold %d", 3, extra={"item": "tea", "price": 2.5})
    record = _only(exporter)
    attributes = dict(record.log_record.attributes or {})
    assert record.instrumentation_scope is not None

    assert (record.log_record.body, record.log_record.severity_text) == ("sold 3", "WARNING")
    assert record.instrumentation_scope.name == "shop.web"
    assert (record.log_record.trace_id, record.log_record.span_id) == (0xABC, 0xDEF)
    assert attributes["code.function.name"] == "test_a_record_is_exported_with_its_span_and_extras"
    assert (attributes["item"], attributes["price"]) == ("tea", 2.5)


def test_an_exception_is_exported_without_credentials() -> None:
    """Type, message and stack trace go out, scrubbed."""
    with _exported() as exporter:
        try:
            int("token=hunter22")
        except ValueError:
            logging.getLogger("shop").exception("failed with token=hunter22")
    attributes = dict(_only(exporter).log_record.attributes or {})

    assert attributes["exception.type"] == "ValueError"
    assert "hunter22" not in f"{attributes} {_only(exporter).log_record.body!r}"


def test_a_programs_own_configuration_changes_nothing() -> None:
    """`dictConfig` with its defaults, and a logger that does not propagate: records are exported all the same."""
    with _exported() as exporter:
        logging.config.dictConfig(
            {
                "version": 1,
                "handlers": {"null": {"class": "logging.NullHandler"}},
                "root": {"level": "INFO", "handlers": ["null"]},
                "loggers": {"alone": {"level": "INFO", "propagate": False, "handlers": ["null"]}},
            }
        )
        logging.getLogger("alone").info("one")
        logging.getLogger("other").info("two")
        logging.getLogger("other").debug("hidden")

    assert _bodies(exporter) == ["one", "two"]


def test_the_program_sees_no_handler_of_ours() -> None:
    """The root logger stays as it is, so `basicConfig` and the handler of last resort work as ever."""
    before = list(logging.getLogger().handlers)
    with _exported():
        assert logging.getLogger().handlers == before
        assert logging.Logger("bare").hasHandlers() is False  # noqa: LOG001 - one without a parent


@pytest.mark.parametrize("name", ["rsketch_telemetry", "opentelemetry.sdk.trace"])
def test_telemetrys_own_lines_are_not_exported(name: str) -> None:
    """A line about a failed export would cause the next one."""
    with _exported() as exporter:
        logging.getLogger(name).warning("not delivered")

    assert _bodies(exporter) == []


def test_a_record_that_cannot_be_formatted_harms_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong number of arguments is complained of once, as without telemetry, and what is known is exported."""
    with _exported() as exporter:
        logging.Logger("bare").warning("%d and %d", 1)  # noqa: LOG001, PLE1206 - the mistake that is tested

    assert _bodies(exporter) == ["%d and %d"]
    assert capsys.readouterr().err.count("not enough arguments") == 1


def test_a_record_without_a_name_harms_nobody(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that was put together by hand reaches the program's own handlers, and nothing is raised into the program."""
    monkeypatch.setattr(logging, "raiseExceptions", False)
    with _exported():
        logging.getLogger("shop").handle(logging.makeLogRecord({"msg": "sold", "levelno": logging.WARNING}))

    assert caplog.messages == ["sold"]


def test_a_field_named_like_a_credential_is_masked() -> None:
    """What `extra` calls a password is one, whatever it looks like."""
    with _exported() as exporter:
        logging.getLogger("shop").warning("in", extra={"password": "hunter22", "count": 2**70})
    attributes = dict(_only(exporter).log_record.attributes or {})

    assert attributes["password"] == "REDACTED"
    assert attributes["count"] == str(2**70)


def test_what_logs_while_it_is_logged_does_not_go_on_for_ever() -> None:
    """A value that logs itself when it is turned into text is recorded a few times, each within the other."""

    class _Chatty:
        def __str__(self) -> str:
            logging.getLogger("chatty").warning("asked", extra={"value": _Chatty()})
            return "chatty"

    with _exported() as exporter:
        logging.getLogger("shop").warning("out", extra={"value": _Chatty()})

    assert _bodies(exporter) == ["asked", "asked", "asked", "out"]


def test_another_hook_stays_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others replace the same method, before us and after us, and ours takes nothing of theirs away."""
    calls: list[str] = []

    def hooked(name: str) -> None:
        before = logging.Logger.callHandlers

        def call_handlers(logger: logging.Logger, record: logging.LogRecord) -> None:
            calls.append(name)
            before(logger, record)

        monkeypatch.setattr(logging.Logger, "callHandlers", call_handlers)

    hooked("before")
    with _exported() as exporter:
        hooked("after")
        logging.getLogger("shop").warning("one")
    logging.getLogger("shop").warning("two")

    assert _bodies(exporter) == ["one"]
    assert calls == ["after", "before", "after", "before"]


def _record() -> logging.LogRecord:
    return logging.makeLogRecord(
        {"name": "shop", "levelname": "INFO", "levelno": 20, "msg": "sold %s", "args": ("tea",), "item": "tea\n1"}
    )


def test_json_lines() -> None:
    """One object a line with the ids of the span and what `extra` held."""
    with trace.use_span(SPAN):
        line = logs.formatter("json").format(_record())
    fields = json.loads(line)

    assert "\n" not in line
    assert fields.pop("timestamp").endswith("+00:00")
    assert fields == {
        "level": "INFO",
        "logger": "shop",
        "message": "sold tea",
        "trace_id": f"{0xABC:032x}",
        "span_id": f"{0xDEF:016x}",
        "item": "tea\n1",
    }


def test_text_lines() -> None:
    """The ids stand at the end, and only inside a span."""
    outside = logs.formatter("text").format(_record())
    with trace.use_span(SPAN):
        inside = logs.formatter("text").format(_record())

    assert outside.endswith("INFO    shop: sold tea")
    assert inside.endswith(f"sold tea trace_id={0xABC:032x} span_id={0xDEF:016x}")


PAGE = "http://127.0.0.1:4318/t/"
LINK = f"{PAGE}{0xABC:032x}"


def _line_of(level: int, name: str = access.LOGGER_NAME, seconds: float | None = None) -> logging.LogRecord:
    line = logging.LogRecord(name, level, "tea.py", 1, "GET /tea", (), None)
    return line if seconds is None else logging.makeLogRecord(vars(line) | {access.SECONDS: seconds})


@pytest.mark.parametrize(
    ("record", "linked"),
    [
        (_line_of(logging.WARNING), True),
        (_line_of(logging.INFO, seconds=0.5), True),
        (_line_of(logging.INFO, seconds=0.499), False),
        (_line_of(logging.INFO), False),
        (_line_of(logging.ERROR, "shop"), True),
        (_line_of(logging.WARNING, "shop"), False),
    ],
)
def test_lines_that_are_worth_a_look_have_a_link(record: logging.LogRecord, linked: bool) -> None:
    """A call that failed or was slow, and any error, lead to the page of their trace, in both forms."""
    with trace.use_span(SPAN):
        text = logs.formatter("text", trace_url=PAGE).format(record)
        fields = json.loads(logs.formatter("json", trace_url=PAGE).format(record))

    assert text.endswith(f"span_id={0xDEF:016x}" + (f" {LINK}" if linked else ""))
    assert fields.get("trace_url") == (LINK if linked else None)
    assert access.SECONDS not in fields


def test_the_duration_behind_a_link_is_not_exported() -> None:
    """It is for our own formatters; the telemetry contract knows no such attribute."""
    with _exported() as exporter, trace.use_span(SPAN):
        logging.getLogger("shop").warning("GET /tea", extra={access.SECONDS: 0.5, "item": "tea"})
    attributes = dict(_only(exporter).log_record.attributes or {})

    assert attributes["item"] == "tea"
    assert access.SECONDS not in attributes


def test_no_link_leads_nowhere() -> None:
    """Outside a span, in a trace that was sampled away, and without a page there is none."""
    record = _line_of(logging.ERROR)
    outside = logs.formatter(trace_url=PAGE).format(record)
    unsampled = SpanContext(0xABC, 0xDEF, is_remote=False, trace_flags=TraceFlags(0))
    with trace.use_span(NonRecordingSpan(unsampled)):
        sampled_away = logs.formatter(trace_url=PAGE).format(record)
    with trace.use_span(SPAN):
        without = logs.formatter().format(record)

    assert not [line for line in (outside, sampled_away, without) if "http:" in line]


def test_a_link_stands_before_the_traceback() -> None:
    """The first line is whole; what follows it is the exception."""
    try:
        int("tea")
    except ValueError:
        record = _line_of(logging.ERROR)
        record.exc_info = sys.exc_info()
    with trace.use_span(SPAN):
        first, second, *_ = logs.formatter(trace_url=PAGE).format(record).splitlines()

    assert first.endswith(LINK)
    assert second.startswith("Traceback")


def _with_exception(recording: Recording) -> list[str]:
    return [
        str(record.event_name or record.body)
        for record in recording.records()
        if "exception.type" in attributes(record)
    ]


async def test_an_exception_of_a_sanic_handler_has_one_record() -> None:
    """Sanic's own line is exported without it, and without the values of the query that it quotes."""
    with sanic_server.Telemetry.recording() as telemetry:
        telemetry.instrument()
        logs.install(telemetry.logger_provider)
        app = sanic_server.create_app()

        @app.get("/broken")
        async def broken(request: Request) -> HTTPResponse:
            raise ValueError("broken")

        try:
            await sanic_server.fetch(app, "/broken?page=hush")
            await telemetry.server()
        finally:
            logs.uninstall()
        bodies = [str(record.body) for record in telemetry.records()]

    assert _with_exception(telemetry) == ["http.server.request.exception"]
    assert len(bodies) == 2
    assert not [body for body in bodies if "hush" in body]


async def test_an_exception_of_a_grpc_handler_has_one_record() -> None:
    """So is the line of gRPC's core."""

    async def broken(_request: bytes, _context: object) -> bytes:
        raise ValueError("broken")

    telemetry = Instrumented(GrpcAioServerInstrumentor())
    telemetry.instrument()
    logs.install(telemetry.logger_provider)
    handlers: dict[str, Handler] = {"Pay": grpc.unary_unary_rpc_method_handler(broken)}
    server = grpc.aio.server()
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, handlers)])
    channel: Channel
    try:
        async with listening(server) as port, grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            with pytest.raises(grpc.aio.AioRpcError):
                await channel.unary_unary(path("Pay"))(b"")
            await until(lambda: telemetry.ended(SpanKind.SERVER))
    finally:
        logs.uninstall()
        telemetry.close()

    assert _with_exception(telemetry) == ["rpc.server.call.exception"]
    assert len(telemetry.records()) == 2


def test_an_access_line_says_where_it_comes_from(caplog: pytest.LogCaptureFixture) -> None:
    """It names the function that logs it, without a look through the stack for it."""
    request = http_request(method="GET", scheme="http", path="/tea")
    with caplog.at_level(logging.INFO, access.LOGGER_NAME):
        access.http(request, HttpOutcome(status_code=200), 0.5, Context())
    (line,) = caplog.records

    assert line.getMessage() == "GET /tea 200 500.0 ms"
    assert (line.pathname, line.funcName, line.levelname) == (access.__file__, "_emit", "INFO")
    assert vars(line)["http.response.status_code"] == 200
    assert vars(line)[access.SECONDS] == 0.5


@pytest.mark.parametrize("created", [0.0, 1.0005, 1.9999994, 1.9999996, 1700000000.1235, 1700000000.9999999])
def test_text_lines_have_the_time_of_their_record(created: float) -> None:
    """To the millisecond, as `datetime` has it, however many lines there are in a second."""
    form = logs.formatter("text")
    expected = datetime.fromtimestamp(created).astimezone().strftime("%H:%M:%S.%f")[:-3]
    record = logging.makeLogRecord(vars(_record()) | {"created": created})

    assert [form.format(record).split(" ")[0] for _ in range(2)] == [expected] * 2
