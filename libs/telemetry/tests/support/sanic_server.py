"""Sanic applications on real sockets, in this process, and what the instrumentor records of them."""

import asyncio
import itertools
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Self

import httpx
import pytest
import uvicorn
from opentelemetry.context import Context
from opentelemetry.sdk.metrics.export import HistogramDataPoint, NumberDataPoint
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.trace import SpanKind, StatusCode
from recording import Instrumented, attributes, seconds_of, until
from rsketch_telemetry import semconv
from rsketch_telemetry.sanic import SanicInstrumentor
from sanic import Request, Sanic
from sanic.config import Config
from sanic.response import HTTPResponse, text

__all__ = ["App", "Telemetry", "asgi", "create_app", "fetch", "ok", "send", "serving", "span_id"]

App = Sanic[Any, Any]

_numbers = itertools.count()


class _Counter(SpanProcessor):
    def __init__(self, seen: "Telemetry") -> None:
        self._seen = seen

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Count."""
        self._seen.started += 1


class Telemetry(Instrumented[SanicInstrumentor]):
    """Providers of one test, and what they have seen of its requests."""

    point: HistogramDataPoint

    def __init__(self) -> None:
        super().__init__(SanicInstrumentor())
        self.started = 0
        if self.made_by == "sdk":
            # Where somebody watches spans, the lean recorder makes room for the SDK's.
            self.tracer_provider.add_span_processor(_Counter(self))

    @classmethod
    @contextmanager
    def recording(cls) -> Iterator[Self]:
        """Providers that nothing is connected to yet, until the block ends."""
        seen = cls()
        try:
            yield seen
        finally:
            seen.close()

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
        """Collect, and return the points of the durations."""
        points = self.histogram(semconv.HTTP_SERVER_DURATION)
        assert len({tuple(sorted(attributes(point).items())) for point in points}) == len(points)
        return points

    @property
    def silent(self) -> bool:
        """Whether there is neither span, metric nor log record."""
        return not (self.spans.get_finished_spans() or self.collected() or self.records())

    def websockets(self) -> dict[str, int]:
        """Collect, and return how many websockets are open on each route."""
        return {
            attributes(point)[semconv.HTTP_ROUTE]: int(point.value)
            for metric in self.collected()
            if metric.name == semconv.RSKETCH_WEBSOCKETS
            for point in metric.data.data_points
            if isinstance(point, NumberDataPoint)
        }

    def exceptions(self) -> list[tuple[str | None, Any, int]]:
        """Return event name, exception type and span of each exception record."""
        return [
            (record.event_name, attributes(record)[semconv.EXCEPTION_TYPE], record.span_id or 0)
            for record in self.records()
        ]


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
    app.add_route(ok, "/other")
    return app


async def ok(request: Request) -> HTTPResponse:
    """Answer."""
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


@asynccontextmanager
async def asgi(app: App) -> AsyncIterator[int]:
    """Serve *app* as an ASGI application, by uvicorn, on a free port, which is yielded."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="on", timeout_graceful_shutdown=1))
        serving = asyncio.create_task(server._serve([listening]))
        try:
            await until(lambda: server.started)
            yield listening.getsockname()[1]
        finally:
            server.should_exit = True
            await serving
            Sanic.unregister_app(app)
