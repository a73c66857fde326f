"""Websockets served by Sanic: one span from upgrade to close, and how many are open."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import websockets
from opentelemetry.trace import StatusCode
from recording import attributes, until
from rsketch_telemetry.instrumentor_settings import InstrumentorSettings
from sanic import Request, Websocket
from sanic.response import HTTPResponse, text
from sanic_server import App, Telemetry, asgi, create_app, serving, span_id


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


@asynccontextmanager
async def _open(serve: Any, app: App, path: str = "/feed/x") -> AsyncIterator[Any]:
    """Connect to a websocket of *app*; how it ends is the test's to say."""
    async with serve(app) as port:
        client = await websockets.connect(f"ws://127.0.0.1:{port}{path}")
        try:
            yield client
        finally:
            client.transport.abort()


def _feeds() -> App:
    app = create_app()

    @app.websocket("/feed/<name:str>")  # type: ignore[untyped-decorator]  # by Sanic
    async def feed(request: Request, ws: Websocket, name: str) -> None:
        await ws.send("hello")
        while (said := await ws.recv()) is not None:
            if said == "fail":
                raise ValueError("feed")
            if said == "close":
                return

    return app


async def _closes(client: Any) -> None:
    await client.close()


async def _vanishes(client: Any) -> None:
    client.transport.abort()


async def _asks_to_close(client: Any) -> None:
    await client.send("close")


async def _makes_it_fail(client: Any) -> None:
    await client.send("fail")


@pytest.mark.parametrize("serve", [serving, asgi])
@pytest.mark.parametrize(
    ("end", "error"), [(_closes, None), (_vanishes, None), (_asks_to_close, None), (_makes_it_fail, "ValueError")]
)
async def test_open_websockets_are_counted(instrumented: Telemetry, serve: Any, end: Any, error: str | None) -> None:
    """A websocket counts on its route from the upgrade on, and however it ends no longer; its span ends with it."""
    async with _open(serve, _feeds()) as client:
        assert await client.recv() == "hello"
        assert instrumented.websockets() == {"/feed/<name:str>": 1}
        await end(client)
        span = await instrumented.server()
        assert instrumented.websockets() == {"/feed/<name:str>": 0}

    assert attributes(span)["http.response.status_code"] == 101
    assert attributes(span).get("error.type") == error
    assert len(instrumented.exceptions()) == (1 if error else 0)


async def test_a_server_that_stops_closes_its_websockets(instrumented: Telemetry) -> None:
    """A handler that is cancelled at the server's end is no error, and its websocket no longer open."""
    app = _feeds()
    async with _open(serving, app) as client:
        assert await client.recv() == "hello"
        for task in app.websocket_tasks:
            task.cancel()
        span = await instrumented.server()

    assert attributes(span)["http.response.status_code"] == 101
    assert span.status.status_code is StatusCode.UNSET
    assert instrumented.websockets() == {"/feed/<name:str>": 0}


@pytest.mark.parametrize("serve", [serving, asgi])
async def test_a_server_that_aborts_closes_its_websockets(instrumented: Telemetry, serve: Any) -> None:
    """The count is zero after a server that goes without a goodbye as well."""
    async with serve(_feeds()) as port:
        client = await websockets.connect(f"ws://127.0.0.1:{port}/feed/x")
        assert await client.recv() == "hello"
    span = await instrumented.server()

    assert attributes(span)["http.response.status_code"] == 101
    assert instrumented.websockets() == {"/feed/<name:str>": 0}


async def test_several_websockets(instrumented: Telemetry) -> None:
    """Each is a span of its own and they add up."""
    async with serving(_feeds()) as port:
        clients = [await websockets.connect(f"ws://127.0.0.1:{port}/feed/{number}") for number in range(5)]
        for client in clients:
            await client.recv()
        assert instrumented.websockets() == {"/feed/<name:str>": 5}
        for client in clients[:3]:
            await client.close()
        await until(lambda: len(instrumented.servers) == 3)
        assert instrumented.websockets() == {"/feed/<name:str>": 2}
        for client in clients[3:]:
            await client.close()
        await until(lambda: len(instrumented.servers) == 5)

    assert instrumented.websockets() == {"/feed/<name:str>": 0}


async def test_an_excluded_websocket_does_not_count(telemetry: Telemetry) -> None:
    """Exclusion drops the count with span and duration."""
    telemetry.instrument(InstrumentorSettings(excluded_urls=(re.compile("^/feed"),)))
    async with _open(serving, _feeds()) as client:
        assert await client.recv() == "hello"
        assert telemetry.silent
    assert telemetry.silent


_KEY = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"


@pytest.mark.parametrize("serve", [serving, asgi])
@pytest.mark.parametrize(
    ("path", "more"),
    [
        ("/feed/x", ""),
        ("/feed/x", "Upgrade: websocket\r\nConnection: Upgrade\r\n"),
        ("/lost", f"Upgrade: websocket\r\nConnection: Upgrade\r\n{_KEY}"),
        ("/refused", f"Upgrade: websocket\r\nConnection: Upgrade\r\n{_KEY}"),
    ],
)
async def test_a_rejected_upgrade_never_counts(telemetry: Telemetry, serve: Any, path: str, more: str) -> None:
    """A request that does not become a websocket has the status that it got, as without telemetry."""

    async def ask() -> bytes:
        app = _feeds()

        @app.on_request
        async def refuse(request: Request) -> HTTPResponse | None:
            return text("who are you?", 401) if request.path == "/refused" else None

        @app.websocket("/refused")  # type: ignore[untyped-decorator]  # by Sanic
        async def refused(request: Request, ws: Websocket) -> None: ...

        async with serve(app) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n{more}\r\n".encode())
            line = await asyncio.wait_for(reader.readuntil(b"\r\n"), 10)
            writer.close()
            await writer.wait_closed()
            return line

    bare = await ask()
    telemetry.instrument()
    line = await ask()
    seen = [attributes(span).get("http.response.status_code") for span in telemetry.servers]

    assert line == bare
    assert telemetry.websockets() == {}
    # An upgrade that is malformed itself uvicorn refuses, and Sanic is not asked.
    assert seen == ([int(line.split()[1])] if serve is serving or "Key" in more or not more else [])
