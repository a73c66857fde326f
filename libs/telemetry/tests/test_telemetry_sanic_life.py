"""The whole life of a request on a raw connection: what its client sends, when it leaves, and what it costs."""

import asyncio
import gc
import logging
import random
import re
import string
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry import baggage
from opentelemetry.trace import StatusCode
from recording import attributes, seconds_of, until
from rsketch_telemetry import semconv
from sanic import Request
from sanic.exceptions import RequestCancelled
from sanic.response import HTTPResponse, empty, file, file_stream, text
from sanic_server import App, Telemetry, create_app, fetch, ok, send, serving

_CLOSE = b"Connection: close\r\n"


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


async def test_pipelined_requests_end_one_after_the_other(instrumented: Telemetry) -> None:
    """Of two requests in one packet each has its own span, in order, and its own time alone."""
    app = create_app()

    @app.get("/<name:str>")
    async def named(request: Request, name: str) -> HTTPResponse:
        await asyncio.sleep(0.2 if name == "slow" else 0)
        return text(name)

    heads = b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\nGET /fast HTTP/1.1\r\nHost: x\r\n" + _CLOSE + b"\r\n"
    async with serving(app) as port:
        raw = await send(port, heads)
        await until(lambda: len(instrumented.servers) == 2)
    slow, fast = instrumented.servers

    assert re.findall(rb"\r\n\r\n(\w{4})", raw) == [b"slow", b"fast"]
    assert [attributes(span)["url.path"] for span in (slow, fast)] == ["/slow", "/fast"]
    assert seconds_of(slow) >= 0.2 > seconds_of(fast)
    assert slow.start_time is not None
    assert fast.start_time is not None
    # Its turn comes with the last byte of the response before it.
    assert fast.start_time - slow.start_time >= 0.2e9


async def test_a_head_that_comes_slowly(instrumented: Telemetry) -> None:
    """The span begins with the first byte of the request, also behind another on the same connection."""
    app = create_app()
    async with serving(app) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /other HTTP/1.1\r\nHost: x\r\nConnection: keep-alive\r\n\r\n")
        await reader.readuntil(b"ok")
        await asyncio.sleep(1.0)
        writer.write(b"GET /slow HTTP/1.1\r\n")
        await asyncio.sleep(0.2)
        writer.write(b"Host: x\r\n")
        await asyncio.sleep(0.1)
        writer.write(b"\r\n")
        await until(lambda: len(instrumented.servers) == 2)
        writer.close()
    fast, slow = instrumented.servers

    assert seconds_of(fast) < 1.0
    assert 0.3 <= seconds_of(slow) < 1.0


async def test_a_body_that_the_client_announces(instrumented: Telemetry) -> None:
    """With `Expect: 100-continue` the interim answer has no span, and the span lasts to the final one."""
    app = create_app()
    app.add_route(ok, "/uploads", methods=["POST"], name="uploads")

    async with serving(app) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /uploads HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 4\r\n")
        writer.write(_CLOSE + b"\r\n")
        interim = await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(0.1)
        assert not instrumented.servers
        writer.write(b"body")
        final = await reader.read()
        writer.close()
        span = await instrumented.server()

    assert interim == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert final.startswith(b"HTTP/1.1 200")
    assert attributes(span)["http.response.status_code"] == 200
    assert seconds_of(span) >= 0.1


@pytest.mark.parametrize("head", [b"Content-Length: 20000\r\n", b"Transfer-Encoding: chunked\r\n"])
async def test_a_body_over_the_limit(instrumented: Telemetry, head: bytes) -> None:
    """An upload that is too large is a 413 on its route, whether its length was told before or not."""
    app = create_app(REQUEST_MAX_SIZE=10_000)
    app.add_route(ok, "/uploads", methods=["POST"], name="uploads")

    async with serving(app) as port:
        body = b"4e20\r\n" if b"chunked" in head else b"" + b"x" * 20_000
        raw = await send(port, b"POST /uploads HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n" + body)
        span = await instrumented.server()

    assert raw.startswith(b"HTTP/1.1 413")
    assert span.name == "POST /uploads"
    assert attributes(span)["http.response.status_code"] == 413
    assert span.status.status_code is StatusCode.UNSET


async def test_a_body_that_does_not_come(instrumented: Telemetry) -> None:
    """A request whose body stops is what Sanic answers: the response is late, as it does not tell the two apart."""
    app = create_app(RESPONSE_TIMEOUT=0.2)
    app.add_route(ok, "/uploads", methods=["POST"], name="uploads")

    async with serving(app) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /uploads HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf")
        raw = await reader.readuntil(b"\r\n\r\n")
        # Before Sanic gives up on the rest of the body.
        span = await instrumented.server()
        writer.close()

    assert raw.startswith(b"HTTP/1.1 503")
    assert attributes(span)["http.response.status_code"] == 503
    assert attributes(span)["http.route"] == "/uploads"
    assert seconds_of(span) >= 0.2


async def test_a_malformed_body(instrumented: Telemetry) -> None:
    """A chunk that is none is the client's error, on the route that it was for."""
    app = create_app()
    app.add_route(ok, "/uploads", methods=["POST"], name="uploads")

    async with serving(app) as port:
        head = b"POST /uploads HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        raw = await send(port, head + b"nonsense\r\n\r\n")
        span = await instrumented.server()

    assert raw.startswith(b"HTTP/1.1 400")
    assert span.name == "POST /uploads"
    assert attributes(span)["http.response.status_code"] == 400


@pytest.mark.parametrize(
    ("method", "serve", "error"),
    [
        ("GET", file, None),
        ("HEAD", file, None),
        ("GET", file_stream, None),
        # Sanic awaits what is no coroutine when a HEAD is streamed; the client has its head by then.
        ("HEAD", file_stream, "TypeError"),
    ],
)
async def test_files(
    instrumented: Telemetry, tmp_path: Path, method: str, serve: Callable[[Path], Any], error: str | None
) -> None:
    """A file is one span with its status, with and without its bytes."""
    path = tmp_path / "file.txt"
    path.write_text("x" * 100_000)
    app = create_app()

    @app.route("/files", methods=[method])
    async def files(request: Request) -> HTTPResponse:
        return await serve(path)  # type: ignore[no-any-return]

    async with serving(app) as port, httpx.AsyncClient() as client:
        answer = await client.request(method, f"http://127.0.0.1:{port}/files")
        span = await instrumented.server()

    assert len(answer.content) == (100_000 if method == "GET" else 0)
    assert span.name == f"{method} /files"
    assert attributes(span)["http.response.status_code"] == 200
    assert attributes(span).get("error.type") == error


async def test_server_sent_events(instrumented: Telemetry) -> None:
    """A stream of events is one span to the last of them, without a span an event."""
    app = create_app()

    @app.get("/events")
    async def events(request: Request) -> None:
        response = await request.respond(content_type="text/event-stream")
        for number in range(5):
            await response.send(f"data: {number}\n\n")
            await asyncio.sleep(0.04)
        await response.eof()

    answer = await fetch(app, "/events")
    span = await instrumented.server()

    assert answer.text.count("data: ") == 5
    assert seconds_of(span) >= 0.2
    assert len(instrumented.spans.get_finished_spans()) == 1


async def test_a_client_that_leaves_after_the_response(instrumented: Telemetry) -> None:
    """Who has had everything and goes without a goodbye was served."""
    app = create_app()
    async with serving(app) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /other HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readuntil(b"ok")
        writer.transport.abort()
        span = await instrumented.server()

    assert attributes(span)["http.response.status_code"] == 200
    assert span.status.status_code is StatusCode.UNSET


async def test_a_client_that_leaves_while_it_sends(instrumented: Telemetry) -> None:
    """Who goes in the middle of an upload gets no status, and the handler is not run."""
    app = create_app()
    ran: list[bool] = []
    routed = asyncio.Event()

    @app.signal("http.routing.after")
    async def after(**_: object) -> None:
        routed.set()

    @app.post("/uploads")
    async def uploads(request: Request) -> HTTPResponse:
        ran.append(True)
        return empty()

    async with serving(app) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /uploads HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf")
        await routed.wait()
        writer.close()
        span = await instrumented.server()

    assert attributes(span)["error.type"] == "client_disconnected"
    assert attributes(span)["http.route"] == "/uploads"
    assert semconv.HTTP_RESPONSE_STATUS_CODE not in attributes(span)
    assert not ran


async def test_a_leaving_client_ends_the_span_at_once(instrumented: Telemetry) -> None:
    """The span ends when the client is gone, not when the response would have been done."""
    app = create_app()
    started = asyncio.Event()

    @app.get("/slow")
    async def slow(request: Request) -> HTTPResponse:
        started.set()
        await asyncio.sleep(30)
        return empty()

    async with serving(app) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        await started.wait()
        writer.close()
        span = await instrumented.server()

    assert seconds_of(span) < 5


_LARGE = 30_000_000


def _large() -> App:
    app = create_app()

    @app.get("/large")
    async def large(request: Request) -> HTTPResponse:
        return text("x" * _LARGE)

    return app


@pytest.mark.parametrize("connection", [b"keep-alive", b"close"])
async def test_a_large_response_counts_to_its_last_byte(instrumented: Telemetry, connection: bytes) -> None:
    """A client that is slow to take what the transport holds for it makes the request longer, not wrong."""
    app = _large()
    async with serving(app) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /large HTTP/1.1\r\nHost: x\r\nConnection: " + connection + b"\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(0.3)
        assert not instrumented.servers
        await reader.readexactly(_LARGE)
        span = await instrumented.server()
        writer.close()

    assert seconds_of(span) >= 0.3
    assert attributes(span)["http.response.status_code"] == 200
    assert span.status.status_code is StatusCode.UNSET


async def test_a_client_that_leaves_a_large_response(instrumented: Telemetry) -> None:
    """Who goes with megabytes on their way has not had the whole response."""
    app = _large()
    async with serving(app) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        assert not instrumented.servers
        writer.transport.abort()
        span = await instrumented.server()

    assert attributes(span)["http.response.status_code"] == 200
    assert attributes(span)["error.type"] == "client_disconnected"
    assert not instrumented.exceptions()


async def test_a_server_that_aborts_a_large_response(instrumented: Telemetry) -> None:
    """What the server itself cuts off is no leaving client."""
    app = _large()
    async with serving(app) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
    span = await instrumented.server()
    writer.close()

    assert attributes(span)["http.response.status_code"] == 200
    assert attributes(span)["error.type"] == "aborted"


async def test_a_request_behind_a_large_response(instrumented: Telemetry) -> None:
    """The next request of the connection does not change what is said of the one before."""
    app = _large()
    async with serving(app) as port:
        heads = b"GET /large HTTP/1.1\r\nHost: x\r\n\r\nGET /lost HTTP/1.1\r\nHost: x\r\n" + _CLOSE + b"\r\n"
        raw = await send(port, heads)
        await until(lambda: len(instrumented.servers) == 2)
    said = [
        (attributes(span)["url.path"], attributes(span)["http.response.status_code"]) for span in instrumented.servers
    ]

    assert len(raw) > _LARGE
    assert said == [("/large", 200), ("/lost", 404)]


@pytest.mark.parametrize(
    "header",
    [
        b"Host: [::1]:99",
        b"Host: a b c",
        b"Host: x:999999",
        b"Host: " + b"h" * 5000,
        b"Host: \xff\xfe",
        b"Host: x\r\nHost: y",
        b"User-Agent: " + b"u" * 7000,
        b"User-Agent: \xed\xa0\x80\xff",
        b"User-Agent:",
        b"traceparent: 00-00000000000000000000000000000000-0000000000000000-01",
        b"traceparent: ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        b"traceparent: " + b"0" * 7000,
        b"tracestate: " + b"a=1," * 1000,
        b"tracestate: =,=,=",
        b"baggage: " + b",".join(b"key%d=value%d" % (number, number) for number in range(180)),
        b"baggage: " + b"," * 3000,
        b"baggage: k=%ff%fe%00",
        b"X-Forwarded-For: \xff",
        b"Forwarded: for=;;;host=\xff",
        b"Content-Type: \xff",
        b"Cookie: \xff=\xfe",
    ],
)
async def test_bad_headers_are_served(instrumented: Telemetry, caplog: pytest.LogCaptureFixture, header: bytes) -> None:
    """Whatever is in a header, the request is answered as ever, recorded within bounds and hardly spoken of."""
    app = create_app(PROXIES_COUNT=1)
    app.add_route(ok, "/here", name="here")
    async with serving(app) as port:
        raw = await send(port, b"GET /here HTTP/1.1\r\n" + _CLOSE + header + b"\r\n\r\n")
        span = await instrumented.server()

    assert raw.startswith(b"HTTP/1.1 200")
    assert span.name == "GET /here"
    for value in attributes(span).values():
        assert not isinstance(value, str) or (len(value) <= 1024 and value.encode("utf-8"))
    assert len([record for record in caplog.records if not record.name.startswith("sanic")]) <= 1


async def test_the_entries_of_a_large_baggage_reach_the_handler(instrumented: Telemetry) -> None:
    """As many entries as the specification allows are visible; the others cost nobody a request."""
    app = create_app()
    seen: list[int] = []

    @app.get("/")
    async def root(request: Request) -> HTTPResponse:
        seen.append(len(baggage.get_all()))
        return empty()

    await fetch(app, "/", headers={"baggage": ",".join(f"key{number}={number}" for number in range(180))})
    await instrumented.server()

    assert seen == [180]


async def test_a_scanner_makes_no_series(instrumented: Telemetry) -> None:
    """10,000 paths and 1,000 methods that nobody knows are one series each way, beside those of what there is."""
    app = create_app()

    @app.get("/things/<number:int>")
    async def thing(request: Request, number: int) -> HTTPResponse:
        return empty(200)

    dice = random.Random(4)

    def word() -> str:
        return "".join(dice.choices(string.ascii_letters + string.digits + "-._~", k=12))

    paths = [f"GET /{word()}/{word()}?{word()}={word()}" for _ in range(10_000)]
    methods = [f"{''.join(dice.choices(string.ascii_uppercase, k=9))} /things/{number}" for number in range(1_000)]
    requests = [*paths, *methods, "GET /things/1", "POST /things/2"]

    async def scan(port: int, lines: list[str]) -> int:
        heads = [f"{line} HTTP/1.1\r\nHost: {word()}.example\r\nUser-Agent: {word()}\r\n" for line in lines]
        closing = [*("\r\n".join((head, "")) for head in heads[:-1]), f"{heads[-1]}Connection: close\r\n\r\n"]
        return len(re.findall(rb"HTTP/1\.1 \d", await send(port, "".join(closing).encode())))

    async with serving(app) as port:
        counts = [await scan(port, requests[at : at + 1_000]) for at in range(0, len(requests), 1_000)]
    series = sorted(
        (
            attributes(point)[semconv.HTTP_REQUEST_METHOD],
            attributes(point).get(semconv.HTTP_ROUTE, ""),
            attributes(point)[semconv.HTTP_RESPONSE_STATUS_CODE],
            point.count,
        )
        for point in instrumented.points()
    )

    assert sum(counts) == len(requests)
    assert series == [
        ("GET", "", 404, 10_000),
        ("GET", "/things/<number:int>", 200, 1),
        ("POST", "/things/<number:int>", 405, 1),
        ("_OTHER", "/things/<number:int>", 405, 1_000),
    ]
    assert len({span.name for span in instrumented.servers}) == 4


async def test_exclusion_drops_all_signals_together(telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch) -> None:
    """An excluded request leaves neither span nor duration nor a count in flight; any other leaves all three."""
    seen: list[dict[str, int]] = []
    monkeypatch.setenv("OTEL_PYTHON_SANIC_EXCLUDED_URLS", "^/quiet")
    monkeypatch.setenv("RSKETCH_TELEMETRY_OPT_IN_METRICS", semconv.HTTP_ACTIVE_REQUESTS)
    telemetry.instrument()
    app = create_app()

    @app.get("/<name:str>")
    async def named(request: Request, name: str) -> HTTPResponse:
        seen.append({metric.name: len(metric.data.data_points) for metric in telemetry.collected()})
        return empty()

    async with serving(app) as port, httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        await client.get("/quiet")
        assert telemetry.silent
        await client.get("/loud")
        await until(lambda: telemetry.servers)

    assert seen == [{}, {semconv.HTTP_ACTIVE_REQUESTS: 1}]


async def test_an_excluded_head_that_came_slowly_is_nobody_else_s_time(instrumented: Telemetry) -> None:
    """The first byte of a request that is not recorded is not that of the next on its connection."""
    app = create_app()
    app.add_route(ok, "/health", name="health")
    async with serving(app) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /health HTTP/1.1\r\n")
        await asyncio.sleep(0.05)
        writer.write(b"Host: x\r\n\r\n")
        await reader.readuntil(b"ok")
        await asyncio.sleep(0.3)
        writer.write(b"GET /other HTTP/1.1\r\nHost: x\r\n" + _CLOSE + b"\r\n")
        await reader.read()
        writer.close()
        span = await instrumented.server()

    assert seconds_of(span) < 0.3


async def test_requests_that_fail_are_not_kept_with_their_connection(
    instrumented: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request that Sanic's own connection answers is gone when it is answered, however long the connection stays."""
    # The log that pytest keeps would keep them by their tracebacks.
    monkeypatch.setattr(logging.getLogger("sanic.error"), "disabled", True)
    app = create_app()
    requests: list[weakref.ref[Request]] = []

    @app.signal("http.lifecycle.handle")
    async def fail(request: Request) -> None:
        requests.append(weakref.ref(request))
        raise LookupError

    async with serving(app) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(5):
            writer.write(b"GET /other HTTP/1.1\r\nHost: x\r\n\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head)
            assert length
            await reader.readexactly(int(length[1]))
        await until(lambda: len(instrumented.servers) == 5)
        gc.collect()
        alive = [request for request in requests if request() is not None]
        writer.close()

    assert len(requests) == 5
    # The connection itself keeps the last.
    assert len(alive) <= 1
    assert {attributes(span)["http.response.status_code"] for span in instrumented.servers} == {500}


async def test_an_application_that_says_the_client_has_left(instrumented: Telemetry) -> None:
    """Sanic's exception for a client that left, raised for one that is there, is what Sanic answers it with."""
    app = create_app()

    @app.get("/gone")
    async def gone(request: Request) -> HTTPResponse:
        raise RequestCancelled

    response = await fetch(app, "/gone")
    span = await instrumented.server()

    assert response.status_code == 500
    assert attributes(span)["http.response.status_code"] == 500
    assert attributes(span)["error.type"] == "sanic.exceptions.RequestCancelled"
