"""Requests whose head Sanic refuses: they have no request of Sanic's, and still a record of what was answered."""

import asyncio
import logging
import re
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.trace import StatusCode
from recording import attributes, seconds_of, until
from rsketch_telemetry import semconv
from rsketch_telemetry._sanic_head import read
from rsketch_telemetry.instrumentor_settings import InstrumentorSettings
from sanic import Request
from sanic.response import HTTPResponse, text
from sanic_server import Telemetry, create_app, send, serving

_PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
_SECRET = b"hush"
_CLIENT_HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03hush\r\n\r\n"


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


# Each with the status that Sanic answers, and with method, path and query as they are to be recorded.
_REFUSED: dict[str, tuple[bytes, int, str, str, str | None]] = {
    "not HTTP": (b"login hush\r\n\r\n", 400, "_OTHER", "", None),
    "one word": (b"hush\r\n\r\n", 400, "_OTHER", "", None),
    "TLS": (_CLIENT_HELLO, 400, "_OTHER", "", None),
    "empty": (b"\r\n\r\n", 400, "_OTHER", "", None),
    "no version": (b"GET /a?token=hush\r\n\r\n", 400, "GET", "/a", "token=REDACTED"),
    "odd version": (b"GET /a?token=hush HTTP/9.9\r\nHost: x\r\n\r\n", 400, "GET", "/a", "token=REDACTED"),
    "odd method": (b"FOO /a HTTP/9.9\r\nHost: x\r\n\r\n", 400, "_OTHER", "/a", None),
    "blank in the target": (b"GET /a b?token=hush HTTP/1.1\r\nHost: x\r\n\r\n", 400, "GET", "/a", None),
    "a proxy's target": (b"GET http://me:hush@x/a?b=hush HTTP/9.9\r\n\r\n", 400, "GET", "/a", "b=REDACTED"),
    "no colon": (b"GET /a?b=hush HTTP/1.1\r\nHost: x\r\nhush\r\n\r\n", 400, "GET", "/a", "b=REDACTED"),
    "two lengths": (
        b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        400,
        "POST",
        "/a",
        None,
    ),
    "odd length": (b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: hush\r\n\r\n", 400, "POST", "/a", None),
    "not ASCII": (b"GET /\xff?token=hush HTTP/1.1\r\nHost: x\r\n\r\n", 400, "GET", "/\ufffd", "token=REDACTED"),
    "odd expectation": (
        b"POST /a HTTP/1.1\r\nHost: x\r\nExpect: hush\r\nContent-Length: 1\r\n\r\nx",
        417,
        "POST",
        "/a",
        None,
    ),
    "long headers": (
        b"GET /a HTTP/1.1\r\nHost: x\r\nX-Long: " + b"x" * 20_000 + b"\r\n\r\n",
        413,
        "GET",
        "/a",
        None,
    ),
    "long target": (b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\n\r\n", 413, "GET", "/" + "x" * 1023, None),
    "stops in a header": (b"GET /a?token=hush HTTP/1.1\r\nHost: shop", 408, "GET", "/a", "token=REDACTED"),
    "stops in the target": (b"GET /pay?token=hu", 408, "GET", "", None),
    "stops in the method": (b"GE", 408, "_OTHER", "", None),
}


@pytest.mark.parametrize("name", _REFUSED)
async def test_a_refused_head_is_recorded_as_it_is_answered(
    telemetry: Telemetry, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    """Each answered error is one SERVER span, one duration and one access line with the status on the wire."""
    head, status, method, path, query = _REFUSED[name]
    app = create_app(REQUEST_TIMEOUT=0.2, KEEP_ALIVE_TIMEOUT=0.2)

    async with serving(app) as port:
        bare = await send(port, head)
        telemetry.instrument()
        with caplog.at_level(logging.INFO, "rsketch_telemetry.access"):
            raw = await send(port, head)
        span = await telemetry.server()
    said = attributes(span)
    lines = [record.getMessage() for record in caplog.records if record.name == "rsketch_telemetry.access"]

    assert raw == bare
    assert raw.startswith(b"HTTP/1.1 %d " % status)
    assert (seconds_of(span) >= 0.2) is (status == 408)
    assert span.name == ("HTTP" if method == "_OTHER" else method)
    assert span.status.status_code is StatusCode.UNSET
    assert said[semconv.HTTP_RESPONSE_STATUS_CODE] == status
    assert said[semconv.HTTP_REQUEST_METHOD] == method
    assert said[semconv.URL_PATH] == path
    assert said.get(semconv.URL_QUERY) == query
    assert said[semconv.CLIENT_ADDRESS] == "127.0.0.1"
    assert semconv.HTTP_ROUTE not in said
    assert not telemetry.exceptions()
    assert len(lines) == 1
    assert f" {status} " in lines[0]
    assert _SECRET.decode() not in f"{said} {lines} {span.name}"


async def test_a_refused_head_has_what_came_before_the_fault(instrumented: Telemetry) -> None:
    """Caller's trace, host and client are those of the readable lines; a line that was cut is not half believed."""
    head = f"GET /a HTTP/1.1\r\nHost: shop.example:99\r\nUser-Agent: tests\r\ntraceparent: {_PARENT}\r\nX-Cut: a"
    async with serving(create_app(REQUEST_TIMEOUT=0.2, KEEP_ALIVE_TIMEOUT=0.2)) as port:
        await send(port, head.encode())
        span = await instrumented.server()

    assert span.parent is not None
    assert format(span.parent.span_id, "016x") == _PARENT[36:52]
    assert attributes(span)["server.address"] == "shop.example"
    assert attributes(span)["server.port"] == 99
    assert attributes(span)["user_agent.original"] == "tests"
    assert attributes(span)["network.protocol.version"] == "1.1"


async def test_a_method_that_is_no_method_is_not_recorded_as_sent(instrumented: Telemetry) -> None:
    """Without a request line there is no original method, not even an empty one."""
    async with serving(create_app()) as port:
        await send(port, _CLIENT_HELLO)
        span = await instrumented.server()

    assert semconv.HTTP_REQUEST_METHOD_ORIGINAL not in attributes(span)


@pytest.mark.parametrize("sent", [b"", b"GET /a HTTP/1.1\r\nHost:"])
async def test_who_leaves_before_a_request_is_none(instrumented: Telemetry, sent: bytes) -> None:
    """A connection that is closed without a whole head, and gets no answer, was no request."""
    app = create_app()
    async with serving(app) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent)
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        assert not await reader.read()
        await send(port, b"GET /other HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        span = await instrumented.server()

    assert attributes(span)["url.path"] == "/other"


async def test_an_idle_connection_that_expires_is_no_request(instrumented: Telemetry) -> None:
    """A connection kept alive for nothing ends without a span; so does one that never asked for anything."""
    async with serving(create_app(KEEP_ALIVE_TIMEOUT=0.2, REQUEST_TIMEOUT=0.2)) as port:
        raw = await send(port, b"GET /other HTTP/1.1\r\nHost: x\r\nConnection: keep-alive\r\n\r\n")
        assert not await send(port, b"")
        span = await instrumented.server()

    assert raw.startswith(b"HTTP/1.1 200")
    assert attributes(span)["http.response.status_code"] == 200


async def test_a_refused_head_after_a_good_request(instrumented: Telemetry) -> None:
    """On one connection a request and a fault behind it are two records, each a trace of its own."""
    good = f"GET /other HTTP/1.1\r\nHost: x\r\ntraceparent: {_PARENT}\r\n\r\n".encode()
    async with serving(create_app()) as port:
        raw = await send(port, good + b"GET /bad HTTP/7\r\n\r\n")
        await until(lambda: len(instrumented.servers) == 2)
    first, second = instrumented.servers

    assert re.findall(rb"HTTP/1.1 (\d+)", raw) == [b"200", b"400"]
    assert [attributes(span)["http.response.status_code"] for span in (first, second)] == [200, 400]
    assert first.parent is not None
    assert second.parent is None
    assert first.start_time is not None
    assert second.start_time is not None
    assert first.start_time < second.start_time


async def test_a_target_that_is_no_url(telemetry: Telemetry) -> None:
    """Sanic closes such a connection without a word, with telemetry and without; the record says so."""
    head = b"GET /\x01 HTTP/1.1\r\nHost: x\r\n\r\n"
    async with serving(create_app()) as port:
        bare = await send(port, head)
        telemetry.instrument()
        raw = await send(port, head)
        span = await telemetry.server()

    assert raw == bare == b""
    assert semconv.HTTP_RESPONSE_STATUS_CODE not in attributes(span)
    assert attributes(span)["error.type"] == "sanic.exceptions.BadRequest"


async def test_an_excluded_path_is_excluded_with_a_bad_head_too(telemetry: Telemetry) -> None:
    """What an operator does not want to see is not seen for being malformed."""
    telemetry.instrument(InstrumentorSettings(excluded_urls=(re.compile("^/quiet"),)))
    async with serving(create_app()) as port:
        raw = await send(port, b"GET /quiet HTTP/7\r\n\r\n")

    assert raw.startswith(b"HTTP/1.1 400")
    assert telemetry.silent


async def test_the_applications_answer_to_a_bad_head_counts(instrumented: Telemetry) -> None:
    """An exception handler decides what goes over the wire, and works inside the span."""
    app = create_app()

    @app.exception(Exception)
    async def render(request: Request, error: Exception) -> HTTPResponse:
        with instrumented.tracer.start_as_current_span("render"):
            return text("sorry", status=422)

    async with serving(app) as port:
        raw = await send(port, b"GET /bad HTTP/7\r\n\r\n")
        span = await instrumented.server()
    (child,) = [found for found in instrumented.spans.get_finished_spans() if found.name == "render"]

    assert raw.startswith(b"HTTP/1.1 422")
    assert attributes(span)["http.response.status_code"] == 422
    assert child.parent is not None
    assert span.context is not None
    assert child.parent.span_id == span.context.span_id


async def test_a_handler_that_fails_on_a_bad_head(instrumented: Telemetry) -> None:
    """What an exception handler raises while it answers a bad head is a 500 with its exception."""
    app = create_app()

    @app.on_request
    async def fail(request: Request) -> None:
        raise ValueError("x")

    async with serving(app) as port:
        raw = await send(port, b"GET /bad HTTP/7\r\n\r\n")
        span = await instrumented.server()

    assert raw.startswith(b"HTTP/1.1 500")
    assert attributes(span)["http.response.status_code"] == 500
    assert attributes(span)["error.type"] == "ValueError"
    assert len(instrumented.exceptions()) == 1


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"", ("", "", "", None)),
        (b"\xff" * 100_000, ("", "", "", None)),
        (b"GET", ("", "", "", None)),
        (b"GET ", ("", "", "", None)),
        (b"GET / HTTP/1.0", ("GET", "/", "", "1.0")),
        (b"OPTIONS * HTTP/1.1\r\n\r\n", ("OPTIONS", "*", "", "1.1")),
        (b"GET //[::1 HTTP/1.1\r\n\r\n", ("GET", "//[::1", "", "1.1")),
        (b"G\x00T / HTTP/1.1\r\n\r\n", ("", "", "", None)),
        (b"M" * 65 + b" / HTTP/1.1\r\n\r\n", ("", "", "", None)),
        (b"GET hush HTTP/1.1\r\n\r\n", ("", "", "", None)),
        (b"GET /a#hush HTTP/1.1\r\n\r\n", ("GET", "/a", "", "1.1")),
    ],
)
def test_reading_a_head(raw: bytes, expected: tuple[Any, ...]) -> None:
    """Whatever a client sends is read within bounds, and only a request line counts as one."""
    assert tuple(read(raw))[:4] == expected
