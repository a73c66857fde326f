"""Captures: what users' tests see of their programs, and that nothing is left behind."""

import asyncio
import itertools
import json
import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import httpx
import pytest
from opentelemetry import trace
from opentelemetry._logs import _internal as logs_internal
from opentelemetry.metrics import _internal as metrics_internal
from recording import Recording
from rsketch_telemetry import _grpc_internals as internals
from rsketch_telemetry.grpc import GrpcAioClientInstrumentor, GrpcAioServerInstrumentor
from rsketch_telemetry.instrumentor_settings import InstrumentorSettings
from rsketch_telemetry.otlp.store import NotArrivedError
from rsketch_telemetry.sanic import SanicInstrumentor
from rsketch_telemetry.testing import _routing, capture
from sanic import Request, Sanic
from sanic.config import Config
from sanic.response import HTTPResponse, text
from till import SERVICE, listening, path

App = Sanic[Any, Any]
PLUGIN = "rsketch_telemetry.testing.plugin"
_numbers = itertools.count()
_log = logging.getLogger("shop")


def create_app() -> App:
    """Return an app with one route, which can be one of many in this process."""
    config = Config(env_prefix=None)
    config.update({"TOUCHUP": False, "MOTD": False, "AUTO_EXTEND": False})
    app: App = Sanic(f"captured-{next(_numbers)}", config=config, configure_logging=False)

    @app.get("/orders/<number:int>")
    async def order(request: Request, number: int) -> HTTPResponse:
        _log.warning("order %d", number)
        return text(str(10 // number))

    return app


@asynccontextmanager
async def serving(app: App | None = None) -> AsyncIterator[httpx.AsyncClient]:
    """Serve *app* on a free port, and yield a client of it."""
    app = app or create_app()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        try:
            server: Any = await app.create_server(sock=listener, access_log=False, return_asyncio_server=True)
            await server.startup()
            await server.before_start()
            await server.start_serving()
            await server.after_start()
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            try:
                async with httpx.AsyncClient(base_url=url, trust_env=False, headers={"connection": "close"}) as client:
                    yield client
            finally:
                await server.close()
        finally:
            Sanic.unregister_app(app)


def till() -> grpc.aio.Server:
    """Return a gRPC server that echoes bytes."""

    async def echo(request: bytes, context: Any) -> bytes:
        return request

    server = grpc.aio.server()
    handler: Any = grpc.unary_unary_rpc_method_handler(echo)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"Echo": handler}),))
    return server


async def ring(port: int) -> bytes:
    """Call it."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call: Any = channel.unary_unary(path("Echo"))
        return bytes(await call(b"ding"))


def world() -> list[object]:
    """Return what a capture might leave changed."""
    return [
        # Sanic's own constructor writes there.
        {name: value for name, value in os.environ.items() if not name.startswith("SANIC_")},
        vars(Sanic)["handle_request"],
        vars(internals.SERVER)["__init__"],
        logging.Logger.callHandlers,
        trace._TRACER_PROVIDER,
        metrics_internal._METER_PROVIDER,
        logs_internal._LOGGER_PROVIDER,
        [each().is_instrumented_by_opentelemetry for each in (SanicInstrumentor, GrpcAioServerInstrumentor)],
        GrpcAioClientInstrumentor().is_instrumented_by_opentelemetry,
    ]


async def test_a_request_is_captured_as_plain_values_and_nothing_is_left() -> None:
    """Of a process that was never instrumented: span, point and log of a request; then all is as before."""
    before, threads = world(), set(threading.enumerate())

    with capture() as telemetry:
        async with serving() as client:
            answer = await client.get("/orders/5?token=hush")
            served = await telemetry.await_span("GET /orders/<number:int>")

    assert answer.text == "2"
    assert (served.kind, served.status, served.attributes["http.response.status_code"]) == ("SERVER", "UNSET", 200)
    assert served.attributes["url.query"] == "token=REDACTED"
    point = telemetry.point("http.server.request.duration", {"http.route": "/orders/<number:int>"})
    assert (point.unit, point.count) == ("s", 1)
    assert point.sum == pytest.approx((served.end_ns - served.start_ns) / 1e9)
    assert [(log.body, log.span_id) for log in telemetry.logs] == [("order 5", served.span_id)]
    assert world() == before
    assert not set(threading.enumerate()) - threads


async def test_both_sides_of_an_rpc_are_captured() -> None:
    """Client and server span are one trace, and each has its duration."""
    with capture() as telemetry:
        async with listening(till()) as port:
            assert await ring(port) == b"ding"
            server = await telemetry.await_span(path("Echo")[1:], kind="SERVER")
    client = telemetry.span(path("Echo")[1:], {"rpc.status_code": "OK"}, kind="CLIENT")

    assert (server.trace_id, server.parent_span_id) == (client.trace_id, client.span_id)
    assert telemetry.point("rpc.server.call.duration").count == telemetry.point("rpc.client.call.duration").count == 1


async def test_an_exception_is_captured_with_its_request() -> None:
    """By the time that the span is found, the one log record of the exception is there."""
    with capture() as telemetry:
        async with serving() as client:
            await client.get("/orders/0")
            served = await telemetry.await_span(kind="SERVER")

    (said,) = [log for log in telemetry.logs if log.event_name]
    assert (served.status, served.attributes["error.type"]) == ("ERROR", "ZeroDivisionError")
    assert (said.event_name, said.span_id) == ("http.server.request.exception", served.span_id)


@pytest.fixture
def recording() -> Iterator[Recording]:
    """Providers of the program's own, with which everything is instrumented."""
    seen = Recording()
    instrumentors = (SanicInstrumentor(), GrpcAioServerInstrumentor(), GrpcAioClientInstrumentor())
    for each in instrumentors:
        each.instrument(**seen.providers, settings=InstrumentorSettings())
    try:
        yield seen
    finally:
        for each in instrumentors:
            each.uninstrument()
        seen.close()


async def test_what_was_instrumented_before_is_diverted_and_given_back(recording: Recording) -> None:
    """Servers that were made before the block record into it for its time, and where they did afterwards."""
    before = world()
    async with serving() as client, listening(till()) as port:
        with capture() as telemetry:
            await client.get("/orders/1")
            await ring(port)
            await telemetry.await_span(kind="SERVER", attributes={"http.route": "/orders/<number:int>"})
            await telemetry.await_span(kind="SERVER", attributes={"rpc.status_code": "OK"})
        assert recording.ended(trace.SpanKind.SERVER) == []
        await client.get("/orders/2")
        await ring(port)
    after = {span.name for span in recording.ended(trace.SpanKind.SERVER)}

    assert len(telemetry.spans) == 3
    assert after == {"GET /orders/<number:int>", path("Echo")[1:]}
    assert world()[:-1] == before[:-1]


async def test_the_innermost_block_gets_what_happens() -> None:
    """A server that was started in the outer block records into the inner one while that is open."""
    with capture() as outer:
        async with serving() as client:
            await client.get("/orders/1")
            await outer.await_span()
            with capture() as inner:
                await client.get("/orders/2")
                await inner.await_span()
            await client.get("/orders/3")
            await outer.await_span(attributes={"url.path": "/orders/3"})

    assert [span.attributes["url.path"] for span in outer.spans] == ["/orders/1", "/orders/3"]
    assert [span.attributes["url.path"] for span in inner.spans] == ["/orders/2"]
    assert inner.point("http.server.request.duration").count == 1


async def test_blocks_side_by_side_do_not_mix() -> None:
    """Of several tasks each sees its own server's requests, logs and RPCs, and no others."""

    async def visit(number: int) -> None:
        with capture() as telemetry:
            async with serving() as client, listening(till()) as port:
                both_open.release()
                await all_open.wait()
                await client.get(f"/orders/{number}")
                await ring(port)
                await telemetry.await_span(attributes={"rpc.status_code": "OK"}, kind="SERVER")
        assert [log.body for log in telemetry.logs] == [f"order {number}"]
        assert sorted(span.kind for span in telemetry.spans) == ["CLIENT", "SERVER", "SERVER"]
        assert telemetry.span(attributes={"url.path": f"/orders/{number}"}).status == "UNSET"

    before = world()
    both_open, all_open = asyncio.Semaphore(0), asyncio.Event()
    visits = [asyncio.create_task(visit(number)) for number in (1, 2, 3)]
    for _ in visits:
        await asyncio.wait_for(both_open.acquire(), 10)
    all_open.set()
    await asyncio.gather(*visits)

    assert world()[:-1] == before[:-1]


def test_a_test_without_a_loop_waits_for_a_server_in_a_thread() -> None:
    """`wait_span` returns the span with its metric and its log record, which are recorded in another thread."""

    async def serve() -> None:
        async with serving() as client:
            await client.get("/orders/0")
            await asyncio.to_thread(done.wait, 10)

    done = threading.Event()
    with capture() as telemetry:
        thread = threading.Thread(target=lambda: asyncio.run(serve()))
        thread.start()
        try:
            served = telemetry.wait_span("GET /orders/<number:int>", timeout_seconds=10)
            point = telemetry.point("http.server.request.duration")
            said = [log.span_id for log in telemetry.logs if log.event_name]
        finally:
            done.set()
            thread.join()

    assert point.exemplars[0].span_id == served.span_id
    assert said == [served.span_id]


async def test_a_span_that_has_not_ended_is_awaited() -> None:
    """While the handler is at work there is none; it is found as soon as it has ended."""
    app, gate = create_app(), asyncio.Event()

    @app.get("/late")
    async def late(request: Request) -> HTTPResponse:
        await gate.wait()
        return text("late")

    with capture() as telemetry:
        async with serving(app) as client:
            answer = asyncio.create_task(client.get("/late"))
            with pytest.raises(NotArrivedError):
                await telemetry.await_span(timeout_seconds=0.1)
            gate.set()
            served = await telemetry.await_span("GET /late")

    assert (await answer).text == "late"
    assert served.attributes["http.response.status_code"] == 200


async def test_what_does_not_come_is_said_beside_what_did() -> None:
    """The error of a wait, and of a look at what is there, names what was asked for and lists what was captured."""
    with capture() as telemetry:
        async with serving() as client:
            await client.get("/orders/1")
            await telemetry.await_span()
            with pytest.raises(NotArrivedError) as late:
                await telemetry.await_span("GET /order", {"http.response.status_code": 404}, timeout_seconds=0.05)
            with pytest.raises(NotArrivedError) as absent:
                telemetry.span(kind="CLIENT")
            await client.get("/orders/2")
            await telemetry.await_span(attributes={"url.path": "/orders/2"})

    assert "no span 'GET /order' with {'http.response.status_code': 404} has ended within 0.05 s" in str(late.value)
    assert "1 x SERVER 'GET /orders/<number:int>' UNSET" in str(late.value)
    assert "no CLIENT span; what was captured:" in str(absent.value)
    with pytest.raises(NotArrivedError, match="2 span"):
        telemetry.span()


async def test_points_can_be_read_again_and_again() -> None:
    """Each reading has every stream and its exemplars, also after the block."""
    with capture() as telemetry:
        async with serving() as client:
            await client.get("/orders/1")
            await telemetry.await_span()
        first, second = telemetry.points, telemetry.points

    assert first[0].exemplars
    assert first[0].exemplars == second[0].exemplars == telemetry.points[0].exemplars
    assert len(first) == len(second) == len(telemetry.points) == 1


async def test_own_spans_counters_and_records_go_to_the_providers_that_are_given() -> None:
    """A program that takes its providers is captured with what it records itself."""
    with capture() as telemetry:
        tracer = telemetry.tracer_provider.get_tracer("shop")
        with tracer.start_as_current_span("price", attributes={"lines": 2}):
            telemetry.meter_provider.get_meter("shop").create_counter("orders", unit="{order}").add(3)
            _log.error("sold out")

    priced = telemetry.span("price", {"lines": 2})
    assert (priced.kind, priced.scope.name) == ("INTERNAL", "shop")
    assert (telemetry.point("orders").value, telemetry.point("orders").unit) == (3, "{order}")
    assert [(log.body, log.severity_text, log.span_id) for log in telemetry.logs] == [
        ("sold out", "ERROR", priced.span_id)
    ]


async def test_what_otlp_cannot_hold_fails_no_program() -> None:
    """A span that cannot be encoded is named in the summary, and the program never knows."""
    with capture() as telemetry:
        telemetry.tracer_provider.get_tracer("shop").start_span("odd \ud800").end()

    assert telemetry.spans == []
    assert "not readable" in telemetry.summary()


def test_a_metric_that_otlp_cannot_hold_costs_no_other() -> None:
    """It is named in the summary, the other metrics are there, and the block leaves nothing behind."""
    with capture() as telemetry:
        meter = telemetry.meter_provider.get_meter("shop")
        meter.create_counter("stars").add(2**70)
        meter.create_counter("orders").add(1)

    assert [point.name for point in telemetry.points] == ["orders"]
    assert telemetry.summary().count("not readable") == 1
    assert "stars" in telemetry.summary()
    assert _routing._open == ()


async def test_a_switch_for_the_process_does_not_blind_a_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    """`OTEL_SDK_DISABLED` and broken limits in the environment of a test run change nothing of it."""
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    monkeypatch.setenv("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "many")
    with capture() as telemetry:
        async with serving() as client:
            await client.get("/orders/1")
            await telemetry.await_span()

    assert os.environ["OTEL_SDK_DISABLED"] == "true"
    assert len(telemetry.spans) == 1


async def test_what_is_captured_can_be_checked() -> None:
    """Ours conforms; a span of the program's that does not is named with the rule that it breaks."""
    with capture() as telemetry:
        async with serving() as client, listening(till()) as port:
            await client.get("/orders/0")
            await ring(port)
            await telemetry.await_span(attributes={"rpc.status_code": "OK"}, kind="SERVER")
    telemetry.assert_conformant()

    with capture() as odd:
        odd.tracer_provider.get_tracer("shop").start_span("GET", attributes={"http.method": "GET"}).end()
    with pytest.raises(AssertionError, match=r"http\.method"):
        odd.assert_conformant()
    odd.assert_conformant(scope="rsketch_telemetry")


async def test_a_program_may_instrument_itself_inside_the_block() -> None:
    """Nothing is recorded twice for it, and nothing is instrumented after the block."""
    before = world()
    with capture() as telemetry:
        SanicInstrumentor().instrument()
        async with serving() as client:
            await client.get("/orders/1")
            await telemetry.await_span()
        SanicInstrumentor().uninstrument()

    assert len(telemetry.spans) == 1
    assert world() == before


async def test_settings_hold_for_the_block() -> None:
    """What is given is what instrumentors go by that were off before."""
    settings = InstrumentorSettings(allowed_query_keys=frozenset({"page"}))
    with capture(settings) as telemetry:
        async with serving() as client:
            await client.get("/orders/1?page=2&token=hush")
            served = await telemetry.await_span()

    assert served.attributes["url.query"] == "page=2&token=REDACTED"


@contextmanager
def opened_elsewhere() -> Iterator[None]:
    """Begin and end a generator of pytest's kind in contexts of their own."""
    from contextvars import copy_context

    inner = capture()
    copy_context().run(inner.__enter__)
    try:
        yield
    finally:
        copy_context().run(inner.__exit__, None, None, None)


async def test_a_block_may_end_in_another_context_than_it_began_in() -> None:
    """Fixtures do so, and leave nothing behind either."""
    before = world()
    with opened_elsewhere():
        async with serving() as client:
            await client.get("/orders/1")

    assert world() == before


def test_the_plugin_loads_nothing_heavy() -> None:
    """Pytest imports it in every run: neither SDK nor Sanic nor gRPC come with it."""
    program = f"import json, sys, {PLUGIN}; print(json.dumps(sorted(sys.modules)))"
    said = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=True)

    loaded = {name for name in json.loads(said.stdout) if name.startswith(("grpc", "opentelemetry.sdk", "sanic"))}
    assert loaded == set()


USERS_SETTINGS = """
[pytest]
asyncio_mode = auto
asyncio_default_fixture_loop_scope = function
filterwarnings = error
"""
USERS_CONFTEST = """
import pytest
import rsketch_telemetry


@pytest.fixture(scope="session", autouse=True)
def configured():
    silent = {f"OTEL_{signal}_EXPORTER": "none" for signal in ("TRACES", "METRICS", "LOGS")}
    return rsketch_telemetry.configure(silent | {"OTEL_SERVICE_NAME": "shop"})
"""
USERS_TESTS = """
import asyncio
import logging

import grpc
import grpc.aio
import pytest
from opentelemetry import _logs, metrics, trace

tracer = trace.get_tracer("shop")
counter = metrics.get_meter("shop").create_counter("orders")


async def order(request, context):
    with tracer.start_as_current_span("price"):
        counter.add(2)
        logging.getLogger("shop").warning("sold")
        _logs.get_logger("shop").emit(_logs.LogRecord(event_name="shop.sold"))
    return request


async def call():
    server = grpc.aio.server()
    handlers = {"Order": grpc.unary_unary_rpc_method_handler(order)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("Shop", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        await channel.unary_unary("/Shop/Order")(b"")
    await server.stop(None)


@pytest.mark.parametrize("turn", [1, 2])
async def test_own_spans_are_below_the_call(telemetry, turn):
    await call()
    served = await telemetry.await_span("Shop/Order", kind="SERVER")
    priced = telemetry.span("price")
    assert (priced.trace_id, priced.parent_span_id) == (served.trace_id, served.span_id)
    assert priced.resource.attributes["service.name"] == "shop"
    assert telemetry.point("orders").value == 2
    assert telemetry.point("rpc.server.call.duration").count == 1
    assert sorted(log.body or log.event_name for log in telemetry.logs) == ["shop.sold", "sold"]
    assert {log.span_id for log in telemetry.logs} == {priced.span_id}


def test_a_loop_of_ones_own(telemetry):
    asyncio.run(call())
    assert telemetry.wait_span(kind="SERVER").name == "Shop/Order"


def test_nothing_is_left():
    provider = trace.get_tracer_provider()
    kinds = {type(each).__module__ for each in provider._active_span_processor._span_processors}
    assert not [kind for kind in kinds if kind.startswith("rsketch_telemetry.testing")]
    with tracer.start_as_current_span("alone"):
        counter.add(1)
"""


def test_the_fixture_serves_users_tests(tmp_path: Path) -> None:
    """A stranger's suite, with warnings as errors, captures calls and, by configured providers, its own items."""
    (tmp_path / "conftest.py").write_text(USERS_CONFTEST)
    (tmp_path / "test_shop.py").write_text(USERS_TESTS)
    (tmp_path / "pytest.ini").write_text(USERS_SETTINGS)
    published = any(each.value == PLUGIN for each in entry_points(group="pytest11"))
    loading = [] if published else ["-p", PLUGIN]
    command = [sys.executable, "-m", "pytest", "-q", *loading, "-p", "no:cacheprovider", str(tmp_path)]
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "PYTEST_"))}
    ended = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environ, timeout=60)

    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "4 passed" in ended.stdout
