"""Sanic as an ASGI application under uvicorn: what only the server knows, and what it must not notice of us."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.trace import StatusCode
from recording import attributes, seconds_of, until
from rsketch_telemetry import semconv
from sanic import Request
from sanic.response import HTTPResponse, empty, text
from sanic_server import App, Telemetry, asgi, create_app, send, span_id


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


def _head(path: str, method: str = "GET", more: str = "Connection: close\r\n") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: x\r\n{more}\r\n".encode()


async def test_a_client_that_leaves_a_stream(instrumented: Telemetry) -> None:
    """The span ends when the client goes, as one whose response was not sent whole; the handler is left alone."""
    app = create_app()
    leaving = asyncio.Event()
    cancelled: list[bool] = []
    done = asyncio.Event()

    @app.get("/stream")
    async def stream(request: Request) -> None:
        response = await request.respond()
        await response.send("x" * 1000)
        try:
            await leaving.wait()
            await asyncio.sleep(0.1)
            await response.send("y")
            await response.eof()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise
        finally:
            done.set()

    async with asgi(app) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(_head("/stream"))
        await reader.readuntil(b"x" * 1000)
        writer.close()
        span = await instrumented.server()
        leaving.set()
        await done.wait()
    await instrumented.server()

    assert attributes(span)["http.response.status_code"] == 200
    assert attributes(span)["error.type"] == "client_disconnected"
    assert attributes(span)["http.route"] == "/stream"
    # uvicorn does not cancel, so nobody does.
    assert not cancelled
    assert not instrumented.exceptions()


@pytest.mark.sdk("a processor of spans tells when the request has begun")
async def test_a_client_that_leaves_before_the_response(instrumented: Telemetry) -> None:
    """Who leaves while the handler works has no status, though the handler goes on to make one."""
    app = create_app()
    leaving = asyncio.Event()

    @app.get("/slow")
    async def slow(request: Request) -> HTTPResponse:
        await leaving.wait()
        return text("late")

    async with asgi(app) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(_head("/slow"))
        await writer.drain()
        await until(lambda: instrumented.started == 1)
        writer.close()
        span = await instrumented.server()
        leaving.set()
    await instrumented.server()

    assert semconv.HTTP_RESPONSE_STATUS_CODE not in attributes(span)
    assert attributes(span)["error.type"] == "client_disconnected"


async def test_a_client_that_leaves_an_upload(instrumented: Telemetry) -> None:
    """A body that breaks off is a client that left, whatever Sanic makes of the half that it has."""
    app = create_app()
    started = asyncio.Event()

    @app.post("/uploads", stream=True)
    async def uploads(request: Request) -> HTTPResponse:
        started.set()
        stream: Any = request.stream
        async for _ in stream:
            pass
        return empty()

    async with asgi(app) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(_head("/uploads", "POST", "Content-Length: 10\r\n") + b"half")
        await started.wait()
        writer.close()
        span = await instrumented.server()

    assert attributes(span)["error.type"] == "client_disconnected"
    assert semconv.HTTP_RESPONSE_STATUS_CODE not in attributes(span)


async def test_a_client_that_leaves_after_the_response(instrumented: Telemetry) -> None:
    """A handler that goes on after its last byte does not make of its client one that left too early."""
    app = create_app()

    @app.get("/")
    async def root(request: Request) -> None:
        response = await request.respond()
        await response.send("all")
        await asyncio.sleep(0.1)
        await response.eof()
        await asyncio.sleep(0.1)

    async with asgi(app) as port:
        raw = await send(port, _head("/"))
        span = await instrumented.server()

    assert b"all" in raw
    assert attributes(span)["http.response.status_code"] == 200
    assert span.status.status_code is StatusCode.UNSET
    assert seconds_of(span) >= 0.1


def _bodies() -> App:
    app = create_app()

    @app.route("/late", methods=["GET", "POST"], stream=True)
    async def late(request: Request) -> None:
        # Longer than a request goes unwatched, so that the watch is on when the body is asked for.
        stream: Any = request.stream
        response = await request.respond()
        await response.send("got ")
        await asyncio.sleep(0.15)
        async for part in stream:
            await response.send(part)
            await asyncio.sleep(0.1)

    @app.route("/never", methods=["POST"], stream=True)
    async def never(request: Request) -> HTTPResponse:
        await asyncio.sleep(0.15)
        return text("not read")

    @app.get("/ignored")
    async def ignored(request: Request) -> HTTPResponse:
        await asyncio.sleep(0.15)
        await request.receive_body()  # type: ignore[no-untyped-call]  # Sanic's
        return text(str(len(request.body)))

    return app


@pytest.mark.parametrize(
    "request_",
    [
        _head("/late"),
        _head("/late", "POST", "Connection: close\r\nContent-Length: 4\r\n") + b"body",
        _head("/late", "POST", "Connection: close\r\nTransfer-Encoding: chunked\r\n") + b"4\r\nbody\r\n0\r\n\r\n",
        _head("/late", "POST", "Connection: close\r\nContent-Length: 200000\r\n") + b"x" * 200_000,
        _head("/never", "POST", "Connection: close\r\nExpect: 100-continue\r\nContent-Length: 4\r\n"),
        _head("/ignored"),
        _head("/ignored", "GET", "Connection: close\r\nContent-Length: 4\r\n") + b"body",
        _head("/late", "HEAD"),
        _head("/nothing"),
        _head("/never"),
    ],
)
async def test_watching_for_the_client_takes_nothing_from_the_application(
    telemetry: Telemetry, request_: bytes
) -> None:
    """Bodies read late, never or in parts arrive as without telemetry, and no interim answer is sent for us."""
    async with asgi(_bodies()) as port:
        bare = await send(port, request_)
    telemetry.instrument()
    async with asgi(_bodies()) as port:
        raw = await send(port, request_)
        span = await telemetry.server()

    assert _without_date(raw) == _without_date(bare)
    assert str(attributes(span)["http.response.status_code"]) == raw.split()[1].decode()
    assert span.status.status_code is StatusCode.UNSET


def _without_date(raw: bytes) -> list[bytes]:
    # A body's parts are cut as they come in from the network.
    return [line for line in raw.replace(b"x", b"").split(b"\r\n") if not line.startswith(b"date: ")][:8]


async def test_an_exception_before_and_after_the_first_byte(instrumented: Telemetry) -> None:
    """Before it is a 500, after it a 200 that broke off; each is one record in its span."""
    app = create_app()

    @app.get("/before")
    async def before(request: Request) -> HTTPResponse:
        raise ValueError("x")

    @app.get("/after")
    async def after(request: Request) -> None:
        response = await request.respond()
        await response.send("x")
        await asyncio.sleep(0.1)
        raise ValueError("x")

    async with asgi(app) as port:
        raw = [await send(port, _head(path)) for path in ("/before", "/after")]
        await until(lambda: len(instrumented.servers) == 2)
    first, second = instrumented.servers

    assert [line.split()[1] for line in raw] == [b"500", b"200"]
    assert [attributes(span)["http.response.status_code"] for span in (first, second)] == [500, 200]
    assert [attributes(span)["error.type"] for span in (first, second)] == ["ValueError", "ValueError"]
    assert seconds_of(second) >= 0.1
    assert [span for *_, span in instrumented.exceptions()] == [span_id(first), span_id(second)]


async def test_what_uvicorn_refuses_is_not_seen(instrumented: Telemetry) -> None:
    """A head that the server itself refuses reaches no application, so that there is nothing to record it by."""
    async with asgi(create_app()) as port:
        raw = await send(port, b"nonsense\r\n\r\n")

    assert raw.startswith(b"HTTP/1.1 400")
    assert instrumented.silent


async def test_a_response_that_the_server_cannot_send(instrumented: Telemetry) -> None:
    """Where nothing goes over the wire there is no status, but the exception that Sanic was left by."""
    app = create_app()

    @app.exception(Exception)
    async def render(request: Request, error: Exception) -> HTTPResponse:
        return text("sorry", headers={"x-bad": "\x01"})

    async with asgi(app) as port:
        raw = await send(port, _head("/nothing"))
        span = await instrumented.server()

    assert raw == b""
    assert semconv.HTTP_RESPONSE_STATUS_CODE not in attributes(span)
    assert attributes(span)["error.type"] == "RuntimeError"


async def test_a_server_that_never_runs_out_of_messages(instrumented: Telemetry) -> None:
    """Whoever answers each question with an empty body, at once and for ever, is not asked for ever."""
    app = create_app()
    asked = 0
    sent: list[Any] = []

    @app.get("/slow")
    async def slow(request: Request) -> HTTPResponse:
        await asyncio.sleep(0.2)
        return text("ok")

    async def receive() -> dict[str, Any]:
        nonlocal asked
        asked += 1
        assert asked < 100, "the server is asked without end"
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    async with asgi(app):
        await app(_scope("/slow"), receive, send)
    span = await instrumented.server()

    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    assert attributes(span)["http.response.status_code"] == 200
    assert "error.type" not in attributes(span)
    assert asked <= 3


def _scope(path: str) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"host", b"x")],
        "client": ("127.0.0.1", 4000),
        "server": ("127.0.0.1", 80),
    }
