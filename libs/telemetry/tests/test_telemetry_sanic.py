"""The Sanic instrumentor, against real servers and sockets."""

import asyncio
import itertools
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from http import HTTPStatus
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, ClassVar

import httpx
import pytest
import sanic
from opentelemetry import baggage, trace
from opentelemetry.context import Context
from opentelemetry.instrumentation.sanic import SanicInstrumentor as OtherInstrumentor
from opentelemetry.propagators.textmap import TextMapPropagator
from opentelemetry.sdk.trace import Span, SpanProcessor
from opentelemetry.trace import SpanKind, StatusCode
from recording import attributes, until
from rsketch_telemetry import semconv
from rsketch_telemetry.instrumentor_settings import InstrumentorSettings
from rsketch_telemetry.sanic import SanicInstrumentor
from sanic import Request, Sanic
from sanic.config import Config
from sanic.handlers import ErrorHandler
from sanic.http import Http
from sanic.response import HTTPResponse, ResponseStream, empty, file_stream, text
from sanic.server.websockets.connection import WebSocketConnection
from sanic.touchup import TouchUp
from sanic_server import Telemetry, create_app, fetch, ok, send, serving, span_id

_numbers = itertools.count()
_PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    """Providers that nothing is connected to yet."""
    with Telemetry.recording() as seen:
        yield seen


@pytest.fixture
def instrumented(telemetry: Telemetry) -> Telemetry:
    """Sanic instrumented with the default settings."""
    telemetry.instrument()
    return telemetry


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
    app.add_route(ok, "/uploads", methods=["POST"], name="upload")

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


async def test_a_propagator_that_fails_costs_the_parent_only(
    telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request is recorded as a root."""

    class Broken(TextMapPropagator):
        fields: ClassVar[set[str]] = set()

        def extract(self, *_: object, **__: object) -> Context:
            raise ValueError("broken")

        def inject(self, *_: object, **__: object) -> None:
            """Do nothing."""

    telemetry.instrument()
    monkeypatch.setattr("opentelemetry.propagate._HTTP_TEXT_FORMAT", Broken())
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
    assert attributes(span)["http.request.method_original"] == "F\ufffdOO"
    assert attributes(span)["url.query"] == "key=REDACTED"
    assert attributes(span)["user_agent.original"] == "\ufffd\ufffd"
    assert attributes(span)["client.address"] == "127.0.0.1"
    assert attributes(span)["url.scheme"] == "http"
    assert len(attributes(span)["url.path"]) == 1024
    assert semconv.SERVER_ADDRESS not in attributes(span)


async def test_a_bracketed_host_and_a_signed_url(instrumented: Telemetry) -> None:
    """An IPv6 address with a port is taken apart, and no signature of a URL is kept."""
    signed = "/other?X-Amz-Signature=hush&sig=hush&AWSAccessKeyId=hush&code=hush&hush"
    await fetch(create_app(), signed, headers={"host": "[::1]:99"})
    span = await instrumented.server()

    assert attributes(span)["server.address"] == "::1"
    assert attributes(span)["server.port"] == 99
    assert "hush" not in str(attributes(span))


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
            (Http, "error_response"),
            (Http, "http1_request_header"),
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
    app.add_route(ok, "/")
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


class _BrokenPattern:
    def search(self, path: str) -> None:
        raise RuntimeError("settings that fail")


_BROKEN: Any = (_BrokenPattern(),)


@pytest.mark.parametrize("settings", [None, InstrumentorSettings(excluded_urls=_BROKEN)])
@pytest.mark.sdk("a processor of spans that the program adds makes the SDK's recorder take over, which a line says")
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
            refused = await send(port, b"GET / HTTP/7\r\n\r\n")

    assert answers == ["ok"] * 3
    assert refused.startswith(b"HTTP/1.1 400")
    assert len([record for record in caplog.records if record.name == "rsketch_telemetry"]) == 1


def test_the_entry_point_loads() -> None:
    """`opentelemetry-instrument` finds the instrumentor under its name."""
    (found,) = entry_points(group="opentelemetry_instrumentor", name="rsketch_sanic")

    assert found.load() is SanicInstrumentor


async def test_a_sanic_that_has_changed_inside(
    telemetry: Telemetry, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a method to hook is missing there is one line, no hook at all, and an application that works."""
    before = Sanic.handle_request
    monkeypatch.delattr(WebSocketConnection, "accept")
    with caplog.at_level(logging.WARNING, "rsketch_telemetry"):
        telemetry.instrument()
    response = await fetch(create_app(), "/other")

    (record,) = (record for record in caplog.records if record.name == "rsketch_telemetry")
    assert "SanicInstrumentor stands down" in record.getMessage()
    assert "accept" in record.getMessage()
    assert Sanic.handle_request is before
    assert response.status_code == 200
    assert telemetry.silent
