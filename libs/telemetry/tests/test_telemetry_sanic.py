"""The Sanic instrumentor, against real servers and sockets."""

import asyncio
import itertools
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from http import HTTPStatus
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import httpx
import pytest
import sanic
import websockets
from opentelemetry import baggage, trace
from opentelemetry.context import Context
from opentelemetry.instrumentation.sanic import SanicInstrumentor as OtherInstrumentor
from opentelemetry.sdk.metrics.export import HistogramDataPoint
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.trace import SpanKind, StatusCode
from recording import Instrumented, attributes, seconds_of, until
from rsketch_telemetry import semconv
from rsketch_telemetry.instrumentor_settings import InstrumentorSettings
from rsketch_telemetry.sanic import SanicInstrumentor
from sanic import Request, Sanic, Websocket
from sanic.config import Config
from sanic.handlers import ErrorHandler
from sanic.response import HTTPResponse, ResponseStream, empty, file_stream, text
from sanic.touchup import TouchUp

App = Sanic[Any, Any]

_numbers = itertools.count()
_PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Telemetry(Instrumented[SanicInstrumentor]):
    """Providers of one test, and what they have seen of its requests."""

    point: HistogramDataPoint

    def __init__(self) -> None:
        super().__init__(SanicInstrumentor())

    @property
    def servers(self) -> list[ReadableSpan]:
        """The SERVER spans that have ended."""
        return self.ended(SpanKind.SERVER)

    async def server(self) -> ReadableSpan:
        """Wait for the one SERVER span and check that metric and span say the same."""
        await until(lambda: bool(self.servers))
        (span,) = self.servers
        (point,) = self.points()
        self.point = point
        assert point.count == 1
        assert point.sum == pytest.approx(seconds_of(span), abs=1e-6)
        for name in (semconv.ERROR_TYPE, semconv.HTTP_RESPONSE_STATUS_CODE, semconv.HTTP_ROUTE):
            assert attributes(point).get(name) == attributes(span).get(name)
        assert (semconv.ERROR_TYPE in attributes(span)) is (span.status.status_code is StatusCode.ERROR)
        assert not span.events
        return span

    def points(self) -> list[HistogramDataPoint]:
        """Collect, and return the points of the one metric there is."""
        (metric,) = self.collected()
        assert metric.name == semconv.HTTP_SERVER_DURATION
        assert metric.unit == "s"
        return list(metric.data.data_points)  # type: ignore[arg-type]  # it is a histogram

    @property
    def silent(self) -> bool:
        """Whether there is neither span, metric nor log record."""
        return not (self.spans.get_finished_spans() or self.collected() or self.records())

    def exceptions(self) -> list[tuple[str | None, Any, int]]:
        """Return event name, exception type and span of each exception record."""
        return [
            (record.event_name, attributes(record)[semconv.EXCEPTION_TYPE], record.span_id or 0)
            for record in self.records()
        ]


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    """Providers that nothing is connected to yet."""
    seen = Telemetry()
    try:
        yield seen
    finally:
        seen.close()


@pytest.fixture
def instrumented(telemetry: Telemetry) -> Telemetry:
    """Sanic instrumented with the default settings."""
    telemetry.instrument()
    return telemetry


def span_id(span: ReadableSpan) -> int:
    """Return a span's id."""
    context = span.get_span_context()
    assert context is not None
    return context.span_id


def create_app(**settings: Any) -> App:
    """Return an app that can be one of many in this process."""
    config = Config(env_prefix=None)
    # TouchUp recompiles methods for the one app of a process; with a second app in it, it fails.
    config.update({"TOUCHUP": False, "MOTD": False, "AUTO_EXTEND": False, **settings})
    app: App = Sanic(f"test-{next(_numbers)}", config=config, configure_logging=False)
    # Sanic refuses to start without any.
    app.add_route(_ok, "/other")
    return app


async def _ok(request: Request) -> HTTPResponse:
    return text("ok")


@asynccontextmanager
async def serving(app: App) -> AsyncIterator[int]:
    """Serve *app* on a free port, which is yielded."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        try:
            server: Any = await app.create_server(
                sock=listening,
                access_log=False,
                return_asyncio_server=True,
                asyncio_server_kwargs={"start_serving": False},
            )
            await server.startup()
            await server.before_start()
            await server.start_serving()
            await server.after_start()
            try:
                yield listening.getsockname()[1]
            finally:
                closed = server.close()
                for connection in tuple(server.connections):
                    connection.abort()
                await closed
        finally:
            Sanic.unregister_app(app)


async def fetch(app: App, target: str, method: str = "GET", **how: Any) -> httpx.Response:
    """Serve *app* for one request."""
    async with serving(app) as port, httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        return await client.request(method, target, **how)


async def send(port: int, head: bytes) -> bytes:
    """Send raw bytes and return what comes until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(head)
        return await asyncio.wait_for(reader.read(), 10)
    finally:
        writer.close()
        await writer.wait_closed()


async def test_a_request_has_one_span_and_one_duration(instrumented: Telemetry) -> None:
    """A routed request is named by its template and carries what the conventions ask for."""
    app = create_app()

    @app.get("/users/<number:int>")
    async def user(request: Request, number: int) -> HTTPResponse:
        return text(str(number))

    async with serving(app) as port, httpx.AsyncClient() as client:
        answer = await client.get(f"http://127.0.0.1:{port}/users/7?token=hush&page=2", headers={"user-agent": "tests"})
        span = await instrumented.server()
    point = instrumented.point
    assert answer.text == "7"
    assert span.name == "GET /users/<number:int>"
    assert span.parent is None
    assert span.status.status_code is StatusCode.UNSET
    peer_port = attributes(span).pop(semconv.NETWORK_PEER_PORT)
    assert isinstance(peer_port, int)
    assert attributes(span) == {
        "http.request.method": "GET",
        "http.response.status_code": 200,
        "http.route": "/users/<number:int>",
        "url.path": "/users/7",
        "url.query": "token=REDACTED&page=REDACTED",
        "url.scheme": "http",
        "server.address": "127.0.0.1",
        "server.port": port,
        "client.address": "127.0.0.1",
        "network.peer.address": "127.0.0.1",
        "network.peer.port": peer_port,
        "network.protocol.version": "1.1",
        "user_agent.original": "tests",
    }
    assert attributes(point) == {
        "http.request.method": "GET",
        "http.response.status_code": 200,
        "http.route": "/users/<number:int>",
        "url.scheme": "http",
        "network.protocol.version": "1.1",
    }
    assert tuple(point.explicit_bounds) == semconv.DURATION_BUCKETS
    assert [exemplar.span_id for exemplar in point.exemplars] == [span_id(span)]
    assert span.instrumentation_scope is not None
    assert span.instrumentation_scope.name == "rsketch_telemetry.sanic"
    assert span.instrumentation_scope.schema_url == semconv.SCHEMA_URL


@pytest.mark.parametrize("method", ["HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
async def test_methods(instrumented: Telemetry, method: str) -> None:
    """Every method is named, with and without a body."""
    app = create_app()

    @app.route("/things", methods=[method])
    async def things(request: Request) -> HTTPResponse:
        return text(str(len(request.body)), status=201)

    answer = await fetch(app, "/things", method, content=b"x" * 200_000 if method in {"POST", "PUT"} else None)
    span = await instrumented.server()

    assert answer.status_code == 201
    assert span.name == f"{method} /things"
    assert attributes(span)["http.response.status_code"] == 201


async def _responded(request: Request, _: Path) -> HTTPResponse | ResponseStream | None:
    response = await request.respond(content_type="text/plain")
    for _chunk in range(4):
        await response.send("x" * 1000)
        await asyncio.sleep(0.05)
    return None


async def _ended(request: Request, _: Path) -> HTTPResponse | ResponseStream | None:
    response = await request.respond()
    await response.send("x" * 4000)
    await asyncio.sleep(0.2)
    await response.eof()
    return None


async def _streamed(request: Request, _: Path) -> HTTPResponse | ResponseStream | None:
    async def write(response: Any) -> None:
        await response.write("x" * 4000)
        await asyncio.sleep(0.2)

    return ResponseStream(write)


async def _file(request: Request, path: Path) -> HTTPResponse | ResponseStream | None:
    await asyncio.sleep(0.2)
    return await file_stream(path, chunk_size=100)


@pytest.mark.parametrize("respond", [_responded, _ended, _streamed, _file])
async def test_a_streamed_response_counts_to_its_last_byte(
    instrumented: Telemetry, tmp_path: Path, respond: Callable[[Request, Path], Awaitable[HTTPResponse | None]]
) -> None:
    """The span of a streamed response ends with the stream."""
    path = tmp_path / "file.txt"
    path.write_text("x" * 4000)
    app = create_app()

    @app.get("/stream")
    async def stream(request: Request) -> HTTPResponse | None:
        return await respond(request, path)

    answer = await fetch(app, "/stream")
    await instrumented.server()

    assert answer.text == "x" * 4000
    point = instrumented.point
    assert point.sum >= 0.2
    assert attributes(point)["http.response.status_code"] == 200
    assert semconv.ERROR_TYPE not in attributes(point)


async def test_a_path_without_a_route_is_not_in_the_name(instrumented: Telemetry) -> None:
    """A 404 has no route, is no error, and its path names neither span nor metric."""
    answer = await fetch(create_app(), "/nothing/here")
    span = await instrumented.server()

    assert answer.status_code == 404
    assert span.name == "GET"
    assert span.status.status_code is StatusCode.UNSET
    assert semconv.HTTP_ROUTE not in attributes(span)
    assert attributes(span)["http.response.status_code"] == 404
    assert not instrumented.exceptions()


async def test_a_method_that_the_route_does_not_take_keeps_the_route(instrumented: Telemetry) -> None:
    """A 405 matched a template, so it has that as its route."""
    app = create_app()

    @app.get("/users/<number:int>")
    async def user(request: Request, number: int) -> HTTPResponse:
        return empty()

    answer = await fetch(app, "/users/7", "POST")
    span = await instrumented.server()

    assert answer.status_code == 405
    assert span.name == "POST /users/<number:int>"
    assert attributes(span)["http.route"] == "/users/<number:int>"
    assert not instrumented.exceptions()


async def test_an_unhandled_exception_is_recorded_once(instrumented: Telemetry) -> None:
    """What nobody handles is a 500 with the exception's class as error.type and one log record in the span."""
    app = create_app()

    @app.get("/boom")
    async def boom(request: Request) -> HTTPResponse:
        raise ValueError("boom")

    answer = await fetch(app, "/boom")
    span = await instrumented.server()

    assert answer.status_code == 500
    assert span.status.status_code is StatusCode.ERROR
    assert attributes(span)["error.type"] == "ValueError"
    assert attributes(span)["http.response.status_code"] == 500
    assert instrumented.exceptions() == [("http.server.request.exception", "ValueError", span_id(span))]


async def test_an_exception_that_the_application_answers_has_its_status(instrumented: Telemetry) -> None:
    """What an exception handler turns into a 4xx is no error."""
    app = create_app()

    @app.exception(LookupError)
    async def gone(request: Request, error: LookupError) -> HTTPResponse:
        return text("gone", status=410)

    @app.get("/")
    async def root(request: Request) -> HTTPResponse:
        raise KeyError("x")

    answer = await fetch(app, "/")
    span = await instrumented.server()

    assert answer.status_code == 410
    assert attributes(span)["http.response.status_code"] == 410
    assert span.status.status_code is StatusCode.UNSET
    assert not instrumented.exceptions()


async def test_a_catch_all_handler_does_not_hide_the_exception(instrumented: Telemetry) -> None:
    """An exception that an exception handler only renders, as a 5xx, is still what went wrong."""
    app = create_app()

    @app.exception(Exception)
    async def render(request: Request, error: Exception) -> HTTPResponse:
        return text("sorry", status=503)

    @app.get("/")
    async def root(request: Request) -> HTTPResponse:
        raise RuntimeError("x")

    await fetch(app, "/")
    span = await instrumented.server()

    assert attributes(span)["http.response.status_code"] == 503
    assert attributes(span)["error.type"] == "RuntimeError"
    assert len(instrumented.exceptions()) == 1


@pytest.mark.parametrize(
    ("error", "status", "name"),
    [
        (sanic.NotFound("x"), 404, None),
        (sanic.BadRequest("x"), 400, None),
        (sanic.SanicException("x", status_code=418), 418, None),
        (sanic.ServerError("x"), 500, "sanic.exceptions.ServerError"),
        (sanic.SanicException("x", status_code=503), 503, "sanic.exceptions.SanicException"),
        (asyncio.CancelledError(), 500, "asyncio.exceptions.CancelledError"),
    ],
)
async def test_sanic_exceptions(instrumented: Telemetry, error: BaseException, status: int, name: str | None) -> None:
    """An exception that says a 4xx is an answer; one that says a 5xx is an error."""
    app = create_app()

    @app.get("/")
    async def root(request: Request) -> HTTPResponse:
        raise error

    answer = await fetch(app, "/")
    span = await instrumented.server()

    assert answer.status_code == status
    assert attributes(span)["http.response.status_code"] == status
    assert attributes(span).get("error.type") == name
    assert [kind for _, kind, _ in instrumented.exceptions()] == ([name] if name else [])


async def test_a_body_over_the_limit(instrumented: Telemetry) -> None:
    """An upload that Sanic refuses is the client's error, on the route that it was for."""
    app = create_app(REQUEST_MAX_SIZE=10_000)
    app.add_route(_ok, "/uploads", methods=["POST"], name="upload")

    async def body() -> AsyncIterator[bytes]:
        yield b"x" * 20_000

    answer = await fetch(app, "/uploads", "POST", content=body())
    span = await instrumented.server()

    assert answer.status_code == 413
    assert span.name == "POST /uploads"
    assert attributes(span)["http.response.status_code"] == 413
    assert span.status.status_code is StatusCode.UNSET


async def test_a_5xx_without_an_exception_names_its_status(instrumented: Telemetry) -> None:
    """A 5xx that the handler returns has the status code as error.type."""
    app = create_app()

    @app.get("/")
    async def root(request: Request) -> HTTPResponse:
        return text("later", status=HTTPStatus.SERVICE_UNAVAILABLE)

    await fetch(app, "/")
    span = await instrumented.server()

    assert attributes(span)["error.type"] == "503"
    assert not instrumented.exceptions()


async def test_an_early_answer_of_a_middleware_has_the_route(instrumented: Telemetry) -> None:
    """A request that a middleware answers was routed before."""
    app = create_app()

    @app.on_request
    async def refuse(request: Request) -> HTTPResponse:
        return text("who are you?", status=401)

    @app.get("/secrets/<name:str>")
    async def secret(request: Request, name: str) -> HTTPResponse:
        return empty()

    answer = await fetch(app, "/secrets/x")
    span = await instrumented.server()

    assert answer.status_code == 401
    assert span.name == "GET /secrets/<name:str>"
    assert attributes(span)["http.response.status_code"] == 401


async def test_the_status_is_the_one_sent(instrumented: Telemetry) -> None:
    """A response that a middleware puts in the place of the handler's counts."""
    app = create_app()

    @app.on_response  # type: ignore[untyped-decorator]  # by Sanic
    async def replace(request: Request, response: HTTPResponse) -> HTTPResponse:
        return text("moved", status=308)

    @app.get("/")
    async def root(request: Request) -> HTTPResponse:
        return text("here")

    answer = await fetch(app, "/")

    assert answer.status_code == 308
    assert attributes(await instrumented.server())["http.response.status_code"] == 308


async def test_an_exception_after_the_first_byte(instrumented: Telemetry) -> None:
    """A response that breaks off is an error, though its status says 200."""
    app = create_app()

    @app.get("/stream")
    async def stream(request: Request) -> None:
        response = await request.respond()
        await response.send("first")
        raise ValueError("broken")

    await fetch(app, "/stream")
    span = await instrumented.server()

    assert attributes(span)["http.response.status_code"] == 200
    assert attributes(span)["error.type"] == "ValueError"
    assert len(instrumented.exceptions()) == 1


async def _wait(request: Request) -> HTTPResponse:
    await asyncio.sleep(30)
    return empty()


async def _stream_for_ever(request: Request) -> HTTPResponse:
    response = await request.respond()
    while True:
        await response.send("x" * 1000)
        await asyncio.sleep(0.01)


@pytest.mark.parametrize(("handler", "status"), [(_wait, None), (_stream_for_ever, 200)])
async def test_a_leaving_client_is_not_a_500(
    instrumented: Telemetry, handler: Callable[[Request], Awaitable[HTTPResponse]], status: int | None
) -> None:
    """Who leaves before the end gets no invented status; the handler is cancelled as ever."""
    app = create_app()
    cancelled = asyncio.Event()
    started = asyncio.Event()

    @app.get("/slow")
    async def slow(request: Request) -> HTTPResponse:
        started.set()
        try:
            return await handler(request)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async with serving(app) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        await started.wait()
        if status:
            await reader.readuntil(b"x" * 1000)
        writer.close()
        await asyncio.wait_for(cancelled.wait(), 10)
        span = await instrumented.server()

    assert attributes(span).get("http.response.status_code") == status
    assert attributes(span)["http.route"] == "/slow"
    assert attributes(span)["error.type"] == "client_disconnected"
    assert not instrumented.exceptions()


async def test_a_timeout_has_the_status_that_the_server_sends_for_it(instrumented: Telemetry) -> None:
    """A request over Sanic's response timeout is the 503 that its client sees."""
    app = create_app(RESPONSE_TIMEOUT=0.2)

    @app.get("/slow")
    async def slow(request: Request) -> HTTPResponse:
        return await _wait(request)

    answer = await fetch(app, "/slow")
    span = await instrumented.server()

    assert answer.status_code == 503
    assert attributes(span)["http.response.status_code"] == 503
    assert attributes(span)["error.type"] == "sanic.exceptions.ServiceUnavailable"
    assert attributes(span)["http.route"] == "/slow"


async def test_a_timeout_after_the_first_byte(instrumented: Telemetry) -> None:
    """A stream that Sanic's response timeout cuts says so."""
    app = create_app(RESPONSE_TIMEOUT=0.2)

    @app.get("/slow")
    async def slow(request: Request) -> HTTPResponse:
        response = await request.respond()
        await response.send("first")
        return await _wait(request)

    with suppress(httpx.RemoteProtocolError):
        await fetch(app, "/slow")
    span = await instrumented.server()

    assert attributes(span)["http.response.status_code"] == 200
    assert attributes(span)["error.type"] == "sanic.exceptions.ServiceUnavailable"


async def test_a_server_that_cuts_a_response_and_says_why(instrumented: Telemetry) -> None:
    """Where a connection is aborted with a reason kept beside it, that is the error and not a leaving client."""
    app = create_app()

    @app.get("/slow")
    async def slow(request: Request) -> HTTPResponse:
        response = await request.respond()
        await response.send("first")
        stream: Any = request.stream
        stream.exception = sanic.exceptions.ServiceUnavailable("the server stops")
        stream.protocol.transport.abort()
        return await _wait(request)

    with suppress(httpx.RemoteProtocolError, httpx.ReadError):
        await fetch(app, "/slow")
    span = await instrumented.server()

    assert attributes(span)["http.response.status_code"] == 200
    assert attributes(span)["error.type"] == "sanic.exceptions.ServiceUnavailable"


async def test_malformed_trace_context_costs_no_record_and_few_lines(
    instrumented: Telemetry, caplog: pytest.LogCaptureFixture
) -> None:
    """A request is recorded below a good parent whatever comes beside it, and the log is not the caller's to fill."""
    junk = (
        b"baggage: \xff\xfe=\xff," + b"hush," * 100 + b"\r\n"
        b"tracestate: \xff\r\n"
        b"traceparent: " + _PARENT.encode() + b"\r\n"
    )
    async with serving(create_app()) as port:
        for _ in range(3):
            await send(port, b"GET /other HTTP/1.1\r\nhost: x\r\nconnection: close\r\n" + junk + b"\r\n")
        await until(lambda: len(instrumented.servers) == 3)

    assert {format(span.parent.span_id, "016x") for span in instrumented.servers if span.parent} == {_PARENT[36:52]}
    assert len(caplog.records) <= 1
    assert "hush" not in caplog.text


async def test_a_propagator_that_fails_costs_the_parent_only(telemetry: Telemetry) -> None:
    """The request is recorded as a root."""

    def extract(*_: object) -> Context:
        raise ValueError("broken")

    telemetry.instrument()
    hooks = telemetry.instrumentor._hooks
    assert hooks is not None
    hooks._extract = extract
    await fetch(create_app(), "/other", headers={"traceparent": _PARENT})
    span = await telemetry.server()

    assert span.parent is None


async def test_a_server_that_aborts_does_not_blame_the_client(instrumented: Telemetry) -> None:
    """Closing a server under a request cancels it, which is no leaving client."""
    app = create_app()
    started = asyncio.Event()

    @app.get("/slow")
    async def slow(request: Request) -> HTTPResponse:
        started.set()
        return await _wait(request)

    async with serving(app) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        await started.wait()
    writer.close()
    span = await instrumented.server()

    assert attributes(span)["error.type"] == "asyncio.exceptions.CancelledError"
    assert semconv.HTTP_RESPONSE_STATUS_CODE not in attributes(span)


async def test_the_callers_trace_goes_on_in_the_handler(instrumented: Telemetry) -> None:
    """Parent, trace state and baggage come from the headers, and what the handler records is a child."""
    app = create_app()
    tracer = instrumented.tracer_provider.get_tracer("user")
    seen: list[tuple[object, object]] = []
    tasks: list[asyncio.Task[None]] = []

    async def later() -> None:
        with tracer.start_as_current_span("background"):
            pass

    @app.get("/")
    async def root(request: Request) -> HTTPResponse:
        with tracer.start_as_current_span("work"):
            seen.append((baggage.get_baggage("a"), baggage.get_baggage("b")))
        tasks.append(asyncio.create_task(later()))
        return text("ok")

    headers = [
        ("traceparent", _PARENT),
        ("tracestate", "one=1"),
        ("tracestate", "two=2"),
        ("baggage", "a=1"),
        ("baggage", "b=2"),
    ]
    async with serving(app) as port, httpx.AsyncClient() as client:
        await client.get(f"http://127.0.0.1:{port}/", headers=headers)
        await until(lambda: len(instrumented.spans.get_finished_spans()) == 3)
    server = await instrumented.server()
    children = [span for span in instrumented.spans.get_finished_spans() if span is not server]

    assert server.parent is not None
    assert trace.format_trace_id(server.parent.trace_id) == "0af7651916cd43dd8448eb211c80319c"
    assert server.parent.trace_state.to_header() == "one=1,two=2"
    assert {span.name for span in children} == {"work", "background"}
    assert all(span.parent is not None and span.parent.span_id == span_id(server) for span in children)
    assert seen == [("1", "2")]


async def test_pipelined_requests_do_not_mix(instrumented: Telemetry) -> None:
    """Each request of a connection is its own trace, and none inherits the span around the server's start."""
    app = create_app()

    @app.get("/<number:int>")
    async def root(request: Request, number: int) -> HTTPResponse:
        return text(str(trace.get_current_span().get_span_context().span_id))

    heads = b"".join(b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % number for number in range(5))
    with instrumented.tracer_provider.get_tracer("user").start_as_current_span("start"):
        async with serving(app) as port:
            raw = await send(port, heads + b"GET /9 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    spans = instrumented.servers

    assert re.findall(rb"\r\n\r\n(\d+)", raw) == [str(span_id(span)).encode() for span in spans]
    assert len({span.context.trace_id for span in spans if span.context}) == 6
    assert all(span.parent is None for span in spans)


async def test_concurrent_requests_do_not_mix(instrumented: Telemetry) -> None:
    """Requests that overlap in one loop keep their own contexts."""
    app = create_app()
    tracer = instrumented.tracer_provider.get_tracer("user")

    @app.get("/<number:int>")
    async def root(request: Request, number: int) -> HTTPResponse:
        await asyncio.sleep(0.001 * (number % 7))
        with tracer.start_as_current_span(f"work {number}"):
            await asyncio.sleep(0.001)
        return empty()

    async with serving(app) as port, httpx.AsyncClient() as client:
        await asyncio.gather(*(client.get(f"http://127.0.0.1:{port}/{number}") for number in range(50)))
    by_id = {span_id(span): span for span in instrumented.servers}
    children = [span for span in instrumented.spans.get_finished_spans() if span.kind is SpanKind.INTERNAL]

    assert len(by_id) == len(children) == 50
    for child in children:
        assert child.parent is not None
        assert attributes(by_id[child.parent.span_id])["url.path"] == f"/{child.name.split()[1]}"


async def test_hostile_requests_are_recorded_within_bounds(instrumented: Telemetry) -> None:
    """Methods, hosts and bytes that no standard knows neither break a request nor become labels."""
    app = create_app()
    head = (
        b"F\xffOO /" + b"x" * 3000 + b"?key=secret HTTP/1.1\r\nHost: [::1\r\nUser-Agent: \xff\xfe\r\n"
        b"traceparent: nonsense\r\nX-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: gopher\r\n"
        b"Upgrade: websocket\r\nConnection: close\r\n\r\n"
    )

    async with serving(app) as port:
        raw = await send(port, head)
    span = await instrumented.server()

    assert raw.startswith(b"HTTP/1.1 404")
    assert span.name == "HTTP"
    assert attributes(span)["http.request.method"] == "_OTHER"
    assert attributes(span)["http.request.method_original"] == "F?OO"
    assert attributes(span)["url.query"] == "key=REDACTED"
    assert attributes(span)["user_agent.original"] == "??"
    assert attributes(span)["client.address"] == "127.0.0.1"
    assert attributes(span)["url.scheme"] == "http"
    assert len(attributes(span)["url.path"]) == 1024
    assert semconv.SERVER_ADDRESS not in attributes(span)


async def test_forwarded_headers_count_where_sanic_trusts_them(instrumented: Telemetry) -> None:
    """Sanic's own setting for proxies decides who the client is."""
    headers = {
        "x-forwarded-for": "203.0.113.9, 198.51.100.7",
        "x-forwarded-proto": "https",
        "x-forwarded-host": "shop.example",
    }
    await fetch(create_app(PROXIES_COUNT=1), "/", headers=headers)
    span = await instrumented.server()

    assert attributes(span)["client.address"] == "198.51.100.7"
    assert attributes(span)["network.peer.address"] == "127.0.0.1"
    assert attributes(span)["url.scheme"] == "https"
    assert attributes(span)["server.address"] == "shop.example"
    assert attributes(span)["server.port"] == 443


async def test_reading_facts_leaves_the_request_as_it_was(instrumented: Telemetry) -> None:
    """A middleware that rewrites headers sees its own values afterwards."""
    app = create_app(PROXIES_COUNT=1)

    @app.on_request
    async def rewrite(request: Request) -> None:
        request.headers["x-forwarded-for"] = "192.0.2.1"

    @app.get("/")
    async def root(request: Request) -> HTTPResponse:
        return text(request.client_ip)

    answer = await fetch(app, "/", headers={"x-forwarded-for": "203.0.113.9"})

    assert answer.text == "192.0.2.1"


async def test_excluded_urls_have_no_telemetry(telemetry: Telemetry) -> None:
    """An excluded path has neither span nor metric nor exception record; the others have."""
    telemetry.instrument(InstrumentorSettings(excluded_urls=(re.compile("^/quiet"),)))
    app = create_app()

    @app.get("/quiet")
    async def quiet(request: Request) -> HTTPResponse:
        raise ValueError("quiet")

    answer = await fetch(app, "/quiet")
    assert answer.status_code == 500
    assert telemetry.silent

    await fetch(create_app(), "/loud")
    await telemetry.server()


async def test_settings_are_used(telemetry: Telemetry) -> None:
    """Known methods and allowed query keys come from the settings."""
    telemetry.instrument(
        InstrumentorSettings(known_methods=frozenset({"PROPFIND"}), allowed_query_keys=frozenset({"page"}))
    )
    await fetch(create_app(), "/?page=2&token=x", "PROPFIND")
    span = await telemetry.server()

    assert span.name == "PROPFIND"
    assert attributes(span)["url.query"] == "page=2&token=REDACTED"


async def test_settings_are_the_environment_s_by_default(telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Called from code without settings, the instrumentor heeds what the operator has set; given settings win."""
    monkeypatch.setenv("OTEL_PYTHON_SANIC_EXCLUDED_URLS", "^/quiet")
    monkeypatch.setenv("RSKETCH_TELEMETRY_QUERY_KEYS", "page")
    telemetry.instrument()
    await fetch(create_app(), "/quiet")
    assert telemetry.silent

    await fetch(create_app(), "/?page=2&token=x")
    span = await telemetry.server()
    assert attributes(span)["url.query"] == "page=2&token=REDACTED"

    telemetry.instrumentor.uninstrument()
    telemetry.instrument(InstrumentorSettings())
    await fetch(create_app(), "/quiet")
    await until(lambda: len(telemetry.servers) == 2)


async def test_an_app_that_serves_already(telemetry: Telemetry) -> None:
    """Instrumenting and its undoing reach a server that runs, and leave Sanic's classes as they were."""
    before = {
        (owner, name): vars(owner)[name]
        for owner, name in (
            (Sanic, "handle_request"),
            (Sanic, "handle_exception"),
            (ErrorHandler, "log"),
            (TouchUp, "run"),
        )
    }
    app = create_app()

    @app.get("/")
    async def root(request: Request) -> HTTPResponse:
        return text("ok")

    async with serving(app) as port:
        async with httpx.AsyncClient() as client:
            await client.get(f"http://127.0.0.1:{port}/")
            assert telemetry.silent
        telemetry.instrument()
        async with httpx.AsyncClient() as client:
            await client.get(f"http://127.0.0.1:{port}/")
            await telemetry.server()
            telemetry.instrumentor.uninstrument()
            # On the connection that was opened while Sanic was instrumented.
            assert (await client.get(f"http://127.0.0.1:{port}/")).text == "ok"
    await telemetry.server()

    assert before == {(owner, name): vars(owner)[name] for owner, name in before}


async def test_a_subclass_with_its_own_handling(instrumented: Telemetry) -> None:
    """An application class that overrides `handle_request` and calls its base is recorded once."""

    class Shop(Sanic):  # type: ignore[type-arg]  # as users write it
        async def handle_request(self, request: Request) -> None:
            await super().handle_request(request)

    config = Config(env_prefix=None)
    config.update({"TOUCHUP": False, "MOTD": False, "AUTO_EXTEND": False})
    app = Shop(f"test-{next(_numbers)}", config=config, configure_logging=False)
    app.add_route(_ok, "/")
    answer = await fetch(app, "/")
    await instrumented.server()

    assert answer.text == "ok"


async def test_ours_stands_down_for_one_that_is_on(telemetry: Telemetry, caplog: pytest.LogCaptureFixture) -> None:
    """Beside an instrumentor that has come first, ours records nothing and says so in one line."""
    other = OtherInstrumentor()
    other.instrument()
    try:
        with caplog.at_level(logging.WARNING, "rsketch_telemetry"):
            telemetry.instrument()
        answer = await fetch(create_app(), "/")
    finally:
        other.uninstrument()

    assert answer.status_code == 404
    assert telemetry.silent
    assert [record.getMessage() for record in caplog.records if record.name == "rsketch_telemetry"] == [
        "telemetry: SanicInstrumentor stands down: opentelemetry-instrumentation-sanic is active"
    ]


class _Broken(SpanProcessor):
    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        raise RuntimeError("a span processor that fails")


class _BrokenSettings(InstrumentorSettings):
    def excludes_url(self, path: str) -> bool:
        raise RuntimeError("settings that fail")


@pytest.mark.parametrize("settings", [None, _BrokenSettings()])
async def test_what_fails_in_telemetry_stays_there(
    telemetry: Telemetry, caplog: pytest.LogCaptureFixture, settings: InstrumentorSettings | None
) -> None:
    """A defect in telemetry changes no answer and is logged once."""
    telemetry.tracer_provider.add_span_processor(_Broken())
    telemetry.instrument(settings)
    app = create_app()

    @app.get("/")
    async def root(request: Request) -> HTTPResponse:
        return text("ok")

    with caplog.at_level(logging.WARNING, "rsketch_telemetry"):
        async with serving(app) as port, httpx.AsyncClient() as client:
            answers = [(await client.get(f"http://127.0.0.1:{port}/")).text for _ in range(3)]

    assert answers == ["ok"] * 3
    assert len([record for record in caplog.records if record.name == "rsketch_telemetry"]) == 1


async def test_a_websocket_is_one_span_from_upgrade_to_close(instrumented: Telemetry) -> None:
    """A websocket's span has status 101 and lasts as long as the connection."""
    app = create_app()
    tracer = instrumented.tracer_provider.get_tracer("user")

    @app.websocket("/feed/<name:str>")  # type: ignore[untyped-decorator]  # by Sanic
    async def feed(request: Request, ws: Websocket, name: str) -> None:
        with tracer.start_as_current_span("message"):
            await ws.send(str(await ws.recv()))
        await asyncio.sleep(0.2)

    async with serving(app) as port, websockets.connect(f"ws://127.0.0.1:{port}/feed/x") as client:
        await client.send("hello")
        assert await client.recv() == "hello"
        assert not instrumented.servers
        await client.wait_closed()
        span = await instrumented.server()
    point = instrumented.point
    child = next(found for found in instrumented.spans.get_finished_spans() if found.name == "message")

    assert span.name == "GET /feed/<name:str>"
    assert attributes(span)["http.response.status_code"] == 101
    assert attributes(span)["url.scheme"] == "http"
    assert span.status.status_code is StatusCode.UNSET
    assert point.sum >= 0.2
    assert child.parent is not None
    assert child.parent.span_id == span_id(span)


async def test_a_websocket_whose_handler_fails(instrumented: Telemetry) -> None:
    """What a websocket's handler raises is its error.type and one record."""
    app = create_app()

    @app.websocket("/feed")  # type: ignore[untyped-decorator]  # by Sanic
    async def feed(request: Request, ws: Websocket) -> None:
        raise ValueError("feed")

    async with serving(app) as port, websockets.connect(f"ws://127.0.0.1:{port}/feed") as client:
        await client.wait_closed()
        span = await instrumented.server()

    assert attributes(span)["http.response.status_code"] == 101
    assert attributes(span)["error.type"] == "ValueError"
    assert len(instrumented.exceptions()) == 1


async def test_a_websocket_route_without_upgrade(instrumented: Telemetry) -> None:
    """A plain request to a websocket's route has the status that it gets."""
    app = create_app()

    @app.websocket("/feed")  # type: ignore[untyped-decorator]  # by Sanic
    async def feed(request: Request, ws: Websocket) -> None: ...

    answer = await fetch(app, "/feed")
    span = await instrumented.server()

    assert attributes(span)["http.response.status_code"] == answer.status_code
    assert span.name == "GET /feed"


def test_the_entry_point_loads() -> None:
    """`opentelemetry-instrument` finds the instrumentor under its name."""
    (found,) = entry_points(group="opentelemetry_instrumentor", name="rsketch_sanic")

    assert found.load() is SanicInstrumentor


# The program of a child process: an application as strangers write it, whose spans go to the file named first.
_PROGRAM = """
import json, sys
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from rsketch_telemetry.sanic import SanicInstrumentor
from sanic import Sanic, text

TARGET, ORDER, PORT = "{target}", "{order}", {port}


class ToFile(SpanExporter):
    def export(self, spans):
        with open(TARGET, "a") as out:
            for span in spans:
                parent = span.parent and span.parent.span_id
                row = [span.kind.name, span.name, dict(span.attributes), parent, span.context.span_id]
                out.write(json.dumps(row) + "\\n")
        return SpanExportResult.SUCCESS


provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(ToFile()))
instrument = lambda: SanicInstrumentor().instrument(tracer_provider=provider)

if ORDER == "before":
    instrument()
app = Sanic("shop")
app.config.MOTD = False
app.config.ACCESS_LOG = False


async def background():
    provider.get_tracer("user").start_span("background").end()


@app.get("/orders/<number:int>")
async def order(request, number):
    request.app.add_task(background())
    return text(type(request.stream).__name__)


@app.get("/stream")
async def stream(request):
    response = await request.respond()
    await response.send("a")
    await response.send("b")


@app.get("/broken")
async def broken(request):
    raise ValueError("broken")


@app.get("/half")
async def half(request):
    response = await request.respond()
    await response.send("a")
    raise ValueError("half")


@app.on_response
async def mark(request, response):
    response.headers["x-touched"] = str(getattr(Sanic, "__touched__", False))


if ORDER == "after":
    instrument()
if ORDER == "started":
    @app.before_server_start
    async def late(app):
        instrument()
if __name__ == "__main__":
    app.run("127.0.0.1", PORT, {run})
"""


@contextmanager
def running(
    tmp_path: Path, order: str, run: str = "single_process=True", command: tuple[str, ...] = ("shop.py",)
) -> Iterator[tuple[int, Path]]:
    """Run the program in a child process until the block ends; yields its port and the file with its spans."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    target = tmp_path / "spans"
    (tmp_path / "shop.py").write_text(_PROGRAM.format(target=target, order=order, port=port, run=run))
    arguments = [sys.executable, *(part.format(port=port) for part in command)]
    with (tmp_path / "output").open("wb") as output:
        child = subprocess.Popen(
            arguments, cwd=tmp_path, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        _wait_for_port(port, child)
        yield port, target
    finally:
        _stop(child)


def _stop(child: "subprocess.Popen[bytes]") -> None:
    child.terminate()
    try:
        child.wait(10)
    except subprocess.TimeoutExpired:
        # Sanic's worker manager may miss the signal; its worker must not stay behind.
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def _wait_for_port(port: int, child: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and child.poll() is None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise AssertionError(f"no server on port {port}")


_ASGI = ("-m", "uvicorn", "shop:app", "--port", "{port}", "--log-level", "error")


@pytest.mark.parametrize(
    ("order", "run", "command", "stream", "touched"),
    [
        ("before", "single_process=True", ("shop.py",), "Http", "True"),
        ("after", "single_process=True", ("shop.py",), "Http", "True"),
        ("started", "single_process=True", ("shop.py",), "Http", "True"),
        ("before", "single_process=True, debug=True", ("shop.py",), "Http", "False"),
        ("before", "workers=1", ("shop.py",), "Http", "True"),
        ("before", "", _ASGI, "ASGIApp", "True"),
        ("after", "", _ASGI, "ASGIApp", "True"),
    ],
)
async def test_ways_to_serve(
    tmp_path: Path, order: str, run: str, command: tuple[str, ...], stream: str, touched: str
) -> None:
    """However an app is served, and whether it is recompiled at start or not, its requests are recorded once."""
    with running(tmp_path, order, run, command) as (port, target):
        async with httpx.AsyncClient() as client:
            base = f"http://127.0.0.1:{port}"
            found = await client.get(f"{base}/orders/7", headers={"traceparent": _PARENT})
            streamed = await client.get(f"{base}/stream")
            await client.get(f"{base}/broken")
            with suppress(httpx.RemoteProtocolError):
                await client.get(f"{base}/half")
            await client.get(f"{base}/nothing")
            await client.post(f"{base}/stream")
            await until(lambda: target.exists() and len(target.read_text().splitlines()) == 7)
    rows = [json.loads(line) for line in target.read_text().splitlines()]
    servers = [row for row in rows if row[0] == "SERVER"]
    (background,) = [row for row in rows if row[0] == "INTERNAL"]
    seen = [(name, said.get("http.response.status_code"), said.get("error.type")) for _, name, said, *_ in servers]

    assert found.text == stream
    assert found.headers["x-touched"] == touched
    assert streamed.text == "ab"
    assert seen == [
        ("GET /orders/<number:int>", 200, None),
        ("GET /stream", 200, None),
        ("GET /broken", 500, "ValueError"),
        ("GET /half", 200, "ValueError"),
        ("GET", 404, None),
        ("POST /stream", 405, None),
    ]
    assert servers[0][2]["server.port"] == port
    assert servers[0][2]["network.peer.address"] == "127.0.0.1"
    assert servers[0][3] == 0xB7AD6B7169203331
    assert background[3] == servers[0][4]
